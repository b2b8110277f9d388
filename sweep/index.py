"""All rows of a sweep in one file, since opening ten thousand parts takes half a minute; never the truth.

Each row in it carries the inode, size and time of the part that it was read from, and counts only as long as these are
still the part's own. So it may be old, damaged or missing: what it lacks is read from the parts.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweep.errors import DamagedTableError, TableError
from sweep.parts import read_part, reason_of
from workers.files import write_bytes

INDEX = "index.bin"  # beside the folder of parts: a hash, then Parquet
OUTDATED = 64  # parts that may be missing in it before it is written anew
_TOGETHER = 500  # tables of one row that are held at a time: each takes a hundred times its values' memory
_FILE, _STAMP = "_file", "_stamp"
_HASH_BYTES = hashlib.sha256().digest_size

Stamps = Mapping[str, str]  # a part's name to what changes when the part does
Damaged = Callable[[Path, DamagedTableError], None]


def _refuse(part: Path, error: DamagedTableError) -> None:
    raise error


def read_rows(parts: Path, columns: list[str] | None = None, damaged: Damaged = _refuse) -> pa.Table:
    """The rows of all parts, in the order of the parts' names.

    Args:
        parts: folder of parts, one row each.
        columns: those that are wanted, null where a part lacks them; None: all that any part has.
        damaged: called for a part that cannot be read, which is then left out; by default it raises.

    Raises:
        DamagedTableError: a part is damaged.
        TableError: the parts do not fit together.
    """
    stamps = stamps_of(parts)
    known, missing = _known(parts, stamps, columns)
    table = _joined(parts, [known, *_read(parts, missing, stamps, columns, damaged)])
    for name in columns or ():
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(len(table)))
    order = pc.sort_indices(table, [(_FILE, "ascending")])
    return table.take(order).drop_columns([_FILE, _STAMP])


def refresh(parts: Path, tolerated: int = OUTDATED) -> None:
    """Write the index anew where more than so many parts are not in it.

    Raises:
        TableError: the parts do not fit together.
        OSError: it cannot be written.
    """
    stamps = stamps_of(parts)
    known, missing = _known(parts, stamps, None)
    if len(missing) <= tolerated:
        return
    fresh = _read(parts, missing, stamps, None, lambda part, error: None)
    sink = pa.BufferOutputStream()
    pq.write_table(_joined(parts, [known, *fresh]), sink)
    data: bytes = sink.getvalue().to_pybytes()
    write_bytes(parts.with_name(INDEX), hashlib.sha256(data).digest() + data)


def stamps_of(parts: Path) -> dict[str, str]:
    """The names of a folder's parts, each with what changes when the part does."""
    stamps = {}
    with os.scandir(parts) as entries:
        for entry in entries:
            if entry.name.endswith(".parquet"):
                facts = entry.stat()
                stamps[entry.name] = f"{facts.st_ino} {facts.st_size} {facts.st_mtime_ns}"
    return stamps


def _known(parts: Path, stamps: Stamps, columns: list[str] | None) -> tuple[pa.Table, list[str]]:
    """The rows of the index that still count, and the parts that it lacks."""
    table = _load(parts.with_name(INDEX), columns)
    if table is None:
        return pa.table({_FILE: pa.array([], pa.string()), _STAMP: pa.array([], pa.string())}), sorted(stamps)
    names, seen = table.column(_FILE).to_pylist(), table.column(_STAMP).to_pylist()
    good = [stamps.get(name) == stamp for name, stamp in zip(names, seen, strict=True)]
    missing = stamps.keys() - {name for name, fits in zip(names, good, strict=True) if fits}
    return (table if all(good) else table.filter(pa.array(good))), sorted(missing)


def _joined(parts: Path, tables: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]
    except pa.ArrowException as error:
        raise TableError(f"{parts}: its parts do not fit together ({reason_of(error)})") from error


def _load(index: Path, columns: list[str] | None) -> pa.Table | None:
    """What the index holds; None where it is missing or damaged."""
    try:
        data = index.read_bytes()
        if hashlib.sha256(data[_HASH_BYTES:]).digest() != data[:_HASH_BYTES]:
            return None
        file = pq.ParquetFile(pa.BufferReader(data[_HASH_BYTES:]))
        wanted = None if columns is None else [*columns, _FILE, _STAMP]
        return file.read(wanted)
    except (OSError, pa.ArrowException):
        return None


def _read(parts: Path, names: list[str], stamps: Stamps, columns: list[str] | None, damaged: Damaged) -> list[pa.Table]:
    """The named parts, each row with what it was read from."""
    tables = []
    for name in names:
        try:
            table = read_part(parts / name)
        except DamagedTableError as error:
            damaged(parts / name, error)
            continue
        if columns is not None:
            table = table.select([column for column in columns if column in table.column_names])
        for column, value in ((_FILE, name), (_STAMP, stamps[name])):
            table = table.append_column(column, pa.array([value] * len(table), pa.string()))
        tables.append(table)
        if len(tables) == _TOGETHER:
            tables = [_joined(parts, tables).combine_chunks()]
    return tables

"""What came from elsewhere, checked before it is believed: names that become paths, and the values of a results table.

A results folder or table may have been written by anybody. Reading one runs no code of it, and nothing in it decides
where we write.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweep.errors import RefusedError, TableError
from sweep.yaml_file import one_line

MAX_ROWS, MAX_COLUMNS, MAX_BYTES = 10**7, 1000, 1 << 33  # of one table; bytes as they are once decompressed
MAX_TEXT = 1 << 20  # bytes of one value
LARGEST = 1e30  # of any number: its square is still one
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_PERCENT, _SHAPE, _TIME, _COUNT = (0.0, 100.0), (1e-6, 1e6), (1e-9, 1e15), (0.0, LARGEST)
_RANGES = {
    **dict.fromkeys(("minival_top1", "val_top1", "val_top5", "train_top1"), _PERCENT),
    **dict.fromkeys(("width", "depth", "resolution"), _SHAPE),
    **dict.fromkeys(("train_step_ms", "infer_latency_ms", "infer_latency_p10_ms", "infer_latency_p90_ms"), _TIME),
    **dict.fromkeys(
        (
            "epochs", "seed", "attempts", "epochs_done", "epochs_repeated", "val_loss", "minival_images", "val_images",
            "skipped_images", "params", "macs_per_image", "train_flops", "peak_memory_bytes", "train_images_per_s",
            "train_device_hours", "lost_device_hours", "ranks", "micro_batch", "batch_size",
        ),
        _COUNT,
    ),
}  # fmt: skip
# Accuracies and costs: a front leaves such rows out, and says so.
_MAY_BE_INFINITE = {
    "minival_top1", "val_top1", "train_top1", "train_step_ms", "infer_latency_ms", "params", "macs_per_image",
    "train_flops", "peak_memory_bytes", "train_device_hours",
}  # fmt: skip
_CONTROLS = r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"  # what a terminal would obey: all but tab and new line


def inside(root: Path, *names: str) -> Path:
    """The path of a file of ours below `root`.

    Raises:
        RefusedError: a name would lead out of `root`, or a link stands where a file or folder of ours should.
    """
    path = root
    for name in names:
        if not _ID.fullmatch(name):
            shown = one_line(name[:60]) or "an empty one"
            raise RefusedError(f"{root}: {shown!r} is not a name of ours; right would be letters, digits and _ . -")
        path = path / name
        if path.is_symlink():
            raise RefusedError(f"{path}: is a link to {path.readlink()}; put the real file or folder in its place")
    return path


def without_links(folder: Path) -> Path:
    """A folder that we write into under names that we know.

    Raises:
        RefusedError: something in it is a link, through which we would write elsewhere.
    """
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_symlink():
                raise RefusedError(f"{path}: is a link to {path.readlink()}; nothing is written through it: remove it")
    return folder


def check_size(path: Path, file: pq.ParquetFile) -> None:
    """Refuse a Parquet file that is larger than any table of results, before it is read.

    Raises:
        TableError: it has too many rows, columns or bytes, or two columns of one name.
    """
    facts, names = file.metadata, file.schema_arrow.names
    size = sum(facts.row_group(index).total_byte_size for index in range(facts.num_row_groups))
    limits = (("rows", facts.num_rows, MAX_ROWS), ("columns", len(names), MAX_COLUMNS), ("bytes", size, MAX_BYTES))
    for what, number, most in limits:
        if not 0 <= number <= most:
            raise TableError(f"{path}: has {number} {what}; a table of results has at most {most}")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"{path}: has column {one_line(repeated[0])} twice; right would be once")


def plain_columns(schema: pa.Schema) -> list[str]:
    """The columns that hold one number, text, truth or time a row: no table of results has others, nor reads them."""
    return [field.name for field in schema if not (pa.types.is_nested(field.type) or _is_bytes(field.type))]


def checked(path: Path, table: pa.Table) -> pa.Table:
    """The table, once all its numbers can be what their columns say, and with no text that a terminal would obey.

    Raises:
        TableError: a number is out of its column's range, or a text is longer than any of ours; names row and column.
    """
    if len(table) > MAX_ROWS:
        raise TableError(f"{path}: has {len(table)} rows; a table of results has at most {MAX_ROWS}")
    for name in table.column_names:
        column = table.column(name)
        if _is_number(column.type):
            _check_numbers(path, name, column)
        elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            table = table.set_column(table.column_names.index(name), name, _readable(path, name, column))
    return table


def _check_numbers(path: Path, name: str, column: pa.ChunkedArray) -> None:
    low, high = _RANGES.get(name, (-LARGEST, LARGEST))
    column = column.cast(pa.float64(), safe=False)
    outside = pc.or_(pc.less(column, low), pc.greater(column, high))
    if name in _MAY_BE_INFINITE:
        outside = pc.and_(outside, pc.is_finite(column))
    for row in _first(outside):
        value = column[row].as_py()
        raise TableError(f"{path}: row {row + 1}: {one_line(name)} is {value:g}; right would be {low:g} to {high:g}")


def _readable(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        column.validate(full=True)  # a file may call any bytes a text
    except pa.ArrowInvalid as error:
        raise TableError(
            f"{path}: column {one_line(name)} holds bytes that are no text; right would be UTF-8"
        ) from error
    for row in _first(pc.greater(pc.binary_length(column), MAX_TEXT)):
        raise TableError(f"{path}: row {row + 1}: {one_line(name)} is longer than {MAX_TEXT} bytes")
    if not pc.any(pc.match_substring_regex(column, _CONTROLS)).as_py():
        return column
    return pc.replace_substring_regex(column, _CONTROLS, "\ufffd")


def _first(mask: pa.ChunkedArray) -> Iterator[int]:
    """The first row where the mask is true, if there is one."""
    row = pc.index(mask, value=True).as_py()
    if row >= 0:
        yield row


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))

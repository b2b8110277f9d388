"""Parquet files of ours: written whole, with a hash of their values, and read only where it fits.

Parquet itself would not notice a bit that turned. A file without a hash, from elsewhere or an older version, is read
as it is.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.errors import DamagedTableError
from sweep.untrusted import check_size, plain_columns
from sweep.yaml_file import one_line
from workers.files import write_bytes

_DIGEST = b"sha256"
# A part has one row, or a few hundred: what Parquet adds for millions makes it three times as large and slower to read.
_LEAN: dict[str, Any] = {
    "compression": "none",
    "store_schema": False,
    "use_dictionary": False,
    "write_statistics": False,
}


def write_part(path: Path, table: pa.Table) -> None:
    """Write an Arrow table as one Parquet file, atomically."""
    write_bytes(path, encode(table))


def encode(table: pa.Table) -> bytes:
    """An Arrow table as the bytes of a Parquet file with the hash of its values."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **_LEAN) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_DIGEST: _digest(table)})
    data: bytes = sink.getvalue().to_pybytes()
    return data


def read_part(path: Path, lost: str = "`sweep run` makes it again") -> pa.Table:
    """Read a Parquet file of ours; its columns of one value a row.

    Args:
        path: the file.
        lost: what becomes of its contents once the file is moved away, for the message.

    Raises:
        DamagedTableError: it is not whole, or not as it was written; the message names the file and the way out.
        TableError: it is larger than any of ours.
    """
    try:
        with pq.ParquetFile(path) as file:
            check_size(path, file)
            table = file.read(plain_columns(file.schema_arrow), use_threads=False)
        recorded = (table.schema.metadata or {}).get(_DIGEST)
        table = table.replace_schema_metadata(None)
        if recorded is not None and _digest(table) != recorded:
            raise pa.ArrowInvalid("its values do not fit the recorded hash")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = reason_of(error)
        raise DamagedTableError(f"{path}: damaged ({reason}); move it away, {lost}", reason) from error
    return table


def reason_of(error: Exception) -> str:
    """The first line of a message that may quote the file's own bytes."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])


def _digest(table: pa.Table) -> bytes:
    values: dict[str, Any] = {name: table.column(name).to_pylist() for name in table.column_names}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest().encode()

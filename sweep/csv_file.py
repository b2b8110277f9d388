"""A CSV file that anybody may have written: text columns, and numbers made of them with the place of a mistake."""

import csv as lines
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from sweep.errors import TableError
from sweep.noise import Array
from sweep.parts import reason_of
from sweep.untrusted import MAX_BYTES, MAX_COLUMNS
from sweep.yaml_file import one_line

_NOTHING = ["", "NaN", "nan", "NA", "N/A", "n/a", "None", "null", "-"]
_MARKS = (",", ";", "\t")
_HEAD = 1 << 16
Columns = dict[str, pa.ChunkedArray]


def read_csv(path: Path) -> Columns:
    """All columns of a CSV file as text, without a byte order mark and the blanks about names and values.

    Values are separated by commas, semicolons or tabs, whichever the first line has most of.

    Raises:
        TableError: it is too large, no UTF-8, or its lines do not fit together; one line with the place.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise TableError(f"{path}: has {size} bytes; a table of results has at most {MAX_BYTES}")
    with path.open("rb") as start:
        names, mark = _head(path, start.readline(_HEAD))
    try:
        # Not a file of Python's: Arrow's threads may wait for the interpreter while it waits for them.
        with pa.OSFile(str(path)) as file:
            table = csv.read_csv(
                file,
                csv.ReadOptions(column_names=names, skip_rows=1),
                csv.ParseOptions(delimiter=mark, newlines_in_values=True),
                csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=_NOTHING,
                    strings_can_be_null=True,
                ),
            )
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise TableError(f"{path}: not a readable CSV file ({one_line(reason_of(error))[:200]})") from error
    if not len(table):
        raise TableError(f"{path}: has no row below its first line")
    return {name: pc.utf8_trim_whitespace(table.column(name)) for name in names}


def _head(path: Path, line: bytes) -> tuple[list[str], str]:
    """The names in the first line, and what separates them."""
    try:
        text = line.replace(b"\r", b"\n").partition(b"\n")[0].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"{path}: line 1 holds bytes that are no text; right would be UTF-8") from error
    mark = max(_MARKS, key=text.count)
    try:
        names = [name.strip() for name in next(lines.reader([text], delimiter=mark), [])]
    except lines.Error as error:
        raise TableError(f"{path}: line 1 is no line of a CSV file ({one_line(str(error))})") from error
    if not text.strip() or len(names) > MAX_COLUMNS:
        raise TableError(f"{path}: line 1 should name 1 to {MAX_COLUMNS} columns")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"{path}: has column {one_line(repeated[0])!r} twice; right would be once")
    return names, mark


def require(path: Path, columns: Mapping[str, object], names: tuple[str, ...]) -> None:
    """Refuse a file that lacks a column, with those that it has.

    Raises:
        TableError: one line.
    """
    if missing := [name for name in names if name not in columns]:
        has = one_line(", ".join(list(columns)[:12]))
        raise TableError(f"{path}: has no column {', '.join(missing)}; its columns: {has}")


def numbers(path: Path, name: str, column: pa.ChunkedArray, low: float = -math.inf, high: float = math.inf) -> Array:
    """A column of text as real numbers, NaN where it is empty; "1,014.45" is read as 1014.45.

    Raises:
        TableError: a value is no finite number of at least `low` and at most `high`; names the line.
    """
    plain = pc.replace_substring(pc.fill_null(column, "nan"), ",", "")
    try:
        values: Array = pc.cast(plain, pa.float64()).to_numpy()
    except pa.ArrowException:
        values = np.array([_as_number(text) for text in plain.to_pylist()], dtype=float)
    wrong = ~((values >= low) & (values <= high) & np.isfinite(values))
    wrong &= ~np.asarray(pc.fill_null(pc.equal(plain, "nan"), False))
    if wrong.any():
        row = int(wrong.argmax())
        right = f"a number from {low:g} to {high:g}" if math.isfinite(high) else f"a number of at least {low:g}"
        right = right if math.isfinite(low) else "a number"
        value = one_line(str(column[row].as_py()))[:60]
        raise TableError(f"{path}: line {row + 2}: {one_line(name)} is {value!r}; right would be {right}")
    return values


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf

"""The results table: every column declared once; parts written atomically, read as one frame.

A table is a folder of Parquet parts (`results/<sweep>/trials/*.parquet`, one row per trial) or one Parquet file.
A file from elsewhere with only some of the columns is a valid table: the missing ones read as NaN or None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from sweep.errors import DamagedTableError, TableError
from sweep.index import read_rows
from sweep.parts import read_part, reason_of, write_part
from sweep.untrusted import checked

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """One column of the results table: its name, Arrow type, unit and meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


_TEXT, _REAL, _WHOLE = pa.string(), pa.float64(), pa.int64()

COLUMNS: tuple[Column, ...] = (
    Column("sweep", _TEXT, "", "name of the sweep"),
    Column("trial_id", _TEXT, "", "hash of every field that changes the outcome"),
    Column("identity", _TEXT, "", "those fields as JSON; `sweep plan --explain` compares them"),
    Column("family", _TEXT, "", "model family, such as resnet_rs"),
    Column("width", _REAL, "", "width multiplier on all stages and the stem; empty where the family has none"),
    Column("depth", _WHOLE, "layers", "nominal depth; the blocks per stage follow from it; empty as above"),
    Column("resolution", _WHOLE, "px", "side of the square training image, and of the test image unless set apart"),
    Column("epochs", _WHOLE, "epochs", "the budget: length of the trial's own full schedule"),
    Column("seed", _WHOLE, "", "seed of initialisation, data order and augmentation"),
    Column("recipe", _TEXT, "", "name of the training recipe; its values are the recipe_ columns"),
    Column("dataset", _TEXT, "", "name and version of the data set"),
    Column("protocol", _TEXT, "", "independent: each budget is a run of its own"),
    Column("source", _TEXT, "", "measured, simulated or published; never mixed unless asked"),
    Column(
        "status",
        _TEXT,
        "",
        "ok, or why there is no result: oom, diverged, crashed, data_error, excluded, ...",
    ),
    Column("error", _TEXT, "", "message of the failure, or the reason of the exclusion"),
    Column("notes", _TEXT, "", "what happened on the way, such as a damaged checkpoint that was passed over"),
    Column("attempts", _WHOLE, "", "times that training of this trial was started or resumed"),
    Column("epochs_repeated", _REAL, "epochs", "trained again after attempts that ended early"),
    Column("lost_device_hours", _REAL, "h", "that such attempts held their devices since their last checkpoint"),
    Column("epochs_done", _WHOLE, "epochs", "epochs finished"),
    Column("started_at", _TEXT, "UTC, ISO 8601", "start of the first attempt"),
    Column("finished_at", _TEXT, "UTC, ISO 8601", "end of the last attempt"),
    Column("minival_top1", _REAL, "%", "top-1 on the held-out part of the training set: what is selected on"),
    Column("val_top1", _REAL, "%", "top-1 on the validation set, measured once at the end; only reported"),
    Column("val_top5", _REAL, "%", "top-5 on the validation set"),
    Column("train_top1", _REAL, "%", "top-1 on a fixed, clean subset of the training set, evaluation mode"),
    Column("val_loss", _REAL, "nats", "mean cross-entropy on the validation set"),
    Column("minival_images", _WHOLE, "images", "size of minival, hence its sampling error"),
    Column("val_images", _WHOLE, "images", "size of the validation set"),
    Column("skipped_images", _WHOLE, "images", "images that could not be read and were left out, as the space allows"),
    Column("data_identity", _TEXT, "", "hash of all images' names, labels and, where known, sizes"),
    Column("params", _WHOLE, "", "trainable parameters"),
    Column(
        "macs_per_image",
        _WHOLE,
        "MACs",
        "forward multiply-adds of convolutions and linear layers; FLOPs are 2 x this",
    ),
    Column("train_flops", _REAL, "FLOPs", "3 x 2 x macs_per_image x training images x epochs"),
    Column(
        "train_step_ms",
        _REAL,
        "ms",
        "one training step of batch_size images, median of the fastest round, alone on the device; "
        "with several ranks, of one rank's share",
    ),
    Column("train_step_spread", _REAL, "", "slowest over fastest round of measuring train_step_ms, minus 1"),
    Column("infer_latency_ms", _REAL, "ms", "forward pass of one image, median, alone on the device"),
    Column("infer_latency_p10_ms", _REAL, "ms", "10th percentile of the same"),
    Column("infer_latency_p90_ms", _REAL, "ms", "90th percentile of the same"),
    Column(
        "peak_memory_bytes",
        _WHOLE,
        "bytes",
        "peak of tensor memory during a training step, alone on the device",
    ),
    Column(
        "train_images_per_s",
        _REAL,
        "images/s",
        "training images over the time spent training, in the trial itself",
    ),
    Column("train_device_hours", _REAL, "h", "time the trial held its device, all attempts, evaluation included"),
    Column("device", _TEXT, "", "model of the device that trained the trial"),
    Column("precision", _TEXT, "", "float32, bfloat16 or float16 (autocast), that the device computed in"),
    Column("ranks", _WHOLE, "", "processes that shared every batch, one device each"),
    Column("micro_batch", _WHOLE, "images", "images per forward pass and process; gradients add up to batch_size"),
    Column("batch_size", _WHOLE, "images", "images per optimiser step"),
    Column("versions", _TEXT, "", "versions of sweep, torch, torchvision and timm"),
    Column("host", _TEXT, "", "machine that trained the trial"),
)
_TYPES = {column.name: column.type for column in COLUMNS}


def column_reference() -> str:
    """The columns as a Markdown table; results/README.md shows it, and a test keeps the two equal."""
    rows = [f"| `{c.name}` | {c.type} | {c.unit} | {c.meaning} |" for c in COLUMNS]
    return "\n".join(["| column | type | unit | meaning |", "| --- | --- | --- | --- |", *rows])


def schema_of(row: Mapping[str, Any]) -> pa.Schema:
    """Arrow schema of a row: the declared columns, then its own `recipe_...`, `model_...` and others by value."""
    fields = [pa.field(c.name, c.type) for c in COLUMNS]
    extra = {name: value for name, value in row.items() if name not in _TYPES}
    return pa.schema(fields + [pa.field(name, _type_of(value)) for name, value in sorted(extra.items())])


def _type_of(value: Any) -> pa.DataType:
    """Type of a value of an undeclared column; numbers are real, so that parts of one sweep agree."""
    if isinstance(value, bool):
        return pa.bool_()
    return _REAL if isinstance(value, int | float) else _TEXT


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the results table as one Parquet part, atomically; columns that a row lacks become null."""
    present = {name: value for row in rows for name, value in row.items() if value is not None}
    write_part(path, pa.Table.from_pylist([dict(row) for row in rows], schema=schema_of(present)))


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records of another kind than trials as one Parquet file, atomically; types follow the values."""
    write_part(path, pa.Table.from_pylist([dict(record) for record in records]))


def read_table(path: Path) -> "pd.DataFrame":
    """Read a Parquet file or every `*.parquet` part of a folder as one frame with all declared columns.

    Whoever wrote it is not trusted: see `sweep.untrusted`.

    Raises:
        TableError: nothing is there, a part is not Parquet, or holds what no table of results can; names the place.
    """
    try:
        return cast("pd.DataFrame", read_columns(path).to_pandas())
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise TableError(f"{path}: holds values that cannot be read ({reason_of(error)})") from error


def read_columns(path: Path, names: list[str] | None = None) -> pa.Table:
    """Some declared columns of a table, checked like the whole, without the second that pandas takes to be loaded.

    Args:
        path: a Parquet file, or a folder of parts.
        names: of the columns; None: all that are declared, and the table's own.

    Raises:
        TableError: as of `read_table`.
    """
    if not path.exists() or (path.is_dir() and not any(path.glob("*.parquet"))):
        raise TableError(f"{path}: no results here yet; `sweep run SPACE` makes them")
    table = _with_declared_types(path, read_rows(path, names) if path.is_dir() else _read_file(path))
    for column in COLUMNS:
        if column.name not in table.column_names:
            table = table.append_column(column.name, pa.nulls(len(table), column.type))
    table = checked(path, table)
    return table if names is None else table.select(names)


def _read_file(path: Path) -> pa.Table:
    """A table that is one file, which anybody may have written."""
    try:
        return read_part(path)
    except DamagedTableError as error:
        raise TableError(f"{path}: not a readable Parquet file ({error.reason})") from error


def _with_declared_types(path: Path, table: pa.Table) -> pa.Table:
    """A file from elsewhere may hold numbers as text; whole numbers may stay real ones, which can be NaN."""
    for index, field in enumerate(table.schema):
        wanted = _TYPES.get(field.name, field.type)
        if field.type == wanted or (_is_number(field.type) and _is_number(wanted)):
            continue
        try:
            table = table.set_column(index, field.name, table.column(index).cast(wanted))
        except pa.ArrowException as error:
            raise TableError(f"{path}: column {field.name} is {field.type}; right would be {wanted}") from error
    return table


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))

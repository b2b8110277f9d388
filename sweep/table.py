"""The results table: every column declared once; parts written atomically, read as one frame.

A table is a folder of Parquet parts (`results/<sweep>/trials/*.parquet`, one row per trial) or one Parquet file.
A file from elsewhere with only some of the columns is a valid table: the missing ones read as NaN or None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sweep.errors import DamagedTableError, TableError
from workers.files import write_bytes


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
    fields = [pa.field(c.name, c.type, metadata={"unit": c.unit, "meaning": c.meaning}) for c in COLUMNS]
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
    write_frame(path, pa.Table.from_pylist([dict(row) for row in rows], schema=schema_of(present)))


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records of another kind than trials as one Parquet file, atomically; types follow the values."""
    write_frame(path, pa.Table.from_pylist([dict(record) for record in records]))


def read_records(path: Path) -> pd.DataFrame:
    """Read what `write_records` wrote.

    Raises:
        DamagedTableError: it is damaged; the message names the file.
    """
    try:
        return cast(pd.DataFrame, pq.read_table(path).to_pandas())
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedTableError(f"{path}: damaged ({reason}); move it away, `sweep run` makes it again") from error


def write_frame(path: Path, table: pa.Table) -> None:
    """Write an Arrow table as one Parquet file, atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> pd.DataFrame:
    """Read a Parquet file or every `*.parquet` part of a folder as one frame with all declared columns.

    Raises:
        TableError: nothing is there, or a part is not Parquet; the message names the file.
    """
    parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not parts or not path.exists():
        raise TableError(f"{path}: no results here yet; `sweep run SPACE` makes them")
    try:
        table = pa.concat_tables([_read_part(part, path.is_dir()) for part in parts], promote_options="permissive")
    except pa.ArrowException as error:
        raise TableError(f"{path}: its parts do not fit together ({str(error).splitlines()[0]})") from error
    for column in COLUMNS:
        if column.name not in table.column_names:
            table = table.append_column(column.name, pa.nulls(len(table), column.type))
    return cast(pd.DataFrame, table.to_pandas())


def _read_part(path: Path, of_a_sweep: bool) -> pa.Table:
    try:
        # The schema's notes are for people; pandas would carry them along without using them.
        with pq.ParquetFile(path) as file:
            return _with_declared_types(path, file.read().replace_schema_metadata(None))
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        if of_a_sweep:
            raise DamagedTableError(f"{path}: damaged ({reason}); move it away, `sweep run` makes it again") from error
        raise TableError(f"{path}: not a readable Parquet file ({reason})") from error


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

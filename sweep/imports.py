"""Tables of others as results tables, so that the same commands read them: timm's published CSV files, and any table.

What is imported is a reference: it keeps its source, and `imported_from` marks every row of it.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sweep.csv_file import Columns, numbers, read_csv, require
from sweep.errors import DamagedTableError, RefusedError, TableError
from sweep.parts import encode, read_part
from sweep.table import COLUMNS
from sweep.untrusted import checked, inside
from sweep.yaml_file import one_line
from workers.files import write_bytes, write_json

MARK = "imported_from"  # the column that every imported row has
LATENCY_KIND = "infer_latency_kind"
INVERSE_THROUGHPUT = "inverse throughput: 1000 / images per second"
_TYPES = {column.name: column.type for column in COLUMNS}
_ACCURACIES = ("minival_top1", "val_top1")
_MAP = re.compile(r"(?P<own>.+?)=(?P<name>[A-Za-z][A-Za-z0-9_]{0,99})(?:\*(?P<factor>[-+0-9.eE]+))?")
_FAMILY = re.compile(r"(?:tf_|gluon_|legacy_)?(?P<family>[a-z]+?(?:v\d+)?)(?=[\d_.]|$)")
_RESULTS_NAME = re.compile(r"results-(imagenet.*|sketch.*)")
_LARGEST_SIDE = 1e6
_MOST_HASHED = 20_000  # rows; the hash of more takes longer than all the rest


@dataclass(frozen=True)
class Imported:
    """A table that was imported, with what there is to say about it, a line each."""

    table: pa.Table
    notes: list[str]


def timm_table(name: str, results: Path, benchmark: Path, device: str | None, dataset: str | None) -> Imported:
    """Timm's accuracies joined with its speeds on the model's name without its tag and the image size.

    Every row of `results` with a model and a size stays; one without a speed has no costs but its parameters.

    Args:
        name: of the new table.
        results: CSV with model, img_size, top1 (percent) and, if it likes, top5, param_count (millions), crop_pct,
            interpolation.
        benchmark: CSV with model, infer_img_size, infer_samples_per_sec and, if it likes, infer_batch_size, infer_gmacs
            (10^9 multiply-adds), infer_macts (10^6 activations).
        device: that the speeds are of; None takes the last part of a name such as benchmark-…-rtx3090.csv.
        dataset: None takes it from a name such as results-imagenet-real.csv.

    Raises:
        TableError: a file cannot be read, lacks a column or holds a wrong number; one line with the place.
    """
    accuracy, notes = _accuracies(results)
    speed, more = _speeds(benchmark)
    joined = accuracy.merge(speed, how="left", on=["name", "resolution"])
    unmeasured = int(joined["rate"].isna().sum())
    left = len(speed) - len(joined[joined["rate"].notna()].drop_duplicates(["name", "resolution"]))
    if unmeasured == len(joined):
        raise TableError(f"{benchmark}: has none of the models and sizes of {results}; right would be the same names")
    notes += [*more, *_counted(unmeasured, "of {} models have no speed at their size", len(joined))]
    notes += _counted(left, "of {} speeds are of models or sizes without an accuracy: left out", len(speed))
    named = _RESULTS_NAME.fullmatch(results.stem)
    joined = joined.assign(
        sweep=name,
        trial_id=joined["model"] + "-" + joined["resolution"].map("{:g}".format),
        family=[_family(model) for model in joined["name"]],
        recipe=joined["model"].str.partition(".")[2].replace("", None),
        dataset=dataset or (named[1] if named else "imagenet"),
        protocol="timm pretrained",
        source="published",
        status="ok",
        infer_latency_ms=1000 / joined["rate"],
        device=device or _device(benchmark),
        provenance=f"timm, {results.name} and {benchmark.name}",
    )
    joined[LATENCY_KIND] = pd.Series(INVERSE_THROUGHPUT, joined.index).where(joined["rate"].notna())
    return Imported(_as_table(results, joined.drop(columns=["name", "rate"]), results.name), notes)


def _accuracies(path: Path) -> tuple[pd.DataFrame, list[str]]:
    columns = read_csv(path)
    require(path, columns, ("model", "img_size", "top1"))
    frame = pd.DataFrame({"model": columns["model"].to_pandas()})
    frame["resolution"] = numbers(path, "img_size", columns["img_size"], 1, _LARGEST_SIDE)
    frame["val_top1"] = numbers(path, "top1", columns["top1"], 0, 100)
    frame["val_top5"] = _optional(path, columns, "top5", 0, 100)
    frame["params"] = np.round(_optional(path, columns, "param_count") * 1e6)
    frame["crop_pct"] = _optional(path, columns, "crop_pct")
    if "interpolation" in columns:
        frame["interpolation"] = columns["interpolation"].to_pandas()
    return _first_of_each(path, frame, "model")


def _speeds(path: Path) -> tuple[pd.DataFrame, list[str]]:
    columns = read_csv(path)
    require(path, columns, ("model", "infer_img_size", "infer_samples_per_sec"))
    frame = pd.DataFrame({"model": columns["model"].to_pandas()})
    frame["resolution"] = numbers(path, "infer_img_size", columns["infer_img_size"], 1, _LARGEST_SIDE)
    frame["rate"] = numbers(path, "infer_samples_per_sec", columns["infer_samples_per_sec"], 1e-9, 1e12)
    frame["infer_batch_size"] = _optional(path, columns, "infer_batch_size")
    frame["macs_per_image"] = np.round(_optional(path, columns, "infer_gmacs") * 1e9)
    frame["activations_per_image"] = _optional(path, columns, "infer_macts") * 1e6
    kept, notes = _first_of_each(path, frame[frame["rate"].notna()], "name")
    return kept.drop(columns="model"), notes


def _optional(path: Path, columns: Columns, name: str, low: float = 0, high: float = math.inf) -> Any:
    """A column of numbers; NaN where the file has none."""
    return numbers(path, name, columns[name], low, high) if name in columns else np.nan


def _first_of_each(path: Path, frame: pd.DataFrame, key: str) -> tuple[pd.DataFrame, list[str]]:
    """The first row of each model and size, with the model's name without its tag; says how many others there are."""
    known = frame[frame[["model", "resolution"]].notna().all(axis=1)]
    if known.empty:
        raise TableError(f"{path}: no row has all of model, size and number; right would be one row for each model")
    known = known.assign(name=known["model"].str.partition(".")[0])
    kept = known.drop_duplicates([key, "resolution"])
    lost, repeated = len(frame) - len(known), len(known) - len(kept)
    notes = _counted(lost, f"of {{}} rows of {path.name} have no model or size: left out", len(frame))
    return kept, notes + _counted(repeated, f"rows of {path.name} repeat a model and size: the first one counts")


def _counted(count: int, words: str, of: int = 0) -> list[str]:
    return [f"{count} {words.format(of)}"] if count else []


def _family(name: str) -> str:
    """What a model's name begins with, but for who trained it: tf_efficientnetv2_s is an efficientnetv2."""
    found = _FAMILY.match(name)
    return found["family"] if found else name


def _device(benchmark: Path) -> str | None:
    """The last part of a benchmark's name that is not about how it was compiled."""
    parts = benchmark.stem.removesuffix("-dynamo").split("-")
    return parts[-1] if parts[0] == "benchmark" and len(parts) > 2 else None


def any_table(name: str, path: Path, maps: list[str], device: str | None) -> Imported:
    """Any CSV or Parquet file with its columns renamed, and scaled where wanted.

    Args:
        name: of the new table.
        path: a Parquet file, or else CSV.
        maps: such as `top1=val_top1` or `params_m=params*1e6`; columns that are not named keep their names.
        device: of all rows, where the file has none.

    Raises:
        TableError: it cannot be read, lacks a column, or has no accuracy in percent; one line.
    """
    own = _columns_of(path)
    renamed = _renamed(path, own, [_parsed(text) for text in maps])
    frame = pd.DataFrame({key: _values(path, key, column, factor) for key, (column, factor) in renamed.items()})
    _check_percent(path, frame, list(own))
    given = {"trial_id": [f"{name}-{row}" for row in range(1, len(frame) + 1)], "source": "imported"}
    given |= {"device": device} if device else {}
    for key, value in given.items():
        frame[key] = frame[key].where(frame[key].notna(), pd.Series(value, frame.index)) if key in frame else value
    return Imported(_as_table(path, frame.assign(sweep=name), path.name), [])


def _columns_of(path: Path) -> Columns:
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            return read_csv(path)
    try:
        table = read_part(path)
    except DamagedTableError as error:
        raise TableError(f"{path}: not a readable Parquet file ({error.reason})") from error
    return {name: table.column(name) for name in table.column_names}


def _parsed(text: str) -> tuple[str, str, float]:
    """A mapping as (own name, new name, factor)."""
    found = _MAP.fullmatch(text.strip())
    try:
        factor = float((found and found["factor"]) or 1)
    except ValueError:
        found = None
    if not found or not math.isfinite(factor):
        right = "OWN=COLUMN, such as top1=val_top1 or params_m=params*1e6"
        raise TableError(f"--map {one_line(text)!r}: right would be {right}")
    return found["own"].strip(), found["name"], factor


def _renamed(path: Path, own: Columns, maps: list[tuple[str, str, float]]) -> dict[str, tuple[pa.ChunkedArray, float]]:
    """Each column under its new name, with its factor."""
    require(path, own, tuple(dict.fromkeys(name for name, _, _ in maps)))
    mapped = {name for name, _, _ in maps}
    pairs = [(new, name, factor) for name, new, factor in maps]
    pairs += [(name, name, 1.0) for name in own if name not in mapped]
    found: dict[str, tuple[pa.ChunkedArray, float]] = {}
    for new, name, factor in pairs:
        if new in found:
            raise TableError(f"{path}: two columns become {one_line(new)}; right would be --map {one_line(name)}=…")
        found[new] = own[name], factor
    return found


def _values(path: Path, name: str, column: pa.ChunkedArray, factor: float) -> Any:
    """The values of a column: numbers where its declared type says so or all of it reads as numbers."""
    declared, text = _TYPES.get(name), pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if declared is not None and pa.types.is_string(declared):
        return column.cast(pa.string()).to_pandas()
    if declared is not None or factor != 1:
        texts = column if text else column.cast(pa.string())
        return numbers(path, name, texts) * factor if text else _plain(path, name, column) * factor
    if not text:
        return column.to_pandas()
    try:
        return numbers(path, name, column)
    except TableError:
        return column.to_pandas()


def _plain(path: Path, name: str, column: pa.ChunkedArray) -> Any:
    try:
        return column.cast(pa.float64(), safe=False).to_numpy()
    except pa.ArrowException as error:
        raise TableError(f"{path}: column {one_line(name)} is {column.type}; right would be numbers") from error


def _check_percent(path: Path, frame: pd.DataFrame, own: list[str]) -> None:
    """Refuse a table without an accuracy, or with one that is a share of 1."""
    names = [name for name in _ACCURACIES if name in frame and frame[name].notna().any()]
    if not names:
        has = one_line(", ".join(own[:12]))
        raise TableError(f"{path}: has no accuracy; right would be --map OWN=val_top1, OWN being one of: {has}")
    for name in names:
        if frame[name].max() <= 1:
            raise TableError(f"{path}: {name} is at most {frame[name].max():g}; right would be percent: {name}*100")


def _as_table(path: Path, frame: pd.DataFrame, origin: str) -> pa.Table:
    """The frame as a results table, each declared column of its declared type, checked like any table of others."""
    columns = {}
    for name, values in frame.assign(**{MARK: origin}).items():
        wanted = _TYPES.get(str(name))
        try:
            found = pa.array(values, from_pandas=True)
            if pa.types.is_null(found.type):
                found = found.cast(wanted or pa.string())
            real = wanted is not None and pa.types.is_integer(wanted) and pa.types.is_floating(found.type)
            if real and not pc.all(pc.equal(found, pc.round(found))).as_py():
                wanted = pa.float64()
            columns[str(name)] = found if wanted is None else found.cast(wanted)
        except pa.ArrowException as error:
            raise TableError(f"{path}: column {one_line(str(name))} does not fit {wanted}") from error
    return checked(path, pa.table(columns))


def write_import(results: Path, name: str, imported: Imported, files: list[Path]) -> Path:
    """Write an imported table as `results/<name>/`, over an earlier import of that name; returns the folder.

    Raises:
        RefusedError: the name is no name of ours, or that of something that was not imported.
    """
    folder = inside(results, name)
    record = inside(folder, "imported.json")
    if folder.exists() and not record.is_file():
        raise RefusedError(f"{folder}: is there and was not imported; right would be another name after --as")
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    write_json(record, {"rows": len(imported.table), "files": hashes, "notes": imported.notes})
    write_bytes(inside(folder, "trials", "all.parquet"), _encoded(imported.table))
    return folder


def _encoded(table: pa.Table) -> bytes:
    if len(table) <= _MOST_HASHED:
        return encode(table)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data

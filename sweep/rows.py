"""Rows of the results table: made from a trial's configuration, its shape's measurement and its result."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.cost import train_flops
from sweep.errors import RefusedError
from sweep.layout import SweepFolder
from sweep.naming import MODEL_COLUMN
from sweep.plan import EXCLUDED, RowState
from sweep.table import write_records, write_rows
from workers.contract import EpochMetrics, TrialConfig, TrialResult

if TYPE_CHECKING:
    from workers.costs import Costs


def cell_columns(sweep: str, config: TrialConfig) -> dict[str, Any]:
    """The columns that say what a trial is."""
    names = ("trial_id", "family", "width", "depth", "resolution", "epochs", "seed", "protocol", "precision")
    recipe = dataclasses.asdict(config.recipe)
    return {
        "sweep": sweep,
        **{name: getattr(config, name) for name in names},
        "recipe": recipe.pop("name"),
        "dataset": f"{config.data.name} {config.data.version}",
        "source": "measured",
        "batch_size": config.recipe.batch_size,
        "ranks": config.execution.ranks,
        **model_columns(config),
        **{f"recipe_{name}": value for name, value in recipe.items()},
    }


def cost_columns(config: TrialConfig, costs: "Costs", measured: Mapping[str, Any] | None) -> dict[str, Any]:
    """The columns that say what a trial's shape costs; a shape that could not be measured leaves them empty."""
    return {
        "params": costs.params,
        "macs_per_image": costs.macs_per_image,
        "train_flops": train_flops(config, costs.macs_per_image),
        **(measured or {}),
    }


def result_columns(result: TrialResult) -> dict[str, Any]:
    """The columns that say how a trial ended."""
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    history: tuple[EpochMetrics, ...] = values.pop("history")
    last = history[-1] if history else None
    if result.precision is None:  # the trial got no further than to ask for one
        values.pop("precision")
    return {
        **values,
        "status": result.status.value,
        "notes": "; ".join(result.notes) or None,
        "epochs_done": len(history),
        "minival_top1": last.minival_top1 if last else None,
        "train_top1": last.train_top1 if last else None,
    }


def excluded_row(sweep: str, config: TrialConfig, costs: "Costs", reason: str) -> dict[str, Any]:
    """The row of a cell that the space leaves out."""
    return {
        **cell_columns(sweep, config),
        **cost_columns(config, costs, None),
        "status": EXCLUDED,
        "error": reason,
    }


def commit(folder: SweepFolder, row: Mapping[str, Any], history: tuple[EpochMetrics, ...]) -> None:
    """Write the learning curve, then the row: where the row is, everything is."""
    trial_id = str(row["trial_id"])
    folder.epochs(trial_id).unlink(missing_ok=True)  # an earlier attempt's
    if history:
        write_records(
            folder.epochs(trial_id),
            [{"trial_id": trial_id, **dataclasses.asdict(epoch)} for epoch in history],
        )
    write_rows(folder.row(trial_id), [row])


def keep_planned(folder: SweepFolder, trials: Sequence[TrialConfig]) -> None:
    """Write which trials the space plans, so that nobody who reads the folder has to work it out again."""
    write_records(folder.planned, [planned_columns(config) for config in trials])


def planned_columns(config: TrialConfig) -> dict[str, Any]:
    """What a planned trial is known by."""
    names = ("trial_id", "family", "width", "depth", "resolution", "epochs", "seed")
    return {name: getattr(config, name) for name in names} | model_columns(config)


def model_columns(config: TrialConfig) -> dict[str, Any]:
    """The family's other arguments than width and depth."""
    return {f"{MODEL_COLUMN}{name}": value for name, value in config.model.items()}


def read_history(folder: SweepFolder, trial_id: str) -> tuple[EpochMetrics, ...]:
    """The learning curve of a trial whose row is written; empty where there is none."""
    path = folder.epochs(trial_id)
    if not path.exists():
        return ()
    names = EpochMetrics.__dataclass_fields__
    return tuple(
        EpochMetrics(**{name: row[name] for name in names} | {"epoch": int(row["epoch"])}) for row in _read(path)
    )


def read_states(folder: SweepFolder) -> dict[str, RowState]:
    """Status and error of every row, by trial id.

    Raises:
        RefusedError: a row is damaged; the message names its file.
    """
    states = {}
    for path in folder.trials.glob("*.parquet"):
        for row in _read(path, ["trial_id", "status", "error"]):
            states[str(row["trial_id"])] = RowState(str(row["status"]), row["error"])
    return states


def read_row(path: Path) -> dict[str, Any]:
    """One trial's row with its empty columns left out."""
    (row,) = _read(path)
    return {name: value for name, value in row.items() if value is not None}


def _read(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """A file of our own, which only a broken disk or a person damages."""
    try:
        rows: list[dict[str, Any]] = pq.read_table(path, columns=columns).to_pylist()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        what = "the learning curve is lost" if path.parent.name == "epochs" else "`sweep run` makes it again"
        raise RefusedError(f"{path}: damaged ({reason}); move it away, {what}") from error
    return rows

"""Rows of the results table: made from a trial's configuration, its shape's measurement and its result."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.cost import train_flops
from sweep.errors import DamagedTableError, TableError
from sweep.index import Damaged, read_rows, refresh
from sweep.layout import SweepFolder
from sweep.naming import MODEL_COLUMN
from sweep.parts import read_part
from sweep.plan import EXCLUDED, RowState
from sweep.table import write_records, write_rows
from sweep.trials import identity
from workers.contract import EpochMetrics, TrialConfig, TrialResult, TrialStatus
from workers.work_folder import read_result

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
        "identity": json.dumps(identity(config), sort_keys=True),
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
    values.pop("token")  # of one attempt, which is over
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
    """Write the learning curve, then the row: where the row is, everything is.

    A row of a trial that ended well is never replaced: whoever comes second has nothing to add.

    Raises:
        DamagedTableError: there is a row, and it is damaged.
    """
    trial_id = str(row["trial_id"])
    path = folder.row(trial_id)
    if path.exists() and read_row(path)["status"] == TrialStatus.OK:
        return
    folder.epochs(trial_id).unlink(missing_ok=True)  # an earlier attempt's
    if history:
        write_history(folder, trial_id, history)
    write_rows(path, [row])


def write_history(folder: SweepFolder, trial_id: str, history: tuple[EpochMetrics, ...]) -> None:
    """Write a trial's learning curve."""
    records = [{"trial_id": trial_id, **dataclasses.asdict(epoch)} for epoch in history]
    write_records(folder.epochs(trial_id), records)


def keep_planned(folder: SweepFolder, trials: Sequence[TrialConfig]) -> None:
    """Write which trials the space plans, so that nobody who reads the folder has to work it out again."""
    write_records(folder.planned, [planned_columns(config) for config in trials])


def planned_columns(config: TrialConfig) -> dict[str, Any]:
    """What a planned trial is known by."""
    names = ("trial_id", "family", "width", "depth", "resolution", "epochs", "seed")
    own = {name: getattr(config, name) for name in names}
    return {**own, "recipe_lr_scale": config.recipe.lr_scale, **model_columns(config)}


def model_columns(config: TrialConfig) -> dict[str, Any]:
    """The family's other arguments than width and depth."""
    return {f"{MODEL_COLUMN}{name}": value for name, value in config.model.items()}


def read_history(folder: SweepFolder, trial_id: str) -> tuple[EpochMetrics, ...]:
    """The learning curve of a trial whose row is written, from its result where the curve is gone; may be empty.

    Raises:
        DamagedTableError: it is damaged, and the trial's result, which has it too, is not there.
    """
    path = folder.epochs(trial_id)
    if not path.exists():
        result = read_result(folder.work(trial_id))
        return result.history if result and result.trial_id == trial_id else ()
    names = EpochMetrics.__dataclass_fields__
    try:
        rows = read_part(path, "the learning curve is lost").to_pylist()
    except DamagedTableError:
        if result := read_result(folder.work(trial_id)):
            return result.history
        raise
    return tuple(EpochMetrics(**{name: row[name] for name in names} | {"epoch": int(row["epoch"])}) for row in rows)


def read_states(folder: SweepFolder, damaged: Damaged | None = None) -> dict[str, RowState]:
    """Status and error of every row, by trial id.

    Args:
        folder: of the sweep.
        damaged: called for a row that cannot be read, which then counts as missing; by default it is an error.

    Raises:
        DamagedTableError: a row is damaged; the message names its file.
    """
    if not folder.trials.is_dir():
        return {}
    wanted = ["trial_id", "status", "error"]
    rows = read_rows(folder.trials, wanted, damaged) if damaged else read_rows(folder.trials, wanted)
    return {str(row["trial_id"]): RowState(str(row["status"]), row["error"]) for row in rows.to_pylist()}


def refresh_index(folder: SweepFolder) -> None:
    """Bring the index of the rows up to date; where it cannot be written, reading is slower and that is all."""
    with suppress(OSError, TableError):
        if folder.trials.is_dir():
            refresh(folder.trials)


def read_row(path: Path) -> dict[str, Any]:
    """One trial's row with its empty columns left out.

    Raises:
        DamagedTableError: it is damaged.
    """
    (row,) = read_part(path).to_pylist()
    return {name: value for name, value in row.items() if value is not None}


def results_without_rows(folder: SweepFolder, planned: Collection[str]) -> list[Path]:
    """Work folders of finished trials whose rows are gone and that nothing but an earlier space plans."""
    if not folder.works.is_dir():
        return []
    works = sorted(path for path in folder.works.iterdir() if path.name not in planned and path.name[0] != ".")
    found = [work for work in works if work.is_dir() and not folder.row(work.name).exists()]
    return [work for work in found if (result := read_result(work)) and result.status is TrialStatus.OK]


def read_identities(folder: SweepFolder) -> dict[str, str]:
    """What each row's id was made from, by trial id; rows of older versions do not say."""
    if not folder.trials.is_dir():
        return {}
    rows = read_rows(folder.trials, ["trial_id", "identity"]).to_pylist()
    return {str(row["trial_id"]): row["identity"] for row in rows if row["identity"]}


def set_aside(folder: SweepFolder, part: Path, error: DamagedTableError) -> None:
    """Put a damaged row out of the table where the trial's result, from which it can be written again, is still there.

    Raises:
        DamagedTableError: the error itself, where it is not: only training would bring the row back.
    """
    result = read_result(folder.work(part.stem))
    if result is None or result.status is not TrialStatus.OK or result.trial_id != part.stem:
        raise error
    folder.damaged.mkdir(exist_ok=True)
    part.replace(folder.damaged / part.name)

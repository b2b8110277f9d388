"""Finds what `sweep export` needs of one trial: its row, its kept weights and its configuration, each of one id."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.errors import RefusedError, TableError
from sweep.kept_space import not_as_written
from sweep.layout import SweepFolder, sweeps_in
from sweep.rows import read_row, read_states
from workers.contract import TrialConfig, TrialStatus
from workers.work_folder import WEIGHTS

_MOST_NAMED = 5


@dataclass(frozen=True)
class Exportable:
    """A finished trial that can be exported."""

    config: TrialConfig
    weights: Path
    row: dict[str, Any]


def find_trial(folder: SweepFolder, name: str) -> str:
    """The id of a finished trial, from its id or the beginning of it.

    Raises:
        TableError: no trial or several have such an id, or it failed; the message says how to go on.
    """
    states = read_states(folder)
    found = _only(states, name, folder.path, f"`sweep pareto {folder.name} --format json`")
    state = states[found]
    if state.status != TrialStatus.OK:
        raise TableError(f"trial {found} has no model to export: {state.status}: {state.error}")
    return found


def sweeps_with(results: Path, name: str) -> list[SweepFolder]:
    """The sweeps that have a trial: those that kept its weights first, of these the newest.

    Raises:
        TableError: none has it, or several trials have such an id.
    """
    ids = {folder: {row.stem for row in (folder / "trials").glob("*.parquet")} for folder in sweeps_in(results)}
    found = _only(set().union(*ids.values()), name, results, "`sweep pareto SWEEP --format json`")
    having = [SweepFolder(folder) for folder, known in ids.items() if found in known]
    return sorted(having, key=lambda folder: not (folder.work(found) / WEIGHTS).is_file())


def _only(ids: Iterable[str], name: str, where: Path, command: str) -> str:
    """The one id that is or begins with `name`."""
    known = set(ids)
    found = [name] if name in known else sorted(trial_id for trial_id in known if trial_id.startswith(name))
    if not found:
        raise TableError(f"no trial {name!r} in {where}/; {command} and `sweep plan SPACE` list the ids")
    if len(found) > 1:
        more = ", ..." if len(found) > _MOST_NAMED else ""
        named = ", ".join(found[:_MOST_NAMED])
        raise TableError(f"{len(found)} trials of {where}/ begin with {name!r}: {named}{more}")
    return found[0]


def exportable(folder: SweepFolder, trial_id: str, run_plugins: bool) -> Exportable:
    """Everything about a finished trial.

    Args:
        folder: the sweep's.
        trial_id: of a trial with status ok.
        run_plugins: whether plug-ins that the folder's spaces name may run: only where the folder is to be trusted.

    Raises:
        TableError: its weights were not kept, or it takes a plug-in that may not run.
        RefusedError: its weights or the space that planned it are gone or damaged.
    """
    weights = folder.work(trial_id) / WEIGHTS
    if not folder.space.is_file():
        raise not_as_written(folder.space, "missing")
    if not weights.is_file():
        if _kept(folder):
            raise RefusedError(f"{weights}: missing; {trained_again(folder, trial_id)}")
        right = "`checkpoints: {keep_weights: true}` in the search space keeps those of trials that run from then on"
        raise TableError(f"trial {trial_id}: its weights were not kept in {weights}; {right}")
    for space in folder.spaces:
        for config in _trials(space, run_plugins):
            if config.trial_id == trial_id:
                return Exportable(config, weights, read_row(folder.row(trial_id)))
    raise RefusedError(
        f"trial {trial_id}: no space in {folder.path}/ plans it, so its model is not known; running the sweep with the "
        "YAML of that time writes that space again"
    )


def trained_again(folder: SweepFolder, trial_id: str) -> str:
    """How to have a finished trial's weights once more."""
    row, work = folder.row(trial_id), folder.work(trial_id)
    return f"move {row} and {work} away, and `sweep run` with the YAML that plans it trains it again"


def _kept(folder: SweepFolder) -> bool:
    """Whether a space of the sweep says that weights are kept."""
    from sweep.space import read_space

    return any(read_space(space).checkpoints.keep_weights for space in folder.spaces)


def _trials(space: Path, run_plugins: bool) -> list[TrialConfig]:
    from sweep.space import load_space, read_space
    from sweep.trials import trials_of

    plugins = read_space(space).plugins
    if plugins and not run_plugins:
        files = ", ".join(plugins)
        raise TableError(f"{space}: names plug-ins ({files}), which run only with --run-plugins: look at them first")
    return trials_of(load_space(space))

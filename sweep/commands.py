"""What each command does, behind the parser: read, call, print."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

import sweep
from sweep import display
from sweep.errors import DataUnavailableError, SpaceError, TableError
from sweep.layout import SweepFolder, find_table, rows_of
from sweep.naming import label
from sweep.table import read_records, read_table
from workers.contract import TrialConfig, TrialStatus
from workers.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd

    from sweep.data_paths import DataPaths
    from sweep.executor import Executor
    from sweep.plan import Plan
    from sweep.space import SweepSpec
    from sweep.tracking import MlflowTracker


@dataclass(frozen=True)
class RunOptions:
    """How `sweep run` runs; see the command's help."""

    executor: str
    retry: str
    max_concurrent: int | None
    address: str | None


@dataclass(frozen=True)
class ParetoOutput:
    """Where `sweep pareto` writes besides stdout."""

    out: Path | None
    plot: Path | None
    format: str


def say(text: str) -> None:
    """A line for people, on stderr."""
    sys.stderr.write(f"{text}\n")


def plan(space: Path, dump: Path | None, results: Path, output_format: str) -> None:
    """`sweep plan`."""
    from sweep import cost
    from sweep.data_paths import data_paths
    from sweep.plan import plan_json
    from sweep.space import load_space

    spec = load_space(space)
    folder = SweepFolder(results / spec.sweep)
    paths = None
    with suppress(DataUnavailableError):  # planning needs no data
        paths = data_paths(spec, space)
    made = _plan(spec, paths, folder, ())
    value = plan_json(made, cost.count, lambda config: _step_ms(folder, config))
    display.show(value, output_format, display.plan_table, rows=value["trials"])
    if dump:
        for trial in made.trials:
            write_bytes(dump / f"{trial.config.trial_id}.json", trial.config.to_json().encode())
        say(f"wrote {len(made.trials)} trials to {dump}/; `python -m workers.trial --config FILE --work DIR` runs one")


def run(space: Path, results: Path, options: RunOptions) -> int:
    """`sweep run`: the exit code."""
    from sweep.controller import owned
    from sweep.data_paths import data_paths
    from sweep.rows import keep_planned
    from sweep.space import dump_space, load_space

    spec = load_space(space)
    retry = _statuses(options.retry)
    paths = data_paths(spec, space)
    folder = SweepFolder(results / spec.sweep)
    with owned(folder):
        folder.keep_space(dump_space(spec, sweep.__version__))
        made = _plan(spec, paths, folder, retry)
        keep_planned(folder, [trial.config for trial in made.trials])
        if _nothing_left(made, folder):
            say(f"{spec.sweep}: nothing to do, {_counts(made)} in {folder.path}/{_how_to_retry(made)}")
            return _exit_code(made)
        try:
            _reconcile(spec, made, folder, options)
        except KeyboardInterrupt:
            done = _counts(_plan(spec, paths, folder, ()))
            say(f"{spec.sweep}: interrupted, {done}; the same command goes on from there")
            return 130
        made = _plan(spec, paths, folder, ())
        hint = _how_to_retry(made) or "; see `sweep pareto` and `sweep rules`"
        say(f"{spec.sweep}: {_counts(made)} in {folder.path}/{hint}")
        return _exit_code(made)


def _plan(spec: "SweepSpec", paths: "DataPaths | None", folder: SweepFolder, retry: tuple[TrialStatus, ...]) -> "Plan":
    from sweep import cost
    from sweep.plan import make_plan
    from sweep.rows import read_states
    from sweep.trials import trials_of

    return make_plan(spec, trials_of(spec, paths), read_states(folder), cost.count, retry)


def _step_ms(folder: SweepFolder, config: TrialConfig) -> float | None:
    from sweep import cost

    measured = cost.read_measurement(folder.shape(cost.shape_id(config)))
    return None if measured is None else float(measured["train_step_ms"])


def _statuses(text: str) -> tuple[TrialStatus, ...]:
    """`oom,crashed` as statuses."""
    known = [status.value for status in TrialStatus if status is not TrialStatus.OK]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SpaceError(f"--retry: unknown failure {name!r}; known: {', '.join(known)}")
    return tuple(TrialStatus(name) for name in names)


def _nothing_left(made: "Plan", folder: SweepFolder) -> bool:
    """Whether every trial has its row and the tracker has every row."""
    from sweep.controller import untracked
    from sweep.plan import EXCLUDED, PlanStatus, RowState
    from sweep.rows import read_states

    states = read_states(folder)
    excluded = {t.config.trial_id: RowState(EXCLUDED, t.reason) for t in made.with_status(PlanStatus.EXCLUDED)}
    news = [trial_id for trial_id, state in excluded.items() if states.get(trial_id) != state]
    return not made.to_run and not news and not untracked(folder, states)


def _reconcile(spec: "SweepSpec", made: "Plan", folder: SweepFolder, options: RunOptions) -> None:
    from sweep.controller import Controller
    from sweep.progress import make_progress

    tracker = _tracker(folder)
    finished = False
    try:
        with _executor(spec, options) as executor, make_progress(Console(stderr=True)) as progress:
            Controller(folder, executor, tracker, progress).run(made)
        with suppress(TableError):  # nothing succeeded: no front, no rules
            tracker.sweep_ended(_write_report(folder.path, None))
        finished = True
    finally:
        for problem in sorted(set(tracker.close(finished))):
            say(f"MLflow: {problem}; the results are safe in {folder.path}/, `sweep sync` records them later")


def _tracker(folder: SweepFolder) -> "MlflowTracker":
    from functools import partial

    from sweep.controller import mark_tracked
    from sweep.tracking import MlflowTracker

    return MlflowTracker(folder.name, folder.space.read_text(), partial(mark_tracked, folder))


def _executor(spec: "SweepSpec", options: RunOptions) -> "Executor":
    if options.executor == "local":
        from sweep.local_executor import LocalExecutor

        return LocalExecutor()
    from sweep.ray_executor import RayExecutor

    have = spec.resources
    return RayExecutor(have.cpu, have.gpu, options.max_concurrent, options.address, have.tpu, have.devices)


def _counts(made: "Plan") -> str:
    from collections import Counter

    counts = Counter(trial.status.value for trial in made.trials)
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _how_to_retry(made: "Plan") -> str:
    """The option that runs the failed trials again; empty where none failed."""
    from sweep.plan import PlanStatus

    kinds = {str(trial.reason).partition(":")[0] for trial in made.with_status(PlanStatus.FAILED)}
    return f"; `--retry {','.join(sorted(kinds))}` runs the failed ones again" if kinds else ""


def _exit_code(made: "Plan") -> int:
    from sweep.plan import PlanStatus

    return 1 if made.with_status(PlanStatus.FAILED) else 0


def status(name: str | None, results: Path, output_format: str) -> None:
    """`sweep status`."""
    path = _find(name, results)
    states = read_table(rows_of(path)) if rows_of(path).exists() else None
    value = display.status_of(path, states, _planned(path))
    display.show(value, output_format, display.status_table, rows=value["budgets"])


def pareto(name: str | None, results: Path, query: Mapping[str, Any], output: ParetoOutput) -> None:
    """`sweep pareto`."""
    from sweep.pareto import pareto as find_front

    _check_picture(output.plot)
    path = _find(name, results)
    table = _current_rows(path)
    value = find_front(table, **query)
    fronts = value.get("fronts", [value])
    display.show(value, output.format, display.front_tables, rows=[row for front in fronts for row in front["front"]])
    if output.out:
        members = [member for front in fronts for member in front["recommended"]]
        write_bytes(output.out, _recommended_space(path, members).encode())
        say(f"wrote {output.out}; `sweep run {output.out}` trains it")
    if output.plot:
        from sweep.plots import plot_front

        plot_front(table, output.plot, **{name: query[name] for name in ("budget", "cost", "noise_sd")})
        say(f"wrote {output.plot}")


def _check_picture(path: Path | None) -> None:
    """Refuse a name that says no picture format, before anything is computed."""
    if path and path.suffix.lower() not in (".png", ".svg"):
        raise TableError(f"--plot {path}: the name must end in .png or .svg")


def _recommended_space(path: Path, members: list[dict[str, Any]]) -> str:
    """Recommended cells as a search space that `sweep run` accepts."""
    from sweep.space import dump_space, read_space, space_of_cells

    space = SweepFolder(path).space
    if not space.is_file():
        raise TableError(f"--out: {path} has no space.yaml, so its data set and recipe are not known")
    return dump_space(space_of_cells(read_space(space), members), sweep.__version__)


def rules(name: str | None, results: Path, query: Mapping[str, Any], plot: Path | None, output_format: str) -> None:
    """`sweep rules`."""
    from sweep.rules import rules as find_rules

    _check_picture(plot)
    path = _find(name, results)
    table = _current_rows(path)
    value = find_rules(table, planned=_planned(path), **query)
    display.show(value, output_format, display.rules_tables, rows=value["depth_vs_width"])
    if plot:
        from sweep.plots import plot_depth_width

        plot_depth_width(value, plot)
        say(f"wrote {plot}")


def report(name: str | None, results: Path, cost: str | None) -> None:
    """`sweep report`."""
    folder = _write_report(_find(name, results), cost)
    for path in sorted(folder.iterdir()):
        sys.stdout.write(f"{path}\n")


def export(trial: str, name: str | None, results: Path, out: Path | None, run_plugins: bool) -> None:
    """`sweep export`."""
    from sweep.export import exportable, find_trial

    path = _find(name, results)
    if not path.is_dir():
        raise TableError(f"{path}: only a trial that `sweep run` trained has weights to export")
    folder = SweepFolder(path)
    found = exportable(folder, find_trial(folder, trial), run_plugins)
    from workers.export import export_model  # after the mistakes that need no torch

    target = out or folder.path / "export" / found.config.trial_id
    try:
        export_model(found.config, found.weights, found.row, target)
    except ValueError as error:
        raise TableError(f"trial {found.config.trial_id}: {error}") from error
    say(f"{label(found.row)} is in {target}/")
    sys.stdout.write(f"{target}\n")


def sync(name: str | None, results: Path) -> None:
    """`sweep sync`."""
    from sweep.controller import Controller, owned
    from sweep.local_executor import LocalExecutor
    from sweep.progress import PlainProgress

    folder = SweepFolder(_find(name, results))
    if not folder.space.is_file():
        raise TableError(f"{folder.path}: only a sweep that `sweep run` made can be recorded in MLflow")
    with owned(folder):
        tracker = _tracker(folder)
        controller = Controller(folder, LocalExecutor(), tracker, PlainProgress(Console(stderr=True)))
        sent = controller.send_untracked(everything=True)
        if folder.report.is_dir():
            tracker.sweep_ended(folder.report)
        problems = tracker.close(finished=True)
    if problems:
        raise TableError(f"MLflow: {problems[0]} ({len(problems)} problems)")
    say(f"{folder.name}: {sent} trials recorded in MLflow")


def _find(name: str | None, results: Path) -> Path:
    """The table that is meant; says which where it was left out."""
    path = find_table(name, results)
    if name is None:
        say(f"newest sweep: {path}")
    return path


def _current_rows(path: Path) -> "pd.DataFrame":
    """The table without the trials that the sweep's space no longer plans: an edited recipe makes other trials."""
    table, planned = read_table(rows_of(path)), _planned(path)
    if planned is None:
        return table
    current = table["trial_id"].isin(planned["trial_id"])
    if not current.all():
        say(f"{(~current).sum()} of {len(table)} rows are of trials that {path}/space.yaml no longer plans: left out")
    return table[current].reset_index(drop=True)


def _planned(path: Path) -> "pd.DataFrame | None":
    """The cells of a sweep's space; None for a table from elsewhere, or where only a plug-in could tell."""
    folder = SweepFolder(path)
    if folder.planned.is_file():
        return read_records(folder.planned)
    if not folder.space.is_file():
        return None
    import pandas as pd

    from sweep.rows import planned_columns
    from sweep.space import load_space, read_space
    from sweep.trials import trials_of

    if read_space(folder.space).plugins:
        return None
    return pd.DataFrame([planned_columns(config) for config in trials_of(load_space(folder.space))])


def _write_report(path: Path, cost: str | None) -> Path:
    """Fronts and rules as JSON and pictures; the folder that they are in."""
    from sweep.report import write_report

    folder = SweepFolder(path).report if path.is_dir() else path.with_suffix(".report")
    write_report(_current_rows(path), _planned(path), folder, cost)
    return folder

"""The commands that plan, train and record: read, call, print. They take the same steps, down to the controller."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import sweep
from sweep import display
from sweep.commands import find, say, write_report
from sweep.errors import (
    DamagedTableError,
    DataUnavailableError,
    RefusedError,
    SpaceError,
    StoppedEarlyError,
    TableError,
)
from sweep.layout import SweepFolder
from workers.contract import TrialConfig, TrialStatus
from workers.files import write_bytes

if TYPE_CHECKING:
    from sweep.executor import Executor
    from sweep.index import Damaged
    from sweep.ownership import Owner
    from sweep.plan import Plan, RowState
    from sweep.space import SweepSpec
    from sweep.tracking import MlflowTracker


@dataclass(frozen=True)
class RunOptions:
    """How `sweep run` runs; see the command's help."""

    executor: str
    retry: str
    max_concurrent: int | None
    address: str | None


def plan(space: Path, dump: Path | None, results: Path, output_format: str) -> None:
    """`sweep plan`."""
    from sweep import cost
    from sweep.data_paths import data_paths
    from sweep.plan import plan_json
    from sweep.space import load_space
    from sweep.trials import trials_of

    spec = load_space(space)
    folder = SweepFolder(results / spec.sweep)
    paths = None
    with suppress(DataUnavailableError):  # planning needs no data
        paths = data_paths(spec, space)
    made = _plan(spec, trials_of(spec, paths), folder)
    value = plan_json(made, cost.count, _step_ms(folder))
    display.show(value, output_format, display.plan_table, rows=value["trials"])
    if dump:
        for trial in made.trials:
            write_bytes(dump / f"{trial.config.trial_id}.json", trial.config.to_json().encode())
        say(f"wrote {len(made.trials)} trials to {dump}/; `python -m workers.trial --config FILE --work DIR` runs one")


def explain(space: Path, trial: str, results: Path, output_format: str) -> None:
    """`sweep plan --explain`."""
    from sweep.explain import explain as explain_trial
    from sweep.rows import read_identities
    from sweep.space import load_space
    from sweep.trials import trials_of

    spec = load_space(space)
    value = explain_trial(trial, trials_of(spec), read_identities(SweepFolder(results / spec.sweep)))
    display.show(value, output_format, display.explanation, rows=value["changes"])


def run(space: Path, results: Path, options: RunOptions) -> int:
    """`sweep run`: the exit code."""
    from sweep.curves import mark_curves, mend_curves
    from sweep.data_paths import data_paths
    from sweep.ownership import owned
    from sweep.rows import keep_planned, refresh_index, results_without_rows
    from sweep.space import dump_space, load_space
    from sweep.trials import trials_of

    spec = load_space(space)
    retry = _statuses(options.retry)
    trials = trials_of(spec, data_paths(spec, space))
    planned = {config.trial_id for config in trials}
    folder = SweepFolder(results / spec.sweep)
    with owned(folder) as owner:
        folder.keep_space(dump_space(spec, sweep.__version__))
        refresh_index(folder)  # before all rows are read: it makes reading them quick
        made = _plan(spec, trials, folder, retry, _set_aside(folder, planned))
        keep_planned(folder, trials)
        lost = mend_curves(folder, say)
        for work in results_without_rows(folder, planned):
            say(f"{work}: finished, has no row and is not planned now: the YAML of that time writes the row again")
        if _nothing_left(made, folder):
            say(f"{spec.sweep}: nothing to do, {_counts(made)} in {folder.path}/{_how_to_retry(made)}")
            return _exit_code(made)
        try:
            _reconcile(spec, made, folder, owner, options)
        except KeyboardInterrupt:
            done = _counts(_plan(spec, trials, folder))
            say(f"{spec.sweep}: interrupted, {done}; the same command goes on from there")
            return 130
        except StoppedEarlyError as error:
            say(f"{spec.sweep}: stopped early: {error}; {_counts(_plan(spec, trials, folder))} in {folder.path}/")
            return error.exit_code
        finally:
            refresh_index(folder)
            mark_curves(folder, lost)
        made = _plan(spec, trials, folder)
        hint = _how_to_retry(made) or "; see `sweep pareto` and `sweep rules`"
        say(f"{spec.sweep}: {_counts(made)} in {folder.path}/{hint}")
        return _exit_code(made)


def _set_aside(folder: SweepFolder, planned: Collection[str]) -> "Damaged":
    """Puts a damaged row away, if it can be written again, and says so."""

    def put_away(part: Path, error: DamagedTableError) -> None:
        from sweep.rows import set_aside

        set_aside(folder, part, error)
        again = " and written again from the trial's result" if part.stem in planned else ""
        say(f"{part}: damaged ({error.reason}); put into {folder.damaged}/{again}")

    return put_away


def _plan(
    spec: "SweepSpec",
    trials: Sequence[TrialConfig],
    folder: SweepFolder,
    retry: tuple[TrialStatus, ...] = (),
    damaged: "Damaged | None" = None,
) -> "Plan":
    from sweep import cost
    from sweep.data_identity import expecting
    from sweep.plan import make_plan
    from sweep.rows import read_states

    return make_plan(spec, expecting(folder, trials), read_states(folder, damaged), cost.count, retry)


def _step_ms(folder: SweepFolder) -> "Callable[[TrialConfig], float | None]":
    """Gives a trial's measured step; each shape's file is read once."""
    from sweep import cost

    @cache
    def of_shape(shape_id: str) -> float | None:
        measured = cost.read_measurement(folder.shape(shape_id))
        return None if measured is None else float(measured["train_step_ms"])

    return lambda config: of_shape(cost.shape_id(config))


def _statuses(text: str) -> tuple[TrialStatus, ...]:
    """`oom,crashed` as statuses."""
    known = [status.value for status in TrialStatus if status is not TrialStatus.OK]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise SpaceError(f"--retry: unknown failure {name!r}; known: {', '.join(known)}")
    return tuple(TrialStatus(name) for name in names)


def _nothing_left(made: "Plan", folder: SweepFolder) -> bool:
    """Whether every trial has its row, the tracker has every row, and the report is whole."""
    from sweep.ledger import Ledger
    from sweep.plan import PlanStatus
    from workers.work_folder import read_result

    if _any_good(made.rows) and not folder.reported.is_file():
        return False
    ledger = Ledger(folder)
    if made.to_run or made.exclusions_without_row or ledger.is_open() or ledger.missing(made.rows):
        return False
    # A failure that was run again, and whose controller died before it could write the new row.
    results = (read_result(folder.work(trial.config.trial_id)) for trial in made.with_status(PlanStatus.FAILED))
    return not any(result and result.status is TrialStatus.OK for result in results)


def _reconcile(spec: "SweepSpec", made: "Plan", folder: SweepFolder, owner: "Owner", options: RunOptions) -> None:
    from sweep.controller import Controller
    from sweep.progress import make_progress

    tracker = _tracker(folder)
    finished = False
    try:
        with _executor(spec, options) as executor, make_progress(Console(stderr=True)) as progress:
            Controller(folder, owner, executor, tracker, progress).run(made)
        _report(folder, tracker)
        finished = True
    except RefusedError:
        tracker.abandon()
        raise
    finally:
        for problem in sorted(set(tracker.close(finished))):
            say(f"MLflow: {problem}; the results are safe in {folder.path}/, `sweep sync` records them later")


def _report(folder: SweepFolder, tracker: "MlflowTracker") -> None:
    """Write the report, where there is anything to report."""
    from sweep.rows import read_states

    try:
        tracker.sweep_ended(write_report(folder.path, None))
    except TableError as error:
        if _any_good(read_states(folder)):
            say(f"{folder.name}: no report: {error}")


def _any_good(rows: "Mapping[str, RowState]") -> bool:
    return any(row.status == TrialStatus.OK for row in rows.values())


def _tracker(folder: SweepFolder) -> "MlflowTracker":
    from sweep.kept_space import read_kept
    from sweep.ledger import Ledger
    from sweep.tracking import MlflowTracker

    return MlflowTracker(folder.name, read_kept(folder.space), Ledger(folder))


def _executor(spec: "SweepSpec", options: RunOptions) -> "Executor":
    if options.executor == "local":
        from sweep.local_executor import LocalExecutor

        return LocalExecutor()
    from sweep.ray_security import close_cluster

    close_cluster(options.address)  # before Ray is imported, which reads its settings then
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

    return 1 if made.with_status(PlanStatus.FAILED) or made.to_run else 0


def sync(name: str | None, results: Path) -> None:
    """`sweep sync`."""
    from sweep.ledger import recordable
    from sweep.ownership import owned
    from sweep.rows import read_states

    folder = SweepFolder(find(name, results))
    if not folder.space.is_file():
        raise TableError(f"{folder.path}: only a sweep that `sweep run` made can be recorded in MLflow")
    with owned(folder):
        sent, report = recordable(read_states(folder)), folder.report
        tracker = _tracker(folder)
        for trial_id in sent:
            tracker.trial_ended(trial_id)
        if report.is_dir():
            tracker.sweep_ended(report)
        problems = tracker.close(finished=True, patient=True)
    if problems:
        raise TableError(f"MLflow: {problems[0]} ({len(problems)} problems)")
    say(f"{folder.name}: {len(sent)} trials recorded in MLflow")

"""Runs what a plan leaves to do: result.json -> row -> tracker, in this order, whatever dies in between.

A result without a row is taken over at the next start; a row that the tracker has not got is sent to it again.
"""

import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from sweep import cost, interrupt
from sweep.errors import RefusedError, SweepError
from sweep.executor import Executor
from sweep.layout import SweepFolder
from sweep.plan import EXCLUDED, Plan, PlanStatus, RowState, longest_first
from sweep.rows import (
    cell_columns,
    commit,
    cost_columns,
    excluded_row,
    read_history,
    read_row,
    read_states,
    result_columns,
)
from sweep.tracking import Tracker
from workers.contract import EpochMetrics, TrialConfig, TrialResult, TrialStatus
from workers.files import write_json

if TYPE_CHECKING:
    from workers.profiling import Measurement


# Every shape is measured again after all the others, and the faster round counts: what else the machine does comes
# and goes, and only ever slows a shape down.
ROUNDS = 2


class Progress(Protocol):
    """Shows people how a sweep goes on."""

    def measuring(self, config: TrialConfig, index: int, total: int) -> None:
        """A shape is being measured; the index-th of `total` measurements (1-based)."""

    def running(self, trials: list[TrialConfig], work: dict[str, float]) -> None:
        """Training begins; `work` is each trial's predicted share of it, in any unit."""

    def started(self, config: TrialConfig) -> None:
        """A trial is under way."""

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """One epoch of it is done."""

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        """It has its result."""

    def note(self, text: str) -> None:
        """Something that people should know."""


@contextmanager
def owned(folder: SweepFolder) -> Iterator[None]:
    """Hold the sweep alone.

    Raises:
        RefusedError: another controller holds it; the message says which.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(f"{folder.path}: {_owner(folder)} is running this sweep; wait or stop it") from None
        file.seek(0)
        file.truncate()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        json.dump({"host": platform.node(), "pid": os.getpid(), "started_at": started}, file)
        file.flush()
        yield


def _owner(folder: SweepFolder) -> str:
    try:
        owner = json.loads(folder.lock.read_text())
        return f"process {owner['pid']} on {owner['host']} (since {owner['started_at']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


class Controller:
    """Runs one plan; hears of every trial from the executor (`sweep.executor.Listener`)."""

    def __init__(self, folder: SweepFolder, executor: Executor, tracker: Tracker, progress: Progress) -> None:
        self._folder, self._executor, self._tracker, self._progress = folder, executor, tracker, progress
        self._measured: dict[str, dict[str, Any] | None] = {}

    def run(self, plan: Plan) -> None:
        """Bring the table up to the plan.

        Raises:
            KeyboardInterrupt: interrupted; what was committed stays and running it again goes on from there.
        """
        self._commit_exclusions(plan)
        self.send_untracked()
        waiting = self._take_over_results(plan.to_run)
        if waiting:
            self._measure_shapes(waiting)
            ordered = longest_first(waiting, cost.count, self._step_ms)
            self._progress.running(ordered, {config.trial_id: self._work_of(config) for config in ordered})
            interrupt.check()
            self._executor.run(ordered, self._folder.work, self)

    def _commit_exclusions(self, plan: Plan) -> None:
        states = read_states(self._folder)
        for trial in plan.with_status(PlanStatus.EXCLUDED):
            if states.get(trial.config.trial_id) != RowState(EXCLUDED, trial.reason):
                row = excluded_row(plan.sweep, trial.config, cost.count(trial.config), trial.reason or "")
                commit(self._folder, row, ())

    def send_untracked(self, everything: bool = False) -> int:
        """Send the rows that the tracker has not got (or all); how many were sent."""
        states = read_states(self._folder)
        ids = _recordable(states) if everything else untracked(self._folder, states)
        for trial_id in ids:
            row = read_row(self._folder.row(trial_id))
            self._tracker.trial_ended(row, read_history(self._folder, trial_id))
        return len(ids)

    def started(self, config: TrialConfig) -> None:
        """See `Listener`."""
        interrupt.check()
        self._tracker.trial_started(config)
        self._progress.started(config)

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """See `Listener`."""
        interrupt.check()
        self._tracker.epoch(config, metrics)
        self._progress.epoch(config, metrics)

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        """See `Listener`."""
        self._commit(config, result)
        self._progress.ended(config, result)
        for note in result.notes:
            self._progress.note(note)

    def _commit(self, config: TrialConfig, result: TrialResult) -> None:
        """Row first, tracker second."""
        costs = cost_columns(config, cost.count(config), self._measurement(config))
        row = {**cell_columns(self._folder.name, config), **costs, **result_columns(result)}
        commit(self._folder, row, result.history)
        self._folder.tracked(config.trial_id).unlink(missing_ok=True)  # an earlier failure's record is out of date
        self._tracker.trial_ended({k: v for k, v in row.items() if v is not None}, result.history)

    def _take_over_results(self, trials: list[TrialConfig]) -> list[TrialConfig]:
        """Commit good results whose controller died before it could; the trials that are left."""
        from workers.trial import RESULT, read_result

        left = []
        for config in trials:
            result = read_result(self._folder.work(config.trial_id))
            if result and result.trial_id == config.trial_id and result.status is TrialStatus.OK:
                self._commit(config, result)
                self._progress.note(f"took over the finished result of {config.trial_id}")
            else:
                # A failure that is to be tried again: nobody may take it for the next attempt's.
                (self._folder.work(config.trial_id) / RESULT).unlink(missing_ok=True)
                left.append(config)
        return left

    def _measure_shapes(self, trials: list[TrialConfig]) -> None:
        """Measure every shape that has no measurement yet, one at a time, before anything else runs."""
        shapes = {cost.shape_id(config): config for config in trials}
        missing = [config for config in shapes.values() if self._measurement(config) is None]
        rounds: dict[str, list[Measurement]] = {}
        jobs = [config for _ in range(ROUNDS) for config in missing]
        for index, config in enumerate(jobs, start=1):
            interrupt.check()
            self._progress.measuring(config, index, len(jobs))
            if measured := self._measure(config):
                rounds.setdefault(cost.shape_id(config), []).append(measured)
        for config in missing:
            if measurements := rounds.get(cost.shape_id(config)):
                cost.write_measurement(self._folder.shape(cost.shape_id(config)), config, measurements)
                self._measured.pop(cost.shape_id(config))

    def _measure(self, config: TrialConfig) -> "Measurement | None":
        """One round of one shape; a shape that does not fit must not stop the others."""
        try:
            return self._executor.measure(config)
        except SweepError:  # nothing can be measured or trained here
            raise
        except Exception as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            self._progress.note(f"{config.trial_id}: its shape could not be measured: {text}")
            return None

    def _measurement(self, config: TrialConfig) -> dict[str, Any] | None:
        key = cost.shape_id(config)
        if key not in self._measured:
            self._measured[key] = cost.read_measurement(self._folder.shape(key))
        return self._measured[key]

    def _step_ms(self, config: TrialConfig) -> float | None:
        measured = self._measurement(config)
        return None if measured is None else float(measured["train_step_ms"])

    def _work_of(self, config: TrialConfig) -> float:
        """A trial's share of the whole, for the time left: predicted seconds, or multiply-adds where none are known."""
        step_ms = self._step_ms(config)
        seconds = None if step_ms is None else cost.predicted_seconds(config, step_ms)
        return seconds if seconds is not None else float(config.epochs * cost.count(config).macs_per_image)


def untracked(folder: SweepFolder, states: Mapping[str, RowState]) -> list[str]:
    """Ids of the rows that the tracker has not got; excluded cells have nothing to record."""
    return [trial_id for trial_id in _recordable(states) if not folder.tracked(trial_id).exists()]


def _recordable(states: Mapping[str, RowState]) -> list[str]:
    return [trial_id for trial_id, state in states.items() if state.status != EXCLUDED]


def mark_tracked(folder: SweepFolder, trial_id: str, address: str, run_id: str) -> None:
    """Note that the tracker has a trial, so that it is not sent again."""
    write_json(folder.tracked(trial_id), {"tracking_uri": address, "run_id": run_id})

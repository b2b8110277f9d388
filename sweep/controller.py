"""Runs what a plan leaves to do: result.json -> row -> tracker, in this order, whatever dies in between.

A result without a row is taken over at the next start; a row that the tracker has not got is sent to it again.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from sweep import cost, interrupt
from sweep.data_identity import accept
from sweep.errors import StoppedEarlyError, StorageError, SweepError
from sweep.executor import Executor
from sweep.failures import ALIKE, Failures
from sweep.jobs import Job, JobQueue
from sweep.layout import SweepFolder
from sweep.ledger import Ledger
from sweep.ownership import Owner
from sweep.plan import Plan, PlanStatus, longest_first
from sweep.rows import (
    cell_columns,
    commit,
    cost_columns,
    excluded_row,
    refresh_index,
    result_columns,
)
from sweep.tracking import Tracker
from workers.contract import EpochMetrics, TrialConfig, TrialResult, TrialStatus
from workers.files import DISK_FAULTS
from workers.masking import masked, without_secrets
from workers.tether import reached
from workers.work_folder import read_result, remove_unfinished

if TYPE_CHECKING:
    from workers.profiling import Measurement


# Every shape is measured again after all the others, and the faster round counts: what else the machine does comes
# and goes, and only ever slows a shape down.
ROUNDS = 2
# Rows from one writing of their index to the next: `sweep status` reads those that it lacks one by one, a millisecond
# each.
INDEX_EVERY = 250


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

    def again(self, config: TrialConfig, result: TrialResult) -> None:
        """An attempt ended before the trial did; it will be run again."""

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        """It has its result."""

    def note(self, text: str) -> None:
        """Something that people should know."""


class Controller:
    """Runs one plan; hears of every trial from the executor (`sweep.executor.Listener`).

    Args:
        folder: of the sweep.
        owner: this process, as the one that may write there.
        executor: runs the trials.
        tracker: records them.
        progress: shows them.
    """

    def __init__(
        self, folder: SweepFolder, owner: Owner, executor: Executor, tracker: Tracker, progress: Progress
    ) -> None:
        self._folder, self._owner, self._executor = folder, owner, executor
        self._tracker, self._progress = tracker, progress
        self._measured: dict[str, dict[str, Any] | None] = {}
        self._queue = JobQueue((), folder.work, owner.path)
        self._failures = Failures()
        self._unwritten: dict[str, tuple[TrialConfig, TrialResult]] = {}  # results whose rows could not be written
        self._storage_error: StorageError | None = None
        self._stopped_early = ""
        self._commits = 0

    def run(self, plan: Plan) -> None:
        """Bring the table up to the plan.

        Raises:
            KeyboardInterrupt: interrupted; what was committed stays and running it again goes on from there.
            StorageError: a row could not be written; the result waits in the trial's work folder.
            StoppedEarlyError: trial after trial failed in the same way, so the rest was not begun.
        """
        self._owner.check()
        self._commit_exclusions(plan)
        for trial_id in Ledger(self._folder).missing(plan.rows):
            self._tracker.trial_ended(trial_id)
        waiting = self._take_over_results(plan.to_run)
        self._take_over_results([trial.config for trial in plan.with_status(PlanStatus.FAILED)])
        if waiting:
            self._measure_shapes(waiting)
            ordered = longest_first(waiting, cost.count, self._step_ms)
            self._progress.running(ordered, self._work_of(ordered))
            interrupt.check()
            owner = self._owner
            self._queue = JobQueue(ordered, self._folder.work, owner.path, owner.stop_workers, owner.check)
            self._executor.run(self._queue, self)
            self._write_what_waits()
        if self._unwritten and self._storage_error:
            raise self._storage_error
        if self._queue.problem:
            raise StorageError.of(self._queue.problem, self._folder.path)
        if self._stopped_early:
            raise StoppedEarlyError(self._stopped_early)

    def _commit_exclusions(self, plan: Plan) -> None:
        for trial in plan.exclusions_without_row:
            row = excluded_row(plan.sweep, trial.config, cost.count(trial.config), trial.reason or "")
            commit(self._folder, row, ())

    def started(self, job: Job) -> None:
        """See `Listener`."""
        interrupt.check()
        self._tracker.trial_started(job.config)
        self._progress.started(job.config)

    def epoch(self, job: Job, metrics: EpochMetrics) -> None:
        """See `Listener`."""
        interrupt.check()
        self._tracker.epoch(job.config, metrics)
        self._progress.epoch(job.config, metrics)

    def ended(self, job: Job, result: TrialResult) -> None:
        """See `Listener`."""
        result = without_secrets(job.config, result)
        if result.status is not TrialStatus.OK:
            interrupt.check()  # whoever was told to stop has not failed
            if self._failures.repeats(result, reached(job.work)):
                self._queue.put_back(job.config)
                self._progress.again(job.config, result)
                return
        result = accept(self._folder, job.config, result)
        self._failures.count(result, job.probe)
        self._queue.probe(self._failures.suspicious)
        self._unwritten[job.config.trial_id] = job.config, result
        self._write_what_waits()
        self._progress.ended(job.config, result)
        for note in result.notes:
            self._progress.note(note)
        if self._failures.hopeless and (left := self._queue.clear()):
            self._stopped_early = (
                f"the last {ALIKE} trials failed alike ({result.status}: {result.error}); {left} were not begun"
            )

    def _write_what_waits(self) -> None:
        """Write rows; where there is no room for one its result stays, to be tried again with the next one."""
        for trial_id, (config, result) in list(self._unwritten.items()):
            try:
                self._commit(config, result)
            except OSError as error:
                self._storage_error = StorageError.of(error, self._folder.path)
                self._progress.note(f"{trial_id} has no row yet: {self._storage_error}")
                if error.errno in DISK_FAULTS:
                    return
                continue
            del self._unwritten[trial_id]

    def _commit(self, config: TrialConfig, result: TrialResult) -> None:
        """Row first, tracker second."""
        self._owner.check()
        costs = cost_columns(config, cost.count(config), self._measurement(config))
        row = {**cell_columns(self._folder.name, config), **costs, **result_columns(result)}
        commit(self._folder, row, result.history)
        self._folder.tracked(config.trial_id).unlink(missing_ok=True)  # an earlier failure's record is out of date
        self._tracker.trial_ended(config.trial_id)
        self._commits += 1
        if self._commits % INDEX_EVERY == 0:
            refresh_index(self._folder)
        if result.status is TrialStatus.OK:  # the worker may have died between its result and this
            from workers.checkpoint import clear

            clear(self._folder.work(config.trial_id))

    def _take_over_results(self, trials: list[TrialConfig]) -> list[TrialConfig]:
        """Commit good results whose controller died before it could; the trials that are left."""
        found, left = [], []
        for config in trials:
            work = self._folder.work(config.trial_id)
            with suppress(OSError):
                remove_unfinished(work)
            result = read_result(work)
            if result and result.trial_id == config.trial_id and result.status is TrialStatus.OK:
                found.append((config, result))
            else:
                left.append(config)
        self._measure_shapes([config for config, _ in found])  # whose measurements were lost
        for config, result in found:
            self._unwritten[config.trial_id] = config, without_secrets(config, accept(self._folder, config, result))
        self._write_what_waits()
        for config, _ in found:
            if config.trial_id not in self._unwritten:
                self._progress.note(f"took over the finished result of {config.trial_id}")
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
                shape = cost.shape_id(config)
                rounds.setdefault(shape, []).append(measured)
                # At once: hours of measuring are not to be lost with the controller.
                cost.write_measurement(self._folder.shape(shape), config, rounds[shape])
                self._measured.pop(shape, None)

    def _measure(self, config: TrialConfig) -> "Measurement | None":
        """One round of one shape; a shape that does not fit must not stop the others."""
        try:
            return self._executor.measure(config)
        except SweepError:  # nothing can be measured or trained here
            raise
        except Exception as error:
            text = masked(config, (str(error).strip().splitlines() or [type(error).__name__])[-1])
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

    def _work_of(self, trials: list[TrialConfig]) -> dict[str, float]:
        """Each trial's share, for the time left: predicted seconds, or multiply-adds where one's are unknown."""
        seconds = {
            config.trial_id: predicted
            for config in trials
            if (step_ms := self._step_ms(config)) and (predicted := cost.predicted_seconds(config, step_ms))
        }
        if len(seconds) == len(trials):
            return seconds
        return {config.trial_id: float(config.epochs * cost.count(config).macs_per_image) for config in trials}

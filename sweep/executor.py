"""The seam between the controller and whatever runs trials; every executor passes the same contract tests."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, Self

from sweep.jobs import Job, Jobs
from workers.contract import EpochMetrics, TrialConfig, TrialResult, TrialStatus
from workers.tether import began, last_seen, why_stopped
from workers.work_folder import HELD, in_use, read_attempts, read_result

if TYPE_CHECKING:
    from workers.profiling import Measurement


class Listener(Protocol):
    """Hears of trials as they go on; called in the controller's thread."""

    def started(self, job: Job) -> None:
        """A worker took the trial up."""

    def epoch(self, job: Job, metrics: EpochMetrics) -> None:
        """An epoch is finished and its checkpoint safe."""

    def ended(self, job: Job, result: TrialResult) -> None:
        """This attempt has its result, good or bad; with the status `preempted` the trial is not at its end."""


class Executor(Protocol):
    """Runs trials somewhere. Used as a context: leaving it leaves no process behind."""

    def __enter__(self) -> Self:
        """Nothing is started yet: only work starts processes."""

    def __exit__(self, *raised: object) -> None:
        """End everything that was started."""

    def measure(self, config: TrialConfig) -> "Measurement":
        """Measure the trial's shape, alone on the device."""

    def run(self, jobs: Jobs, listener: Listener) -> None:
        """Run trials to their ends in the order in which they are handed out, as many at a time as there is room for.

        Args:
            jobs: asked for the next trial whenever there is room, until it has none and none is running.
            listener: hears of each start, epoch and end. A trial may be put back among the jobs when it has ended.

        Raises:
            KeyboardInterrupt: on SIGINT or SIGTERM, once the workers had time to save checkpoints.
        """


def result_of(job: Job, status: TrialStatus, reason: str) -> TrialResult:
    """What became of an attempt that is over: its worker's own word, else what others say of it."""
    result = read_result(job.work)
    # An earlier attempt's failure says nothing of this one; a trial that ended well did so whoever trained it.
    if result and (result.status is TrialStatus.OK or result.token == job.lease.token):
        return result
    if stopped := why_stopped(job.work, job.lease) or _kept_out(job):
        return died(job, TrialStatus.PREEMPTED, stopped)
    return died(job, status, reason)


def _kept_out(job: Job) -> str | None:
    """Whether another process trained in the folder while this attempt lasted."""
    return HELD if not began(job.work, job.lease) and in_use(job.work) else None


def died(job: Job, status: TrialStatus, reason: str) -> TrialResult:
    """The result of a trial whose worker could not write one, from what its folder tells of its attempts."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = read_attempts(job.work)
    lost_s = record.get("lost_s", 0.0) + last_seen(job.work, record.get("attempts")).unsaved_s
    return TrialResult(
        job.config.trial_id,
        status,
        attempts=record.get("attempts", 1),
        started_at=record.get("started_at", now),
        finished_at=now,
        error=reason,
        notes=tuple(record.get("notes", ())),
        token=job.lease.token,
        epochs_repeated=record.get("epochs_repeated", 0.0),
        lost_device_hours=job.config.execution.ranks * lost_s / 3600,
    )

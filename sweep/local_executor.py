"""Runs trials one after the other in this process: for debugging, tests and machines without Ray."""

from typing import TYPE_CHECKING, Self

from sweep import interrupt
from sweep.executor import Listener, died
from sweep.jobs import Job, Jobs
from sweep.local_resources import check_local
from workers.contract import EpochMetrics, TrialConfig, TrialResult, TrialStatus

if TYPE_CHECKING:
    from workers.profiling import Measurement


class LocalExecutor:
    """See `sweep.executor.Executor`."""

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing to end."""

    def measure(self, config: TrialConfig) -> "Measurement":
        """Measure here and now."""
        from workers.profiling import measure_trial_shape

        check_local(config)
        return measure_trial_shape(config)

    def run(self, jobs: Jobs, listener: Listener) -> None:
        """Run the trials one by one."""
        while job := jobs.take():
            check_local(job.config)
            listener.started(job)
            with interrupt.deferred():
                result = _run(job, listener)
            listener.ended(job, result)


def _run(job: Job, listener: Listener) -> TrialResult:
    """One trial; an exception of the listener is not the trial's failure, so it goes on to the caller."""
    from workers.trial import run_trial

    raised: list[Exception] = []

    def report(metrics: EpochMetrics) -> None:
        try:
            listener.epoch(job, metrics)
        except Exception as error:
            raised.append(error)
            raise

    try:
        result = run_trial(job.config, job.work, report, lease=job.lease, told_to_stop=interrupt.received)
    except Exception as error:  # no result could be written: that is this trial's failure alone
        result = died(job, TrialStatus.CRASHED, f"{type(error).__name__}: {error}")
    if raised:
        raise raised[0]
    return result

"""Runs trials one after the other in this process: for debugging, tests and machines without Ray."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sweep.executor import Listener, died
from workers.contract import EpochMetrics, TrialConfig, TrialResult

if TYPE_CHECKING:
    from workers.profiling import Measurement


class LocalExecutor:
    """See `sweep.executor.Executor`."""

    def __enter__(self) -> Self:
        """Nothing to start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def measure(self, config: TrialConfig) -> "Measurement":
        """Measure here and now."""
        from workers.profiling import measure_trial_shape

        return measure_trial_shape(config)

    def run(self, trials: Sequence[TrialConfig], work: Callable[[str], Path], listener: Listener) -> None:
        """Run the trials one by one."""
        for config in trials:
            listener.started(config)
            listener.ended(config, _run(config, work(config.trial_id), listener))


def _run(config: TrialConfig, work: Path, listener: Listener) -> TrialResult:
    """One trial; an exception of the listener is not the trial's failure, so it goes on to the caller."""
    from workers.trial import run_trial

    raised: list[Exception] = []

    def report(metrics: EpochMetrics) -> None:
        try:
            listener.epoch(config, metrics)
        except Exception as error:
            raised.append(error)
            raise

    try:
        result = run_trial(config, work, report)
    except Exception as error:  # no result could be written: that is this trial's failure alone
        result = died(config, f"{type(error).__name__}: {error}")
    if raised:
        raise raised[0]
    return result

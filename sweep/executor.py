"""The seam between the controller and whatever runs trials; every executor passes the same contract tests."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from workers.contract import EpochMetrics, TrialConfig, TrialResult, TrialStatus

if TYPE_CHECKING:
    from workers.profiling import Measurement


class Listener(Protocol):
    """Hears of trials as they go on; called in the controller's thread."""

    def started(self, config: TrialConfig) -> None:
        """A worker took the trial up."""

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """An epoch is finished and its checkpoint safe."""

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        """The trial has its result, good or bad."""


class Executor(Protocol):
    """Runs trials somewhere. Used as a context: leaving it leaves no process behind."""

    def __enter__(self) -> Self:
        """Nothing is started yet: only work starts processes."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything that was started."""

    def measure(self, config: TrialConfig) -> "Measurement":
        """Measure the trial's shape, alone on the device."""

    def run(self, trials: Sequence[TrialConfig], work: Callable[[str], Path], listener: Listener) -> None:
        """Run every trial to its end in the order given, as many at a time as there is room for.

        Args:
            trials: what to run.
            work: a trial id's work folder.
            listener: hears of each start, epoch and end.

        Raises:
            KeyboardInterrupt: on SIGINT or SIGTERM; checkpoints stay, so running the rest later goes on from them.
        """


def died(config: TrialConfig, reason: str) -> TrialResult:
    """The result of a trial whose worker could not write one."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return TrialResult(config.trial_id, TrialStatus.CRASHED, 1, now, now, error=reason)

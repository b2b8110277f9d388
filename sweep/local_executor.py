"""Runs trials one after the other in this process: for debugging, tests and machines without Ray."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sweep.executor import Listener
from workers.contract import TrialConfig

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
        from workers.trial import run_trial

        for config in trials:
            listener.started(config)
            result = run_trial(config, work(config.trial_id), partial(listener.epoch, config))
            listener.ended(config, result)

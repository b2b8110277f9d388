"""Epochs on their way from a worker to its controller, which may be busy or asleep: training does not wait for it."""

from collections.abc import Callable
from contextlib import suppress
from queue import Queue
from typing import Any

from workers.background import Background
from workers.contract import EpochMetrics


class EpochReports(Background):
    """Hands on one epoch after the other from a thread of its own; used as a context.

    Args:
        report: hands on one; may block for as long as the controller takes none.
    """

    def __init__(self, report: Callable[[dict[str, Any]], None]) -> None:
        super().__init__("epochs")
        self._report = report
        self._waiting: Queue[EpochMetrics | None] = Queue()

    def __exit__(self, *raised: object) -> None:
        """Hand on nothing more: the next trial of this process is not to be taken for this one."""
        self._ended.set()
        self._waiting.put(None)

    def put(self, epoch: EpochMetrics) -> None:
        """One epoch is done."""
        self._waiting.put(epoch)

    def wait(self) -> None:
        """Until the controller has all of them."""
        self._waiting.join()

    def _live(self) -> None:
        while (epoch := self._waiting.get()) is not None:
            with suppress(Exception):  # the result has all epochs once more
                if not self._ended.is_set():
                    self._report(dict(epoch.__dict__))
            self._waiting.task_done()
        self._waiting.task_done()

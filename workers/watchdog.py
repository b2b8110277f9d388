"""Notices a step that never ends."""

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Watchdog:
    """Calls `when_hung` once, from a thread of its own, if no `beat` comes for `after_s` seconds; used as a context."""

    def __init__(self, after_s: float, when_hung: Callable[[float], None]) -> None:
        self._after_s, self._when_hung = after_s, when_hung
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        """Something came to its end."""
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        """Begin to watch."""
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the watch."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(min(self._after_s / 4, 10.0)):
            silent_s = time.monotonic() - self._last
            if silent_s > self._after_s:
                self._when_hung(silent_s)
                return

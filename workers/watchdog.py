"""Notices a step that never ends."""

from collections.abc import Callable

from workers.background import Background


class Watchdog(Background):
    """Calls `when_hung` once, from a thread of its own, if no `beat` comes for `after_s` seconds; used as a context.

    The seconds are those in which this process could run: one that was suspended has not hung.
    """

    def __init__(self, after_s: float, when_hung: Callable[[float], None]) -> None:
        super().__init__("watchdog")
        self._after_s, self._when_hung = after_s, when_hung
        self._beats = 0

    def beat(self) -> None:
        """Something came to its end."""
        self._beats += 1

    def _live(self) -> None:
        look_s = min(self._after_s / 4, 10.0)
        seen, silent_s = self._beats, 0.0
        while not self._ended.wait(look_s):
            silent_s = silent_s + look_s if self._beats == seen else 0.0
            seen = self._beats
            if silent_s >= self._after_s:
                self._when_hung(silent_s)
                return

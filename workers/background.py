"""A thread that works beside what a context holds."""

import threading
from typing import Self


class Background:
    """A thread of its own from a context's beginning to its end.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """End, once the thread has."""
        self._ended.set()
        self._thread.join()

    def _live(self) -> None:
        """What the thread does; it returns soon after `_ended` is set."""
        raise NotImplementedError

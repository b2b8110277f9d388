"""SIGINT and SIGTERM: one orderly way out, and no signal lost."""

import signal
from types import FrameType

_received = False


def install() -> None:
    """From now on both signals raise KeyboardInterrupt in the main thread, and are remembered."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt if a signal came: one raised inside a destructor or at a fork is lost by Python."""
    if _received:
        raise KeyboardInterrupt

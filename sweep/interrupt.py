"""SIGINT, SIGTERM, SIGHUP: one orderly way out, a quick one at the second signal, and no signal lost."""

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_received = 0
_deferred = False
_code: int | None = None


def install() -> None:
    """From now on these signals raise KeyboardInterrupt in the main thread, and are remembered."""
    atexit.register(_end)  # before all others, so it runs after them
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` leaves SIGHUP
            signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    global _received
    _received += 1
    if _received > 1:
        if sys.stderr.isatty():
            os.write(2, b"\x1b[?25h\n")  # a live display hides the cursor
        os._exit(128 + signal.SIGINT)  # what was started here ends with this process
    if not _deferred:
        raise KeyboardInterrupt


def leave(code: int) -> NoReturn:
    """End the process with an exit code."""
    global _code
    _code = code
    sys.exit(code)


def _end() -> None:
    """After a signal leave it at Python's own end: Ray crashes when what was interrupted in its start is taken down."""
    if received() and _code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_code)


def received() -> bool:
    """Whether a signal came."""
    return _received > 0


def check() -> None:
    """Raise KeyboardInterrupt if a signal came: one raised inside a destructor or at a fork is lost by Python."""
    if received():
        raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[None]:
    """Only remember a signal meanwhile; whoever works inside asks `received` and comes to an orderly end."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    check()

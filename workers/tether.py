"""What ties a worker to its controller: the right to train a trial, and the signs of life that go both ways.

No clock is compared with another machine's: a side is alive as long as what it writes keeps changing.
"""

import os
import platform
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from workers.files import read_sealed, write_passing

LEASE, ALIVE = "lease.json", "alive.json"
POLL_S = 1.0
OWNER_SILENT_S = 15.0  # a controller writes every 2 s; one that is silent for this long is gone
GRACE_S = 8.0  # from being told to stop to being ended, in which a step may come to its end and be saved


class StoppedError(Exception):
    """The trial was ended from outside and goes on from its checkpoint later; the message says why."""


@dataclass(frozen=True)
class Lease:
    """The right to train one trial and to write its result, as a controller gave it.

    Attributes:
        token: of this attempt; the work folder's `lease.json` holds the one that counts.
        owner: file that the controller keeps changing while it lives, and that tells its workers to stop.
    """

    token: str
    owner: str


def grant(work: Path, token: str) -> None:
    """Make `token` the one that counts in a work folder; whoever holds an earlier one has to stop."""
    work.mkdir(parents=True, exist_ok=True)
    write_passing(work / LEASE, {"token": token})


def is_current(work: Path, lease: Lease | None) -> bool:
    """Whether a lease still counts; without a controller there is nobody to take it away."""
    return lease is None or _read(work / LEASE).get("token") in (lease.token, None)


@dataclass(frozen=True)
class Reached:
    """How far an attempt was seen to get, and how much of that no checkpoint holds."""

    epochs: float = 0.0
    unsaved_s: float = 0.0


def last_seen(work: Path, attempt: int | None) -> Reached:
    """Where the last sign of life of an attempt, or of any, places it; nothing where it left none."""
    seen = _read(work / ALIVE)
    try:
        meant = attempt is None or seen["attempt"] == attempt
        return Reached(float(seen["epochs"]), float(seen["unsaved_s"])) if meant else Reached()
    except (KeyError, TypeError, ValueError):
        return Reached()


def reached(work: Path) -> float:
    """Epochs that any attempt is known to have got to."""
    epochs = _read(work / ALIVE).get("epochs")
    return float(epochs) if isinstance(epochs, int | float) else 0.0


def process_of(work: Path) -> int | None:
    """The process that left the last sign of life in a work folder."""
    pid = _read(work / ALIVE).get("pid")
    return pid if isinstance(pid, int) else None


class Tether:
    """Leaves signs of life, and notices from a thread of its own that this process has to stop; used as a context.

    Args:
        work: the trial's folder.
        lease: as the controller gave it; None: nobody is there to lose it to.
        attempt: number of this attempt.
        told_to_stop: says so where the controller is this very process.
        end: end the process where it does not stop by itself; not where the controller is this very process.
        signs: whether this process leaves signs of life: of those that share a trial one does.
    """

    def __init__(
        self,
        work: Path,
        lease: Lease | None,
        attempt: int,
        told_to_stop: Callable[[], bool] = lambda: False,
        end: bool = False,
        signs: bool = True,
    ) -> None:
        self._work, self._lease, self._attempt = work, lease, attempt
        self._told_to_stop, self._end, self._signs = told_to_stop, end, signs
        self._epochs = 0.0
        self._saved_at = time.monotonic()
        self._found: str | None = None
        self._ended = threading.Event()
        self._signing = threading.Lock()  # of two threads that write one file at once, neither would write it whole
        self._thread = threading.Thread(target=self._watch, name="tether", daemon=True)

    @property
    def must_stop(self) -> str | None:
        """Why this process has to stop, or None."""
        return self._found or ("it was told to stop" if self._told_to_stop() else None)

    def at(self, epochs: float) -> None:
        """Training has come this far."""
        self._epochs = epochs

    def saved(self, epochs: float) -> None:
        """A checkpoint holds everything up to here."""
        self._epochs, self._saved_at = epochs, time.monotonic()
        self._sign()

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._sign()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the watch."""
        self._ended.set()
        self._thread.join()

    def _sign(self) -> None:
        if not self._signs:
            return
        with self._signing, suppress(OSError):  # a full disk ends no training
            sign = {
                "pid": os.getpid(),
                "host": platform.node(),
                "attempt": self._attempt,
                "epochs": self._epochs,
                "unsaved_s": time.monotonic() - self._saved_at,
            }
            write_passing(self._work / ALIVE, sign)

    def _watch(self) -> None:
        watched = _Owner(self._lease.owner) if self._lease else None
        found_at = 0.0
        while not self._ended.wait(POLL_S):
            self._sign()
            if not self._found and watched:
                self._found, found_at = self._reason(watched), time.monotonic()
            if self._found and self._end and time.monotonic() - found_at > GRACE_S:
                os._exit(1)  # a step that hangs, say; what no checkpoint holds is lost

    def _reason(self, owner: "_Owner") -> str | None:
        if not is_current(self._work, self._lease):
            return "another attempt took its place"
        return owner.reason_to_stop()


class _Owner:
    """The controller, seen through the file that it keeps changing."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: Any = None
        self._seen_at = time.monotonic()

    def reason_to_stop(self) -> str | None:
        says = _read(self._path)
        if says.get("stopping"):
            return "the controller was told to stop"
        seen = says, _changed_at(self._path)  # with no room for a new file its controller gives it a new time
        if says and seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
        return "the controller is gone" if time.monotonic() - self._seen_at > OWNER_SILENT_S else None


def _changed_at(path: Path) -> int | None:
    """When a file was changed, by whichever clock; None where it is missing."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _read(path: Path) -> dict[str, Any]:
    """A file's sealed contents; nothing where it is missing or damaged."""
    try:
        return read_sealed(path)
    except (OSError, ValueError):
        return {}

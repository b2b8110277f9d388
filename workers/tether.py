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
from typing import Any, Self

from workers.background import Background
from workers.files import read_sealed, write_passing

LEASE, ALIVE = "lease.json", "alive.json"
SUPERSEDED = "another attempt took its place"
# Looks are counted and not seconds: to a process that was suspended nobody was silent meanwhile.
LOOK_S = 1.0  # from one look to the next
PATIENCE = 15  # looks in which a controller, that writes every 2 s, changed nothing: it is gone
GRACE = 8  # looks from having to stop to being ended, in which a step may come to its end; a save takes what it takes


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


def process_of(work: Path) -> tuple[str, int] | None:
    """Host and number of the process that left the last sign of life in a work folder."""
    seen = _read(work / ALIVE)
    host, pid = seen.get("host"), seen.get("pid")
    return (host, pid) if isinstance(host, str) and isinstance(pid, int) else None


def why_stopped(work: Path, lease: Lease) -> str | None:
    """Why the attempt with a lease had to stop, by its last sign of life; None where it did not have to."""
    if not is_current(work, lease):
        return SUPERSEDED
    reason = _sign_of(work, lease).get("stopped")
    return reason if isinstance(reason, str) else None


def began(work: Path, lease: Lease) -> bool:
    """Whether the last sign of life in a work folder is of the attempt with a lease."""
    return bool(_sign_of(work, lease))


class Tether(Background):
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
        super().__init__("tether")
        self._work, self._lease, self._attempt = work, lease, attempt
        self._told_to_stop, self._end, self._signs = told_to_stop, end, signs
        self._epochs = 0.0
        self._saved_at = time.monotonic()
        self._stopped: str | None = None
        self.saving = threading.Lock()  # held while a checkpoint is written
        self._signing = threading.Lock()  # of two threads that write one file at once, neither would write it whole

    @property
    def must_stop(self) -> str | None:
        """Why this process has to stop, or None."""
        return self._stopped or ("it was told to stop" if self._told_to_stop() else None)

    def at(self, epochs: float) -> None:
        """Training has come this far."""
        self._epochs = epochs

    def saved(self, epochs: float) -> None:
        """A checkpoint holds everything up to here."""
        self._epochs, self._saved_at = epochs, time.monotonic()
        self._sign()

    def stopped(self, reason: str | None) -> None:
        """The attempt ends before the trial does; whoever looks at its folder is to know why."""
        self._stopped = reason
        self._sign()

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._sign()
        return super().__enter__()

    def _sign(self) -> None:
        if not self._signs:
            return
        with self._signing, suppress(OSError):  # a full disk ends no training
            sign = {
                "pid": os.getpid(),
                "host": platform.node(),
                "token": self._lease and self._lease.token,
                "attempt": self._attempt,
                "epochs": self._epochs,
                "unsaved_s": time.monotonic() - self._saved_at,
                "stopped": self._stopped,
            }
            write_passing(self._work / ALIVE, sign)

    def _live(self) -> None:
        owner = _Watched(Path(self._lease.owner)) if self._lease else None
        first, overdue = _Watched(self._work / ALIVE), 0
        while not self._ended.wait(LOOK_S):
            if owner and not self._stopped:
                self._stopped = self._reason(owner)
            self._sign()
            if self._stopped and self._end:
                overdue = 0 if self._saves(first) else overdue + 1
                if overdue > GRACE:
                    os._exit(1)  # a step that hangs, say; what no checkpoint holds is lost

    def _reason(self, owner: "_Watched") -> str | None:
        if not is_current(self._work, self._lease):
            return SUPERSEDED
        if owner.look().get("stopping"):
            return "the controller was told to stop"
        return "the controller is gone" if owner.unchanged >= PATIENCE else None

    def _saves(self, first: "_Watched") -> bool:
        """Whether a checkpoint may be under way: of processes that share a trial the first one writes it.

        A save that never comes to its end is the watchdog's.
        """
        if self._signs:
            return self.saving.locked()
        return bool(self._lease and first.look().get("token") == self._lease.token and not first.unchanged)


class _Watched:
    """A file that somebody keeps changing while he lives."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Any = None
        self.unchanged = 0  # looks in a row that found nothing new

    def look(self) -> dict[str, Any]:
        """What it says now."""
        says = _read(self._path)
        seen = says, _changed_at(self._path)  # with no room for a new file a controller gives it a new time
        if says and seen != self._seen:
            self._seen, self.unchanged = seen, 0
        else:
            self.unchanged += 1
        return says


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


def _sign_of(work: Path, lease: Lease) -> dict[str, Any]:
    """The last sign of life, where it is of the attempt with this lease."""
    seen = _read(work / ALIVE)
    return seen if seen.get("token") == lease.token else {}

"""One controller per sweep: who it is, that it lives, and that another one did not take its place.

The flock on `lock` keeps a second controller out and ends with its process. `owner.json` says who holds it, changes
every two seconds, tells workers when to stop, and carries the token without which nothing is published: a controller
that slept while somebody removed its lock finds another token there.
"""

import fcntl
import os
import platform
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Self, TextIO

from sweep.errors import RefusedError, StorageError
from sweep.layout import SweepFolder
from workers.background import Background
from workers.files import DISK_FAULTS, read_sealed, write_passing

HEARTBEAT_S = 2.0


class Owner(Background):
    """This process as the one that may write into a sweep's folder."""

    def __init__(self, folder: SweepFolder) -> None:
        super().__init__("heartbeat")
        self._folder = folder
        self._state: dict[str, Any] = {
            "host": platform.node(),
            "pid": os.getpid(),
            "token": uuid.uuid4().hex,
            "started_at": _now(),
            "stopping": False,
        }
        self._beat = 0
        self._writing = threading.Lock()

    @property
    def path(self) -> str:
        """The file that workers watch."""
        return str(self._folder.owner.absolute())

    def check(self) -> None:
        """Make sure that the sweep is still this controller's; asked before anything is published.

        Raises:
            RefusedError: another controller has taken it over.
        """
        if other := self._other():
            raise RefusedError(
                f"{self._folder.path}: {_described(other)} took this sweep over; this one stops and writes nothing"
            )

    def stop_workers(self) -> None:
        """Tell all workers to save a checkpoint and to end."""
        self._state["stopping"] = True
        self._sign()

    def __enter__(self) -> Self:
        """Take the sweep and show that this process lives."""
        self._write()
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        """Show no more life: workers that are left are to end."""
        super().__exit__(*raised)
        if not self._other():
            self.stop_workers()

    def _live(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            self._sign()

    def _sign(self) -> None:
        if not self._other():
            with suppress(OSError):
                self._write()

    def _write(self) -> None:
        with self._writing:
            self._beat += 1
            try:
                write_passing(self._folder.owner, {**self._state, "heartbeat_at": _now(), "beat": self._beat})
            except OSError:
                if self._beat == 1:  # what is there, if anything, tells of an earlier controller
                    raise
                # No room for a new file: a new time is a sign of life too.
                os.utime(self._folder.owner)

    def _other(self) -> dict[str, Any] | None:
        """Who else says that the sweep is his."""
        says = _read(self._folder)
        return says if says.get("token") not in (None, self._state["token"]) else None


@contextmanager
def owned(folder: SweepFolder) -> Iterator[Owner]:
    """Hold the sweep alone.

    Raises:
        RefusedError: another controller holds it, with who and when it last showed life; or this file system has no
            locks.
        StorageError: the disk failed, now or while the sweep was held.
    """
    try:
        with _held(folder) as owner:
            yield owner
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise StorageError.of(error, folder.path) from error


@contextmanager
def _held(folder: SweepFolder) -> Iterator[Owner]:
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.lock.open("a+") as file:
        _lock(folder, file)
        folder.remove_unfinished()
        with Owner(folder) as owner:
            yield owner


def _lock(folder: SweepFolder, file: TextIO) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefusedError(
            f"{folder.path}: {_described(_read(folder))} is running this sweep; wait for it, or end it"
        ) from None
    except OSError as error:
        raise RefusedError(
            f"{folder.lock}: cannot be locked here ({error.strerror}), so two controllers could not be told apart; "
            "put the results on a file system with locks"
        ) from None


def _described(owner: dict[str, Any]) -> str:
    try:
        return (
            f"process {owner['pid']} on {owner['host']} (since {owner['started_at']}, last heartbeat "
            f"{owner['heartbeat_at']})"
        )
    except KeyError:
        return "another process"


def _read(folder: SweepFolder) -> dict[str, Any]:
    try:
        return read_sealed(folder.owner)
    except (OSError, ValueError):
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

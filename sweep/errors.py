"""Every error that a person can meet, as one tree.

    SweepError                 exit code 2 unless said otherwise
    ├── SpaceError             the search space is wrong; says where and what would be right
    ├── TableError             a results table cannot be read or lacks what was asked for
    │   ├── NoRulesError       no row has depth, width and resolution, which rules compare
    │   └── DamagedTableError  exit code 3: a part of a sweep's own table is damaged
    ├── DataUnavailableError   the data set named by the space is not on this machine
    ├── ResourcesError         no machine at hand has what one trial asks for
    ├── StoppedEarlyError      exit code 1: trials failed alike one after the other, the rest was not begun
    ├── StorageError           exit code 3: a file cannot be written: no room, read-only, a broken disk
    └── RefusedError           exit code 3: another controller owns the sweep, or its files are damaged

Messages are one line: where, what is wrong, what would be right.
"""

from pathlib import Path
from typing import Self


class SweepError(Exception):
    """Base of all errors that end a command with one clear line."""

    exit_code = 2


class SpaceError(SweepError):
    """The search space file is wrong."""


class TableError(SweepError):
    """A results table cannot be read, or lacks what the command needs."""


class NoRulesError(TableError):
    """No row has what rules are about; fronts may be had all the same."""


class DamagedTableError(TableError):
    """A part of a sweep's own table is damaged.

    Args:
        message: one line.
        reason: what is wrong with the file, where the message says more.
    """

    exit_code = 3

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class DataUnavailableError(SweepError):
    """The data set that the search space names is not available on this machine."""


class ResourcesError(SweepError):
    """No machine at hand has what one trial asks for."""


class StoppedEarlyError(SweepError):
    """Trial after trial failed in the same way."""

    exit_code = 1


class StorageError(SweepError):
    """A file of the sweep cannot be written; nothing that is there was harmed."""

    exit_code = 3

    @classmethod
    def of(cls, error: OSError, folder: Path) -> Self:
        """What the operating system says, with where and what to do."""
        where = error.filename2 or error.filename or folder
        reason = error.strerror or str(error)
        return cls(f"{where}: {reason}; nothing is lost: once files can be written, the same command goes on")


class RefusedError(SweepError):
    """The command would harm what is there: a live controller's sweep, or damaged state."""

    exit_code = 3

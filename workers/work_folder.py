"""What lies in a trial's work folder, for those who only read it: needs no torch."""

import fcntl
from pathlib import Path
from typing import Any

from workers.contract import TrialResult, TrialStatus
from workers.files import read_sealed

RESULT, ATTEMPTS, LOCK, WEIGHTS, STACKS = "result.json", "attempts.json", "lock", "weights.safetensors", "hung.txt"
HELD = "another process holds the work folder"
MICRO_BATCH = "micro_batch.json"  # that one of several devices had too little memory for


def read_result(work: Path) -> TrialResult | None:
    """The result that a work folder holds, or None where there is none or it is damaged."""
    try:
        return TrialResult.from_json((work / RESULT).read_text())
    except (OSError, ValueError):
        return None


def failed_for_good(work: Path) -> bool:
    """Whether a work folder holds a failure that another attempt would only repeat."""
    result = read_result(work)
    return result is not None and result.status not in (TrialStatus.OK, TrialStatus.CRASHED)


def read_attempts(work: Path) -> dict[str, Any]:
    """The record of a trial's attempts; empty where it is missing or damaged."""
    try:
        return read_sealed(work / ATTEMPTS)
    except (OSError, ValueError):
        return {}


def remove_unfinished(work: Path) -> None:
    """Remove what a killed process was writing, unless another one trains in the folder."""
    if not in_use(work):
        for path in work.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def in_use(work: Path) -> bool:
    """Whether a process of this machine or its file server trains in the folder."""
    try:
        with (work / LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False

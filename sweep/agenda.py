"""What is still to be recorded of a sweep; used by the tracker's thread alone."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.contract import EpochMetrics

Job = tuple[str, str, Any]  # what, of which trial, with what
HELD_EPOCHS = 20_000  # more than these are dropped: each comes again with its trial's row


@dataclass(frozen=True)
class Closing:
    """The end: since when, how long it may take, whether the sweep is done, whether to wait while there is progress."""

    since: float
    limit_s: float
    finished: bool
    patient: bool


class Agenda:
    """Runs to open, epochs to log, rows to record, and the report. Rows are held as ids, so an outage costs no memory.

    Args:
        epochs_every_s: epochs wait this long for others, to go in one batch.
    """

    def __init__(self, epochs_every_s: float) -> None:
        self._every_s, self._epochs_at = epochs_every_s, 0.0
        self._started: dict[str, str] = {}
        self._epochs: dict[str, list[EpochMetrics]] = {}
        self._held = 0
        self._ended: dict[str, None] = {}
        self._refused: set[str] = set()
        self._artifacts: Path | None = None

    def add(self, kind: str, trial_id: str, value: Any) -> None:
        """Take a report in: started (with the run's name), epoch, ended, or artifacts (a folder)."""
        if kind == "started":
            self._started[trial_id] = value
        elif kind == "epoch":
            self._add_epoch(trial_id, value)
        elif kind == "ended":
            self._drop(trial_id)
            self._refused.discard(trial_id)
            self._ended[trial_id] = None
        else:
            self._artifacts = value

    def send_again(self, trial_id: str) -> None:
        """Record a row that MLflow had; its trial may be under way again."""
        self._ended[trial_id] = None

    def _add_epoch(self, trial_id: str, epoch: EpochMetrics) -> None:
        if self._held >= HELD_EPOCHS:
            self._epochs.clear()
            self._held = 0
        if not self._epochs:
            self._epochs_at = time.monotonic() + self._every_s
        self._epochs.setdefault(trial_id, []).append(epoch)
        self._held += 1

    def _drop(self, trial_id: str) -> None:
        self._started.pop(trial_id, None)
        self._held -= len(self._epochs.pop(trial_id, ()))

    def pending(self) -> bool:
        """Whether anything is left."""
        return bool(self._started or self._epochs or self._ended or self._artifacts)

    def wait_s(self, now: float) -> float | None:
        """How long nothing is to be done; None: until something is reported."""
        if self._started or self._ended or self._artifacts:
            return 0.0
        return max(self._epochs_at - now, 0.0) if self._epochs else None

    def next(self, now: float, hurry: bool) -> Job | None:
        """The next job: what people look at while a sweep runs comes before a backlog."""
        for trial_id, name in self._started.items():
            return "started", trial_id, name
        if hurry or now >= self._epochs_at:
            for trial_id, epochs in self._epochs.items():
                return "epoch", trial_id, epochs
        for trial_id in self._ended:
            return "ended", trial_id, None
        return ("artifacts", "", self._artifacts) if self._artifacts else None

    def done(self, kind: str, trial_id: str) -> None:
        """A job is done."""
        if kind == "started":
            del self._started[trial_id]
        elif kind == "epoch":
            self._held -= len(self._epochs.pop(trial_id))
        elif kind == "ended":
            del self._ended[trial_id]
        else:
            self._artifacts = None

    def refuse(self, trial_id: str) -> None:
        """Try nothing of this trial any more, until it is reported again: others wait behind it."""
        self._drop(trial_id)
        if self._ended.pop(trial_id, 0) is None:
            self._refused.add(trial_id)

    def missing(self) -> list[str]:
        """What is left, in words; epochs of a trial that goes on come with its row."""
        count = len(self._ended) + len(self._refused)
        words = [f"{count} trial{'s' * (count > 1)}"] if count else []
        return [*words, "the report"] if self._artifacts else words

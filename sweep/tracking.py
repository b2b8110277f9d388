"""Tells MLflow of a sweep, off the training path.

What could not be recorded is read from the table again and sent once MLflow answers.
"""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from sweep.agenda import Agenda, Closing
from sweep.ledger import Ledger, masked
from sweep.mlflow_store import MlflowStore, is_refusal
from sweep.naming import label
from workers.contract import EpochMetrics, TrialConfig

EPOCHS_EVERY_S = 2.0  # epochs that come meanwhile go in one batch
FIRST_PAUSE_S, LONGEST_PAUSE_S, CLOSING_PAUSE_S = 1.0, 60.0, 1.0  # after a failure; doubled each time
CLOSE_S, INTERRUPTED_S = 12.0, 5.0  # that closing may take
PREPARING_S = 60.0  # more, while MLflow is imported or lays out a database of its own


class Tracker(Protocol):
    """Hears of a sweep as it goes on; its failures never stop a trial."""

    def trial_started(self, config: TrialConfig) -> None:
        """A trial is under way."""

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """One epoch of it is done."""

    def trial_ended(self, trial_id: str) -> None:
        """The trial's row is written, from which everything about it can be recorded."""

    def sweep_ended(self, artifacts: Path) -> None:
        """The sweep is done; the folder's files belong to it."""

    def close(self, finished: bool) -> list[str]:
        """Wait for what is under way; what could not be recorded, in words."""


class NullTracker:
    """Records nothing."""

    def trial_started(self, config: TrialConfig) -> None:
        """Nothing."""

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """Nothing."""

    def trial_ended(self, trial_id: str) -> None:
        """Nothing."""

    def sweep_ended(self, artifacts: Path) -> None:
        """Nothing."""

    def close(self, finished: bool) -> list[str]:
        """Nothing failed."""
        return []


class MlflowTracker:
    """Records in MLflow from a thread of its own; the caller's thread only puts things into a queue.

    Args:
        sweep: name of the sweep; its experiment has the same name.
        description: the search space, kept as the parent run's note.
        ledger: the table's rows and what MLflow has of them.
    """

    def __init__(self, sweep: str, description: str, ledger: Ledger) -> None:
        self._ledger = ledger
        self._store = MlflowStore(sweep, description, self._ledger)
        self._agenda = Agenda(EPOCHS_EVERY_S)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._closing: Closing | None = None
        self._done_at = 0.0
        self._retry_at, self._pause_s = 0.0, FIRST_PAUSE_S
        self._tried: set[str] = set()
        self._reason = "no answer yet"
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def trial_started(self, config: TrialConfig) -> None:
        """Open the trial's run, or the one that an earlier attempt opened."""
        self._events.put(("started", config.trial_id, label(vars(config))))

    def epoch(self, config: TrialConfig, metrics: EpochMetrics) -> None:
        """Log one epoch, with others that come soon after; where it is late, it goes with the trial's row."""
        self._events.put(("epoch", config.trial_id, metrics))

    def trial_ended(self, trial_id: str) -> None:
        """Log the whole trial from its row: what the epochs before it logged already does not change."""
        self._events.put(("ended", trial_id, None))

    def sweep_ended(self, artifacts: Path) -> None:
        """Attach the report's files to the parent run."""
        self._events.put(("artifacts", "", artifacts))

    def close(self, finished: bool, patient: bool = False) -> list[str]:
        """Wait a bounded time until MLflow has everything; in one line what it has not got, and why.

        Args:
            finished: whether the sweep came to its end.
            patient: wait as long as MLflow takes what it is sent.
        """
        if self._store.abandoned:
            return []
        limit = CLOSE_S if finished else INTERRUPTED_S
        closing = Closing(time.monotonic(), limit, finished, patient)
        self._events.put(("close", "", closing))
        while self._thread.is_alive() and not self._over(closing):
            self._thread.join(0.05)
        self._store.abandoned = True
        return self._missing()

    def abandon(self) -> None:
        """Record nothing more, not even the end: whoever has the sweep now does."""
        self._store.abandoned = True
        self._events.put(("artifacts", "", None))  # so that the thread looks up

    def _over(self, closing: Closing) -> bool:
        since = max(self._since(closing), self._done_at if closing.patient else 0.0)
        return time.monotonic() > since + closing.limit_s + (PREPARING_S if self._store.preparing else 0.0)

    def _since(self, closing: Closing) -> float:
        return max(closing.since, self._store.prepared_at)

    def _missing(self) -> list[str]:
        parts = self._agenda.missing()
        if self._store.running:
            parts.append("the runs' end")
        return [f"not recorded: {' and '.join(parts)} ({self._reason})"] if parts else []

    def _work(self) -> None:
        while True:
            self._collect()
            if self._store.abandoned:
                return
            now, closing = time.monotonic(), self._closing
            if now < self._retry_at:
                continue
            late = closing is not None and not closing.patient and now > self._since(closing) + closing.limit_s / 2
            if closing and (late or not self._agenda.pending()):
                if self._end(closing.finished, late) and (late or not self._agenda.pending()):
                    return
            elif job := self._agenda.next(now, hurry=closing is not None):
                self._do(*job)

    def _collect(self) -> None:
        """Take in what was reported; where nothing is to be done yet, wait for more."""
        now = time.monotonic()
        wait = 0.0 if self._closing else self._agenda.wait_s(now)
        if now < self._retry_at:
            wait = self._retry_at - now
        try:
            event = self._events.get(block=wait != 0.0, timeout=wait)
            while True:
                self._take(*event)
                event = self._events.get_nowait()
        except queue.Empty:
            pass

    def _take(self, kind: str, trial_id: str, value: Any) -> None:
        if kind == "close":
            self._closing = value
            self._retry_at, self._pause_s = 0.0, CLOSING_PAUSE_S
        else:
            self._agenda.add(kind, trial_id, value)

    def _do(self, kind: str, trial_id: str, value: Any) -> None:
        """One job; it leaves the agenda once it is done, or refused for good."""
        jobs: dict[str, Callable[[], object]] = {
            "started": lambda: self._store.start(trial_id, value),
            "epoch": lambda: self._store.log_epochs(trial_id, value),
            "ended": lambda: self._store.record(trial_id, anew=trial_id in self._tried),
            "artifacts": lambda: self._store.attach(value),
        }
        if self._attempt(trial_id, jobs[kind]):
            self._tried.discard(trial_id)
            self._agenda.done(kind, trial_id)

    def _end(self, finished: bool, late: bool) -> bool:
        """End all runs; a sweep that recorded nothing has none, unless a killed controller left some."""
        if not self._store.ready and not self._ledger.is_open():
            return True
        return self._attempt("", lambda: self._store.end(finished, late))

    def _attempt(self, trial_id: str, job: Callable[[], object]) -> bool:
        """Whether the job is done; MLflow raises many kinds of errors, and none may stop a sweep."""
        try:
            for other in self._store.open():
                self._agenda.send_again(other)
            job()
        except Exception as error:
            self._failed(trial_id, error)
            return False
        self._done_at = time.monotonic()
        self._pause_s = CLOSING_PAUSE_S if self._closing else FIRST_PAUSE_S
        return True

    def _failed(self, trial_id: str, error: Exception) -> None:
        text = (str(error).strip().splitlines() or [""])[0]
        self._reason = masked(f"{type(error).__name__}: {text}")
        if not trial_id or not self._store.ready or not is_refusal(error):
            self._retry_at = time.monotonic() + self._pause_s
            self._pause_s = CLOSING_PAUSE_S if self._closing else min(2 * self._pause_s, LONGEST_PAUSE_S)
        elif trial_id in self._tried:
            self._agenda.refuse(trial_id)
        else:  # its run, or the whole database, may have been deleted: look for them again
            self._tried.add(trial_id)
            self._store.forget(trial_id)

"""One attempt at a trial: the record of all attempts, its signs of life, and the result that it leaves."""

import datetime
import faulthandler
import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workers import checkpoint
from workers.contract import EpochMetrics, TrialConfig, TrialResult, TrialStatus
from workers.environment import versions
from workers.files import DISK_FAULTS, read_sealed, seal, write_bytes, write_json
from workers.masking import masked, without_secrets
from workers.ranks import Ranks
from workers.tether import ALIVE, SUPERSEDED, Lease, StoppedError, Tether, is_current, last_seen, why_stopped
from workers.watchdog import Watchdog
from workers.work_folder import ATTEMPTS, MICRO_BATCH, RESULT, STACKS, failed_for_good, read_attempts, read_result

LAST_WORDS_S = 30.0  # for a process that hangs to say so, before it is ended though files hang too


class RankError(Exception):
    """One of the processes that share a trial failed."""


@dataclass
class Attempt:
    """One process's attempt at a trial, and the epochs that are known of it."""

    config: TrialConfig
    work: Path
    leads: bool  # writes files
    lease: Lease | None = None
    number: int = 1
    started_at: str = ""
    notes: list[str] = field(default_factory=list)  # of all attempts
    reached: float = 0.0  # epochs that earlier attempts got to, where no checkpoint was loaded since
    epochs_repeated: float = 0.0
    lost_s: float = 0.0  # that earlier attempts held each device since their last checkpoint
    history: list[EpochMetrics] = field(default_factory=list)
    _tether: Tether | None = field(default=None, init=False)
    _watchdog: Watchdog | None = field(default=None, init=False)

    def found_to_fit(self) -> int | None:
        """The micro-batch that is left to an attempt after one on several devices that ran out of memory."""
        try:
            found = read_sealed(self.work / MICRO_BATCH)
            tried, smaller = int(found["tried"]), int(found["smaller"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            self.note(f"{MICRO_BATCH} was damaged: which micro-batch fits is found anew")
            return None
        self.note(f"out of memory with micro-batch {tried}: went on with {smaller}")
        return smaller

    def does_not_fit(self, tried: int, smaller: int) -> None:
        """Leave to the next attempt how far to go down."""
        write_json(self.work / MICRO_BATCH, seal({"tried": tried, "smaller": smaller}))

    def begin(self) -> None:
        """Count this attempt and forget the last one's failure."""
        (self.work / RESULT).unlink(missing_ok=True)
        self._read_record()
        seen = last_seen(self.work, self.number or None)
        self.reached = max(self.reached, seen.epochs)
        self.lost_s += seen.unsaved_s
        self.number += 1
        self._write_record()

    def _read_record(self) -> None:
        """What earlier attempts left, or the first process of this one."""
        self.number, self.started_at = 0, _now()
        record = read_attempts(self.work)
        if not record:
            if checkpoint.any_in(self.work) or (self.work / ALIVE).exists() or (self.work / ATTEMPTS).exists():
                self.notes = [f"{ATTEMPTS} was missing or damaged: attempts before {self.started_at} are not counted"]
            return
        self.number, self.started_at, self.notes = record["attempts"], record["started_at"], record["notes"]
        self.reached, self.epochs_repeated = record["reached"], record["epochs_repeated"]
        self.lost_s = record["lost_s"]

    def note(self, text: str) -> None:
        """Keep what people should know of this attempt, whatever becomes of it."""
        if (text := masked(self.config, text)) not in self.notes:
            self.notes.append(text)
        if self.leads:
            with suppress(OSError):  # it is in the result too
                self._write_record()

    def resumed(self, epochs: float) -> None:
        """A checkpoint gave this much; what earlier attempts had beyond it is trained again."""
        if self.reached >= 1 and epochs == 0:
            got = f"an earlier attempt had got to epoch {self.reached:.1f}"
            self.note(f"no checkpoint could be used, though {got}: trained from the start")
        self.epochs_repeated += max(0.0, self.reached - epochs)
        self.reached = 0.0
        if self.leads:
            self._write_record()

    def at(self, epochs: float) -> None:
        """Training has come this far."""
        if self._tether:
            self._tether.at(epochs)

    def saved(self, epochs: float) -> None:
        """A checkpoint holds everything up to here."""
        if self._tether:
            self._tether.saved(epochs)

    def saving(self) -> AbstractContextManager[Any]:
        """While a checkpoint is written, which is not cut short."""
        return self._tether.saving if self._tether else nullcontext()

    def beat(self) -> None:
        """Something came to its end.

        Raises:
            StoppedError: this attempt has to end; of several processes the one that writes checkpoints says so.
        """
        if self._watchdog:
            self._watchdog.beat()
        if self.leads and self._tether and (reason := self._tether.must_stop):
            raise StoppedError(reason)

    def _write_record(self) -> None:
        record = {
            "attempts": self.number,
            "started_at": self.started_at,
            "notes": self.notes,
            "reached": self.reached,
            "epochs_repeated": self.epochs_repeated,
            "lost_s": self.lost_s,
        }
        write_json(self.work / ATTEMPTS, seal(record))

    def end(self, outcome: dict[str, Any]) -> TrialResult:
        """The result, written where this process is the one that writes, or the first to fail.

        Raises:
            RankError: the trial has failed and other processes share it, which have to be ended.
        """
        result = self._result(outcome)
        shared = Ranks.met()
        try:
            if result.status is TrialStatus.OK and self.leads:
                self._write(result)
                checkpoint.clear(self.work)
            elif result.status not in (TrialStatus.OK, TrialStatus.PREEMPTED) and not (
                shared and self._explained(result)
            ):
                self._write(result)
        except OSError as error:  # it has to be trained to its end once more, from its last checkpoint
            if error.errno not in DISK_FAULTS:
                raise
            result = self._result(stopped(f"its result could not be written: {error}"))
        if result.status is TrialStatus.PREEMPTED and self._tether:
            self._tether.stopped(result.error)
        if shared and result.status is not TrialStatus.OK:
            raise RankError(f"{result.status}: {result.error}")
        return result

    def _result(self, outcome: dict[str, Any]) -> TrialResult:
        if reason := self._stopped_meanwhile(outcome["status"]):
            outcome = stopped(reason)
        if not self.started_at:
            self._read_record()
        ended_early = self._tether and outcome["status"] is not TrialStatus.OK
        lost_s = self.lost_s + (last_seen(self.work, self.number).unsaved_s if ended_early else 0.0)
        result = TrialResult(
            self.config.trial_id, attempts=self.number, started_at=self.started_at,
            finished_at=max(_now(), self.started_at),  # the clock may have been set back
            host=platform.node(), versions=versions(), history=tuple(self.history), notes=tuple(self.notes),
            token=self.lease.token if self.lease else None, epochs_repeated=self.epochs_repeated,
            lost_device_hours=self.config.execution.ranks * lost_s / 3600, **outcome,
        )  # fmt: skip
        return without_secrets(self.config, result)

    def _stopped_meanwhile(self, status: TrialStatus) -> str | None:
        """Why this is no end of the trial: the lease is lost; or the first process stopped, which the others lost."""
        if not is_current(self.work, self.lease):
            return SUPERSEDED
        if self.lease and not self.leads and status is TrialStatus.CRASHED:
            return why_stopped(self.work, self.lease)
        return None

    def _explained(self, result: TrialResult) -> bool:
        """Whether another of the trial's processes said why it failed: the first one; the others only lost it."""
        said = read_result(self.work)
        crashed = said is not None and said.token == result.token and result.status is TrialStatus.CRASHED
        return crashed or failed_for_good(self.work)

    def _write(self, result: TrialResult) -> None:
        write_bytes(self.work / RESULT, result.to_json().encode())

    @contextmanager
    def tied(self, told_to_stop: Callable[[], bool], end: bool) -> Iterator[None]:
        """Leave signs of life, and stop when the controller says so, is gone or gave the trial to somebody else."""
        with Tether(self.work, self.lease, self.number, told_to_stop, end, self.leads) as self._tether:
            yield

    @contextmanager
    def watched(self, end_when_hung: bool) -> Iterator[None]:
        """Watch for steps that never end."""
        if not end_when_hung:
            yield
            return
        with Watchdog(self.config.execution.hung_after_s, self._hung) as self._watchdog:
            yield

    def _hung(self, silent_s: float) -> None:
        """Leave a result and where each thread stood, then end the process."""
        threading.Timer(LAST_WORDS_S, os._exit, (1,)).start()
        with (self.work / STACKS).open("w") as file:
            faulthandler.dump_traceback(file)
        error = f"no step came to its end for {silent_s:.0f} s; {STACKS} in the work folder says where it stood"
        with suppress(RankError):
            self.end({"status": TrialStatus.HUNG, "error": error})
        os._exit(1)


def stopped(reason: str) -> dict[str, Any]:
    """The outcome of an attempt that was ended from outside."""
    return {"status": TrialStatus.PREEMPTED, "error": reason}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

"""The trials that wait for a worker, and the right to train that each is handed out with."""

import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from workers.contract import TrialConfig
from workers.files import DISK_FAULTS
from workers.tether import Lease, grant


@dataclass(frozen=True)
class Job:
    """A trial, where it works, and the right to train it."""

    config: TrialConfig
    work: Path
    lease: Lease
    probe: bool = False  # the cheapest that waited, out of turn


class Jobs(Protocol):
    """Where an executor gets its trials from."""

    def take(self) -> Job | None:
        """The next trial; None where none waits, though one that is running may come back."""

    def stop(self) -> None:
        """Tell the workers to save a checkpoint and to end."""


class JobQueue:
    """Trials in order; the executor takes one when it has room, so that no thousands wait inside of it.

    Args:
        trials: in the order in which they are to start.
        work: a trial id's work folder.
        owner: file by which workers see that their controller lives.
        stop_workers: tells them to end.
        check: raises where this controller may hand out nothing any more.
    """

    def __init__(
        self,
        trials: Sequence[TrialConfig],
        work: Callable[[str], Path],
        owner: str,
        stop_workers: Callable[[], None] = lambda: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._waiting = deque(trials)
        self._work, self._owner, self._stop_workers, self._check = work, owner, stop_workers, check
        self._probing = False
        self.problem: OSError | None = None

    def __len__(self) -> int:
        """Trials that wait."""
        return len(self._waiting)

    def take(self) -> Job | None:
        """See `Jobs`; none either while nothing can be written, of which `problem` tells."""
        if not self._waiting:
            return None
        self._check()  # another controller's worker would have to give way to this lease
        config = self._waiting[-1 if self._probing else 0]
        job = Job(config, self._work(config.trial_id).absolute(), Lease(uuid.uuid4().hex, self._owner), self._probing)
        self.problem = None
        try:
            grant(job.work, job.lease.token)
        except OSError as error:
            if error.errno in DISK_FAULTS:
                self.problem = error
                return None
            # Something is wrong with this trial's folder alone, as its worker will say.
        self._waiting.remove(config)
        return job

    def stop(self) -> None:
        """See `Jobs`."""
        self._stop_workers()

    def put_back(self, config: TrialConfig) -> None:
        """First in line again: it has progress that the others have not."""
        self._waiting.appendleft(config)

    def probe(self, on: bool) -> None:
        """Whether to hand out the last ones, the cheapest: do small trials fail as the large ones do?"""
        self._probing = on

    def clear(self) -> int:
        """Hand out nothing more; how many waited."""
        waited = len(self._waiting)
        self._waiting.clear()
        return waited

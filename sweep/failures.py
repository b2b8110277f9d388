"""What becomes of a trial that did not end well: again, or a row; and when the whole sweep is better stopped."""

import re
from collections import Counter
from collections.abc import Mapping

from workers.contract import TrialResult, TrialStatus

# Times that a trial is run again by itself, from its checkpoint. The others come out the same again: out of memory with
# the smallest micro-batch, a loss that is not finite, wrong data or configuration.
RETRIES: Mapping[TrialStatus, int] = {TrialStatus.CRASHED: 2, TrialStatus.HUNG: 1}
# A trial that was ended from outside is run again as often as it takes, unless it never gets any further.
FRUITLESS = 20
ALIKE = 5  # trials in a row that fail alike; of these
PROBES = 2  # are the cheapest that were waiting
_PARTICULARS = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|\d+(\.\d+)?|'[^']*'|\S*/\S*")  # ids, numbers, names, paths


class Failures:
    """Remembers how trials failed during one run of the controller."""

    def __init__(self) -> None:
        self._times: Counter[tuple[str, TrialStatus]] = Counter()
        self._reached: dict[str, float] = {}
        self._kind = ""  # of the last failure
        self._row: list[bool] = []  # of trials that failed so, one after the other: whether each was a probe

    def repeats(self, result: TrialResult, reached: float) -> bool:
        """Whether the trial is to be run again.

        Args:
            result: of its last attempt.
            reached: epochs that any attempt got to.
        """
        key = result.trial_id, result.status
        self._times[key] += 1
        if result.status is not TrialStatus.PREEMPTED:
            return self._times[key] <= RETRIES.get(result.status, 0)
        if reached > self._reached.get(result.trial_id, 0.0):
            self._reached[result.trial_id] = reached
            self._times[key] = 0
        return self._times[key] < FRUITLESS

    def count(self, result: TrialResult, probe: bool) -> None:
        """A trial has its row; `probe`: it was the cheapest that waited."""
        kind = "" if result.status is TrialStatus.OK else f"{result.status}: {_general(result.error)}"
        self._row = [*self._row, probe] if kind and kind == self._kind else [probe] * bool(kind)
        self._kind = kind

    @property
    def suspicious(self) -> bool:
        """Whether the next trials should be the cheapest: the last ones failed alike, which may lie in their size."""
        return len(self._row) >= ALIKE - PROBES

    @property
    def hopeless(self) -> bool:
        """Whether so many failed alike, cheap ones among them, that the others would too."""
        return len(self._row) >= ALIKE and sum(self._row) >= PROBES


def _general(error: str | None) -> str:
    """A message without what differs from trial to trial."""
    return _PARTICULARS.sub("*", error or "")

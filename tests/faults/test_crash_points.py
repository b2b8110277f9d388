"""A controller that is killed at any system call loses nothing.

Every call by which a run changes its folder is a point at which it is killed; for each write there is another one at
which half of it is on the disk. Then the same command runs again, and a third time.
"""

import os
import signal
from dataclasses import dataclass

import pytest
from faultcheck import ended
from faultlib import Fault, Kind

# Killed before an fsync, a process leaves what it leaves when it is killed after it.
SAME_AS_NEXT = {"fsync"}


@dataclass(frozen=True)
class Point:
    """Where a run is killed, and what it was about to do there when nothing struck it."""

    fault: Fault
    operation: str

    def __str__(self):
        return f"{self.fault.kind.name} at {self.fault.at} ({self.operation})"


def points(reference, kind, names):
    """One of `kind` for each of the reference run's operations with such a name."""
    run = reference.runs[0].operations
    return [
        Point(Fault(kind, at), f"{name} {os.path.relpath(path, reference.results)}")
        for at, (name, path) in enumerate(run, start=1)
        if name in names
    ]


def killed_then_run_twice(truth):
    def check(workshop, place, point):
        killed = workshop.run(place, point.fault)
        again = workshop.run(place)
        idle = workshop.run(place)
        found = [*ended(again), *ended(idle), *truth.broken(place)]
        if killed.code not in (-signal.SIGKILL, 0):  # threads take turns: a run may have come past the point
            found.append(f"the first run ended with {killed.code}: {killed.stderr[-600:]!r}")
        if "nothing to do" not in idle.stderr:
            found.append(f"the third run did something: {idle.stderr!r}")
        if place.repeated() > 1:  # there is a checkpoint after each epoch
            found.append(f"{place.repeated()} epochs were trained again")
        counted = place.rows()["epochs_repeated"].sum()
        if not 0 <= counted <= 1:
            found.append(f"the table says that {counted} epochs were trained again")
        return found

    return check


@pytest.mark.slow
def test_killed_before_any_system_call_a_sweep_ends_with_the_same_table(workshop, reference, truth):
    names = {name for name, _ in reference.runs[0].operations} - SAME_AS_NEXT
    cases = points(reference, Kind.KILL, names)
    assert len(cases) > 100
    failures = workshop.failures(killed_then_run_twice(truth), cases)
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_killed_in_the_middle_of_any_write_a_sweep_ends_with_the_same_table(workshop, reference, truth):
    cases = points(reference, Kind.TORN, {"write"})
    assert len(cases) > 30
    failures = workshop.failures(killed_then_run_twice(truth), cases)
    assert not failures, "\n".join(failures)

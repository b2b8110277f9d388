"""A disk that is full, failing or read-only costs no finished trial, tears no file, and is said in one line.

Once there is room again the same command brings the sweep to its end.
"""

import errno
import os
import random
import subprocess
from dataclasses import dataclass

import pytest
from faultcheck import damaged, ended, explained
from faultlib import Fault, Kind

LONG = os.environ.get("SWEEP_FAULTS") == "long"
SAMPLE = 5  # of each kind of failure, in the short version
WAYS = {
    "no room once": (errno.ENOSPC, False),
    "no room": (errno.ENOSPC, True),
    "failing once": (errno.EIO, False),
    "failing": (errno.EIO, True),
    "read-only": (errno.EROFS, True),
}


@dataclass(frozen=True)
class Strike:
    """Which operation fails, and how."""

    fault: Fault
    operation: str

    def __str__(self):
        lasting = "from" if self.fault.lasting else "at"
        return f"{errno.errorcode[self.fault.error]} {lasting} {self.fault.at} ({self.operation})"


def strikes(reference, error, lasting):
    """Every operation of the reference run, or some of them."""
    run = list(enumerate(reference.runs[0].operations, start=1))
    chosen = run if LONG else sorted(random.Random(f"{error} {lasting}").sample(run, SAMPLE))
    return [
        Strike(Fault(Kind.FAIL, at, error, lasting), f"{name} {os.path.relpath(path, reference.results)}")
        for at, (name, path) in chosen
    ]


def goes_on_once_there_is_room(truth, workshop, place):
    """What is wrong after the same command ran again on a sound disk."""
    torn = damaged(place.results)
    place.make_room()
    again = workshop.run(place)
    return [*torn, *ended(again), *truth.broken(place)]


@pytest.mark.parametrize("way", WAYS)
def test_a_failing_disk_loses_nothing_and_is_said_in_one_line(workshop, reference, truth, way):
    def check(workshop, place, strike):
        run = workshop.run(place, strike.fault)
        return [*explained(run, strike.fault.error), *goes_on_once_there_is_room(truth, workshop, place)]

    failures = workshop.failures(check, strikes(reference, *WAYS[way]))
    assert not failures, "\n".join(failures)


def test_with_files_cut_short_by_a_limit_nothing_is_lost(workshop, truth):
    """The kernel's own limit on the size of a file: it holds for MLflow's database as well."""

    def check(workshop, place, limit):
        run = workshop.run(place, file_limit=limit)
        return [*explained(run, errno.EFBIG), *goes_on_once_there_is_room(truth, workshop, place)]

    failures = workshop.failures(check, [256, 4096, 16384])
    assert not failures, "\n".join(failures)


@pytest.fixture
def small_disk():
    """Mounts file systems of a few pages; skips where this is not allowed."""
    mounted = []

    def mount(folder, pages):
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={4096 * pages}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a file system is not allowed here")
        mounted.append(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("pages", [*range(1, 60)] if LONG else [2, 9, 17, 30])
def test_on_a_disk_that_is_really_full_nothing_is_lost(workshop, truth, small_disk, pages):
    place = workshop.place()
    small_disk(place.results, pages)
    run = workshop.run(place)
    assert explained(run, errno.ENOSPC) == []
    assert damaged(place.results) == []
    subprocess.run(["mount", "-o", "remount,size=16m", str(place.results)], check=True)
    assert goes_on_once_there_is_room(truth, workshop, place) == []

"""The tools of the fault tests, made once: the shim, processes that run sweeps, and what an untroubled run leaves."""

import itertools
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue

import pytest
from faultcheck import Truth, ended
from faultlib import SPACE, UNTROUBLED, Place, Zygote, compile_shim, empty_database
from ray_runs import Paced


class Workshop:
    """Runs cases side by side, each in a folder of its own."""

    def __init__(self, folder, zygotes):
        self._folder = folder
        self._database = empty_database(folder)
        self._zygotes = SimpleQueue()
        for zygote in zygotes:
            self._zygotes.put(zygote)
        self._size = len(zygotes)
        self._numbers = itertools.count(1)

    def place(self, space=SPACE):
        """A new folder to run in."""
        return Place.make(self._folder / f"place-{next(self._numbers)}", self._database, space)

    def run(self, place, fault=UNTROUBLED, **options):
        """Run a place's sweep in whichever process is free."""
        zygote = self._zygotes.get()
        try:
            return zygote.run(place, fault, **options)
        finally:
            self._zygotes.put(zygote)

    def failures(self, check, cases):
        """Lines of what is wrong: `check(workshop, place, case)` lists it for each case."""

        def one(case):
            place = self.place()
            found = check(self, place, case)
            if found:
                (place.folder / "found").write_text("\n".join(found))  # stays, to be looked at
            else:
                place.remove()
            return [f"{place.folder.name}, {case}: {line}" for line in found]

        with ThreadPoolExecutor(self._size) as pool:
            return [line for lines in pool.map(one, cases) for line in lines]


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("system calls are struck on Linux, with a C compiler")
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory, shim):
    folder = tmp_path_factory.mktemp("faults")
    with ExitStack() as stack:
        zygotes = [stack.enter_context(Zygote(shim)) for _ in range(min(2, os.cpu_count()))]
        yield Workshop(folder, zygotes)


@pytest.fixture(scope="session")
def reference(workshop):
    """A place whose sweep ran to its end with nothing in its way."""
    place = workshop.place()
    done = workshop.run(place)
    assert ended(done) == []
    return place


@pytest.fixture(scope="session")
def truth(reference):
    return Truth.of(reference)


@pytest.fixture(scope="session")
def paced(tmp_path_factory):
    return Paced(tmp_path_factory.mktemp("paced"))


@pytest.fixture
def started():
    """What a test starts; all of it is ended with the test."""
    with ExitStack() as stack:
        yield lambda thing: (stack.callback(thing.end), thing)[1]

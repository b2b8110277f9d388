"""When a worker has to stop, and the signs of life that it leaves; no clock but the process's own monotonic one."""

import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from workers import tether
from workers.files import read_sealed, write_passing
from workers.tether import (
    ALIVE,
    LEASE,
    Lease,
    Reached,
    Tether,
    began,
    grant,
    is_current,
    last_seen,
    process_of,
    reached,
    why_stopped,
)
from workers.work_folder import ATTEMPTS


class Clock:
    """Instead of `time` in `workers.tether`: it has no other clock than this."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(tether, "time", made)
    monkeypatch.setattr(tether, "LOOK_S", 0.005)
    monkeypatch.setattr(tether, "PATIENCE", 10**9)
    return made


@pytest.fixture
def work(tmp_path):
    grant(tmp_path / "work", "mine")
    return tmp_path / "work"


@pytest.fixture
def owner(tmp_path):
    path = tmp_path / "owner.json"
    write_passing(path, {"token": "owner", "stopping": False, "beat": 0})
    return path


@pytest.fixture
def tied(work, owner, clock):
    with Tether(work, Lease("mine", str(owner)), 1) as made:
        yield made


def until(true):
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def looked(work):
    """Wait until the thread has looked at everything once more: it signs at the beginning of each look."""
    for _ in range(2):
        before = (work / ALIVE).stat().st_mtime_ns
        until(lambda before=before: (work / ALIVE).stat().st_mtime_ns > before)


def test_nothing_wrong_is_no_reason_to_stop(tied, work):
    looked(work)
    assert tied.must_stop is None


def test_a_lease_that_was_given_to_another_is_a_reason(tied, work):
    grant(work, "another's")
    until(lambda: tied.must_stop)
    assert tied.must_stop == "another attempt took its place"


def test_a_controller_that_says_so_is_a_reason(tied, owner):
    write_passing(owner, {"token": "owner", "stopping": True, "beat": 1})
    until(lambda: tied.must_stop)
    assert tied.must_stop == "the controller was told to stop"


def test_a_silent_controller_is_a_reason_once_it_was_silent_for_so_many_looks(tied, work, monkeypatch):
    looked(work)
    assert tied.must_stop is None
    monkeypatch.setattr(tether, "PATIENCE", 1)
    until(lambda: tied.must_stop)
    assert tied.must_stop == "the controller is gone"


def test_a_controller_that_was_never_there_is_gone_too(work, tmp_path, clock, monkeypatch):
    with Tether(work, Lease("mine", str(tmp_path / "nowhere.json")), 1) as tied:
        looked(work)
        assert tied.must_stop is None
        monkeypatch.setattr(tether, "PATIENCE", 1)
        until(lambda: tied.must_stop)


def test_to_a_process_that_was_suspended_nobody_was_silent_meanwhile(tied, work, clock, monkeypatch):
    looked(work)
    clock.now += 1e6
    looked(work)
    assert tied.must_stop is None


def looks(watched, count):
    for _ in range(count):
        watched.look()
    return watched.unchanged


def test_looks_without_a_change_are_counted_whatever_times_are_in_the_file(owner):
    watched = tether._Watched(owner)
    assert looks(watched, 1) == 0
    assert looks(watched, 14) == 14
    for beat, when in enumerate(("2026-01-01", "1970-01-01", "2999-12-31")):
        write_passing(owner, {"token": "owner", "heartbeat_at": when, "beat": beat + 1})
        assert looks(watched, 1) == 0
        assert looks(watched, 14) == 14


def test_a_controller_with_no_room_to_write_lives_by_the_time_of_its_file(owner):
    watched = tether._Watched(owner)
    for second in range(1, 5):
        os.utime(owner, (second, second))
        assert looks(watched, 1) == 0


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"token": "another", "sha256": "0"}', "\x00"])
def test_damaged_files_stop_nobody_at_once_and_are_no_sign_of_life(tied, work, owner, monkeypatch, damage):
    (work / LEASE).write_text(damage)
    owner.write_text(damage)
    looked(work)
    assert tied.must_stop is None
    watched = tether._Watched(owner)
    for second in range(1, 4):
        os.utime(owner, (second, second))
        assert looks(watched, 1) == second
    monkeypatch.setattr(tether, "PATIENCE", 1)
    until(lambda: tied.must_stop)
    assert tied.must_stop == "the controller is gone"


def test_files_that_were_removed_stop_nobody_at_once(tied, work, owner):
    (work / LEASE).unlink()
    owner.unlink()
    looked(work)
    assert tied.must_stop is None


def test_who_is_asked_directly_needs_no_controller_and_is_asked_every_time(work, clock):
    answers = [False, True]
    with Tether(work, None, 1, told_to_stop=lambda: answers[0]) as alone:
        clock.now += 1e6
        looked(work)
        assert alone.must_stop is None
        answers.reverse()
        assert alone.must_stop == "it was told to stop"


def test_the_reason_stays_the_first_one(tied, work, owner):
    grant(work, "another's")
    until(lambda: tied.must_stop)
    write_passing(owner, {"stopping": True})
    looked(work)
    assert tied.must_stop == "another attempt took its place"


def test_a_lease_counts_until_another_is_granted(work):
    mine, other = Lease("mine", ""), Lease("other", "")
    assert (is_current(work, mine), is_current(work, other), is_current(work, None)) == (True, False, True)
    grant(work, "other")
    assert (is_current(work, mine), is_current(work, other), is_current(work, None)) == (False, True, True)
    assert is_current(work / "nowhere", mine)


def test_signs_of_life_say_how_far_the_attempt_is_and_what_would_be_lost(work, owner, clock):
    with Tether(work, Lease("mine", str(owner)), 3) as tied:
        assert last_seen(work, 3) == Reached(0.0, 0.0)
        tied.at(1.5)
        clock.now += 4.0
        looked(work)
        assert last_seen(work, 3) == Reached(1.5, 4.0)
        tied.saved(1.75)
        assert last_seen(work, 3) == Reached(1.75, 0.0)
    assert reached(work) == 1.75
    assert last_seen(work, 2) == Reached()  # another attempt's
    assert process_of(work) == (platform.node(), os.getpid())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"epochs": 3}'])
def test_damaged_signs_are_the_same_as_none(work, text):
    (work / ALIVE).write_text(text)
    assert (last_seen(work, 1), reached(work), process_of(work)) == (Reached(), 0.0, None)


@pytest.mark.parametrize("sign", [{}, {"attempt": 1}, {"attempt": 1, "epochs": "x", "unsaved_s": None, "pid": "y"}])
def test_signs_of_another_kind_are_the_same_as_none(work, sign):
    write_passing(work / ALIVE, sign)
    assert (last_seen(work, 1), reached(work), process_of(work)) == (Reached(), 0.0, None)


def test_of_several_processes_one_leaves_signs(work, owner, clock):
    with Tether(work, Lease("mine", str(owner)), 1, signs=False) as tied:
        tied.saved(1.0)
        grant(work, "another's")
        until(lambda: tied.must_stop)
    assert not (work / ALIVE).exists()


def test_signs_from_two_threads_are_whole_at_every_moment(work, clock):
    with Tether(work, None, 1) as tied:
        threads = [threading.Thread(target=lambda: [tied.saved(1.0) for _ in range(300)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert read_sealed(work / ALIVE)["attempt"] == 1


def test_no_room_for_a_sign_ends_nothing(work, owner, clock, monkeypatch):
    with Tether(work, Lease("mine", str(owner)), 1) as tied, monkeypatch.context() as patch:
        asked = []

        def no_room(path, value):
            asked.append(path)
            raise OSError(28, "No space left on device")

        patch.setattr(tether, "write_passing", no_room)
        tied.saved(1.0)
        until(lambda: len(asked) > 2)
        assert tied.must_stop is None


def test_the_thread_ends_with_the_attempt(work, owner, clock):
    with Tether(work, Lease("mine", str(owner)), 1):
        assert "tether" in [thread.name for thread in threading.enumerate()]
    assert "tether" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def mine(owner):
    return Lease("mine", str(owner))


def test_the_last_sign_says_why_an_attempt_had_to_stop_to_those_who_ask_for_this_attempt(tied, work, owner, mine):
    assert began(work, mine)
    assert why_stopped(work, mine) is None
    write_passing(owner, {"token": "owner", "stopping": True, "beat": 1})
    until(lambda: why_stopped(work, mine))
    assert why_stopped(work, mine) == "the controller was told to stop"
    grant(work, "another's")
    assert why_stopped(work, mine) == "another attempt took its place"
    assert why_stopped(work, Lease("another's", "")) is None
    assert not began(work, Lease("another's", ""))


def test_another_reason_than_the_controllers_is_said_too(work, mine, clock):
    with Tether(work, mine, 1) as tied:
        tied.stopped("the disk is full")
    assert why_stopped(work, mine) == "the disk is full"


@pytest.mark.parametrize("sign", [{}, {"token": "mine"}, {"token": "mine", "stopped": 3}, {"stopped": "no token"}])
def test_signs_of_another_kind_stopped_nobody(work, mine, sign):
    write_passing(work / ALIVE, sign)
    assert why_stopped(work, mine) is None


ENDED = """
import os, sys, threading, time
from pathlib import Path
from workers import tether
tether.LOOK_S = 0.02
work, owner = Path(sys.argv[1]), sys.argv[2]
with tether.Tether(work, tether.Lease("mine", owner), 1, end=True, signs=SIGNS) as tied:
    DOES
    print("let go", flush=True)
    threading.Event().wait(30)
"""


def ended(work, owner, does, signs=True):
    """A process that has to stop and does not, with a look every 20 ms: exit code, output and seconds."""
    write_passing(owner, {"token": "owner", "stopping": True})
    program = ENDED.replace("DOES", does).replace("SIGNS", str(signs))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, str(work), str(owner)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    return done.returncode, done.stdout, time.monotonic() - started


def test_a_process_that_does_not_stop_by_itself_is_ended_and_has_said_why(work, owner, mine):
    code, said, seconds = ended(work, owner, "pass")
    assert (code, said) == (1, "let go\n")
    assert seconds < 20
    assert why_stopped(work, mine) == "the controller was told to stop"
    assert not (work / ATTEMPTS).exists()


def test_a_process_is_not_ended_in_the_middle_of_a_save(work, owner):
    code, said, seconds = ended(work, owner, "with tied.saving: time.sleep(2)")
    assert (code, said) == (1, "let go\n")
    assert 2 < seconds < 20


SIGNS = """
    def sign():
        for beat in range(100):
            tether.write_passing(work / tether.ALIVE, {"token": "mine", "beat": beat})
            time.sleep(0.02)
    sign()
"""


def test_of_several_processes_the_others_are_not_ended_while_the_first_lives_and_may_save(work, owner):
    code, said, seconds = ended(work, owner, SIGNS, signs=False)
    assert (code, said) == (1, "let go\n")
    assert 2 < seconds < 20
    code, said, _ = ended(work, owner, SIGNS.replace("mine", "another's"), signs=False)
    assert (code, said) == (1, "")  # that is not the first one of these

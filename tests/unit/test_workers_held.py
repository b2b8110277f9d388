"""A work folder that another process holds is waited for, but not for ever; nobody is ended in the middle of a save."""

import errno
import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from digits_trials import QUICK, digits_trial

from workers import attempt, checkpoint, tether, trial
from workers.attempt import Attempt, RankError
from workers.contract import Execution, TrialStatus
from workers.files import write_passing
from workers.tether import Lease, Tether, grant, why_stopped
from workers.trial import run_trial
from workers.work_folder import HELD, read_result

ROOT = Path(__file__).parents[2]
CONFIG = digits_trial(epochs=1, **QUICK)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(tether, "LOOK_S", 0.02)
    monkeypatch.setattr(tether, "PATIENCE", 10**9)


@pytest.fixture
def lease(tmp_path):
    write_passing(tmp_path / "owner.json", {"token": "owner", "stopping": False})
    grant(tmp_path / "work", "mine")
    return Lease("mine", str(tmp_path / "owner.json"))


@pytest.fixture
def held(tmp_path, lease):
    """A work folder that another open file holds, which is to flock as another process."""
    work = tmp_path / "work"
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield work


def waits(work, lease, then, **options):
    """What becomes of an attempt for which something happens while it waits."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(run_trial(CONFIG, work, lease=lease, **options)), daemon=True)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    then()
    thread.join(30)
    assert ended, "it still waits"
    assert not list(work.glob("result.json"))
    return ended[0].status, ended[0].error


def test_a_folder_that_is_never_let_go_is_given_up(held, lease, monkeypatch):
    monkeypatch.setattr(trial, "HELD_S", 0.5)
    assert waits(held, lease, lambda: None) == (TrialStatus.PREEMPTED, HELD)


def test_one_that_waits_stops_with_its_controller_or_when_it_lost_its_lease(held, lease):
    def stopping():
        write_passing(Path(lease.owner), {"token": "owner", "stopping": True})

    assert waits(held, lease, lambda: grant(held, "another's")) == (TrialStatus.PREEMPTED, tether.SUPERSEDED)
    grant(held, "mine")
    assert waits(held, lease, stopping) == (TrialStatus.PREEMPTED, "the controller was told to stop")


def test_one_that_waits_can_be_told_to_stop(held):
    told = threading.Event()
    assert waits(held, None, told.set, told_to_stop=told.is_set) == (TrialStatus.PREEMPTED, "it was told to stop")


def test_one_that_waits_leaves_no_sign_in_anothers_folder(held, lease, monkeypatch):
    monkeypatch.setattr(trial, "HELD_S", 0.5)
    write_passing(held / "alive.json", {"token": "another's"})
    waits(held, lease, lambda: None)
    assert not tether.began(held, lease)


def test_a_folder_that_is_let_go_is_trained_in(tmp_path, lease):
    with (tmp_path / "work" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        letting_go = threading.Timer(0.5, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
        letting_go.start()
        result = run_trial(CONFIG, tmp_path / "work", lease=lease)
        letting_go.join()
    assert result.status is TrialStatus.OK, result.error


def test_a_checkpoint_is_written_while_nobody_may_end_the_process(tmp_path, monkeypatch):
    ties, seen = [], []
    save, tie = checkpoint.save, Tether.__enter__
    monkeypatch.setattr(Tether, "__enter__", lambda self: (ties.append(self), tie(self))[1])

    def saved(*arguments):
        seen.append(ties[0].saving.locked())
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", saved)
    assert run_trial(CONFIG, tmp_path).status is TrialStatus.OK
    assert seen == [True]
    assert not ties[0].saving.locked()


HUNG_SAVE = """
import sys, time
from pathlib import Path
from workers import attempt, checkpoint
from workers.contract import TrialConfig
from workers.trial import run_trial

attempt.LAST_WORDS_S = 1.0
checkpoint.save = lambda *_: time.sleep(100)
attempt.faulthandler.dump_traceback = lambda *_: time.sleep(100)  # files hang too
run_trial(TrialConfig.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), end_when_hung=True)
"""


def test_a_save_that_never_ends_holds_no_process_for_ever(tmp_path):
    config = digits_trial(epochs=1, execution=Execution(loader_workers=0, hung_after_s=4.0), **QUICK)
    (tmp_path / "trial.json").write_text(config.to_json())
    command = [sys.executable, "-c", HUNG_SAVE, str(tmp_path / "trial.json"), str(tmp_path / "work")]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 1


def test_a_disk_that_is_full_is_said_to_whoever_looks_at_the_folder(tmp_path, lease, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    work = tmp_path / "work"
    monkeypatch.setattr(attempt, "write_bytes", full)
    result = run_trial(CONFIG, work, lease=lease)
    assert result.status is TrialStatus.PREEMPTED
    assert why_stopped(work, lease) == result.error
    assert "No space left" in result.error


@pytest.fixture
def second(tmp_path, lease, monkeypatch):
    """The attempt as the second of two processes has it."""
    monkeypatch.setattr(attempt.Ranks, "met", lambda: True)
    return Attempt(CONFIG, tmp_path / "work", leads=False, lease=lease)


CRASHED = {"status": TrialStatus.CRASHED, "error": "connection closed by peer"}


def test_who_loses_the_first_process_because_it_had_to_stop_has_not_crashed(second, lease):
    with Tether(second.work, lease, 1) as first:
        first.stopped("the controller was told to stop")
    with pytest.raises(RankError, match="preempted: the controller was told to stop"):
        second.end(CRASHED)
    assert read_result(second.work) is None


def test_who_fails_while_the_first_process_has_not_to_stop_has_crashed(second, lease):
    with Tether(second.work, lease, 1), pytest.raises(RankError, match="crashed: connection closed"):
        second.end(CRASHED)
    assert read_result(second.work).status is TrialStatus.CRASHED


def test_a_failed_attempt_counts_what_it_held_the_device_for(tmp_path, monkeypatch):
    def fails(*_):
        time.sleep(0.5)
        raise ValueError("no")

    monkeypatch.setattr(trial, "load_splits", fails)
    result = run_trial(CONFIG, tmp_path)
    assert result.status is TrialStatus.CRASHED
    assert 0.3 / 3600 < result.lost_device_hours < 5 / 3600

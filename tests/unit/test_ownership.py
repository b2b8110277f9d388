"""One controller per sweep, what it shows of itself, and what it does when another took its place."""

import errno
import os
import platform
import re
import subprocess
import sys
import time

import pytest

from sweep import ownership
from sweep.errors import RefusedError
from sweep.layout import SweepFolder
from sweep.ownership import owned
from workers.files import read_sealed, write_passing

HOLD = (
    "import sys; from pathlib import Path; from sweep.layout import SweepFolder; from sweep.ownership import owned\n"
    "with owned(SweepFolder(Path(sys.argv[1]))):\n    print('held', flush=True)\n    sys.stdin.read()\n"
)


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "a")


def says(folder):
    return read_sealed(folder.owner)


def until(true):
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_sweep_has_one_owner_and_is_free_afterwards(folder):
    with owned(folder) as owner:
        owner.check()
        heartbeats = [says(folder)["heartbeat_at"]]
        with pytest.raises(RefusedError) as caught, owned(folder):
            pass
        heartbeats.append(says(folder)["heartbeat_at"])
    assert caught.value.exit_code == 3
    who = rf"process {os.getpid()} on {platform.node()} \(since \S+, last heartbeat (\S+)\)"
    message = rf"{folder.path}: {who} is running this sweep; wait for it, or end it"
    assert re.fullmatch(message, str(caught.value)).group(1) in heartbeats
    with pytest.raises(ZeroDivisionError), owned(folder):
        raise ZeroDivisionError
    with owned(folder) as owner:
        owner.check()


def test_who_is_refused_changes_nothing(folder):
    with owned(folder):
        whose = says(folder)["token"]
        (folder.path / ".planned.parquet.1.tmp").touch()  # the owner is writing it
        with pytest.raises(RefusedError), owned(folder):
            pass
        assert says(folder)["token"] == whose
        assert not says(folder)["stopping"]
        assert (folder.path / ".planned.parquet.1.tmp").exists()


def test_the_owner_shows_that_it_lives(folder, monkeypatch):
    monkeypatch.setattr(ownership, "HEARTBEAT_S", 0.01)
    with owned(folder) as owner:
        assert owner.path == str(folder.owner)
        first = says(folder)
        until(lambda: says(folder)["beat"] >= first["beat"] + 3)
        assert {**says(folder), "beat": 0, "heartbeat_at": ""} == {**first, "beat": 0, "heartbeat_at": ""}


def test_workers_are_told_to_stop_when_asked_and_at_the_end(folder):
    with owned(folder) as owner:
        assert not says(folder)["stopping"]
        owner.stop_workers()
        assert says(folder)["stopping"]
    with owned(folder):
        assert not says(folder)["stopping"]
    assert says(folder)["stopping"]


def test_an_owner_that_was_killed_owns_nothing(folder):
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RefusedError, match=f"process {other.pid} on "), owned(folder):
            pass
        other.kill()
    assert says(folder)["pid"] == other.pid
    half_written = [folder.path / f"{name}.1.tmp" for name in (".owner.json", "trials/.x.parquet", "shapes/.y.parquet")]
    for path in half_written:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with owned(folder) as owner:
        owner.check()
        assert says(folder)["pid"] == os.getpid()
        assert not any(path.exists() for path in half_written)


def test_whose_lock_was_removed_stops_and_writes_nothing_once_another_took_over(folder, monkeypatch):
    monkeypatch.setattr(ownership, "HEARTBEAT_S", 0.01)
    with owned(folder) as first:
        folder.lock.unlink()
        with owned(folder) as second:
            whose = says(folder)["token"]
            with pytest.raises(RefusedError, match=r"process \d+ on .* took this sweep over; this one stops") as caught:
                first.check()
            assert caught.value.exit_code == 3
            first.stop_workers()
            first.__exit__()
            assert (says(folder)["token"], says(folder)["stopping"]) == (whose, False)
            second.check()
            beat = says(folder)["beat"]
            until(lambda: says(folder)["beat"] > beat)  # the second lives on
            assert says(folder)["token"] == whose


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\x00", '{"pid": 1}', '{"token": "another", "sha256": "0"}'])
def test_an_owner_that_cannot_be_read_holds_the_sweep_all_the_same(folder, text):
    with owned(folder) as owner:
        folder.owner.write_text(text)
        with pytest.raises(RefusedError, match="another process is running this sweep"), owned(folder):
            pass
        owner.check()  # damage is no other owner
        owner.stop_workers()
        assert says(folder)["stopping"]


def test_an_owner_that_says_little_is_another_one_nevertheless(folder):
    with owned(folder) as owner:
        write_passing(folder.owner, {"token": "another"})
        with pytest.raises(RefusedError, match="another process took this sweep over"):
            owner.check()


def test_where_there_are_no_locks_the_sweep_is_refused_in_one_line(folder, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(ownership.fcntl, "flock", no_locks)
    message = r"cannot be locked here .*put the results on a file system with locks"
    with pytest.raises(RefusedError, match=message) as caught, owned(folder):
        pass
    assert (caught.value.exit_code, "\n" in str(caught.value)) == (3, False)
    assert not folder.owner.exists()


def test_with_no_room_for_a_heartbeat_the_file_changes_all_the_same(folder, monkeypatch):
    def no_room(path, value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ownership, "HEARTBEAT_S", 0.01)
    with owned(folder):
        with monkeypatch.context() as patch:
            patch.setattr(ownership, "write_passing", no_room)
            before = folder.owner.stat().st_mtime_ns
            until(lambda: folder.owner.stat().st_mtime_ns > before)
        beat = says(folder)["beat"]
        until(lambda: says(folder)["beat"] > beat)

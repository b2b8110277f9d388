"""What a killed controller leaves of Ray's is removed by a later one; what is in use stays."""

import fcntl
import os

import pytest

from sweep import ray_security


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_security, "_base", lambda: tmp_path)
    monkeypatch.setattr(ray_security, "_private_folder", ray_security._private_folder.__wrapped__)
    return tmp_path


def left(base, name, age_s):
    folder = base / f"sweep-ray-{name}"
    folder.mkdir()
    (folder / "token").write_text("a")
    then = folder.stat().st_mtime - age_s
    os.utime(folder, (then, then))
    return folder


def test_only_old_folders_that_nobody_holds_are_removed(base):
    dead, young, held = left(base, "dead", 100_000), left(base, "young", 10), left(base, "held", 100_000)
    other = base / "not-ours"
    other.mkdir()
    with (held / "token").open() as token:
        fcntl.flock(token, fcntl.LOCK_EX)
        made = ray_security._private_folder()
    assert not dead.exists()
    assert all(folder.exists() for folder in (young, held, other, made))
    assert (made / "token").stat().st_mode & 0o777 == 0o600
    with (made / "token").open() as token, pytest.raises(BlockingIOError):
        fcntl.flock(token, fcntl.LOCK_EX | fcntl.LOCK_NB)

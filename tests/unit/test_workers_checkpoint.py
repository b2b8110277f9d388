import errno
import io
import json
import os
import pathlib
import pickle
import warnings

import pytest
import torch

from workers import checkpoint
from workers.checkpoint import Mark
from workers.contract import InvalidConfigError
from workers.files import write_json

DAMAGED = pytest.mark.filterwarnings("ignore:.*damaged checkpoint passed over")


def state_of(epoch):
    return {"weights": torch.arange(5.0) * epoch, "history": [{"loss": 1 / 3}] * epoch, "steps": epoch}


class FullDisk(io.BytesIO):
    """A file with room for so many bytes."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def write(self, data):
        if self.tell() + len(bytes(data)) > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_wherever_a_disk_is_full_the_error_is_the_disks(share, tmp_path, monkeypatch):
    state = {f"layer {number}": torch.randn(500) for number in range(20)}
    whole = io.BytesIO()
    torch.save(state, whole)
    checkpoint.save(tmp_path, Mark(1, 0), {})
    kept = names(tmp_path)
    monkeypatch.setattr("workers.files._created", lambda path: FullDisk(int(share * len(whole.getvalue()))))
    with pytest.raises(OSError, match="No space left on device"):
        checkpoint.save(tmp_path, Mark(2, 0), state)
    assert names(tmp_path) == kept


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of epochs 1 to 3, of which the last two are left."""
    for epoch in (1, 2, 3):
        checkpoint.save(tmp_path, Mark(epoch, 0), state_of(epoch))
    return tmp_path


def test_the_newest_is_loaded_as_it_was_saved(folder):
    state = checkpoint.load_latest(folder)
    assert state["steps"] == 3
    assert state["history"] == state_of(3)["history"]
    assert torch.equal(state["weights"], state_of(3)["weights"])


def test_only_the_last_two_are_kept(folder):
    assert names(folder) == [f"checkpoint-0000{epoch}-0000000.{kind}" for epoch in (2, 3) for kind in ("json", "pt")]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load_latest(tmp_path) is None
    assert checkpoint.load_latest(tmp_path / "absent") is None


def test_epochs_are_in_the_order_of_their_numbers(tmp_path):
    for epoch in (9, 10, 11, 99, 100):
        checkpoint.save(tmp_path, Mark(epoch, 0), state_of(epoch))
    assert checkpoint.load_latest(tmp_path)["steps"] == 100
    assert len(names(tmp_path)) == 4


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def empty(file):
    file.write_bytes(b"")


def flip_a_bit(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def remove(file):
    file.unlink()


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, remove])
def test_a_damaged_state_is_passed_over_with_a_warning_to_the_one_before(folder, damage):
    damage(folder / "checkpoint-00003-0000000.pt")
    with pytest.warns(UserWarning, match=r"checkpoint-00003-0000000\.json: damaged checkpoint passed over"):
        assert checkpoint.load_latest(folder)["steps"] == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"epoch": 3, "sha256": "00"}'])
def test_a_damaged_manifest_is_passed_over_with_a_warning_to_the_one_before(folder, text):
    (folder / "checkpoint-00003-0000000.json").write_text(text)
    with pytest.warns(UserWarning, match=r"checkpoint-00003-0000000\.json: damaged"):
        assert checkpoint.load_latest(folder)["steps"] == 2


def test_a_state_without_a_manifest_does_not_count_and_that_is_said(folder):
    (folder / "checkpoint-00003-0000000.json").unlink()
    with pytest.warns(UserWarning, match=r"checkpoint-00003-0000000\.pt: .*its manifest is missing"):
        assert checkpoint.load_latest(folder)["steps"] == 2


def test_when_all_are_damaged_there_is_none(folder):
    for file in folder.glob("*.pt"):
        truncate(file)
    with pytest.warns(UserWarning, match="damaged") as told:
        assert checkpoint.load_latest(folder) is None
    assert len(told) == 2


def test_what_is_trained_after_damage_replaces_the_damaged_later_ones(folder):
    for file in folder.glob("*.pt"):
        truncate(file)
    checkpoint.save(folder, Mark(1, 0), state_of(1))
    assert names(folder) == ["checkpoint-00001-0000000.json", "checkpoint-00001-0000000.pt"]
    with warnings.catch_warnings(action="error"):
        assert checkpoint.load_latest(folder)["steps"] == 1


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return pathlib.Path.touch, (self.target,)


@DAMAGED
def test_a_state_that_would_run_code_is_passed_over_and_its_code_not_run(folder):
    sprung = folder / "sprung"
    buffer = io.BytesIO()
    torch.save({"steps": Trap(sprung)}, buffer)
    checkpoint.save(folder, Mark(4, 0), {})
    (folder / "checkpoint-00004-0000000.pt").write_bytes(buffer.getvalue())
    digest = checkpoint.hashlib.sha256(buffer.getvalue()).hexdigest()
    write_json(folder / "checkpoint-00004-0000000.json", {"epoch": 4, "sha256": digest})
    assert checkpoint.load_latest(folder)["steps"] == 3
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()  # so the trap does work


def test_clearing_removes_all_checkpoints_and_what_killed_writers_left_but_nothing_else(folder):
    (folder / "checkpoint-00004-0000000.pt").write_bytes(b"without its manifest")
    (folder / ".checkpoint-00005-0000000.pt.123.tmp").write_bytes(b"half")
    (folder / "result.json").write_text("{}")
    checkpoint.clear(folder)
    assert names(folder) == ["result.json"]


def test_the_manifest_holds_how_far_it_is_and_the_hash(folder):
    manifest = json.loads((folder / "checkpoint-00003-0000000.json").read_text())
    data = (folder / "checkpoint-00003-0000000.pt").read_bytes()
    assert manifest == {"epochs": 3, "steps": 0, "sha256": checkpoint.hashlib.sha256(data).hexdigest()}


def test_steps_within_an_epoch_come_after_the_epoch_before_and_before_the_one_after(tmp_path):
    for mark in (Mark(1, 0), Mark(1, 9), Mark(1, 10), Mark(2, 0)):
        checkpoint.save(tmp_path, mark, {"mark": tuple(mark)})
        assert checkpoint.load_latest(tmp_path)["mark"] == tuple(mark)
    assert len(names(tmp_path)) == 4


def test_writing_leaves_the_earlier_ones_until_the_new_one_is_whole(folder, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", fail)
    before = names(folder)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(folder, Mark(4, 0), state_of(4))
    assert names(folder) == before


STATE = {"weights": torch.zeros(1000)}  # 4,000 bytes


def test_a_damaged_one_is_removed_so_that_a_tight_quota_keeps_a_whole_one_at_every_moment(tmp_path, monkeypatch):
    for epoch in (1, 2):
        checkpoint.save(tmp_path, Mark(epoch, 0), STATE | {"steps": epoch}, quota_bytes=12_500)
    truncate(tmp_path / "checkpoint-00002-0000000.pt")
    told = []
    assert checkpoint.load_latest(tmp_path, told.append, drop_damaged=True)["steps"] == 1
    assert len(told) == 1
    assert names(tmp_path) == ["checkpoint-00001-0000000.json", "checkpoint-00001-0000000.pt"]

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, Mark(2, 0), STATE, quota_bytes=8_500)
    assert checkpoint.load_latest(tmp_path)["steps"] == 1


@DAMAGED
def test_what_could_not_be_read_this_time_is_not_removed(folder, monkeypatch):
    def unreachable(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint.hashlib, "file_digest", unreachable)
    before = names(folder)
    assert checkpoint.load_latest(folder, drop_damaged=True) is None
    assert names(folder) == before


def test_one_that_does_not_fit_into_memory_now_is_not_damaged(folder, monkeypatch):
    def too_large(*_, **__):
        raise MemoryError

    monkeypatch.setattr(checkpoint.torch, "load", too_large)
    before = names(folder)
    with pytest.raises(MemoryError):
        checkpoint.load_latest(folder, drop_damaged=True)
    assert names(folder) == before


def test_a_tight_quota_keeps_one_checkpoint_and_never_none(tmp_path):
    for epoch in (1, 2, 3):
        checkpoint.save(tmp_path, Mark(epoch, 0), STATE, quota_bytes=8_000)
        assert len(list(tmp_path.glob("*.pt"))) == 1
    checkpoint.save(tmp_path, Mark(4, 0), STATE, quota_bytes=12_000)
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_quota_without_room_for_two_is_refused_in_one_line_and_nothing_is_lost(folder):
    before = names(folder)
    with pytest.raises(
        InvalidConfigError, match=r"^checkpoints\.quota_gb: 7e-06 GB is less than two checkpoints of 4e-06"
    ):
        checkpoint.save(folder, Mark(4, 0), STATE, quota_bytes=7_000)
    assert names(folder) == before

"""Checkpoints that are whole or not there: written aside, fsynced, hashed, renamed; a damaged one is passed over.

A checkpoint is two files, `checkpoint-<epochs>-<steps>.pt` and then its manifest `.json` with the hash: without a
manifest that fits, a checkpoint does not count. Its name says how far it got: epochs, and steps of the next one.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch

from workers.contract import InvalidConfigError
from workers.device import out_of_memory
from workers.files import replaced, write_json

KEPT = 2  # the last one, and the one before in case the last is damaged


class Mark(NamedTuple):
    """How far training is: finished epochs, and finished steps of the epoch after them."""

    epochs: int
    steps: int


def save(folder: Path, mark: Mark, state: dict[str, Any], quota_bytes: int | None = None) -> None:
    """Write the state at `mark` and drop all but the last two checkpoints; within a tight quota all but the last.

    Those of later marks go too: training came past them because they could not be used.

    Raises:
        InvalidConfigError: the quota has no room for the old checkpoint and the new one side by side.
        OSError: the file could not be written; the earlier checkpoints are untouched.
    """
    kept = _copies_kept(state, quota_bytes)
    _make_room(folder, kept)
    path = folder / f"checkpoint-{mark.epochs:05d}-{mark.steps:07d}.pt"
    path.with_suffix(".json").unlink(missing_ok=True)  # of a damaged one in the same place
    with replaced(path) as file:
        hashed = _Hashed(file)
        _serialise(state, hashed)
    write_json(path.with_suffix(".json"), {"epochs": mark.epochs, "steps": mark.steps, "sha256": hashed.sha256()})
    _drop_others(folder, path.with_suffix(".json"), kept)


def _serialise(state: dict[str, Any], file: "_Hashed") -> None:
    try:
        torch.save(state, cast(BinaryIO, file))
    except RuntimeError:  # torch's archive misses bytes when it is closed, and says that over what the disk said
        if file.failed:
            raise file.failed from None
        raise


def load_latest(
    folder: Path, report: Callable[[str], None] = warnings.warn, drop_damaged: bool = False
) -> dict[str, Any] | None:
    """The newest state whose file fits its manifest, or None.

    Args:
        folder: where the checkpoints lie.
        report: told of each damaged one, in one line.
        drop_damaged: remove them, so that `save` keeps whole ones only; not what just could not be read this time.

    Raises:
        Exception: memory ran out: a checkpoint that is too large now is not damaged.
    """
    for path in _orphans(folder):
        report(f"{path}: checkpoint passed over: its manifest is missing")
    for manifest in _manifests(folder):
        try:
            return load(manifest.with_suffix(".pt"))
        except Exception as error:  # torch.load raises many kinds on a damaged file
            if out_of_memory(error):
                raise
            report(f"{manifest}: damaged checkpoint passed over: {_one_line(error)}")
            if drop_damaged and (not isinstance(error, OSError) or isinstance(error, FileNotFoundError)):
                _remove(manifest)
    return None


def _one_line(error: Exception) -> str:
    """A message that may quote the file, without what a terminal would obey."""
    return "".join(filter(str.isprintable, " ".join(str(error).split())))[:200]


def load(path: Path) -> dict[str, Any]:
    """One checkpoint's state, on the host whichever device wrote it.

    Raises:
        ValueError: its contents do not fit its manifest. Others: OSError, and what torch raises on a damaged file.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != json.loads(path.with_suffix(".json").read_text())["sha256"]:
        raise ValueError("its contents do not fit the recorded hash")
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def any_in(folder: Path) -> bool:
    """Whether a folder holds checkpoints, whole or not."""
    return any(folder.glob("checkpoint-*"))


def clear(folder: Path) -> None:
    """Remove all checkpoints: the trial has its result."""
    for manifest in _manifests(folder):
        _remove(manifest)
    for orphan in [*folder.glob("checkpoint-*.pt"), *folder.glob(".checkpoint-*.tmp")]:
        orphan.unlink(missing_ok=True)


class _Hashed:
    """A file that hashes what is written to it: a state of gigabytes is neither copied nor read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.failed: OSError | None = None

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self.failed = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def sha256(self) -> str:
        return self._hash.hexdigest()


def _copies_kept(state: dict[str, Any], quota_bytes: int | None) -> int:
    """Checkpoints that may stay beside the one that is being written."""
    if quota_bytes is None:
        return KEPT
    size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state))
    if size * 2 > quota_bytes:
        raise InvalidConfigError(
            f"checkpoints.quota_gb: {quota_bytes / 1e9:.3g} GB is less than two checkpoints of {size / 1e9:.3g} GB"
        )
    return KEPT if size * (KEPT + 1) <= quota_bytes else 1


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def _manifests(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("checkpoint-*.json"), reverse=True)


def _make_room(folder: Path, kept: int) -> None:
    """What a killed process left behind, and checkpoints beyond the number that may stand beside a new one."""
    for orphan in folder.glob(".checkpoint-*.tmp"):
        orphan.unlink(missing_ok=True)
    for manifest in _manifests(folder)[kept:]:
        _remove(manifest)


def _drop_others(folder: Path, newest: Path, kept: int) -> None:
    manifests = _manifests(folder)
    index = manifests.index(newest)
    for manifest in manifests[:index] + manifests[index + kept :]:
        _remove(manifest)
    for path in _orphans(folder):
        path.unlink(missing_ok=True)


def _orphans(folder: Path) -> list[Path]:
    """States whose manifest was never written, or is gone."""
    return [path for path in sorted(folder.glob("checkpoint-*.pt")) if not path.with_suffix(".json").exists()]


def _remove(manifest: Path) -> None:
    """The manifest goes first: a state without one does not count."""
    manifest.unlink(missing_ok=True)
    manifest.with_suffix(".pt").unlink(missing_ok=True)

"""Checkpoints that are whole or not there: written aside, fsynced, hashed, renamed; a damaged one is passed over.

A checkpoint is two files, `checkpoint-<epoch>.pt` and then its manifest `checkpoint-<epoch>.json` with the hash:
without a manifest that fits, a checkpoint does not count.
"""

import hashlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from workers.files import write_bytes, write_json

KEPT = 2  # the last one, and the one before in case the last is damaged


def save(folder: Path, epoch: int, state: dict[str, Any]) -> None:
    """Write the state after `epoch` finished epochs and drop all but the last two checkpoints.

    Those of later epochs go too: training came past them because they could not be used.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"checkpoint-{epoch:05d}.pt"
    write_bytes(path, data)
    write_json(path.with_suffix(".json"), {"epoch": epoch, "sha256": hashlib.sha256(data).hexdigest()})
    manifests = _manifests(folder)
    newest = manifests.index(path.with_suffix(".json"))
    for manifest in manifests[:newest] + manifests[newest + KEPT :]:
        _remove(manifest)


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The newest state whose file fits its manifest, or None; damaged ones are reported as warnings."""
    for manifest in _manifests(folder):
        try:
            data = manifest.with_suffix(".pt").read_bytes()
            if hashlib.sha256(data).hexdigest() != json.loads(manifest.read_text())["sha256"]:
                raise ValueError("its contents do not fit the recorded hash")
            state: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
        except Exception as error:  # torch.load raises many kinds on a damaged file
            warnings.warn(f"{manifest}: damaged checkpoint passed over: {error}", stacklevel=2)
        else:
            return state
    return None


def clear(folder: Path) -> None:
    """Remove all checkpoints: the trial has its result."""
    for manifest in _manifests(folder):
        _remove(manifest)
    for orphan in [*folder.glob("checkpoint-*.pt"), *folder.glob(".checkpoint-*.tmp")]:
        orphan.unlink(missing_ok=True)


def _manifests(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.json"), reverse=True)


def _remove(manifest: Path) -> None:
    """The manifest goes first: a state without one does not count."""
    manifest.unlink(missing_ok=True)
    manifest.with_suffix(".pt").unlink(missing_ok=True)

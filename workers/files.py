"""Files that are either whole or absent, whatever dies while they are written."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

# The disk is at fault and not the file: it is full, read-only or broken, for now.
DISK_FAULTS = frozenset({errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.EROFS})


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` atomically: temporary name in the same folder, fsync, rename, fsync of it.

    The temporary name starts with a dot and never ends in the real suffix, so no reader picks it up. Where the writing
    fails, `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _created(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _created(path: Path) -> BinaryIO:
    """A new file to write, or an emptied one; a link that somebody left under its name is not followed."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666), "wb")


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` atomically by `data`."""
    with replaced(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make the last rename in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` atomically by `value` as indented JSON; NaN and infinities are written as null."""
    write_bytes(path, (json.dumps(plain(value), indent=1, allow_nan=False) + "\n").encode())


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """The value with a hash of itself in `sha256`: a file whose bits turned can still be JSON."""
    return {**value, "sha256": _digest(value)}


def unseal(value: Any) -> dict[str, Any]:
    """What was sealed.

    Raises:
        ValueError: it is not what `seal` gave.
    """
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    content = {name: item for name, item in value.items() if name != "sha256"}
    if value.get("sha256") != _digest(content):
        raise ValueError("its contents do not fit the recorded hash")
    return content


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_sealed(path: Path) -> dict[str, Any]:
    """The contents of a file that holds a sealed value.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    return unseal(json.loads(path.read_text()))


def write_passing(path: Path, value: dict[str, Any]) -> None:
    """Replace `path` atomically by a sealed value that need not survive a power cut; costs no fsync."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _created(temporary) as file:
            file.write(json.dumps(seal(value)).encode())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """`value` with every non-finite float replaced by None, since JSON has no word for them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value

"""The search space as a sweep's folder keeps it: its first line holds the hash of the rest.

A bit that turned in it would make other trials, or the wrong model for weights that are exported.
"""

import hashlib
import re
from pathlib import Path

from sweep.errors import RefusedError

_SEAL = re.compile(rb"# sha256: ([0-9a-f]{64})\n")


def sealed(text: str) -> bytes:
    """The text under the hash of it; one that is there already is replaced."""
    content = _SEAL.sub(b"", text.encode(), count=1) if _SEAL.match(text.encode()) else text.encode()
    return b"# sha256: " + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def fits(data: bytes) -> bool:
    """Whether a file is as it was written; one without a hash, of an older version, may be anything."""
    seal = _SEAL.match(data)
    return seal is None or hashlib.sha256(data[seal.end() :]).hexdigest().encode() == seal[1]


def as_written(data: bytes) -> bool:
    """Whether a file is a space that some version wrote."""
    return fits(data) and data.startswith((b"# sha256: ", b"# resolved by sweep "))


def read_kept(path: Path) -> str:
    """The text of a space in a sweep's folder.

    Raises:
        RefusedError: it is not as `sweep run` wrote it; says how to have it again.
    """
    try:
        data = path.read_bytes()
        if fits(data):
            return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise not_as_written(path, f"cannot be read ({getattr(error, 'strerror', None) or 'not text'})") from error
    raise not_as_written(path, "changed since `sweep run` wrote it")


def not_as_written(path: Path, what: str) -> RefusedError:
    """What a space that cannot be used is refused with."""
    if path.name == "space.yaml":
        return RefusedError(f"{path}: {what}; run the sweep again with its own YAML, which writes it anew")
    return RefusedError(f"{path}: {what}; move it away, and run the sweep with the YAML of that time to have it again")

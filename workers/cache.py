"""Decoded images on disk, shared by all trials of a machine: built once, memory-mapped, safe to kill while building.

    <data.cache>/<data set>-<split>-<key>/
        00000.bin      pixels of the part's images, one after the other: rows of uint8 RGB
        00000.json     their sizes, names, labels and sums, the file's length and SHA-256; written after it: the part is
                       whole
        manifest.json  written last: the cache is whole
        lock           held while it is built

The key is a hash of the data set's name and version, the split, `data.cache_side`, PIL's version (decoders change) and
the source's fingerprint: for folders the name, size and time of change of every file. Changed data get a new folder;
old ones are left for a person to delete. Every file is written aside and renamed, so a build that was killed goes on
with the parts that are missing. Lengths are checked whenever a cache is opened, an image's sum whenever it is read;
hashes by

    python -m workers.cache FOLDER
"""

import argparse
import fcntl
import hashlib
import json
import logging
import mmap
import os
import re
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from workers.contract import DataConfig, DataError, TrialStatus
from workers.files import replaced, seal, unseal, write_bytes, write_json
from workers.processes import parallel
from workers.sources import Images, Sample, Stream, UnreadableError, fingerprint

FORMAT = 1
MANIFEST, LOCK = "manifest.json", "lock"
PART_IMAGES = 128  # at least, so that a part is worth a task
MOST_PARTS = 128  # a reader keeps each one's file open

LOCK_POLL_S = 0.2

log = logging.getLogger(__name__)


class DamagedCacheError(DataError):
    """A cached image is not as it was written; its part is removed, so the next attempt makes it again."""

    status = TrialStatus.CRASHED  # which is started again; `data_error` would be the end


class CachedImages:
    """The images of a cache.

    Args:
        folder: of the cache, whole.
        source: what it was made from.
        parts: what is known of each part.
    """

    def __init__(self, folder: Path, source: Images | Stream, parts: list[dict[str, Any]]) -> None:
        self._folder = folder
        self.names: list[str] = []
        self.labels: list[int] = []
        self._first: list[int] = []  # image of each part
        self._bad: dict[int, str] = {}
        sizes, begins = [], []
        sums: list[int | None] = []
        for facts in parts:
            size = np.array(facts["sizes"], dtype="int64").reshape(-1, 2)
            lengths = size.prod(axis=1) * 3
            begins.append(np.cumsum(lengths) - lengths)
            sizes.append(size.astype("int32"))
            self._first.append(len(self.names))
            self._bad |= {len(self.names) + int(index): why for index, why in facts["unreadable"].items()}
            self.names += facts["names"]
            self.labels += facts["labels"]
            sums += facts.get("sums", [None] * len(size))  # a cache of an older version has none
        self._sums = sums
        self._sizes, self._begins = np.concatenate(sizes), np.concatenate(begins)
        self._maps: dict[int, mmap.mmap] = {}
        for name in ("classes", "content", "mean", "std"):
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))

    @property
    def unreadable(self) -> frozenset[int]:
        """Images that could not be decoded."""
        return frozenset(self._bad)

    def load(self, index: int) -> Image.Image:
        """The image as RGB.

        Raises:
            UnreadableError: it could not be decoded when the cache was built.
            DamagedCacheError: it is not as it was written.
        """
        if index in self._bad:
            raise UnreadableError(self._bad[index])
        part = bisect_right(self._first, index) - 1
        height, width = self._sizes[index].tolist()
        begin = int(self._begins[index])
        pixels = memoryview(self._map(part))[begin : begin + height * width * 3]
        if self._sums[index] not in (None, checksum(pixels)):
            file = _pixels(self._folder, part)
            file.unlink(missing_ok=True)
            raise DamagedCacheError(f"{file}: {self.names[index]} is not as it was written; this part is made again")
        return Image.frombytes("RGB", (width, height), pixels)

    def _map(self, part: int) -> mmap.mmap:
        if part not in self._maps:
            with _pixels(self._folder, part).open("rb") as file:
                self._maps[part] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._maps[part]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # another process makes its own


def open_cache(
    source: Images | Stream,
    split: str,
    config: DataConfig,
    workers: int | None = None,
    beat: Callable[[], None] = lambda: None,
) -> CachedImages:
    """The cache of a source; built first where this machine has none, by one process while the others wait.

    Args:
        source: the images.
        split: which part of the data set they are.
        config: its name, version, `cache`, `cache_side` and `unreadable`.
        workers: processes that decode; None takes as many as there are cores, 0 decodes in this process.
        beat: called again and again while it is built or waited for.

    Raises:
        DataError: an image is unreadable and the configuration does not say that it may be skipped; or the cache
            cannot be written.
    """
    folder = Path(str(config.cache)) / cache_name(source, split, config)
    strict = config.unreadable != "skip"
    try:
        parts = _whole_parts(folder)
        if parts is None:
            with locked(folder, beat):
                parts = _whole_parts(folder)
                if parts is None:
                    parts = _build(folder, source, config.cache_side, strict, _processes(source, workers), beat)
        images = CachedImages(folder, source, parts)
    except OSError as error:
        raise DataError(f"{folder}: the cache cannot be used ({error.strerror or error})") from error
    if strict and images.unreadable:
        images.load(min(images.unreadable))
    return images


def cache_name(source: Images | Stream, split: str, config: DataConfig) -> str:
    """Name of the cache's folder: what it holds and the hash of all that its pixels depend on."""
    key = {
        "format": FORMAT,
        "name": config.name,
        "version": config.version,
        "split": split,
        "side": config.cache_side,
        "pil": PIL.__version__,
        "source": source.fingerprint if isinstance(source, Stream) else fingerprint(source),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', config.name)}-{split}-{digest}"


@contextmanager
def locked(folder: Path, beat: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a folder alone, made where it is missing; processes forked meanwhile hold it with us until they end."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                beat()
                time.sleep(LOCK_POLL_S)
        yield


def _processes(source: Images | Stream, workers: int | None) -> int:
    if isinstance(source, Stream) and source.one_process:
        return 0
    return len(os.sched_getaffinity(0)) if workers is None else workers


def _build(
    folder: Path, source: Images | Stream, side: int | None, strict: bool, workers: int, beat: Callable[[], None]
) -> list[dict[str, Any]]:
    """Make the parts that are missing; what is known of all of them."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    parts = _part_count(source)
    missing = [part for part in range(parts) if _whole_part(folder, part) is None]
    log.info("%s: decoding %d of %d parts", folder, len(missing), parts)
    write = partial(_write_part, folder, source, side, strict)
    for part in parallel(write, missing, workers):
        log.debug("%s: part %d written", folder, part)
        beat()
    facts = [_read_part(folder, part) for part in range(parts)]
    listed = [{"bytes": part["bytes"], "sha256": part["sha256"]} for part in facts]
    write_json(folder / MANIFEST, seal({"format": FORMAT, "parts": listed}))
    log.info("%s: complete", folder)
    return facts


def _part_count(source: Images | Stream) -> int:
    if isinstance(source, Stream):
        return source.parts
    return max(1, min(MOST_PARTS, len(source.names) // PART_IMAGES))


def _samples(source: Images | Stream, part: int) -> Iterator[Sample]:
    if isinstance(source, Stream):
        yield from source.read(part)
        return
    total, parts = len(source.names), _part_count(source)
    for index in range(total * part // parts, total * (part + 1) // parts):
        yield Sample(source.names[index], source.labels[index], partial(source.load, index))


def _write_part(folder: Path, source: Images | Stream, side: int | None, strict: bool, part: int) -> int:
    """Decode a part's images, one in memory at a time."""
    names: list[str] = []
    labels: list[int] = []
    sizes: list[tuple[int, int]] = []
    sums: list[int] = []
    unreadable: dict[str, str] = {}  # by the image's number in the part
    digest = hashlib.sha256()
    try:
        with replaced(_pixels(folder, part)) as file:
            for sample in _samples(source, part):
                try:
                    image = shrunk(sample.load(), side)
                except UnreadableError as error:
                    if strict:
                        raise
                    unreadable[str(len(names))] = str(error)
                    image = Image.new("RGB", (0, 0))
                names.append(sample.name)
                labels.append(sample.label)
                sizes.append((image.height, image.width))
                pixels = image.tobytes()
                sums.append(checksum(pixels))
                file.write(pixels)
                digest.update(pixels)
            length = file.tell()
        facts = {
            "bytes": length, "sha256": digest.hexdigest(), "sizes": sizes, "labels": labels, "names": names,
            "sums": sums, "unreadable": unreadable,
        }  # fmt: skip
        write_bytes(_facts(folder, part), json.dumps({**facts, "seal": _digest(facts)}).encode())
    except OSError as error:
        raise DataError(f"{folder}: the cache cannot be written ({error.strerror or error})") from error
    return part


def shrunk(image: Image.Image, side: int | None) -> Image.Image:
    """The image with a shorter side of at most `side` px, by bicubic interpolation."""
    if side is None or min(image.size) <= side:
        return image
    scale = side / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def _pixels(folder: Path, part: int) -> Path:
    return folder / f"{part:05}.bin"


def _facts(folder: Path, part: int) -> Path:
    return folder / f"{part:05}.json"


def checksum(pixels: bytes | memoryview) -> int:
    """Sum of the 64-bit words: notices every single bit that turned, and costs far less than a CRC."""
    words = len(pixels) // 8
    total = int(np.frombuffer(pixels, "<u8", words).sum(dtype="uint64")) + int.from_bytes(pixels[8 * words :], "little")
    return total % 2**64


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read_part(folder: Path, part: int) -> dict[str, Any]:
    """What is known of a part.

    Raises:
        ValueError: it is damaged.
    """
    facts = json.loads(_facts(folder, part).read_bytes())
    if not isinstance(facts, dict):
        raise ValueError("it is not a JSON object")
    recorded = facts.pop("seal", None)  # a cache of an older version has none
    if recorded is not None and recorded != _digest(facts):
        raise ValueError("its contents do not fit the recorded hash")
    return facts


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The list of the parts; that of an older version carries no hash.

    Raises:
        ValueError: it is damaged.
    """
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    return unseal(manifest) if "sha256" in manifest else manifest


def _whole_part(folder: Path, part: int) -> dict[str, Any] | None:
    """What is known of a part; None where it is missing, cut short or damaged."""
    try:
        facts = _read_part(folder, part)
        return facts if _has_length(_pixels(folder, part), int(facts["bytes"])) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _has_length(path: Path, length: int) -> bool:
    return path.is_file() and path.stat().st_size == length


def _whole_parts(folder: Path) -> list[dict[str, Any]] | None:
    """What is known of all parts; None where one of them, or their list, is not whole."""
    try:
        listed = [part["bytes"] for part in _read_manifest(folder)["parts"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    parts = [_whole_part(folder, number) for number in range(len(listed))]
    whole = [facts for facts, length in zip(parts, listed, strict=True) if facts and facts["bytes"] == length]
    if len(whole) == len(listed):
        return whole
    bad = len(listed) - len(whole)
    log.warning("%s: %d of %d parts are missing or damaged; making them again", folder, bad, len(listed))
    return None


def damaged_parts(folder: Path) -> list[str]:
    """Files of a cache that are not as they were written, by their hashes."""
    try:
        parts = _read_manifest(folder)["parts"]
        return [name for number, part in enumerate(parts) for name in _damaged_files(folder, number, part["sha256"])]
    except (ValueError, KeyError, TypeError):
        return [MANIFEST]


def _damaged_files(folder: Path, number: int, digest: str) -> list[str]:
    pixels, facts = _pixels(folder, number), _facts(folder, number)
    if _whole_part(folder, number) is None:
        return [name.name for name in (pixels, facts) if name.is_file()] or [pixels.name]
    return [pixels.name] if _sha256(pixels) != digest else []


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(arguments: list[str] | None = None) -> int:
    """Check every cache under a folder; 0 when all are as they were written, 1 when one is not, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m workers.cache", description="Checks the hashes of image caches.")
    parser.add_argument("folder", type=Path, help="what data.cache names")
    root: Path = parser.parse_args(arguments).folder
    caches = sorted(path.parent for path in root.glob(f"*/{MANIFEST}"))
    if not caches:
        sys.stderr.write(f"{root}: no caches in this folder\n")
        return 2
    damaged = {cache: damaged_parts(cache) for cache in caches}
    for cache, parts in damaged.items():
        told = f"damaged: {', '.join(parts)}; delete these files and the next trial makes them again"
        sys.stdout.write(f"{cache.name}: {told if parts else 'ok'}\n")
    return 1 if any(damaged.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

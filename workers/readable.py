"""Which images cannot be decoded, for trials that leave them out and read no cache.

Every image is decoded once per machine. What was found is kept in the user's own cache folder (`$XDG_CACHE_HOME`,
else `~/.cache`) under `sweep-scaling/`, by the same key as an image cache, so that all trials leave out the same ones.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from workers.cache import cache_name, locked
from workers.contract import DataConfig, DataError
from workers.files import write_json
from workers.processes import parallel
from workers.sources import Images, UnreadableError

FOUND = "unreadable.json"
CHUNK = 256  # images per task

log = logging.getLogger(__name__)


def unreadable_images(
    images: Images,
    split: str,
    config: DataConfig,
    workers: int | None = None,
    beat: Callable[[], None] = lambda: None,
) -> frozenset[int]:
    """Indices of the images that cannot be decoded.

    Args:
        images: the source.
        split: which part of the data set they are.
        config: its name and version.
        workers: processes that decode; None takes as many as there are cores, 0 decodes in this process.
        beat: called again and again while they are looked for.

    Raises:
        DataError: what was found cannot be kept.
    """
    folder = _kept_in() / cache_name(images, split, config)
    try:
        with locked(folder, beat):
            found = _read(folder)
            if found is None:
                log.info("%s: decoding %d images once, to see which are readable", config.name, len(images.names))
                found = _look(images, len(os.sched_getaffinity(0)) if workers is None else workers, beat)
                write_json(folder / FOUND, found)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot keep which images are unreadable ({error.strerror or error}); set data.cache"
        ) from error
    return frozenset(int(index) for index in found)


def _kept_in() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "sweep-scaling"


def _read(folder: Path) -> dict[str, str] | None:
    try:
        found: dict[str, str] = json.loads((folder / FOUND).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found


def _look(images: Images, workers: int, beat: Callable[[], None]) -> dict[str, str]:
    chunks = [range(first, min(first + CHUNK, len(images.names))) for first in range(0, len(images.names), CHUNK)]
    found: dict[str, str] = {}
    for part in parallel(partial(_look_at, images), chunks, workers):
        found |= part
        beat()
    return found


def _look_at(images: Images, indices: range) -> dict[str, str]:
    return {str(index): why for index in indices for why in _failure(images, index)}


def _failure(images: Images, index: int) -> Iterator[str]:
    try:
        images.load(index)
    except UnreadableError as error:
        yield str(error)

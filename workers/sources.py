"""Where images come from: what a source of images is, how files are decoded, and the built-in sources.

A source is an `Images`, read at random, or a `Stream`, read in order and therefore only through the cache. Plug-ins
give an `Images`; besides what the protocol asks for it may have these attributes:

- `fingerprint: str`: changes whenever an image may have changed; the cache is made anew then. Without it the names
  and labels stand for the images.
- `content: str`: what tells changed images from those before besides names and labels, such as the files' sizes; the
  same on every machine. It is part of the data's identity (`data_identity`), so a fingerprint with times will not do.
- `mean`, `std: tuple[float, float, float]`: of the pixels on a scale of 0 to 1. ImageNet's where they are missing.
- `in_memory: bool`: a data set so small that each trial keeps all of it in memory and needs no loader processes.
"""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from workers.contract import DataError
from workers.datasets import ImageFile, class_folders, image_files

DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
IDENTITY_LENGTH = 16  # characters
# The machine is at fault, not the image: such a failure is never skipped and counted.
_MACHINE_ERRORS = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT})


class UnreadableError(DataError):
    """One image cannot be decoded; the message names it."""


class Images(Protocol):
    """A list of labelled images that can be read in any order."""

    @property
    def labels(self) -> Sequence[int]:
        """One class per image, from 0."""

    @property
    def names(self) -> Sequence[str]:
        """One name per image, the same on every machine; it decides who is held out."""

    def load(self, index: int) -> Image.Image:
        """The image as RGB, 8 bits per channel.

        Raises:
            UnreadableError: it cannot be decoded.
        """


@dataclass(frozen=True)
class Sample:
    """An image of a stream: `load` may raise UnreadableError."""

    name: str
    label: int
    load: Callable[[], Image.Image]


@runtime_checkable
class Stream(Protocol):
    """Labelled images that come in order, in parts that can be read one without the other."""

    fingerprint: str  # changes whenever an image may have changed
    parts: int
    one_process: bool  # the library behind it does not survive a fork

    def read(self, part: int) -> Iterator[Sample]:
        """The part's images, in an order that never changes."""


def decode(content: Path | BinaryIO, name: str) -> Image.Image:
    """An image file as RGB, 8 bits per channel.

    Greyscale, palette and CMYK images are converted; an alpha channel is dropped, as timm does; 16 bits per channel
    are scaled down to 8 (PIL alone would clip them).

    Raises:
        UnreadableError: it cannot be decoded.
        DataError: this machine failed to read it.
    """
    try:
        if isinstance(content, Path) and not stat.S_ISREG(content.stat().st_mode):
            raise ValueError("not a regular file")  # opening a pipe would wait forever
        with Image.open(content) as image:
            return to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, ValueError, struct.error, ...
        told = " ".join(str(error).split()) or type(error).__name__
        kind = DataError if getattr(error, "errno", None) in _MACHINE_ERRORS else UnreadableError
        raise kind(f"{name}: not a readable image ({told})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as RGB, 8 bits per channel."""
    if image.mode.startswith("I"):
        pixels = (np.asarray(image).astype("int64").clip(0, 65535) + 128) // 257
        return Image.fromarray(pixels.astype("uint8")).convert("RGB")
    if image.mode == "P":
        return image.convert("RGBA").convert("RGB")  # straight to RGB, PIL warns of transparency
    return image.convert("RGB")


class DigitsImages:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, as RGB images."""

    in_memory = True
    mean, std = (0.305,) * 3, (0.376,) * 3  # of all of them

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # a second to import, and only this data set needs it

        digits = load_digits()
        pixels, labels = digits.images.astype("uint8"), digits.target.astype("uint8")
        if hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest() != DIGITS_SHA256:
            raise DataError("digits: scikit-learn's images are not the ones this version knows")
        self._pixels = np.rint(pixels * (255 / 16)).astype("uint8")
        self.labels: list[int] = labels.tolist()
        self.names = [f"digits/{index}" for index in range(len(self.labels))]

    def load(self, index: int) -> Image.Image:
        """The image as RGB, 8 x 8."""
        return Image.fromarray(self._pixels[index]).convert("RGB")


class FolderImages:
    """Images in one folder per class; the labels follow the folders' alphabetical order.

    Args:
        split: the folder of class folders.

    Raises:
        DataError: it is missing, or a class folder holds no images.
    """

    def __init__(self, split: Path) -> None:
        if not split.is_dir():
            raise DataError(f"{split}: no such folder; expected one folder of images per class in it")
        self._split = split
        self.labels: list[int] = []
        self.names: list[str] = []
        try:
            self._list()
        except OSError as error:
            raise DataError(f"{error.filename or split}: cannot be listed ({error.strerror})") from error

    def _list(self) -> None:
        self.classes = [folder.name for folder in class_folders(self._split)]
        found: list[ImageFile] = []
        with ThreadPoolExecutor(8) as pool:  # a network drive answers many questions at once
            for label, files in enumerate(pool.map(image_files, [self._split / name for name in self.classes])):
                if not files:
                    raise DataError(f"{self._split / self.classes[label]}: no images in this class folder")
                self.names += [f"{self.classes[label]}/{file.name}" for file in files]
                self.labels += [label] * len(files)
                found += files
        self.content = hash_of((name, file.bytes) for name, file in zip(self.names, found, strict=True))
        self.fingerprint = hash_of(
            (name, file.bytes, file.modified_ns) for name, file in zip(self.names, found, strict=True)
        )

    def load(self, index: int) -> Image.Image:
        """The image as RGB.

        Raises:
            UnreadableError: the file cannot be decoded.
        """
        path = self._split / self.names[index]
        return decode(path, str(path))


def fingerprint(images: Images) -> str:
    """What changes whenever an image may have changed, as far as the source tells."""
    own = getattr(images, "fingerprint", None)
    return hash_of(zip(images.names, images.labels, strict=True)) if own is None else str(own)


def data_identity(*splits: Images) -> str:
    """Hash of what is known of the images without reading them; the same for the same data on every machine.

    It covers names, labels and what each source calls its `content`, but neither places nor times.
    """
    parts = [
        (
            hash_of(sorted(zip(images.names, images.labels, strict=False))),  # `splits` says if one is longer
            str(getattr(images, "content", "")),
        )
        for images in splits
    ]
    return hash_of(parts)[:IDENTITY_LENGTH]


def hash_of(records: Iterable[tuple[object, ...]]) -> str:
    """SHA-256 of records in their order; a name in them may hold bytes that are no UTF-8."""
    digest = hashlib.sha256()
    for record in records:
        digest.update("\0".join(map(str, record)).encode(errors="surrogateescape") + b"\n")
    return digest.hexdigest()


def files_content(files: Sequence[Path]) -> str:
    """Hash of the files' names and sizes."""
    return hash_of((file.name, file.stat().st_size) for file in files)


def files_fingerprint(files: Sequence[Path]) -> str:
    """Hash of the files' names, sizes and times of change."""
    facts = ((file.name, file.stat()) for file in files)
    return hash_of((name, fact.st_size, fact.st_mtime_ns) for name, fact in facts)


def tree_fingerprint(root: Path, without: str | None) -> str:
    """Hash of the names, sizes and times of change of all files below `root` but those below the folder `without`."""
    skipped = None if without is None else Path(without).resolve()
    lines = []
    for folder, below, files in os.walk(root):
        below[:] = [name for name in below if (Path(folder) / name).resolve() != skipped]
        for name in files:
            path = Path(folder) / name
            facts = path.stat(follow_symlinks=False)
            lines.append(f"{path.relative_to(root).as_posix()}\0{facts.st_size}\0{facts.st_mtime_ns}\n")
    return hashlib.sha256("".join(sorted(lines)).encode(errors="surrogateescape")).hexdigest()

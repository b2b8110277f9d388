"""Opens a data set and says which of its images are trained on, held out and validated on."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch

from workers.cache import open_cache
from workers.contract import DataConfig, DataError
from workers.datasets import DATASETS, find_dataset, held_out
from workers.readable import unreadable_images
from workers.schemes import open_scheme
from workers.sources import (
    DIGITS_SHA256,
    IDENTITY_LENGTH,
    DigitsImages,
    FolderImages,
    Images,
    Stream,
    data_identity,
)

DIGITS_VAL_SHARE = 0.2
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Subset:
    """Some images of a source, in a fixed order."""

    images: Images
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def labels(self) -> torch.Tensor:
        """Labels (N,), int64."""
        return torch.tensor([self.images.labels[i] for i in self.indices])


@dataclass(frozen=True)
class Splits:
    """The four parts of a data set: minival is held out of the training images, val is the validation set.

    `train_clean` is a fixed subset of `train`, as large as minival, on which training accuracy is measured. `skipped`
    counts unreadable images that are in none of them. `identity` is the same on every machine that has the same images.
    """

    train: Subset
    train_clean: Subset
    minival: Subset
    val: Subset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    in_memory: bool
    skipped: int = 0
    identity: str = ""


def load_splits(config: DataConfig, plugins: Sequence[str] = (), beat: Callable[[], None] = lambda: None) -> Splits:
    """Open a data set, and build its cache where one is asked for and not there yet.

    Args:
        config: the data set and how this machine reads it.
        plugins: Python files that may declare it.
        beat: called again and again while the cache is built or waited for.

    Raises:
        DataError: it is missing or not what the configuration says; the message names the file.
    """
    if config.unreadable not in ("raise", "skip"):
        raise DataError(f"data.unreadable {config.unreadable!r} is unknown; known: raise, skip")
    if config.name == "digits":
        if config.classes != DATASETS["digits"].classes:
            raise DataError(f"digits: {DATASETS['digits'].classes} classes, expected {config.classes}")
        return _digits(config.minival)
    if config.cache_side is not None and (config.cache is None or config.cache_side < 1):
        raise DataError(f"data.cache_side {config.cache_side} must be at least 1, and needs data.cache")
    train, val = _open(config, plugins)
    identity = None  # of what is read in order, only the cache knows names and labels
    if not isinstance(train, Stream) and not isinstance(val, Stream):
        identity = _identity(config, train, val)
    kept_train, bad_train = _ready(train, "train", config, beat)
    kept_val, bad_val = _ready(val, "val", config, beat)
    _check_classes(kept_train, kept_val, config)
    splits = _split(kept_train, bad_train, kept_val, bad_val, config)
    return dataclasses.replace(splits, identity=identity or _identity(config, kept_train, kept_val))


def _identity(config: DataConfig, train: Images, val: Images) -> str:
    """The images' identity, which has to be the one that the sweep's earlier trials had."""
    identity = data_identity(train, val)
    if config.expected not in (None, identity):
        raise DataError(other_images(config))
    return identity


def other_images(config: DataConfig) -> str:
    """What is wrong when a version's images have changed, in one line."""
    return (
        f"{config.root or config.name}: the images are not those that training began with under version "
        f"{config.version!r} of {config.name}; restore them, or name a new data.version"
    )


@lru_cache(maxsize=2)
def _digits(minival: float) -> Splits:
    images = DigitsImages()
    rest, val = held_out(images.names, images.labels, DIGITS_VAL_SHARE)
    kept, out = held_out([images.names[i] for i in rest], [images.labels[i] for i in rest], minival)
    train, hold = [rest[i] for i in kept], [rest[i] for i in out]
    return Splits(
        *_subsets(images, train, hold), Subset(images, tuple(val)), images.mean, images.std,
        in_memory=True, identity=DIGITS_SHA256[:IDENTITY_LENGTH],
    )  # fmt: skip


def _subsets(images: Images, train: list[int], minival: list[int]) -> tuple[Subset, Subset, Subset]:
    """train, train_clean, minival."""
    clean = train[: len(minival)]
    return Subset(images, tuple(train)), Subset(images, tuple(clean)), Subset(images, tuple(minival))


def _open(config: DataConfig, plugins: Sequence[str]) -> tuple[Images | Stream, Images | Stream]:
    """The training and the validation images."""
    try:
        facts = find_dataset(config.name, plugins)
    except ValueError as error:
        raise DataError(str(error)) from error
    if facts.needs_root and config.root is None:
        raise DataError(f"{config.name}: no folder given; set data.root in the search space")
    if facts.open is not None:
        return facts.open(config)
    if "/" in config.name:
        return open_scheme(config)
    return FolderImages(Path(str(config.root)) / "train"), FolderImages(Path(str(config.root)) / "val")


def _ready(
    source: Images | Stream, split: str, config: DataConfig, beat: Callable[[], None]
) -> tuple[Images, frozenset[int]]:
    """Images that can be read in any order, and which of them cannot be read at all."""
    if config.cache is not None and not getattr(source, "in_memory", False):
        cached = open_cache(source, split, config, beat=beat)
        return cached, cached.unreadable
    if isinstance(source, Stream):
        raise DataError(f"{config.name}: its images can only be read in order; set data.cache in the search space")
    if config.unreadable == "skip":
        return source, unreadable_images(source, split, config, beat=beat)
    return source, frozenset()


def _check_classes(train: Images, val: Images, config: DataConfig) -> None:
    """Refuse splits whose classes differ from each other or from what was promised."""
    where = config.root or config.name
    named, also = getattr(train, "classes", None), getattr(val, "classes", None)
    if named and also and named != also:
        odd = sorted(set(named) ^ set(also))[0]
        raise DataError(
            f"{where}: train and val have different class folders: "
            f"{odd!r} is in {'train' if odd in named else 'val'} alone"
        )
    for split, images in (("train", train), ("val", val)):
        if len(images.names) != len(images.labels):
            raise DataError(f"{where}: {split} has {len(images.names)} names and {len(images.labels)} labels")
        found = len(named) if named else len(set(images.labels))
        if found != config.classes:
            raise DataError(
                f"{where}: {found} {'class folders' if named else f'classes in {split}'}, expected {config.classes}"
            )
        if not set(images.labels) <= set(range(config.classes)):
            raise DataError(f"{where}: {split} has labels outside of 0 to {config.classes - 1}")


def _split(
    train: Images, bad_train: frozenset[int], val: Images, bad_val: frozenset[int], config: DataConfig
) -> Splits:
    """Hold minival out. Unreadable images take part in that, so that one more of them moves no other image."""
    kept, out = held_out(train.names, train.labels, config.minival)
    parts = _subsets(train, [i for i in kept if i not in bad_train], [i for i in out if i not in bad_train])
    readable = Subset(val, tuple(index for index in range(len(val.labels)) if index not in bad_val))
    for name, part in (("training", parts[0]), ("validation", readable)):
        missing = set(range(config.classes)) - {part.images.labels[index] for index in part.indices}
        if missing:
            label = min(missing)
            named = getattr(train, "classes", None)
            raise DataError(
                f"{config.root or config.name}: class {repr(named[label]) if named else label} has no {name} images"
                " that can be read" + (" and are not held out" if name == "training" else "")
            )
    return Splits(
        *parts,
        readable,
        mean=tuple(getattr(train, "mean", IMAGENET_MEAN)),
        std=tuple(getattr(train, "std", IMAGENET_STD)),
        in_memory=bool(getattr(train, "in_memory", False)),
        skipped=len(bad_train) + len(bad_val),
    )

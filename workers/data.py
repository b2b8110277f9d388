"""Loads data sets and gives batches of uint8 images, the same ones for the same seed whatever the loader's workers.

Images stay uint8 until they are on the device; `Normalize` turns them into floats there.
"""

import hashlib
import os
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from workers.contract import DataConfig, DataError
from workers.datasets import DATASETS, class_folders, held_out, image_files
from workers.recipe import Recipe

Batch = tuple[torch.Tensor, torch.Tensor]  # uint8 images (N, 3, H, W), labels (N,)
Transform = Callable[[Image.Image], torch.Tensor]

DIGITS_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
DIGITS_VAL_SHARE = 0.2
EVAL_BATCH = 256  # no gradients are kept, so memory is no concern
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DIGITS_MEAN, DIGITS_STD = (0.305,) * 3, (0.376,) * 3  # of the 1,797 images


class Images(Protocol):
    """A list of labelled images."""

    @property
    def labels(self) -> Sequence[int]:
        """One class per image."""

    def load(self, index: int) -> Image.Image:
        """The image as RGB."""


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

    `train_clean` is a fixed subset of `train`, as large as minival, on which training accuracy is measured.
    """

    train: Subset
    train_clean: Subset
    minival: Subset
    val: Subset
    mean: tuple[float, ...]
    std: tuple[float, ...]
    in_memory: bool


def load_splits(config: DataConfig) -> Splits:
    """Open a data set.

    Raises:
        DataError: it is missing or not what the configuration says; the message names the file.
    """
    if config.name != "digits":
        return _folder(config)
    if config.classes != DATASETS["digits"].classes:
        raise DataError(f"digits: {DATASETS['digits'].classes} classes, expected {config.classes}")
    return _digits(config.minival)


class DigitsImages:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, as RGB images."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits  # a second to import, and only this data set needs it

        digits = load_digits()
        pixels, labels = digits.images.astype("uint8"), digits.target.astype("uint8")
        if hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest() != DIGITS_SHA256:
            raise DataError("digits: scikit-learn's images are not the ones this version knows")
        self._pixels = np.rint(pixels * (255 / 16)).astype("uint8")
        self.labels: list[int] = labels.tolist()

    def load(self, index: int) -> Image.Image:
        """The image as RGB, 8 x 8."""
        return Image.fromarray(self._pixels[index]).convert("RGB")


@lru_cache(maxsize=2)
def _digits(minival: float) -> Splits:
    images = DigitsImages()
    names = [f"digits/{index}" for index in range(len(images.labels))]
    rest, val = held_out(names, images.labels, DIGITS_VAL_SHARE)
    kept, out = held_out([names[i] for i in rest], [images.labels[i] for i in rest], minival)
    train, hold = [rest[i] for i in kept], [rest[i] for i in out]
    return Splits(*_subsets(images, train, hold), Subset(images, tuple(val)), DIGITS_MEAN, DIGITS_STD, in_memory=True)


def _subsets(images: Images, train: list[int], minival: list[int]) -> tuple[Subset, Subset, Subset]:
    """train, train_clean, minival."""
    clean = train[: len(minival)]
    return Subset(images, tuple(train)), Subset(images, tuple(clean)), Subset(images, tuple(minival))


class FolderImages:
    """Images in one folder per class; the labels follow the folders' alphabetical order."""

    def __init__(self, split: Path) -> None:
        if not split.is_dir():
            raise DataError(f"{split}: no such folder; expected one folder of images per class in it")
        self.classes = [folder.name for folder in class_folders(split)]
        self.files: list[Path] = []
        self.labels: list[int] = []
        for label, name in enumerate(self.classes):
            files = image_files(split / name)
            if not files:
                raise DataError(f"{split / name}: no images in this class folder")
            self.files += files
            self.labels += [label] * len(files)
        self.names = [path.relative_to(split).as_posix() for path in self.files]

    def load(self, index: int) -> Image.Image:
        """The image as RGB.

        Raises:
            DataError: the file cannot be decoded.
        """
        try:
            with Image.open(self.files[index]) as image:
                return image.convert("RGB")
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise DataError(f"{self.files[index]}: not a readable image ({error})") from error


def _folder(config: DataConfig) -> Splits:
    if config.root is None:
        raise DataError(f"{config.name}: no folder given; set data.root in the search space")
    train, val = FolderImages(Path(config.root) / "train"), FolderImages(Path(config.root) / "val")
    if train.classes != val.classes:
        raise DataError(f"{config.root}: train and val have different class folders")
    if len(train.classes) != config.classes:
        raise DataError(f"{config.root}: {len(train.classes)} class folders, expected {config.classes}")
    kept, out = held_out(train.names, train.labels, config.minival)
    val_part = Subset(val, tuple(range(len(val.labels))))
    return Splits(*_subsets(train, kept, out), val_part, IMAGENET_MEAN, IMAGENET_STD, in_memory=False)


def train_transform(recipe: Recipe, resolution: int) -> Transform:
    """Random resized crop, flip and RandAugment, as far as the recipe has them, to uint8 (3, R, R)."""
    steps: list[object] = [_resized_crop(recipe, resolution)]
    if recipe.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(recipe.horizontal_flip))
    if recipe.randaugment_layers:
        from timm.data.auto_augment import rand_augment_transform

        # timm clips at 10 unless told otherwise; the papers' scale goes beyond.
        magnitude = recipe.randaugment_magnitude
        steps.append(rand_augment_transform(f"rand-m{magnitude}-n{recipe.randaugment_layers}-mmax{magnitude}", {}))
    return cast(Transform, v2.Compose([*steps, v2.PILToTensor()]))


def _resized_crop(recipe: Recipe, resolution: int) -> object:
    if recipe.crop_min_area >= 1:
        return v2.Resize((resolution, resolution), InterpolationMode.BICUBIC)
    return v2.RandomResizedCrop(resolution, (recipe.crop_min_area, 1.0), (3 / 4, 4 / 3), InterpolationMode.BICUBIC)


def eval_transform(recipe: Recipe, resolution: int) -> Transform:
    """Resize the shorter side and cut the centre, to uint8 (3, R, R)."""
    shorter = round(resolution / recipe.eval_crop)
    steps = [v2.Resize(shorter, InterpolationMode.BICUBIC), v2.CenterCrop(resolution), v2.PILToTensor()]
    return cast(Transform, v2.Compose(steps))


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Give one image's augmentation its own random state and leave the process's untouched."""
    digest = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:4])
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(digest)
    np.random.seed(digest)
    torch.default_generator.manual_seed(digest)  # torch.manual_seed would reseed the GPUs as well
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])


class _Rendered(Dataset[tuple[torch.Tensor, int]]):
    """Images through a transform; the key (epoch, position) seeds the transform, whichever worker runs it."""

    def __init__(self, subset: Subset, transform: Transform, seed: int) -> None:
        self._subset, self._transform, self._seed = subset, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, int]:
        epoch, position = key
        index = self._subset.indices[position]
        with _seeded(self._seed, epoch, position):
            return self._transform(self._subset.images.load(index)), self._subset.images.labels[index]


def _told_plainly(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches; a loader process's DataError comes without the traceback that torch puts around it."""
    try:
        yield from batches
    except DataError as error:
        _, _, message = str(error).rpartition(f"{DataError.__module__}.{DataError.__qualname__}: ")
        traceback.clear_frames(error.__traceback__)  # they would hold the loader, whose processes then linger
    else:
        return
    raise DataError(message.strip())


class Loader:
    """Batches of one trial: `train(epoch)` and `evaluate(subset)`."""

    def __init__(self, splits: Splits, recipe: Recipe, resolution: int, seed: int, workers: int | None = None):
        """Prepare the batches.

        Args:
            splits: the data set.
            recipe: batch size, augmentation and evaluation crop.
            resolution: side of the images, in pixels.
            seed: of order and augmentation.
            workers: decoding processes; None takes as many as there are cores, 0 decodes in this process.

        Raises:
            DataError: the training set is smaller than one batch.
        """
        if len(splits.train) < recipe.batch_size:
            raise DataError(f"{len(splits.train)} training images are fewer than a batch of {recipe.batch_size}")
        self.splits, self.batch_size, self.seed = splits, recipe.batch_size, seed
        self._train_transform = train_transform(recipe, resolution) if recipe.augments else None
        self._eval_transform = eval_transform(recipe, resolution)
        cores = len(os.sched_getaffinity(0))
        self._workers = 0 if splits.in_memory else (cores if workers is None else workers)
        self._kept: dict[Subset, torch.Tensor] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; the images that do not fill a batch wait for another epoch's order."""
        return len(self.splits.train) // self.batch_size

    def train(self, epoch: int) -> Iterator[Batch]:
        """The epoch's batches, in an order that depends on seed and epoch alone."""
        order = self._order(epoch)[: self.steps_per_epoch * self.batch_size]
        return self._batches(self.splits.train, torch.split(order, self.batch_size), self._train_transform, epoch)

    def evaluate(self, subset: Subset) -> Iterator[Batch]:
        """All images of a subset in its own order, without augmentation."""
        return self._batches(subset, torch.split(torch.arange(len(subset)), EVAL_BATCH), None, 0)

    def _order(self, epoch: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.splits.train), generator=generator)

    def _batches(
        self, subset: Subset, chunks: Sequence[torch.Tensor], transform: Transform | None, epoch: int
    ) -> Iterator[Batch]:
        if self.splits.in_memory and transform is None:
            images = self._in_memory(subset)
            return ((images[chunk], subset.labels[chunk]) for chunk in chunks)
        keys = [[(epoch, int(position)) for position in chunk] for chunk in chunks]
        rendered = _Rendered(subset, transform or self._eval_transform, self.seed)
        # With a generator of its own it leaves the process's untouched.
        own = torch.Generator()
        return _told_plainly(DataLoader(rendered, batch_sampler=keys, num_workers=self._workers, generator=own))

    def _in_memory(self, subset: Subset) -> torch.Tensor:
        """All images of a small subset, rendered once."""
        if subset not in self._kept:
            self._kept[subset] = torch.stack([self._eval_transform(subset.images.load(i)) for i in subset.indices])
        return self._kept[subset]


class Normalize:
    """Moves uint8 images to the device and makes floats of zero mean and unit variance there."""

    def __init__(self, splits: Splits, device: torch.device) -> None:
        self._device = device
        self._mean = torch.tensor(splits.mean, device=device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(splits.std, device=device).view(1, 3, 1, 1) * 255

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W): uint8 anywhere to float32, channels last, on the device."""
        moved = images.to(self._device, non_blocking=True, memory_format=torch.channels_last)
        return (moved.float() - self._mean) / self._std

"""Facts about the data sets that need neither torch nor the data: sizes, classes, and who is held out.

Which image is held out follows from a hash of its name alone, so every machine splits alike.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
SPLIT_RULE = "sha256-stratified-1"  # names the functions below; change it with them


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set without opening it; None where it depends on the person's own files."""

    version: str
    classes: int | None
    images: int | None  # of the training set, minival included
    minival: float  # share of them held out for selection, unless the space says otherwise
    needs_root: bool


DATASETS: Mapping[str, DatasetFacts] = {
    # scikit-learn's copy of the UCI test set of handwritten digits: 1,797 images, of which 20 % are val.
    "digits": DatasetFacts("sklearn-1797", 10, 1438, 0.25, needs_root=False),
    # ILSVRC 2012. Two percent held out: RS section 4.2.
    "imagenet": DatasetFacts("ilsvrc2012", 1000, 1_281_167, 0.02, needs_root=True),
    "folder": DatasetFacts("folder", None, None, 0.02, needs_root=True),
}


def held_out(names: Sequence[str], labels: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """Split indices into (kept, held out), class by class, by the hash of each name.

    Args:
        names: one stable name per image, the same on every machine.
        labels: one class per image.
        share: of each class, rounded to the nearest image, at least one where the share is above 0.

    Returns:
        Two lists of indices in the hash's order, so that a prefix of either is itself a fixed random subset.
    """
    by_class: dict[int, list[int]] = defaultdict(list)
    for index in sorted(range(len(names)), key=lambda i: hashlib.sha256(names[i].encode()).digest()):
        by_class[labels[index]].append(index)
    quota = {label: _quota(len(members), share) for label, members in by_class.items()}
    out = {index for label, members in by_class.items() for index in members[: quota[label]]}
    order = sorted(range(len(names)), key=lambda i: hashlib.sha256(b"order" + names[i].encode()).digest())
    return [i for i in order if i not in out], [i for i in order if i in out]


def _quota(images: int, share: float) -> int:
    return max(1, round(images * share)) if share > 0 else 0


def training_images(facts: DatasetFacts, minival: float) -> int | None:
    """Images that are trained on, to within the rounding of each class's share; None where it is not known."""
    return None if facts.images is None else round(facts.images * (1 - minival))


def class_folders(split: Path) -> list[Path]:
    """The class folders of one split in the order of their labels."""
    return sorted(folder for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))


def image_files(folder: Path) -> list[Path]:
    """The images of one class folder, sub-folders included, in a stable order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)

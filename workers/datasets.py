"""Facts about the data sets that need neither torch nor the data: sizes, classes, and who is held out.

Which image is held out follows from a hash of its name alone, so every machine splits alike.
"""

import hashlib
import os
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from workers.contract import DataConfig
    from workers.sources import Images

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
SPLIT_RULE = "sha256-stratified-1"  # names the functions below; change it with them


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set without opening it; None where it depends on the person's own files.

    A plug-in declares its own data set with `open`, which gives the training and the validation images.
    """

    version: str
    classes: int | None
    images: int | None  # of the training set, minival included
    minival: float  # share of them held out for selection, unless the space says otherwise
    needs_root: bool
    open: "Callable[[DataConfig], tuple[Images, Images]] | None" = None


DATASETS: Mapping[str, DatasetFacts] = {
    # scikit-learn's copy of the UCI test set of handwritten digits: 1,797 images, of which 20 % are val.
    "digits": DatasetFacts("sklearn-1797", 10, 1438, 0.25, needs_root=False),
    # ILSVRC 2012. Two percent held out: RS section 4.2.
    "imagenet": DatasetFacts("ilsvrc2012", 1000, 1_281_167, 0.02, needs_root=True),
    "folder": DatasetFacts("folder", None, None, 0.02, needs_root=True),
}

# timm's data set schemes: everything that timm.data.create_dataset opens under `<scheme>/<name>`.
SCHEMES: Mapping[str, DatasetFacts] = {
    "torch": DatasetFacts("torch", None, None, 0.02, needs_root=True),
    "hfds": DatasetFacts("hfds", None, None, 0.02, needs_root=False),
    "wds": DatasetFacts("wds", None, None, 0.02, needs_root=True),
    "tfds": DatasetFacts("tfds", None, None, 0.02, needs_root=True),
}
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torchvision",),
    "hfds": ("datasets",),
    "wds": ("webdataset",),
    "tfds": ("tensorflow_datasets", "tensorflow"),
}
IN_ORDER = frozenset({"wds", "tfds"})  # schemes whose images can only be read in order, hence through the cache
# The names under torch/ that timm 1.0 knows: classes and training images, where a data set has only one version.
TORCH_NAMES: Mapping[str, tuple[int | None, int | None]] = {
    "cifar10": (10, 50_000),
    "cifar100": (100, 50_000),
    "mnist": (10, 60_000),
    "kmnist": (10, 60_000),
    "fashion_mnist": (10, 60_000),
    "qmnist": (10, 60_000),
    "imagenet": (1000, 1_281_167),
    "places365": (365, 1_803_460),
    "inaturalist": (None, None),
    "inat": (None, None),
    "image_folder": (None, None),
    "folder": (None, None),
}
_SCHEME_NAME = re.compile(r"[\w.:+-]+(/[\w.:+-]+)*", re.ASCII)


def find_dataset(name: str, plugins: Sequence[str] = ()) -> DatasetFacts:
    """The facts of a data set: built-in, of one of timm's schemes, or declared by a plug-in.

    Args:
        name: as a search space names it.
        plugins: Python files that may declare more data sets.

    Raises:
        ValueError: unknown, or a name under a scheme that would lead out of it; one line with what is known.
    """
    if name in DATASETS:
        return DATASETS[name]
    if scheme := scheme_of(name):
        return _scheme_facts(scheme, name.removeprefix(f"{scheme}/"))
    declared = _plugin_datasets(plugins) if plugins else {}
    if name in declared:
        return declared[name]
    known = [*DATASETS, *declared, *(f"{scheme}/<name>" for scheme in SCHEMES)]
    raise ValueError(f"unknown data set {name!r}; known: {', '.join(known)}")


def _plugin_datasets(plugins: Sequence[str]) -> dict[str, DatasetFacts]:
    from workers.plugins import load_plugin  # here, since that module checks what it loads with this one

    declared: dict[str, DatasetFacts] = {}
    for path in plugins:
        own = getattr(load_plugin(path), "DATASETS", None) or {}
        if shared := sorted(own.keys() & declared.keys()):
            raise ValueError(f"plug-in {path}: another plug-in has a data set {shared[0]!r} too; rename one")
        declared |= own
    return declared


def _scheme_facts(scheme: str, name: str) -> DatasetFacts:
    if not _SCHEME_NAME.fullmatch(name) or any(part.strip(".") == "" for part in name.split("/")):
        raise ValueError(
            f"data set {f'{scheme}/{name}'!r}: the part after {scheme}/ must be a plain name such as "
            "'cifar10' or 'owner/name', not a path or an address"
        )
    if scheme != "torch":
        return SCHEMES[scheme]
    if name not in TORCH_NAMES:
        raise ValueError(f"unknown data set {f'torch/{name}'!r}; known under torch/: {', '.join(TORCH_NAMES)}")
    classes, images = TORCH_NAMES[name]
    return DatasetFacts("torch", classes, images, SCHEMES["torch"].minival, needs_root=True)


def scheme_of(name: str) -> str | None:
    """The timm scheme that a data set's name begins with, if any."""
    scheme, slash, _ = name.partition("/")
    return scheme if slash and scheme in SCHEMES else None


def missing_package(name: str) -> str | None:
    """What to install before a data set of one of timm's schemes can be read; None where nothing is missing."""
    packages = PACKAGES.get(scheme_of(name) or "", ())
    return next((package.replace("_", "-") for package in packages if find_spec(package) is None), None)


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
    for index in _by_hash(names, b""):
        by_class[labels[index]].append(index)
    quota = {label: _quota(len(members), share) for label, members in by_class.items()}
    out = {index for label, members in by_class.items() for index in members[: quota[label]]}
    order = _by_hash(names, b"order")
    return [i for i in order if i not in out], [i for i in order if i in out]


def _by_hash(names: Sequence[str], prefix: bytes) -> list[int]:
    """Indices in the order of the names' hashes; a file's name may hold bytes that are no UTF-8."""
    return sorted(
        range(len(names)),
        key=lambda i: hashlib.sha256(prefix + names[i].encode(errors="surrogateescape")).digest(),
    )


def _quota(images: int, share: float) -> int:
    return max(1, round(images * share)) if share > 0 else 0


def training_images(facts: DatasetFacts, minival: float) -> int | None:
    """Images that are trained on, to within the rounding of each class's share; None where it is not known."""
    return None if facts.images is None else round(facts.images * (1 - minival))


def class_folders(split: Path) -> list[Path]:
    """The class folders of one split in the order of their labels."""
    return sorted(folder for folder in split.iterdir() if folder.is_dir() and not folder.name.startswith("."))


class ImageFile(NamedTuple):
    """A file with an image's suffix; size and time tell whether it was changed."""

    name: str  # below the folder that was asked for, with "/"
    bytes: int  # -1 where it is no file that can be read: a folder, a pipe, a link that leads nowhere
    modified_ns: int


def image_files(folder: Path) -> list[ImageFile]:
    """The images of one class folder, sub-folders included, in a stable order.

    Whatever has an image's suffix counts, even where it is no regular file, so that it can be reported.
    """
    found: list[ImageFile] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                    found.append(_described(entry, below + entry.name))
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{below}{entry.name}/")
    return sorted(found, key=lambda file: file.name.split("/"))


def _described(entry: "os.DirEntry[str]", name: str) -> ImageFile:
    try:
        facts = entry.stat()
    except OSError:
        return ImageFile(name, -1, 0)
    return ImageFile(name, facts.st_size if stat.S_ISREG(facts.st_mode) else -1, facts.st_mtime_ns)

"""What can be said of a space's data before anything runs: from the names and numbers alone, then from the folders."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.errors import DataUnavailableError
from sweep.yaml_file import YamlFile
from workers.datasets import (
    DATASETS,
    IN_ORDER,
    DatasetFacts,
    class_folders,
    find_dataset,
    missing_package,
    scheme_of,
    training_images,
)

if TYPE_CHECKING:
    from sweep.space import SweepSpec
    from workers.recipe import Recipe


def check_field(field: str, value: Any, before: Mapping[str, Any], plugins: Sequence[str] | None) -> None:
    """Refuse a field under `data` that does not fit the data set, or is missing although the data set needs it.

    Args:
        field: name, root, classes, cache or cache_side.
        value: of it; None where it is not given.
        before: the fields that stand before it, as far as they are right themselves.
        plugins: files that may declare the data set; None where they must not run, so that nothing is known of it.

    Raises:
        ValueError: what is wrong and what would be right.
    """
    name = value if field == "name" else before.get("name")
    if field == "cache_side":
        if value and before.get("cache", "unknown") is None:
            raise ValueError("is the size of cached images, so it needs `cache`: a folder for them")
    elif plugins is not None and name is not None:
        facts = find_dataset(name, plugins)
        if field != "name" and (problem := _PROBLEMS[field](name, facts, value)):
            raise ValueError(problem)


def _root_problem(name: str, facts: DatasetFacts, root: str | None) -> str | None:
    what = "that holds train/ and val/" if name in DATASETS else "that it is read from"
    return f"data set {name!r} needs this key: the folder {what}" if facts.needs_root and not root else None


def _classes_problem(name: str, facts: DatasetFacts, classes: int | None) -> str | None:
    if facts.classes is None and classes is None:
        return f"data set {name!r} needs this key: the number of its classes"
    if facts.classes is not None and classes not in (None, facts.classes):
        return f"data set {name!r} has {facts.classes} classes, not {classes}"
    return None


def _cache_problem(name: str, _: DatasetFacts, cache: str | None) -> str | None:
    if cache is None and scheme_of(name) in IN_ORDER:
        return f"data set {name!r} can only be read in order, so it needs this key: a folder for decoded images"
    return None


_PROBLEMS: Mapping[str, Callable[[str, DatasetFacts, Any], str | None]] = {
    "root": _root_problem,
    "classes": _classes_problem,
    "cache": _cache_problem,
}


def batch_problem(file: YamlFile, spec: "SweepSpec", recipe: "Recipe") -> str | None:
    """A batch that is larger than the training set, where its size is known to within the rounding of minival."""
    facts = find_dataset(spec.data.name, tuple(spec.plugins))
    images = training_images(facts, facts.minival if spec.data.minival is None else spec.data.minival)
    if images is None or recipe.batch_size <= images + (facts.classes or 0) // 2:
        return None
    given = ["batch_size"] if "batch_size" in spec.recipe.overrides else []
    return (
        f"{file.place(('recipe', *given))}: batch_size {recipe.batch_size} is more than the {images} training images "
        f"of {spec.data.name}; give a smaller batch_size (a multiple of bn_batch)"
    )


def check_package(file: YamlFile, name: str) -> None:
    """Refuse a data set that this environment has no library for.

    Raises:
        DataUnavailableError: says what to install.
    """
    if missing := missing_package(name):
        place = file.place(("data", "name"))
        raise DataUnavailableError(f"{place}: {name} needs a package that is not installed: pip install {missing}")


def check_class_folders(file: YamlFile, spec: "SweepSpec", root: Path) -> None:
    """Refuse a root whose train/ and val/ do not hold a folder for each class. Looks at no image.

    Raises:
        DataUnavailableError: a split is missing, the two differ, or there are more or fewer classes than promised.
    """
    place = file.place(("data", "root"))
    named = {split: _class_names(place, root / split) for split in ("train", "val")}
    if odd := sorted(named["train"] ^ named["val"]):
        split, other = ("train", "val") if odd[0] in named["train"] else ("val", "train")
        raise DataUnavailableError(
            f"{place}: {root / split} has a class folder {odd[0]!r} that {root / other} has not; both need the same"
        )
    classes = spec.data.classes or DATASETS[spec.data.name].classes
    if len(named["train"]) != classes:
        where = file.place(("data", "classes" if spec.data.classes else "root"))
        raise DataUnavailableError(f"{where}: {root / 'train'} has {len(named['train'])} class folders, not {classes}")


def _class_names(place: str, split: Path) -> set[str]:
    if not split.is_dir():
        raise DataUnavailableError(f"{place}: {split} is no folder; expected one folder a class in it")
    try:
        return {folder.name for folder in class_folders(split)}
    except OSError as error:
        raise DataUnavailableError(f"{place}: {split} cannot be listed ({error.strerror})") from error

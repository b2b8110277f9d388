"""Where a space's data lie on this machine: environment variables filled in, folders checked to be there and fit."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.data_checks import check_class_folders, check_package
from sweep.errors import DataUnavailableError
from sweep.yaml_file import YamlFile, read_yaml
from workers.datasets import DATASETS

if TYPE_CHECKING:
    from sweep.space import SweepSpec

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class DataPaths:
    """Absolute folders of this machine; None where the space names none."""

    root: str | None = None
    cache: str | None = None


def data_paths(spec: "SweepSpec", path: Path) -> DataPaths:
    """The data set's folder, which has to be there, and the cache's, which need not.

    Raises:
        DataUnavailableError: a variable is not set, a package or folder is missing, or the class folders are not those
            that were promised; says what to set or what was expected.
    """
    file = read_yaml(path)
    check_package(file, spec.data.name)
    cache = _filled_in(file, "cache", spec.data.cache, "a folder for decoded images")
    return DataPaths(_root(file, spec), None if cache is None else str(cache.absolute()))


def _root(file: YamlFile, spec: "SweepSpec") -> str | None:
    facts = DATASETS.get(spec.data.name)
    in_classes = facts is not None and facts.needs_root  # folders of classes, which others need not have
    what = f"the folder of {spec.data.name}" + (" that holds train/ and val/" if in_classes else "")
    folder = _filled_in(file, "root", spec.data.root, what)
    if folder is None:
        return None
    place = file.place(("data", "root"))
    if in_classes:
        check_class_folders(file, spec, folder)
    if not folder.is_dir():
        raise DataUnavailableError(f"{place}: {folder} is no folder; set it to {what}")
    return str(folder.absolute())


def _filled_in(file: YamlFile, key: str, text: str | None, what: str) -> Path | None:
    """A folder's name with its environment variables filled in."""
    if text is None:
        return None
    for name in _VARIABLE.findall(text):
        if not os.environ.get(name):
            place = file.place(("data", key))
            raise DataUnavailableError(f"{place}: environment variable {name} is not set; set it to {what}")
    return Path(_VARIABLE.sub(lambda match: os.environ[match[1]], text))

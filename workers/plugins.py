"""Plug-ins: a person's own model families and data sets, from a Python file that a search space names.

Such a file may hold `FAMILIES = [Family(...), ...]` and `DATASETS = {name: DatasetFacts(...), ...}`. It is code that
runs with the rights of whoever runs the sweep, and is read only when a search space names its path.
"""

import hashlib
import importlib.util
import re
import sys
import traceback
from functools import cache
from pathlib import Path
from types import ModuleType

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*", re.ASCII)


def load_plugin(path: str) -> ModuleType:
    """The module of a plug-in, loaded once per process.

    Args:
        path: of a Python file; a relative one counts from the working folder.

    Raises:
        ValueError: one line that names the file and says what is wrong with it: it is not there, cannot be run,
            declares nothing, or declares something of the wrong type or under a name that is built in.
    """
    if not isinstance(path, str) or "\0" in path:
        raise ValueError(f"plug-in {path!r} is no path of a file")
    try:
        file = Path(path).expanduser().resolve()
        found = file.is_file()
    except (OSError, RuntimeError) as error:  # too long a name, a loop of links, a home that is not known
        raise ValueError(f"plug-in {path!r} is no path of a file: {error}") from error
    if not found:
        raise ValueError(f"plug-in {path}: no such file")
    if file.suffix != ".py":
        raise ValueError(f"plug-in {path} is not a Python file; its name would end in .py")
    return _load(file)


@cache
def _load(file: Path) -> ModuleType:
    # A name of its own, so that a plug-in called random.py hides nothing.
    name = f"_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look the module up there
    try:
        spec.loader.exec_module(module)
        _check(module, file)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, _PluginError):
            raise ValueError(f"plug-in {file}: {error}") from None
        if isinstance(error, Exception | SystemExit):
            raise ValueError(f"plug-in {file}: {_told(error, file)}") from error
        raise
    return module


class _PluginError(Exception):
    """What a plug-in declares is not what it has to be."""


def _told(error: BaseException, file: Path) -> str:
    """An exception at import in one line, with the last line of the plug-in that took part in it."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    place = f"line {frames[-1].lineno}: " if frames else ""
    return f"{place}{type(error).__name__}: {' '.join(str(error).split())}"


def _check(module: ModuleType, file: Path) -> None:
    families, datasets = getattr(module, "FAMILIES", None), getattr(module, "DATASETS", None)
    if families is None and datasets is None:
        raise _PluginError(
            "declares nothing; it needs FAMILIES = [Family(...)] or DATASETS = {name: DatasetFacts(...)}"
        )
    _check_families([] if families is None else families)
    _check_datasets({} if datasets is None else datasets)


def _check_families(families: object) -> None:
    from workers.families import BUILT_IN, Argument, Family  # here, since that module loads plug-ins with this one

    if not isinstance(families, list | tuple) or not all(isinstance(family, Family) for family in families):
        raise _PluginError("FAMILIES must be a list of workers.families.Family")
    names = [family.name for family in families]
    for family in families:
        _check_name("family", family.name, tuple(BUILT_IN))
        if names.count(family.name) > 1:
            raise _PluginError(f"declares the family {family.name!r} twice")
        if not callable(family.build) or not callable(family.check):
            raise _PluginError(f"family {family.name!r}: build and check must be functions")
        if not isinstance(family.arguments, dict):
            raise _PluginError(f"family {family.name!r}: arguments must be a dictionary from names to Argument")
        for name, argument in family.arguments.items():
            if not isinstance(argument, Argument) or argument.type not in (bool, int, float, str):
                raise _PluginError(
                    f"family {family.name!r}: argument {name!r} must be an Argument of type bool, int, float or str"
                )
        _check_axes(family.name, {name: argument.type for name, argument in family.arguments.items()})


def _check_axes(family: str, types: dict[str, type]) -> None:
    """What the table and the rules know by name has to mean the same in every family."""
    for name, wanted in (("width", float), ("depth", int)):
        if types.get(name, wanted) is not wanted:
            raise _PluginError(f"family {family!r}: argument {name!r} must be of type {wanted.__name__}")
    for name in ("resolution", "epochs", "seed"):
        if name in types:
            raise _PluginError(f"family {family!r}: an argument cannot be called {name!r}, which every family has")


def _check_datasets(datasets: object) -> None:
    from workers.datasets import DATASETS, DatasetFacts  # here, for the same reason

    if not isinstance(datasets, dict) or not all(isinstance(facts, DatasetFacts) for facts in datasets.values()):
        raise _PluginError("DATASETS must be a dictionary from names to workers.datasets.DatasetFacts")
    for name in datasets:
        _check_name("data set", name, tuple(DATASETS))


def _check_name(kind: str, name: object, built_in: tuple[str, ...]) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _PluginError(f"{kind} {name!r}: a name is a letter, then letters, digits, '_' and '-'")
    if name in built_in:
        raise _PluginError(f"{kind} {name!r} is built in; choose another name")

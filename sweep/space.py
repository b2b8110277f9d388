"""A search space: YAML to a validated SweepSpec. The only module that knows pydantic.

Every error is one line with its place in the file: what is wrong, and what would be right.
"""

import math
import os
import re
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sweep.errors import DataUnavailableError, SpaceError
from sweep.layout import NOT_SWEEPS
from sweep.yaml_file import YamlFile, read_yaml
from workers.datasets import DATASETS
from workers.families import check_shape
from workers.recipe import Cell, resolve

MAX_TRIALS = 1_000_000  # more is a slip of the pen: each is a full-length training run
AXES = ("width", "depth", "resolution", "epochs")
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")  # YAML 1.1 reads 4e-5 as text
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _no_truth(value: Any) -> Any:
    """Pydantic would read `yes` as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


_Number = BeforeValidator(_no_truth)
Width = Annotated[float, Field(gt=0, le=64), _Number]
Depth = Annotated[int, Field(gt=0), _Number]
Resolution = Annotated[int, Field(gt=0, le=4096), _Number]
Epochs = Annotated[int, Field(gt=0, le=100_000), _Number]
Seed = Annotated[int, Field(ge=0, lt=2**31), _Number]
Bound = Annotated[float, _Number]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class DataSpec(_Strict):
    """Which images: `name` is digits, imagenet or folder; `root` holds train/ and val/ with one folder a class."""

    name: str
    root: str | None = None
    minival: Annotated[float, Field(gt=0, lt=1), _Number] | None = None  # share of the training images held out
    classes: Annotated[int, Field(gt=1), _Number] | None = None
    version: Annotated[str, Field(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _known(self) -> "DataSpec":
        if self.name not in DATASETS:
            raise ValueError(f"unknown data set {self.name!r}; known: {', '.join(DATASETS)}")
        facts = DATASETS[self.name]
        if facts.needs_root and not self.root:
            raise ValueError(f"data set {self.name!r} needs `root`: the folder that holds train/ and val/")
        if facts.classes is None and self.classes is None:
            raise ValueError(f"data set {self.name!r} needs `classes`: the number of class folders")
        if facts.classes is not None and self.classes not in (None, facts.classes):
            raise ValueError(f"data set {self.name!r} has {facts.classes} classes, not {self.classes}")
        return self


class RecipeSpec(_Strict):
    """A named recipe and the values that replace its own: `recipe: {name: small, learning_rate: 0.2}`."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str

    @model_validator(mode="before")
    @classmethod
    def _exponents(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        numbers = {k: float(v) for k, v in values.items() if isinstance(v, str) and _EXPONENT.fullmatch(v)}
        return {**values, **numbers}

    @property
    def overrides(self) -> dict[str, Any]:
        """The replaced values."""
        return dict(self.model_extra or {})


class Axes(_Strict):
    """The grid: every combination of these values is a cell."""

    width: Annotated[list[Width], Field(min_length=1)]
    depth: Annotated[list[Depth], Field(min_length=1)]
    resolution: Annotated[list[Resolution], Field(min_length=1)]
    epochs: Annotated[list[Epochs], Field(min_length=1)]


class CellSpec(_Strict):
    """One cell, where a list is wanted instead of a grid."""

    width: Width
    depth: Depth
    resolution: Resolution
    epochs: Epochs

    @property
    def key(self) -> tuple[float, int, int, int]:
        """What makes two cells the same."""
        return (self.width, self.depth, self.resolution, self.epochs)


class Limits(_Strict):
    """Bounds [low, high] outside of which a cell is excluded, with the reason in its row."""

    macs_per_image: tuple[Bound, Bound] | None = None
    params: tuple[Bound, Bound] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> "Limits":
        for name, bounds in self.model_dump(exclude_none=True).items():
            if bounds[0] > bounds[1]:
                raise ValueError(f"{name}: the low bound {bounds[0]:g} is above the high one {bounds[1]:g}")
        return self


class Exclusion(_Strict):
    """Cells that have all the given values are excluded."""

    width: Width | None = None
    depth: Depth | None = None
    resolution: Resolution | None = None
    epochs: Epochs | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Exclusion":
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"names no value, so it would exclude every cell; give one of {', '.join(AXES)}")
        return self


class Resources(_Strict):
    """What one trial holds: CPU cores (also its threads), or GPUs (a share or a count)."""

    cpu: Annotated[int, Field(ge=1), _Number] = 1
    gpu: Annotated[float, Field(ge=0), _Number] = 0
    precision: Literal["float32", "bfloat16"] | None = None  # by default bfloat16 on a GPU


class SweepSpec(_Strict):
    """One study: the cells, how each is trained, on which data, with which resources."""

    sweep: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    data: DataSpec
    family: str = "resnet_rs"
    recipe: RecipeSpec
    axes: Axes | None = None
    cells: list[CellSpec] = []
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    limits: Limits = Limits()
    exclude: list[Exclusion] = []
    resources: Resources = Resources()

    @model_validator(mode="before")
    @classmethod
    def _short_recipe(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("recipe"), str):
            return {**values, "recipe": {"name": values["recipe"]}}
        return values

    def all_cells(self) -> list[CellSpec]:
        """The grid's cells, then the listed ones, in the file's order."""
        grid: list[CellSpec] = []
        if self.axes:
            values = [getattr(self.axes, axis) for axis in AXES]
            grid = [CellSpec(**dict(zip(AXES, cell, strict=True))) for cell in product(*values)]
        return grid + list(self.cells)


def load_space(path: Path) -> SweepSpec:
    """Read and validate a search space.

    Raises:
        SpaceError: one line per problem, each with its place in the file.
    """
    file = read_yaml(path)
    if not isinstance(file.values, dict):
        raise SpaceError(f"{file.place(())}: expected keys such as sweep, data, family, recipe, axes")
    try:
        spec = SweepSpec.model_validate(file.values)
    except ValidationError as error:
        raise SpaceError("\n".join(_explain(file, problem) for problem in error.errors())) from None
    _check_cells(file, spec)
    return spec


def _explain(file: YamlFile, problem: Any) -> str:
    """One line for one of pydantic's problems."""
    loc = tuple(part for part in problem["loc"])
    place = file.place(loc)
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key; allowed here: {', '.join(_allowed(loc))}"
    if problem["type"] == "missing":
        return f"{place}: this key is missing"
    if problem["type"] == "too_short":
        return f"{place}: must have at least one value"
    got = f"(got {_shorten(problem['input'])})"
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{place}: must be keys and values, with the keys {', '.join(_allowed((*loc, '')))} {got}"
    if problem["type"] in ("list_type", "tuple_type"):
        return f"{place}: must be a list in brackets {got}"
    if problem["type"] == "string_pattern_mismatch":
        return f"{place}: must be at most 100 letters, digits and _ . -, beginning with a letter or digit {got}"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')} {got}"


def _allowed(loc: tuple[str | int, ...]) -> list[str]:
    """The keys that the mapping around an unknown one may have."""
    model: Any = SweepSpec
    for part in loc[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """The model inside an annotation such as `Axes | None` or `list[CellSpec]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, (_model_in(inner) for inner in getattr(annotation, "__args__", ()))), None)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _check_cells(file: YamlFile, spec: SweepSpec) -> None:
    """What needs more than one key to see: duplicates, shapes that cannot be built, recipes that do not resolve."""
    if spec.sweep in NOT_SWEEPS:
        raise SpaceError(f"{file.place(('sweep',))}: {spec.sweep!r} is a folder of sweeps; choose another name")
    if not spec.axes and not spec.cells:
        raise SpaceError(f"{file.place(())}: axes: this key is missing (or `cells`, a list of cells)")
    if spec.axes and math.prod(len(getattr(spec.axes, axis)) for axis in AXES) * len(spec.seeds) > MAX_TRIALS:
        raise SpaceError(f"{file.place(('axes',))}: the grid has more than {MAX_TRIALS} trials")
    for loc, values in _value_lists(spec):
        _refuse_twice(file, loc, values)
    problems = dict.fromkeys(
        problem for cell in spec.all_cells() if (problem := _cell_problem(file, spec, cell)) is not None
    )
    if problems:
        raise SpaceError("\n".join(problems))
    _refuse_repeated_cells(file, spec)


def _value_lists(spec: SweepSpec) -> list[tuple[tuple[str, ...], list[Any]]]:
    axes = [(("axes", axis), list(getattr(spec.axes, axis))) for axis in AXES] if spec.axes else []
    return [*axes, (("seeds",), list(spec.seeds))]


def _refuse_twice(file: YamlFile, loc: tuple[str, ...], values: list[Any]) -> None:
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            raise SpaceError(f"{file.place((*loc, index))}: {value} stands twice; each cell may be given once")
        seen.add(value)


def _refuse_repeated_cells(file: YamlFile, spec: SweepSpec) -> None:
    """The axes' values are distinct, so a cell can stand twice only through the list."""
    listed = len(spec.cells)
    seen = {cell.key for cell in spec.all_cells()[: -listed or None]} if spec.axes else set()
    for index, cell in enumerate(spec.cells):
        if cell.key in seen:
            raise SpaceError(f"{file.place(('cells', index))}: this cell stands twice; each may be given once")
        seen.add(cell.key)


def _cell_problem(file: YamlFile, spec: SweepSpec, cell: CellSpec) -> str | None:
    try:
        check_shape(spec.family, cell.width, cell.depth, cell.resolution)
    except ValueError as error:
        return f"{_place_of(file, spec, cell, str(error).split()[0])}: {error}"
    try:
        resolve(spec.recipe.name, Cell(*cell.key), spec.recipe.overrides)
    except (ValueError, TypeError, OverflowError) as error:
        words = str(error).partition(";")[0].replace("'", " ").split()
        named = [field for field in spec.recipe.overrides if field in words]
        return f"{file.place(('recipe', *named[:1]))}: {error}"
    return None


def _place_of(file: YamlFile, spec: SweepSpec, cell: CellSpec, field: str) -> str:
    """Where the file gives a cell's value: in an axis if the grid has it, else in the list."""
    if field not in AXES:
        return file.place(("family",))
    value = getattr(cell, field)
    if spec.axes and value in getattr(spec.axes, field):
        return file.place(("axes", field, getattr(spec.axes, field).index(value)))
    return file.place(("cells", spec.cells.index(cell), field))


def data_root(spec: SweepSpec, path: Path) -> str | None:
    """The data set's folder with environment variables filled in, checked to be there.

    Raises:
        DataUnavailableError: a variable is not set or the folder lacks train/ or val/; says what to set.
    """
    root = spec.data.root
    if root is None:
        return None
    place = read_yaml(path).place(("data", "root"))
    for name in _VARIABLE.findall(root):
        if not os.environ.get(name):
            raise DataUnavailableError(
                f"{place}: environment variable {name} is not set; set it to the folder of {spec.data.name} "
                "that holds train/ and val/"
            )
    folder = Path(_VARIABLE.sub(lambda match: os.environ[match[1]], root))
    for split in ("train", "val"):
        if not (folder / split).is_dir():
            raise DataUnavailableError(f"{place}: {folder / split} is no folder; expected one folder a class in it")
    return str(folder.absolute())


def space_of_cells(spec: SweepSpec, cells: list[dict[str, Any]]) -> SweepSpec:
    """The same study on a list of cells instead of its grid, as `<sweep>_recommended`."""
    listed = [CellSpec(**{axis: cell[axis] for axis in AXES}) for cell in cells]
    return spec.model_copy(update={"sweep": f"{spec.sweep}_recommended", "axes": None, "cells": listed})


def dump_space(spec: SweepSpec, version: str) -> str:
    """The resolved space as YAML that `load_space` reads back to an equal spec."""
    values = spec.model_dump(mode="json", exclude_none=True)
    return f"# resolved by sweep {version}\n" + yaml.safe_dump(values, sort_keys=False)

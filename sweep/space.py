"""A search space: YAML to a validated SweepSpec. The only module that knows pydantic.

Every error is one line with its place in the file: what is wrong, and what would be right.
"""

import math
import re
from collections.abc import Hashable
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sweep.data_checks import check_field
from sweep.errors import SpaceError
from sweep.kept_space import fits, not_as_written, read_kept
from sweep.space_checks import check_space
from sweep.space_messages import explain
from sweep.yaml_file import YamlFile, one_line, read_yaml
from workers.contract import ModelValue
from workers.plugins import load_plugin

AXES = ("width", "depth", "resolution", "epochs", "lr_scale")  # the axes with bounds of their own
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")  # YAML 1.1 reads 4e-5 as text


def _no_truth(value: Any) -> Any:
    """Pydantic would read `yes` as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _truth(value: Any) -> Any:
    """Pydantic would read 1 and "yes" as true."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _plain_value(value: Any) -> ModelValue:
    """An argument of a model; which type it has to have, its family says."""
    if isinstance(value, str):
        if not (_EXPONENT.fullmatch(value) and math.isfinite(float(value))):
            return value
        value = float(value)
    if not isinstance(value, bool | int | float):
        raise ValueError("must be a number, a word, true or false")
    if not abs(value) < 2**63:
        raise ValueError("must be a number below 2^63")
    return value


def _switch(value: Any) -> Any:
    """YAML reads on and off as true and false."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


_Number = BeforeValidator(_no_truth)
Width = Annotated[float, Field(gt=0, le=64), _Number]
Depth = Annotated[int, Field(gt=0, lt=2**31), _Number]
Resolution = Annotated[int, Field(gt=0, le=4096), _Number]
Epochs = Annotated[int, Field(gt=0, le=100_000), _Number]
LrScale = Annotated[float, Field(gt=0, le=1000), _Number]
Seed = Annotated[int, Field(ge=0, lt=2**31), _Number]
Bound = Annotated[float, _Number]
Count = Annotated[int, Field(ge=1, lt=2**31), _Number]
Minutes = Annotated[float, Field(gt=0, le=1e6), _Number]
Truth = Annotated[bool, BeforeValidator(_truth)]
Value = Annotated[ModelValue, PlainValidator(_plain_value)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class DataSpec(_Strict):
    """Which images, where they lie and how they are read; `root` and `cache` may name environment variables.

    `name` is digits, imagenet, folder, a timm scheme such as `torch/cifar10`, or what a plug-in declares.
    """

    model_config = ConfigDict(validate_default=True)
    name: str
    root: str | None = None
    minival: Annotated[float, Field(gt=0, lt=1), _Number] | None = None  # share of the training images held out
    classes: Annotated[int, Field(gt=1, lt=2**31), _Number] | None = None
    version: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    cache: Annotated[str, Field(min_length=1)] | None = None  # folder of decoded images that all trials read
    cache_side: Annotated[int, Field(ge=16, le=4096), _Number] | None = None  # their shorter side, px
    unreadable: Literal["raise", "skip"] = "raise"
    download: Truth = False  # whether the data set's own library may fetch it

    # Field by field, not as a whole, so that each problem has its own place; a missing field is one too.
    @field_validator("name", "root", "classes", "cache", "cache_side")
    @classmethod
    def _fits(cls, value: Any, info: ValidationInfo) -> Any:
        check_field(str(info.field_name), value, info.data, (info.context or {}).get("plugins", ()))
        return value


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
    """The grid: every combination of these values is a cell. Besides these axes, every argument of the family."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[list[Value], Field(min_length=1)]]
    width: Annotated[list[Width], Field(min_length=1)] | None = None
    depth: Annotated[list[Depth], Field(min_length=1)] | None = None
    resolution: Annotated[list[Resolution], Field(min_length=1)]
    epochs: Annotated[list[Epochs], Field(min_length=1)]
    lr_scale: Annotated[list[LrScale], Field(min_length=1)] | None = None  # times the recipe's learning rate

    @property
    def lists(self) -> dict[str, list[ModelValue]]:
        """The values of every axis; the last axis varies fastest."""
        arguments = {"width": self.width, "depth": self.depth, **(self.model_extra or {})}
        own = {**arguments, "resolution": self.resolution, "epochs": self.epochs, "lr_scale": self.lr_scale}
        return {name: list(values) for name, values in own.items() if values is not None}


class CellSpec(_Strict):
    """One cell, where a list is wanted instead of a grid: its resolution, epochs and arguments of the family."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Value]
    width: Width | None = None
    depth: Depth | None = None
    resolution: Resolution
    epochs: Epochs
    lr_scale: LrScale | None = None  # times the recipe's learning rate; None: as the recipe has it

    @property
    def overrides(self) -> dict[str, float]:
        """What it says of the recipe."""
        return {} if self.lr_scale is None else {"lr_scale": self.lr_scale}

    @property
    def arguments(self) -> dict[str, ModelValue]:
        """What it says of the model, by name."""
        own = {"width": self.width, "depth": self.depth, **(self.model_extra or {})}
        return {name: value for name, value in own.items() if value is not None}

    @property
    def key(self) -> Hashable:
        """What makes two cells the same, as far as they are spelt out."""
        return (*sorted(self.arguments.items()), self.resolution, self.epochs, self.lr_scale)


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
    """Cells that have all the given values are excluded; any axis or argument of the family may be named."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Value]
    width: Width | None = None
    depth: Depth | None = None
    resolution: Resolution | None = None
    epochs: Epochs | None = None
    lr_scale: LrScale | None = None

    @property
    def values(self) -> dict[str, ModelValue]:
        """The given values by name."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _says_something(self) -> "Exclusion":
        if not self.values:
            raise ValueError("names no value, so it would exclude every cell; give one of resolution, epochs, width, …")
        return self


class Resources(_Strict):
    """What each of a trial's processes holds: CPU cores (also its threads), GPUs (a share or a count) or TPU chips."""

    cpu: Count = 1
    gpu: Annotated[float, Field(ge=0), _Number] = 0
    tpu: Annotated[int, Field(ge=0, lt=2**31), _Number] = 0
    devices: Count = 1  # processes that share every batch of a trial, one device each
    precision: Literal["float32", "bfloat16", "float16"] | None = None  # by default bfloat16 on a GPU or TPU
    micro_batch: Count | None = None  # images per forward pass; by default picked from predicted memory
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(_switch)] = "auto"
    loader_workers: Annotated[int, Field(ge=0, lt=2**31), _Number] | None = None  # decoding processes

    @model_validator(mode="after")
    def _one_kind(self) -> "Resources":
        if self.gpu and self.tpu:
            raise ValueError("a trial runs on GPUs or on TPUs, not on both; leave out one of `gpu` and `tpu`")
        if self.tpu > 1 or (self.tpu and self.devices > 1):
            raise ValueError("a trial trains on one TPU chip; more are not supported, write `tpu: 1` and no `devices`")
        if self.tpu and self.precision == "float16":
            raise ValueError("a TPU computes in bfloat16 or float32, not in float16")
        return self

    @property
    def kind(self) -> str:
        """cpu, cuda or xla."""
        return "cuda" if self.gpu else "xla" if self.tpu else "cpu"


class Checkpoints(_Strict):
    """When a trial is saved besides at every epoch's end, how much room that may take, and what stays at the end."""

    every_minutes: Minutes = 10
    quota_gb: Annotated[float, Field(gt=0, le=1e6), _Number] | None = None  # 10^9 bytes; of one trial
    keep_weights: Truth = False  # for `sweep export`


class SweepSpec(_Strict):
    """One study: the cells, how each is trained, on which data, with which resources."""

    sweep: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
    data: DataSpec
    plugins: list[Annotated[str, Field(min_length=1)]] = []  # absolute once loaded from a file
    family: str = "resnet_rs"
    model: dict[str, Value] = {}  # arguments of the family that are the same in every cell
    recipe: RecipeSpec
    axes: Axes | None = None
    cells: list[CellSpec] = []
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    limits: Limits = Limits()
    exclude: list[Exclusion] = []
    resources: Resources = Resources()
    checkpoints: Checkpoints = Checkpoints()
    hung_after_minutes: Minutes = 30  # without a finished step

    @model_validator(mode="before")
    @classmethod
    def _short_recipe(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("recipe"), str):
            return {**values, "recipe": {"name": values["recipe"]}}
        return values

    def all_cells(self) -> list[CellSpec]:
        """The grid's cells, then the listed ones, in the file's order."""
        lists = self.axes.lists if self.axes else {}
        combinations = product(*lists.values()) if lists else ()
        grid = [CellSpec.model_validate(dict(zip(lists, cell, strict=True))) for cell in combinations]
        return grid + list(self.cells)


def load_space(path: Path) -> SweepSpec:
    """Read and validate a search space, and load the plug-ins that it names.

    Raises:
        SpaceError: one line per problem, each with its place in the file.
    """
    file = read_yaml(path)
    if not fits(file.text.encode()):
        raise SpaceError(f"{path}:1: the hash is not that of the rest; remove the line if the file was edited")
    spec = _validated(file, _loaded_plugins(file))
    check_space(file, spec)
    return spec


def read_space(path: Path) -> SweepSpec:
    """Read the space that a results folder keeps, which was checked when it was run. Never runs its plug-ins.

    Raises:
        RefusedError: it is not as it was written, or not a search space, as far as can be told without its plug-ins.
    """
    read_kept(path)
    try:
        file = read_yaml(path)
        return _validated(file, None if _plugins(file) else ())
    except SpaceError as error:
        raise not_as_written(path, f"damaged ({str(error).splitlines()[0]})") from error


def _validated(file: YamlFile, plugins: tuple[str, ...] | None) -> SweepSpec:
    """Everything that can be said without the families; with `plugins` None, without the data sets either."""
    if not isinstance(file.values, dict):
        raise SpaceError(f"{file.place(())}: expected keys such as sweep, data, family, recipe, axes")
    values = {**file.values, "plugins": _plugins(file)} if _plugins(file) else file.values
    try:
        return SweepSpec.model_validate(values, context={"plugins": plugins})
    except ValidationError as error:
        raise SpaceError("\n".join(explain(file, problem, SweepSpec) for problem in error.errors())) from None


def _plugins(file: YamlFile) -> list[str]:
    """The plug-ins that a file names, as absolute paths; none where the key does not hold a list of names."""
    named = file.values.get("plugins") if isinstance(file.values, dict) else None
    if not isinstance(named, list) or not all(isinstance(name, str) and name and "\0" not in name for name in named):
        return []
    return [str((file.path.parent / name).resolve()) for name in named]


def _loaded_plugins(file: YamlFile) -> tuple[str, ...]:
    """The plug-ins' paths, once each of them has run."""
    paths = _plugins(file)
    for index, path in enumerate(paths):
        try:
            load_plugin(path)
        except ValueError as error:
            raise SpaceError(f"{file.place(('plugins', index))}: {one_line(str(error))}") from None
    return tuple(paths)


def space_of_cells(spec: SweepSpec, cells: list[dict[str, Any]]) -> SweepSpec:
    """The same study on a list of cells instead of its grid, as `<sweep>_recommended`.

    Args:
        spec: the study.
        cells: each with resolution, epochs, width and depth where it has them, and `model`, the other arguments.
    """
    fixed = {name: value for name, value in spec.model.items() if name not in AXES}
    models = [cell.get("model") or fixed for cell in cells]  # a table of an older version does not say
    common = {name: value for name, value in models[0].items() if all(m.get(name) == value for m in models)}
    listed = []
    for cell, model in zip(cells, models, strict=True):
        own = {axis: cell[axis] for axis in AXES if cell.get(axis) is not None}
        own |= {name: value for name, value in model.items() if name not in common}
        listed.append(CellSpec.model_validate(own))
    update = {"sweep": f"{spec.sweep}_recommended", "axes": None, "model": common, "cells": listed}
    return spec.model_copy(update=update)


def dump_space(spec: SweepSpec, version: str) -> str:
    """The resolved space as YAML that `load_space` reads back to an equal spec."""
    values = spec.model_dump(mode="json", exclude_none=True)
    return f"# resolved by sweep {version}\n" + yaml.safe_dump(values, sort_keys=False)

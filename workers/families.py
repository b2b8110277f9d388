"""Model families: which arguments each one has, which shapes exist, how it is built. Needs no torch until it builds.

A family is known by its name: `resnet_rs`, `efficientnet`, `timm:<architecture>`, or one that a plug-in declares.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workers import resnet_rs
from workers.typed import WORDS, short

if TYPE_CHECKING:
    from torch import nn

    from workers.recipe import Recipe


@dataclass(frozen=True)
class Argument:
    """One argument of a family: any search space may fix it under `model:` or vary it under `axes:`."""

    type: type  # bool, int, float or str
    meaning: str
    default: Any = None  # None: the space has to give it
    choices: tuple[Any, ...] = ()  # empty: any value of the type that `Family.check` lets through


@dataclass(frozen=True)
class Family:
    """A family of models.

    Args:
        name: as a search space names it.
        arguments: what a model is built from, by name. `width` (float) and `depth` (int) are the arguments that the
            scaling rules compare; a family may have either, both or none.
        build: (arguments, resolution, classes, recipe or None) to a module from images (N, 3, H, W) to logits
            (N, classes). It has to work on the meta device too; without a recipe there is no regularisation.
        check: raises ValueError, one line beginning with the name of the argument that is wrong.
        min_resolution: smallest image side, px.
        version: part of the trial ids; raised when the same arguments give another model.
    """

    name: str
    arguments: Mapping[str, Argument]
    build: "Callable[[Mapping[str, Any], int, int, Recipe | None], nn.Module]"
    check: Callable[[Mapping[str, Any], int], None] = field(default=lambda arguments, resolution: None)
    min_resolution: int = 1
    version: str = "1"


TIMM = "timm:"
# What timm's own names consist of. Everything that would lead to a hub, a folder or a file of weights
# (`hf-hub:`, `local-dir:`, paths, tags) has a character beyond these.
_TIMM_NAME = re.compile(r"[a-z0-9_]+", re.ASCII)
# Below it a network of stride 32 has features of one pixel before its last stage, where oneDNN with AMX leaves part of
# the weights' gradient uninitialised (seen in 24 of 60 passes).
MIN_BFLOAT16_RESOLUTION = 32


def find_family(name: str, plugins: Sequence[str] = ()) -> Family:
    """The family of a name.

    Args:
        name: of a built-in family, `timm:<architecture>`, or of one that a plug-in declares.
        plugins: paths of Python files, see `workers.plugins`.

    Raises:
        ValueError: no family has this name, the architecture's name is not one, or a plug-in cannot be loaded.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name.startswith(TIMM):
        return _timm_family(name)
    declared = _plugin_families(plugins)
    if name not in declared:
        known = (*BUILT_IN, f"{TIMM}<architecture>", *declared)
        raise ValueError(f"unknown family {short(name)}; known: {', '.join(known)}")
    return declared[name]


def resolve_arguments(family: Family, given: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a family, in its order, with defaults filled in.

    Whole numbers pass for real ones; nothing else is converted.

    Raises:
        ValueError: one line, beginning with the name of the argument that is unknown, missing or wrong.
    """
    for name in given:
        if name not in family.arguments:
            known = ", ".join(family.arguments) or "none"
            raise ValueError(f"{name} is no argument of {family.name}; known: {known}")
    return {name: _resolved(family, name, given.get(name, arg.default)) for name, arg in family.arguments.items()}


def _resolved(family: Family, name: str, value: Any) -> Any:
    argument = family.arguments[name]
    if value is None:
        raise ValueError(f"{name} is missing; {family.name} needs it: {argument.meaning}")
    if argument.type is float and type(value) is int:
        value = float(value)
    if type(value) is not argument.type or (type(value) is float and not math.isfinite(value)):
        raise ValueError(f"{name} must be {WORDS[argument.type]}, not {short(value)}")
    if argument.choices and value not in argument.choices:
        known = ", ".join(map(str, argument.choices))
        raise ValueError(f"{name} {value} is none of {family.name}'s; known: {known}")
    return value


def check_cell(family: Family, arguments: Mapping[str, Any], resolution: int) -> None:
    """Refuse a shape that cannot be built.

    For `timm:<architecture>` this imports timm, and builds and runs the model on the meta device.

    Raises:
        ValueError: one line with what is wrong and what would be right, beginning with the wrong field's name.
    """
    resolved = resolve_arguments(family, arguments)
    try:
        family.check(resolved, resolution)
    except ValueError:
        raise
    except Exception as error:  # a plug-in's
        raise ValueError(f"family {family.name!r}: its own check failed: {type(error).__name__}: {error}") from error
    if resolution < family.min_resolution:
        raise ValueError(
            f"resolution {resolution} is below {family.min_resolution}, the smallest that {family.name} can read"
        )


def check_recipe(family: Family, arguments: Mapping[str, Any], resolution: int, recipe: "Recipe") -> None:
    """Refuse what a recipe asks of a shape that has not got it: a test resolution, dropout or stochastic depth.

    Raises:
        ValueError: one line, beginning with the name of the recipe's field.
    """
    if family.name.startswith(TIMM):
        from workers.model import check_timm

        architecture = family.name.removeprefix(TIMM)
        check_timm(architecture, resolution, recipe.test_resolution, recipe.dropout, recipe.stochastic_depth)
    elif recipe.test_resolution:
        try:
            check_cell(family, arguments, recipe.test_resolution)
        except ValueError as error:
            told = str(error)
            where = "test_" if told.startswith("resolution ") else f"test_resolution {recipe.test_resolution}: "
            raise ValueError(f"{where}{told}") from error


def check_precision(device: str, precision: str, resolution: int) -> None:
    """Refuse images that a device cannot train on in a precision.

    Args:
        device: cpu, cuda or xla.
        precision: float32, bfloat16 or float16.
        resolution: of training, px.

    Raises:
        ValueError: one line, beginning with "precision".
    """
    if device == "cpu" and precision == "bfloat16" and resolution < MIN_BFLOAT16_RESOLUTION:
        raise ValueError(
            f"precision bfloat16 on a CPU needs a resolution of at least {MIN_BFLOAT16_RESOLUTION}, not "
            f"{resolution}: oneDNN's gradient of a strided convolution over one pixel can be NaN; use float32"
        )


def _plugin_families(plugins: Sequence[str]) -> dict[str, Family]:
    from workers.plugins import load_plugin  # here, since that module checks what it loads with this one

    declared: dict[str, Family] = {}
    for path in plugins:
        for family in getattr(load_plugin(path), "FAMILIES", ()):
            if family.name in declared:
                raise ValueError(f"plug-in {path}: another plug-in has a family {family.name!r} too; rename one")
            declared[family.name] = family
    return declared


def _timm_family(name: str) -> Family:
    architecture = name.removeprefix(TIMM)
    if not _TIMM_NAME.fullmatch(architecture):
        raise ValueError(
            f"family {name!r} is not one of timm's own architectures: hubs, folders, files and tags are not read; "
            f"right would be {TIMM} and a name of small letters, digits and underscores, as {TIMM}resnet50"
        )

    def build(_: Mapping[str, Any], resolution: int, classes: int, recipe: "Recipe | None") -> "nn.Module":
        from workers.model import build_timm

        return build_timm(architecture, resolution, classes, recipe)

    def check(_: Mapping[str, Any], resolution: int) -> None:
        from workers.model import check_timm

        check_timm(architecture, resolution, 0, 0.0, 0.0)

    return Family(name, {}, build, check)


def _build_resnet_rs(
    arguments: Mapping[str, Any], resolution: int, classes: int, recipe: "Recipe | None"
) -> "nn.Module":
    from workers.model import build_resnet_rs

    switches = {name: arguments[name] for name in ("se", "resnet_d", "stem_pool")}
    return build_resnet_rs(arguments["width"], resnet_rs.BLOCKS[arguments["depth"]], classes, recipe, **switches)


def _build_efficientnet(
    arguments: Mapping[str, Any], resolution: int, classes: int, recipe: "Recipe | None"
) -> "nn.Module":
    from workers.model import build_efficientnet

    return build_efficientnet(arguments["variant"], classes, recipe)


BUILT_IN: Mapping[str, Family] = {
    "resnet_rs": Family(
        "resnet_rs",
        {
            "width": Argument(float, "multiplier on the channels of the stem and of every stage"),
            "depth": Argument(int, "layers, as the models are named", choices=tuple(resnet_rs.BLOCKS)),
            "se": Argument(bool, "squeeze-and-excitation in every block", default=True),
            "resnet_d": Argument(bool, "stem of three convolutions, and shortcuts that average", default=True),
            "stem_pool": Argument(
                str, "pooling after the stem: a strided convolution or max", "conv", resnet_rs.STEM_POOLS
            ),
        },
        _build_resnet_rs,
        lambda arguments, resolution: resnet_rs.check_width(arguments["width"]),
        resnet_rs.MIN_RESOLUTION,
    ),
    "efficientnet": Family(
        "efficientnet",
        {"variant": Argument(str, "b0 to b7, at any resolution", choices=tuple(f"b{n}" for n in range(8)))},
        _build_efficientnet,
        # Its last stage too reads features at stride 16.
        min_resolution=16,
    ),
}

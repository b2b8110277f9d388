"""The named recipes as Markdown tables; docs/recipes.md shows them, and a test keeps the two equal."""

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from workers.recipe import OVERRIDABLE, Cell, Recipe
from workers.recipes import FULL_LENGTH_EPOCHS, RECIPES, RELEASED, Value, released_overrides, resolve

PAPER_WIDTHS = (0.25, 0.5, 1.0, 1.5, 2.0)  # RS section 6
PAPER_RESOLUTIONS = (128, 160, 224, 320, 448)  # RS section 6
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Recipe)}


def recipe_reference(name: str) -> str:
    """One recipe: a row per field with its value or its rule, and the source."""
    rows = [[f"`{field}`", *_row(name, field)] for field in OVERRIDABLE]
    return _table(("field", "value", "source"), rows)


def _row(name: str, field: str) -> tuple[str, str]:
    values = RECIPES[name].values
    if field in values:
        return _words(values[field]), values[field].source
    notes = {"momentum": "read by `sgd` only", "nesterov": "read by `sgd` only", "lr_scale": "an axis"}
    return _text(_DEFAULTS[field]), notes.get(field, "off")  # all recipes with SGD state its own two


def _words(value: Value) -> str:
    if not callable(value.of):
        return _text(value.of)
    return (inspect.getdoc(value.of) or "").splitlines()[0].removesuffix(".")


def _text(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    # With an exponent and no point, YAML would read text.
    return f"{value:g}" if "e" not in f"{value:g}" else f"{value:.10f}".rstrip("0")


def grid_reference() -> str:
    """What `resnet_rs` gives at the paper's grid: dropout, stochastic depth and RandAugment magnitude."""

    def at(width: float, resolution: int) -> str:
        recipe = RECIPES["resnet_rs"](Cell(resolution, FULL_LENGTH_EPOCHS, width))
        return _regularisation(recipe)

    rows = [[f"width {width:g}", *(at(width, side) for side in PAPER_RESOLUTIONS)] for width in PAPER_WIDTHS]
    return _table(("", *(f"{side} px" for side in PAPER_RESOLUTIONS)), rows)


def released_reference() -> str:
    """The 11 released models: their own regularisation, and what the grid's rule gives for them."""
    rows = []
    for depth, resolution in RELEASED:
        cell = Cell(resolution, FULL_LENGTH_EPOCHS, 1.0, depth)
        released = resolve("resnet_rs", cell, released_overrides(depth, resolution))
        ours = RECIPES["resnet_rs"](cell)
        rows.append([f"RS-{depth} at {resolution} px", _regularisation(released), _regularisation(ours)])
    return _table(("model", "as released", "by the grid's rule"), rows)


def _regularisation(recipe: Recipe) -> str:
    return f"{recipe.dropout:g} / {recipe.stochastic_depth:g} / {recipe.randaugment_magnitude:g}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)

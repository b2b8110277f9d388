"""docs/recipes.md shows what the recipes are, and its examples can be written into a search space."""

import re
from pathlib import Path

import pytest
import yaml

from workers.families import find_family, resolve_arguments
from workers.recipe import OVERRIDABLE, Cell
from workers.recipe_reference import grid_reference, recipe_reference, released_reference
from workers.recipes import RECIPES, RELEASED, released_overrides, resolve

TEXT = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
CELLS = [Cell(resolution, epochs, width) for resolution in (160, 448) for epochs in (10, 350) for width in (None, 2.0)]


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_has_its_table(name):
    wanted = recipe_reference(name)
    _, _, section = TEXT.partition(f"\n## {name}\n")
    shown = section.partition("\n## ")[0]
    assert wanted in shown, f"docs/recipes.md is out of date; the table of {name} should be:\n{wanted}"
    assert RECIPES[name].about in shown


@pytest.mark.parametrize("wanted", [grid_reference(), released_reference()], ids=["grid", "released"])
def test_the_tables_by_shape_are_what_the_code_gives(wanted):
    assert wanted in TEXT, f"docs/recipes.md is out of date; its table should be:\n{wanted}"


@pytest.mark.parametrize("name", RECIPES)
def test_a_table_has_a_row_per_field_and_a_rule_wherever_the_value_depends_on_the_cell(name):
    rows = [line.split(" | ") for line in recipe_reference(name).splitlines()[2:]]
    assert [row[0] for row in rows] == [f"| `{field}`" for field in OVERRIDABLE]
    for field, row in zip(OVERRIDABLE, rows, strict=True):
        values = {getattr(RECIPES[name](cell), field) for cell in CELLS}
        if len(values) > 1:
            assert callable(RECIPES[name].values[field].of)
            assert len(row[1]) > 10
        elif field not in RECIPES[name].values or not callable(RECIPES[name].values[field].of):
            assert yaml.safe_load(row[1]) == values.pop()


def test_what_is_not_checked_against_the_paper_says_so():
    values = RECIPES["resnet_rs"].values
    assert {field for field in values if "[MEM]" in values[field].source} == {
        "dropout",
        "stochastic_depth",
        "randaugment_magnitude",
    }
    assert all("INF" in RECIPES[name].values["bce_threshold"].source for name in ("rsb_a1", "rsb_a3"))


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_resolves(example):
    space = yaml.safe_load(example)
    recipe = space["recipe"] if isinstance(space["recipe"], dict) else {"name": space["recipe"]}
    overrides = {field: value for field, value in recipe.items() if field != "name"}
    resolved = resolve(recipe["name"], Cell(224, 350, 1.0, 50), overrides)
    assert {field: getattr(resolved, field) for field in overrides} == overrides
    if "model" in space:
        resolve_arguments(find_family(space["family"]), {"width": 1.0, "depth": 50, **space["model"]})


def test_the_examples_are_there():
    assert len(EXAMPLES) >= 7


def test_the_example_of_a_released_model_is_that_model():
    (space,) = [yaml.safe_load(example) for example in EXAMPLES if "cells" in example]
    (cell,) = space["cells"]
    assert (cell["depth"], cell["resolution"]) in RELEASED
    assert {**released_overrides(cell["depth"], cell["resolution"]), "name": "resnet_rs"} == space["recipe"]

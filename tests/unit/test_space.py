from pathlib import Path

import pytest
import yaml

from sweep.errors import SpaceError
from sweep.space import dump_space, load_space, space_of_cells

SPACES = Path(__file__).parents[2] / "search_spaces"
GOOD = """\
sweep: a
data:
  name: digits
family: resnet_rs
recipe: {name: small, learning_rate: 0.2}
axes:
  width: [0.25, 0.5]
  depth: [26, 50]
  resolution: [16, 32]
  epochs: [1, 3]
seeds: [0, 1]
resources: {cpu: 1}
"""
CELLS = GOOD[: GOOD.index("axes")] + "cells:\n  - {width: 0.25, depth: 26, resolution: 16, epochs: 1}\n"


@pytest.fixture
def space(tmp_path):
    def space(text):
        path = tmp_path / "a.yaml"
        path.write_text(text)
        return path

    return space


def changed(old, new, text=GOOD):
    assert old in text
    return text.replace(old, new)


def shape(cell):
    return cell.width, cell.depth, cell.resolution, cell.epochs


def refusals(path):
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}:") for line in lines)
    return [line.removeprefix(f"{path}:") for line in lines]


SHIPPED = {"quickstart": 36, "paper_grid": 525, "efficientnet": 22, "rsb_a2": 1, "rsb_a3": 1}


def test_every_shipped_space_is_tested():
    assert {path.stem for path in SPACES.glob("*.yaml")} == set(SHIPPED)


@pytest.mark.parametrize(("name", "cells"), SHIPPED.items())
def test_shipped_spaces_have_their_cells_and_exclude_nothing(name, cells):
    spec = load_space(SPACES / f"{name}.yaml")
    assert len({cell.key for cell in spec.all_cells()}) == len(spec.all_cells()) == cells
    assert spec.exclude == []
    assert spec.limits.macs_per_image is spec.limits.params is None


def test_the_grid_comes_in_the_files_order_then_the_listed_cells(space):
    text = GOOD + "cells: [{width: 1, depth: 101, resolution: 64, epochs: 2}]\n"
    keys = [shape(cell) for cell in load_space(space(text)).all_cells()]
    assert keys[:3] == [(0.25, 26, 16, 1), (0.25, 26, 16, 3), (0.25, 26, 32, 1)]
    assert keys[-2:] == [(0.5, 50, 32, 3), (1.0, 101, 64, 2)]
    assert len(keys) == 17


AXIS = "  width: [0.25, 0.5]\n"
TOP_KEYS = (
    "sweep, data, plugins, family, model, recipe, axes, cells, seeds, limits, exclude, resources, checkpoints, "
    "hung_after_minutes"
)
DATA_KEYS = "name, root, minival, classes, version, cache, cache_side, unreadable, download"
HAS = "unknown axis; resnet_rs has width, depth, se, resnet_d, stem_pool, resolution, epochs"
ONE_PROBLEM = {
    "unknown key": (GOOD + "sead: 1\n", 13, f"sead: unknown key; allowed here: {TOP_KEYS}"),
    "unknown axis": (changed("axes:", "axes:\n  widht: [1]"), 7, f"axes.widht: {HAS}"),
    "unknown key of data": (
        changed("digits", "digits\n  path: x"),
        4,
        f"data.path: unknown key; allowed here: {DATA_KEYS}",
    ),
    "exclusion of everything": (
        GOOD + "exclude: [{}]\n",
        13,
        "exclude.0: names no value, so it would exclude every cell",
    ),
    "a billion trials": (
        changed("[1, 3]", str([*range(1, 90_000)])),
        6,
        "axes: the grid has more than 1000000 trials",
    ),
    "list for a mapping": (
        changed("{cpu: 1}", "[1]"),
        12,
        "resources: must be keys and values, with the keys cpu, gpu",
    ),
    "unknown limit": (
        GOOD + "limits: {flops: [0, 1]}\n",
        13,
        "limits.flops: unknown key; allowed here: macs_per_image, params",
    ),
    "unknown key of a cell": (
        CELLS + "  - {width: 1, depth: 26, resolution: 16, epochs: 1, seed: 1}\n",
        8,
        f"cells.1.seed: {HAS}",
    ),
    "unknown key of an exclusion": (
        GOOD + "exclude:\n  - {seed: 1}\n",
        14,
        f"exclude.0.seed: {HAS}",
    ),
    "missing key": (
        changed("family: resnet_rs\nrecipe: {name: small, learning_rate: 0.2}\n", ""),
        1,
        "recipe: this key is missing",
    ),
    "missing axis": (changed("  epochs: [1, 3]\n", ""), 6, "axes.epochs: this key is missing"),
    "neither axes nor cells": (
        GOOD[: GOOD.index("axes")],
        1,
        "axes: this key is missing (or `cells`, a list of cells)",
    ),
    "empty axis": (changed("[16, 32]", "[]"), 9, "axes.resolution: must have at least one value"),
    "no seeds": (changed("[0, 1]", "[]"), 11, "seeds: must have at least one value"),
    "axis without list": (changed("[16, 32]", "16"), 9, "axes.resolution: must be a list in brackets (got 16)"),
    "width without channels": (
        changed("[0.25, 0.5]", "[0.25, 0.01]"),
        7,
        "axes.width.1: width 0.01 gives no channels; the smallest is 0.03125",
    ),
    "width of a listed cell": (
        CELLS + "  - width: 0.01\n    depth: 26\n    resolution: 16\n    epochs: 1\n",
        8,
        "cells.1.width: width 0.01 gives no channels; the smallest is 0.03125",
    ),
    "unknown depth": (
        changed("[26, 50]", "[26, 51]"),
        8,
        "axes.depth.1: depth 51 is none of resnet_rs's; known: 26, 50, 101",
    ),
    "resolution below the stride": (changed("[16, 32]", "[8, 32]"), 9, "axes.resolution.0: resolution 8 is below 16"),
    "negative width": (changed("[0.25, 0.5]", "[-1]"), 7, "axes.width.0: must be above 0 (got -1)"),
    "no epochs": (changed("[1, 3]", "[0]"), 10, "axes.epochs.0: must be above 0 (got 0)"),
    "half an epoch": (changed("[1, 3]", "[0.5]"), 10, "axes.epochs.0: must be a whole number"),
    "duplicate value": (changed("[1, 3]", "[1, 3, 1]"), 10, "axes.epochs.2: 1 stands twice"),
    "duplicate width, spelt twice": (changed("[0.25, 0.5]", "[1, 1.0]"), 7, "axes.width.1: 1.0 stands twice"),
    "duplicate seed": (changed("[0, 1]", "[3, 3]"), 11, "seeds.1: 3 stands twice"),
    "duplicate cell": (
        CELLS + "  - {width: 0.5, depth: 26, resolution: 16, epochs: 1}\n" + CELLS.splitlines()[-1],
        9,
        "cells.2: this cell stands twice",
    ),
    "cell of the grid again": (
        GOOD + "cells: [{width: 0.5, depth: 26, resolution: 16, epochs: 1}]\n",
        13,
        "cells.0: this cell stands twice",
    ),
    "duplicate key": (GOOD + "seeds: [1]\n", 13, "key 'seeds' stands twice"),
    "alias": (changed("[0.25, 0.5]", "&w [0.25]") + "seeds2: *w\n", 13, "alias *w is not allowed"),
    "NaN": (changed("[0.25, 0.5]", "[.nan]"), 7, ".nan is not a finite number"),
    "NaN as text": (changed("[0.25, 0.5]", "['nan']"), 7, "axes.width.0: "),
    "NaN in limits": (GOOD + "limits: {params: ['nan', 1]}\n", 13, "limits.params.0: must be a finite number"),
    "infinite limit": (GOOD + "limits: {params: [0, inf]}\n", 13, "limits.params.1: must be a finite number"),
    "limits upside down": (
        GOOD + "limits: {params: [2, 1]}\n",
        13,
        "limits: params: the low bound 2 is above the high one 1",
    ),
    "text for a number": (changed("[26, 50]", "[deep]"), 8, "axes.depth.0: must be a whole number"),
    "truth for a number": (changed("[0, 1]", "[yes]"), 11, "seeds.0: must be a number (got True)"),
    "truth for a width": (changed("[0.25, 0.5]", "[true]"), 7, "axes.width.0: must be a number (got True)"),
    "date for a number": (changed("[26, 50]", "[2020-01-01]"), 8, "axes.depth.0: must be a whole number"),
    "list for a recipe": (
        changed("{name: small, learning_rate: 0.2}", "[small]"),
        5,
        "recipe: must be a recipe's name, or its name and values that replace its own: "
        "{name: small, learning_rate: 0.2} (got ['small'])",
    ),
    "one bound": (GOOD + "limits: {params: [1]}\n", 13, "limits.params: must be a list of two numbers, [low, high]"),
    "three bounds": (GOOD + "limits: {params: [1, 2, 3]}\n", 13, "limits.params: must be a list of 2 values (got ["),
    "no version": (changed("digits", "digits\n  version: ''"), 4, "data.version: must not be empty (got '')"),
    "seed too large": (changed("[0, 1]", "[2147483648]"), 11, "seeds.0: must be below 2147483648 (got 2147483648)"),
    "list for a name": (changed("family: resnet_rs", "family: [a]"), 4, "family: must be text (got ['a'])"),
    "name with a slash": (changed("sweep: a", "sweep: a/b"), 1, "sweep: must be at most 100 letters, digits and _ . -"),
    "name of a folder of sweeps": (
        changed("sweep: a", "sweep: published"),
        1,
        "sweep: 'published' is a folder of sweeps",
    ),
    "unknown recipe": (
        changed("name: small, learning_rate: 0.2", "name: smal"),
        5,
        "recipe: unknown recipe 'smal'; known: small, resnet_rs",
    ),
    "unknown recipe field": (
        changed("learning_rate", "lr"),
        5,
        "recipe.lr: unknown recipe field 'lr'; known: batch_size, bn_batch, learning_rate",
    ),
    "recipe value of the wrong type": (
        changed("learning_rate: 0.2", "\n  learning_rate: fast"),
        6,
        "recipe.learning_rate: learning_rate must be a finite number, not 'fast'",
    ),
    "recipe value out of bounds": (
        changed("learning_rate: 0.2", "\n  momentum: 1.5"),
        6,
        "recipe.momentum: momentum 1.5 is not in [0, 1)",
    ),
    "recipe value that no float holds": (
        changed("rate: 0.2", "rate: 1" + "0" * 400),
        5,
        "recipe.learning_rate: learning_rate must be a finite number, not 1000",
    ),
    "unknown family": (changed("resnet_rs", "vgg"), 4, "family: unknown family 'vgg'; known: resnet_rs"),
    "unknown data set": (
        changed("digits", "mnist"),
        3,
        "data.name: unknown data set 'mnist'; known: digits, imagenet, folder",
    ),
    "data set without root": (changed("digits", "imagenet"), 2, "data.root: data set 'imagenet' needs this"),
    "data set without classes": (
        changed("digits", "folder\n  root: /x"),
        2,
        "data.classes: data set 'folder' needs this key: the number of its classes",
    ),
    "web data set without a cache": (
        changed("digits", "wds/x\n  classes: 3\n  root: /x"),
        2,
        "data.cache: data set 'wds/x' can only be read in order, so it needs this key: a folder for decoded images",
    ),
    "batch larger than the training set": (
        changed("learning_rate: 0.2", "\n  batch_size: 2048"),
        6,
        "recipe.batch_size: batch_size 2048 is more than the 1078 training images of digits; give a smaller",
    ),
    "batch of a named recipe larger than the training set": (
        changed("name: small, learning_rate: 0.2", "name: resnet_rs"),
        5,
        "recipe: batch_size 4096 is more than the 1078 training images of digits; give a smaller",
    ),
    "minival that leaves less than a batch": (
        changed("digits", "digits\n  minival: 0.99"),
        6,
        "recipe: batch_size 32 is more than the 14 training images of digits; give a smaller",
    ),
    "other number of classes": (
        changed("digits", "digits\n  classes: 11"),
        4,
        "data.classes: data set 'digits' has 10 classes, not 11",
    ),
    "unknown precision": (
        changed("{cpu: 1}", "{precision: half}"),
        12,
        "resources.precision: must be float32, bfloat16 or float16 (got 'half')",
    ),
    "a key with a line break": (GOOD + '"a\\nb": 1\n', 13, r"'a\nb': unknown key"),
    "a list": ("- 1\n", 1, "expected keys such as sweep"),
    "nothing": ("", 1, "expected keys such as sweep"),
}


@pytest.mark.parametrize("problem", ONE_PROBLEM)
def test_each_problem_is_one_line_with_its_place(space, problem):
    text, line, what = ONE_PROBLEM[problem]
    (message,) = refusals(space(text))
    assert message.startswith(f"{line}: {what}")


def test_the_good_space_that_all_these_differ_from_is_good(space):
    assert len(load_space(space(GOOD)).all_cells()) == 16
    assert len(load_space(space(CELLS)).all_cells()) == 1


def test_several_problems_are_several_lines(space):
    text = GOOD + "sead: 1\n"
    text = changed("[0.25, 0.5]", "[]", changed("[26, 50]", "[x]", changed("digits", "mnist", text)))
    assert [line.split(":")[:2] for line in refusals(space(text))] == [
        ["3", " data.name"], ["7", " axes.width"], ["8", " axes.depth.0"], ["13", " sead"],
    ]  # fmt: skip


def test_several_shapes_that_cannot_be_built_are_several_lines_each_once(space):
    text = changed("[0.25, 0.5]", "[0.25, 0.01]", changed("[26, 50]", "[26, 51]", changed("[16, 32]", "[8, 32]")))
    starts = [message.split(" ")[1] for message in refusals(space(text))]
    assert sorted(starts) == ["axes.depth.1:", "axes.resolution.0:", "axes.width.1:"]


@pytest.mark.parametrize("spelling", ["4e-5", "4.0e-05", "0.00004"])
def test_a_small_number_of_a_recipe_may_have_an_exponent_however_it_is_spelt(space, spelling):
    spec = load_space(space(changed("learning_rate: 0.2", f"weight_decay: {spelling}")))
    assert spec.recipe.overrides == {"weight_decay": 4e-5}


def test_limits_take_exponents(space):
    assert load_space(space(GOOD + "limits: {macs_per_image: [0, 60e9]}\n")).limits.macs_per_image == (0, 60e9)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_dumped_space_reads_back_equal_and_keeps_its_variables(path, space):
    spec = load_space(path)
    text = dump_space(spec, "1.2.3")
    assert text.startswith("# resolved by sweep 1.2.3\n")
    assert load_space(space(text)) == spec
    assert yaml.safe_load(text)["data"].get("root") == spec.data.root


def test_recommended_cells_replace_the_grid_and_nothing_else(space):
    spec = load_space(space(GOOD))
    chosen = [
        {"width": 0.5, "depth": 50.0, "resolution": 32.0, "epochs": 3.0, "top1": 98.0},
        {"width": 0.25, "depth": 26.0, "resolution": 16.0, "epochs": 1.0, "top1": 90.0},
    ]
    made = load_space(space(dump_space(space_of_cells(spec, chosen), "0")))
    assert [shape(cell) for cell in made.all_cells()] == [(0.5, 50, 32, 3), (0.25, 26, 16, 1)]
    assert (made.sweep, made.data, made.recipe, made.seeds) == ("a_recommended", spec.data, spec.recipe, spec.seeds)

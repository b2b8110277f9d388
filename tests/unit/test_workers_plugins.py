import sys
import textwrap

import pytest
import torch

from workers.costs import count_costs, predict_memory
from workers.families import check_cell, find_family, resolve_arguments
from workers.model import build_model
from workers.plugins import load_plugin
from workers.recipe import Cell
from workers.recipes import resolve

HEAD = """
from torch import nn
from workers.families import Argument, Family
"""
POOLED = """
def build(arguments, resolution, classes, recipe):
    cells = arguments["grid"]
    return nn.Sequential(nn.AdaptiveAvgPool2d(cells), nn.Flatten(), nn.Linear(3 * cells**2, classes))


def check(arguments, resolution):
    if arguments["grid"] > resolution:
        raise ValueError(f"grid {arguments['grid']} is finer than the image")


def family(name="pooled", **changes):
    arguments = {"grid": Argument(int, "cells along a side", default=4), "width": Argument(float, "unused", 1.0)}
    return Family(name, **{"arguments": arguments, "build": build, "check": check, "min_resolution": 2, **changes})
"""


def written(folder, text, name="own.py"):
    path = folder / name
    path.write_text(HEAD + POOLED + textwrap.dedent(text))
    return str(path)


@pytest.fixture
def plugin(tmp_path):
    return written(tmp_path, "FAMILIES = [family()]")


def test_a_plugins_family_is_found_checked_built_and_counted(plugin):
    family = find_family("pooled", (plugin,))
    assert resolve_arguments(family, {"grid": 2}) == {"grid": 2, "width": 1.0}
    check_cell(family, {"grid": 8}, 8)
    model = build_model("pooled", {"grid": 2}, 8, 5, plugins=(plugin,))
    assert model(torch.rand(3, 3, 8, 8)).shape == (3, 5)
    costs = count_costs("pooled", {"grid": 2}, 8, 5, (plugin,))
    assert (costs.params, costs.macs_per_image) == (12 * 5 + 5, 12 * 5)
    recipe = resolve("small", Cell(resolution=8, epochs=1), {})
    bytes_of_weights = 4 * costs.params
    predicted = predict_memory("pooled", {"grid": 2}, 8, 5, recipe, 32, "float32", (plugin,))
    assert predicted > 2 * bytes_of_weights + 32 * 3 * 8 * 8 * 4


def test_a_plugins_own_check_and_limits_hold(plugin):
    family = find_family("pooled", (plugin,))
    with pytest.raises(ValueError, match=r"^grid 9 is finer than the image"):
        check_cell(family, {"grid": 9}, 8)
    with pytest.raises(ValueError, match=r"^resolution 1 is below 2, the smallest that pooled can read"):
        check_cell(family, {"grid": 1}, 1)
    with pytest.raises(ValueError, match=r"^grid must be a whole number"):
        check_cell(family, {"grid": 2.0}, 8)


def test_a_plugins_own_check_that_fails_itself_is_told_in_one_line(tmp_path):
    path = written(tmp_path, "FAMILIES = [family(check=lambda arguments, resolution: arguments['cells'])]")
    with pytest.raises(ValueError, match="family 'pooled': its own check failed: KeyError: 'cells'"):
        check_cell(find_family("pooled", (path,)), {}, 8)


def test_a_plugins_families_are_named_among_those_that_are_known(plugin):
    with pytest.raises(ValueError, match=r"^unknown family 'poled'; known: .*timm:<architecture>, pooled$"):
        find_family("poled", (plugin,))
    with pytest.raises(ValueError, match=r"^unknown family 'pooled'"):
        find_family("pooled")


def test_a_plugin_runs_once_a_process_whatever_its_path_is_called(tmp_path, monkeypatch):
    path = written(tmp_path, "FAMILIES = [family()]\nimport os\nos.environ['RUNS'] = os.environ.get('RUNS', '') + 'x'")
    monkeypatch.setenv("RUNS", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    modules = {id(load_plugin(spelt)) for spelt in (path, path, "own.py", "folder/../own.py")}
    import os

    assert (len(modules), os.environ["RUNS"]) == (1, "x")


def test_a_plugin_called_like_a_library_hides_nothing(tmp_path):
    load_plugin(written(tmp_path, "FAMILIES = [family()]", name="random.py"))
    import random

    assert random.random() < 1
    assert "own" not in sys.modules


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "declares nothing; it needs FAMILIES = "),
        ("FAMILIES = family()", "FAMILIES must be a list of workers.families.Family"),
        ("FAMILIES = [3]", "FAMILIES must be a list of workers.families.Family"),
        ("DATASETS = []", "DATASETS must be a dictionary from names to workers.datasets.DatasetFacts"),
        ("DATASETS = {'own': 3}", "DATASETS must be a dictionary"),
        ("FAMILIES = [family('resnet_rs')]", "family 'resnet_rs' is built in; choose another name"),
        ("FAMILIES = [family('efficientnet')]", "family 'efficientnet' is built in"),
        ("FAMILIES = [family('timm:resnet50')]", "family 'timm:resnet50': a name is a letter, then"),
        ("FAMILIES = [family('')]", "family '': a name is"),
        ("FAMILIES = [family(None)]", "family None: a name is"),
        ("FAMILIES = [family(), family()]", "declares the family 'pooled' twice"),
        ("FAMILIES = [family(build=None)]", "family 'pooled': build and check must be functions"),
        ("FAMILIES = [family(arguments={'grid': int})]", "argument 'grid' must be an Argument of type bool, int"),
        ("FAMILIES = [family(arguments={'grid': Argument(list, 'odd')})]", "argument 'grid' must be an Argument"),
        ("FAMILIES = [family(arguments={'width': Argument(int, 'odd')})]", "argument 'width' must be of type float"),
        ("FAMILIES = [family(arguments={'depth': Argument(float, 'odd')})]", "argument 'depth' must be of type int"),
        ("FAMILIES = [family(arguments={'resolution': Argument(int, 'px')})]", "cannot be called 'resolution'"),
        ("FAMILIES = [family(arguments=[1])]", "family 'pooled': arguments must be a dictionary"),
        (
            "from workers.datasets import DATASETS as built_in\nDATASETS = {'digits': built_in['digits']}",
            "data set 'digits' is built in",
        ),
        (
            "from workers.datasets import DATASETS as built_in\nDATASETS = {'hfds/own': built_in['digits']}",
            "data set 'hfds/own': a name is a letter",
        ),
        ("FAMILIES = [famly()]", "line LAST: NameError: name 'famly' is not defined"),
        ("import no_such_library", "line LAST: ModuleNotFoundError: No module named 'no_such_library'"),
        ("def :", "line LAST: SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "line LAST: SystemExit: 3"),
        ("raise RuntimeError('two\\nlines')", "line LAST: RuntimeError: two lines"),
        ("nn.Linear(-1, 2)", "line LAST: RuntimeError: "),
    ],
)
def test_a_plugin_that_cannot_be_used_is_refused_in_one_line_that_names_it(tmp_path, text, said):
    path = written(tmp_path, text)
    last = str(1 + (HEAD + POOLED).count("\n"))
    loaded = set(sys.modules)
    for _ in range(2):  # a failure is not remembered as a success
        with pytest.raises(ValueError, match=r"^plug-in ") as refused:
            find_family("pooled", (path,))
        assert path in str(refused.value)
        assert said.replace("LAST", last) in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not {name for name in set(sys.modules) - loaded if name.startswith("_plugin_")}


def test_two_plugins_cannot_have_one_family(tmp_path):
    paths = [written(tmp_path, "FAMILIES = [family()]", name=f"{n}.py") for n in "ab"]
    with pytest.raises(ValueError, match=r"b\.py: another plug-in has a family 'pooled' too; rename one"):
        find_family("pooled", paths)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("absent.py", "plug-in absent.py: no such file"),
        (".", "plug-in .: no such file"),
        ("", "plug-in : no such file"),
        ("a\0b.py", "is no path of a file"),
        ("x" * 5000 + ".py", "is no path of a file|no such file"),
        (3, "plug-in 3 is no path of a file"),
        ("own.txt", "plug-in own.txt is not a Python file; its name would end in .py"),
    ],
)
def test_an_odd_path_is_refused_in_one_line(tmp_path, monkeypatch, path, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("FAMILIES = []")
    with pytest.raises(ValueError, match=said) as refused:
        load_plugin(path)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "own.py"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"own\.py: .*(SyntaxError|ValueError|UnicodeDecodeError)"):
        load_plugin(str(path))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "return nn.Conv2d(3, classes, 1)",
            "the model gives (1, 5, 8, 8) for one image, not one number a class, (1, 5)",
        ),
        ("return nn.Conv2d(4, classes, 1)", "does not run on torch's meta device, where costs are counted: RuntimeErr"),
        ("return {}['x']", "does not run on torch's meta device, where costs are counted: KeyError: 'x'"),
    ],
)
def test_a_model_that_does_not_classify_is_refused_when_its_costs_are_counted(tmp_path, body, said):
    body = f"def build(arguments, resolution, classes, recipe):\n    {body}\n\n\nFAMILIES = [family(build=build)]"
    path = written(tmp_path, body)
    with pytest.raises(ValueError, match=r"^family 'pooled': ") as refused:
        count_costs("pooled", {}, 8, 5, (path,))
    assert said in str(refused.value)

"""Search spaces of other families than the plain resnet_rs: arguments, plug-ins, and what a trial runs on."""

from pathlib import Path

import pytest
import yaml

from sweep.errors import SpaceError
from sweep.space import SweepSpec, dump_space, load_space, read_space, space_of_cells
from sweep.trials import trials_of

HEAD = "sweep: a\ndata: {name: digits}\nrecipe: small\n"
RESNET = HEAD + "axes:\n  width: [0.25]\n  depth: [26]\n  resolution: [16]\n  epochs: [1]\n"
EFFICIENTNET = HEAD + "family: efficientnet\naxes:\n  variant: [b0, b4]\n  resolution: [32, 64]\n  epochs: [1]\n"
TIMM = HEAD + "family: timm:resnet18\naxes: {resolution: [32], epochs: [1, 2]}\n"
PLUGIN = """
from pathlib import Path
from workers.datasets import DatasetFacts
from workers.families import Argument, Family

Path(__file__).with_suffix(".ran").write_text("")


def build(arguments, resolution, classes, recipe):
    raise NotImplementedError


def check(arguments, resolution):
    if arguments["layers"] > 9:
        raise ValueError(f"layers {arguments['layers']} is above 9")


ARGUMENTS = {"layers": Argument(int, "how many"), "gain": Argument(float, "of each", 1.0)}
FAMILIES = [Family("mine", ARGUMENTS, build, check, version="7")]
DATASETS = {"my_images": DatasetFacts("3", 5, 100, 0.1, needs_root=False, open=lambda config: None)}
"""
MINE = """\
sweep: a
plugins: [my_models.py]
data: {name: my_images}
family: mine
recipe: small
axes: {layers: [2, 3], gain: [0.5, 1e-3], resolution: [16], epochs: [1]}
exclude: [{layers: 3, gain: 0.5}]
"""


@pytest.fixture
def space(tmp_path):
    def space(text, name="a.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return space


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "my_models.py"
    path.write_text(PLUGIN)
    return path


def refusal(path):
    with pytest.raises(SpaceError) as caught:
        load_space(path)
    (line,) = str(caught.value).splitlines()
    return line.removeprefix(f"{path}:")


def shapes(spec):
    return [(trial.width, trial.depth, trial.model, trial.resolution, trial.epochs) for trial in trials_of(spec)]


def test_the_arguments_of_a_family_are_axes_like_width_and_depth(space):
    assert shapes(load_space(space(EFFICIENTNET))) == [
        (None, None, {"variant": variant}, resolution, 1) for variant in ("b0", "b4") for resolution in (32, 64)
    ]
    switched = load_space(space(RESNET.replace("  epochs", "  se: [true, false]\n  epochs")))
    assert [trial.model["se"] for trial in trials_of(switched)] == [True, False]


def test_a_timm_model_has_resolution_and_epochs_only(space):
    assert shapes(load_space(space(TIMM))) == [(None, None, {}, 32, 1), (None, None, {}, 32, 2)]


def test_fixed_arguments_are_in_every_cell(space):
    spec = load_space(space(RESNET + "model: {se: false, stem_pool: max}\n"))
    assert shapes(spec) == [(0.25, 26, {"se": False, "resnet_d": True, "stem_pool": "max"}, 16, 1)]
    bare = HEAD + "model: {width: 0.25, depth: 26}\naxes: {resolution: [16], epochs: [1]}\n"
    assert shapes(load_space(space(bare)))[0][:2] == (0.25, 26)


def test_listed_cells_have_arguments_of_their_own(space):
    text = HEAD + "family: efficientnet\ncells:\n  - {variant: b1, resolution: 40, epochs: 2}\n"
    assert shapes(load_space(space(text))) == [(None, None, {"variant": "b1"}, 40, 2)]


HAS = "resnet_rs has width, depth, se, resnet_d, stem_pool"
ONE_PROBLEM = {
    "axis of another family": (
        EFFICIENTNET.replace("  variant", "  depth: [26]\n  variant"),
        "6: axes.depth: unknown axis; efficientnet has variant, resolution, epochs",
    ),
    "axis of a family without any": (
        TIMM.replace("resolution", "width: [1], resolution"),
        "5: axes.width: unknown axis; timm:resnet18 has resolution, epochs",
    ),
    "unknown argument": (RESNET + "model: {sse: true}\n", f"9: model.sse: unknown argument; {HAS}"),
    "argument of the wrong type": (
        RESNET + "model:\n  se: maybe\n",
        "10: model.se: se must be true or false, not 'maybe'",
    ),
    "number for a switch": (
        RESNET + "model:\n  se: 1\n",
        "10: model.se: se must be true or false, not 1",
    ),
    "value on an axis": (
        EFFICIENTNET.replace("b4", "b9"),
        "6: axes.variant.1: variant b9 is none of efficientnet's; known: b0,",
    ),
    "value of a listed cell": (
        HEAD + "family: efficientnet\ncells:\n  - {variant: b9, resolution: 32, epochs: 1}\n",
        "6: cells.0.variant: variant b9 is none of efficientnet's",
    ),
    "argument twice": (
        RESNET + "model: {depth: 26}\n",
        "6: axes.depth: depth stands under `model` too; give it in one place",
    ),
    "argument missing": (
        RESNET.replace("  depth: [26]\n", ""),
        "4: axes.depth: this key is missing (it may stand under `model`)",
    ),
    "argument missing in a cell": (
        HEAD + "family: efficientnet\ncells: [{resolution: 32, epochs: 1}]\n",
        "5: cells.0.variant: this key is missing (it may stand under `model`)",
    ),
    "no list": (RESNET.replace("  epochs", "  se: true\n  epochs"), "8: axes.se: must be a list in brackets"),
    "empty axis": (RESNET.replace("  epochs", "  se: []\n  epochs"), "8: axes.se: must have at least one value"),
    "list for a value": (
        RESNET.replace("  epochs", "  se: [[true]]\n  epochs"),
        "8: axes.se.0: must be a number, a word, true or false",
    ),
    "value twice": (RESNET.replace("  epochs", "  se: [true, true]\n  epochs"), "8: axes.se.1: True stands twice"),
    "cell that is spelt in another way": (
        RESNET + "cells: [{width: 0.25, depth: 26, se: true, resolution: 16, epochs: 1}]\n",
        "9: cells.0: this cell stands twice; each may be given once",
    ),
    "exclusion by an unknown axis": (RESNET + "exclude: [{layers: 1}]\n", "9: exclude.0.layers: unknown axis"),
    "too small for the family": (
        EFFICIENTNET.replace("[32, 64]", "[1, 64]"),
        "7: axes.resolution.0: resolution 1 is below",
    ),
    "unknown timm model": (TIMM.replace("resnet18", "resnet1"), "4: family: "),
    "a hub for a timm model": (TIMM.replace("resnet18", "hf-hub:someone/model"), "4: family: "),
    "test resolution that the family cannot read": (
        RESNET.replace("recipe: small", "recipe: {name: small, test_resolution: 8}"),
        "3: recipe.test_resolution: test_resolution 8 is below 16",
    ),
    "test resolution that a timm model cannot read": (
        TIMM.replace("recipe: small", "recipe: {name: small, test_resolution: 300}").replace("resnet18", "test_vit"),
        "3: recipe.test_resolution: test_resolution 300 does not suit timm's test_vit: ",
    ),
    "stochastic depth that a timm model has not": (
        TIMM.replace("recipe: small", "recipe: {name: small, stochastic_depth: 0.1}").replace("resnet18", "vgg11"),
        "3: recipe.stochastic_depth: stochastic_depth 0.1: timm's vgg11 has none; right would be 0",
    ),
    "a named recipe's stochastic depth that a timm model has not": (
        TIMM.replace("recipe: small", "recipe: {name: rsb_a2, batch_size: 64}").replace("resnet18", "vgg11"),
        "3: recipe: stochastic_depth 0.05: timm's vgg11 has none; right would be 0",
    ),
    "bfloat16 of small images on a CPU": (
        RESNET + "resources: {cpu: 1, precision: bfloat16}\n",
        "9: resources.precision: precision bfloat16 on a CPU needs a resolution of at least 32, not 16: ",
    ),
    "a warm-up of the whole budget": (
        RESNET.replace("recipe: small", "recipe: {name: small, warmup_epochs: 1}"),
        "3: recipe.warmup_epochs: warmup_epochs 1 leaves nothing of 1 epochs; right would be less than that",
    ),
    "RandAugment of no magnitude": (
        RESNET.replace("recipe: small", "recipe: {name: small, randaugment_layers: 2}"),
        "3: recipe.randaugment_layers: randaugment_layers 2 needs a randaugment_magnitude above 0",
    ),
    "a magnitude without RandAugment": (
        RESNET.replace("recipe: small", "recipe: {name: small, randaugment_magnitude: 9}"),
        "3: recipe.randaugment_magnitude: randaugment_magnitude 9 has no effect: randaugment_layers is 0 at 1 epochs",
    ),
    "GPU and TPU": (
        RESNET + "resources: {gpu: 1, tpu: 1}\n",
        "9: resources: a trial runs on GPUs or on TPUs, not on both; leave out one of `gpu` and `tpu`",
    ),
    "several TPU chips": (
        RESNET + "resources: {tpu: 4}\n",
        "9: resources: a trial trains on one TPU chip; more are not supported, write `tpu: 1` and no `devices`",
    ),
    "a TPU's precision": (
        RESNET + "resources: {tpu: 1, precision: float16}\n",
        "9: resources: a TPU computes in bfloat16 or float32, not in float16",
    ),
    "devices that do not divide the batch": (
        RESNET + "resources: {devices: 2}\n",
        "9: resources.devices: batch_size 32 is 1 groups of bn_batch 32, which 2 devices cannot share evenly",
    ),
    "micro-batch that does not divide the batch": (
        RESNET.replace("small", "{name: small, batch_size: 128}") + "resources: {devices: 2, micro_batch: 48}\n",
        "9: resources.micro_batch: 48 does not divide a device's share; one of 32, 64",
    ),
    "compile by another word": (
        RESNET + "resources: {compile: maybe}\n",
        "9: resources.compile: must be auto, on or off (got 'maybe')",
    ),
    "no truth": (RESNET + "checkpoints: {keep_weights: 1}\n", "9: checkpoints.keep_weights: must be true or false"),
    "no time": (RESNET + "hung_after_minutes: 0\n", "9: hung_after_minutes: must be above 0"),
    "a side without a cache": (
        RESNET.replace("digits", "digits, cache_side: 64"),
        "2: data.cache_side: is the size of cached images, so it needs `cache`",
    ),
    "another word for unreadable": (
        RESNET.replace("digits", "digits, unreadable: ignore"),
        "2: data.unreadable: must be raise or skip",
    ),
    "timm data without root": (RESNET.replace("digits", "torch/mnist"), "2: data.root: data set 'torch/mnist' needs"),
    "timm data without classes": (RESNET.replace("digits", "hfds/a/b"), "2: data.classes: data set 'hfds/a/b' needs"),
    "a path for a data set": (
        RESNET.replace("digits", '"hfds/../x", classes: 3'),
        "2: data.name: data set 'hfds/../x': the part after hfds/ must be a plain name",
    ),
    "no such plug-in": (RESNET + "plugins: [none.py]\n", "9: plugins.0: plug-in "),
    "a number for a plug-in": (RESNET + "plugins: [1]\n", "9: plugins.0: must be text (got 1)"),
}  # fmt: skip


@pytest.mark.parametrize("problem", ONE_PROBLEM)
def test_each_problem_is_one_line_with_its_place(space, problem):
    text, what = ONE_PROBLEM[problem]
    assert refusal(space(text)).startswith(what)


def test_on_and_off_may_be_written_as_yaml_reads_them(space):
    for spelling, wanted in (("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on"), ("true", "on")):
        spec = load_space(space(RESNET + f"resources: {{compile: {spelling}}}\n"))
        assert spec.resources.compile == wanted
        assert load_space(space(dump_space(spec, "0"))) == spec


def test_every_key_reads_back_from_the_dumped_copy(space, plugin):
    text = MINE.replace("my_images", "my_images, cache: '${C}/x', cache_side: 64, unreadable: skip, download: true")
    more = """\
resources: {tpu: 1, devices: 1, precision: float32, micro_batch: 32, compile: off, loader_workers: 0}
checkpoints: {every_minutes: 2.5, quota_gb: 3, keep_weights: true}
hung_after_minutes: 5
model: {}
cells: [{layers: 4, resolution: 32, epochs: 2}]
"""
    spec = load_space(space(text + more))
    again = load_space(space(dump_space(spec, "0"), "elsewhere.yaml"))
    assert again == spec
    assert [trial.trial_id for trial in trials_of(again)] == [trial.trial_id for trial in trials_of(spec)]


def test_a_plugins_family_and_data_set_are_used_like_any_other(space, plugin):
    spec = load_space(space(MINE))
    first = trials_of(spec)[0]
    assert (first.model, first.width, first.plugins) == ({"layers": 2, "gain": 0.5}, None, (str(plugin),))
    assert (first.data.name, first.data.version, first.data.classes, first.data.train_images) == (
        "my_images",
        "3",
        5,
        90,
    )
    assert [trial.model["gain"] for trial in trials_of(spec)] == [0.5, 0.001, 0.5, 0.001]


PLUGIN_PROBLEMS = {
    "value": ("[2, 3]", "[2, 10]", "6: axes.layers.1: layers 10 is above 9"),
    "too large": ("1e-3", "1.0e39", "6: axes.gain.1: must be a number below 2^63"),
    "type": ("[2, 3]", "[2.5]", "6: axes.layers.0: layers must be a whole number, not 2.5"),
    "missing": ("layers: [2, 3], ", "", "6: axes.layers: this key is missing"),
    "unknown family": ("family: mine", "family: yours", "4: family: unknown family 'yours'; known: resnet_rs, "),
    "unknown data": ("my_images", "your_images", "3: data.name: unknown data set 'your_images'; known: digits, "),
}


@pytest.mark.parametrize("problem", PLUGIN_PROBLEMS)
def test_problems_with_a_plugins_family_are_lines_like_any_other(space, plugin, problem):
    old, new, what = PLUGIN_PROBLEMS[problem]
    assert refusal(space(MINE.replace(old, new))).startswith(what)


@pytest.mark.parametrize("code", ["1 / 0", "def", "raise SystemExit", "FAMILIES = 3", "pass"])
def test_whatever_a_plugin_raises_is_one_line_about_the_file(space, plugin, code):
    plugin.write_text(code)
    assert refusal(space(MINE)).startswith("2: plugins.0: plug-in ")


def test_a_plugins_path_counts_from_the_space_and_is_absolute_from_then_on(space, plugin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    spec = load_space(space(MINE))
    assert spec.plugins == [str(plugin)]
    (tmp_path / "deeper").mkdir()
    copied = load_space(space(dump_space(spec, "0"), "deeper/space.yaml"))
    assert copied == spec


def test_reading_a_results_folders_space_runs_no_plugin(space, plugin):
    path = space(MINE)
    spec = read_space(path)
    assert not plugin.with_suffix(".ran").exists()
    assert spec.plugins == [str(plugin)]
    assert load_space(path) == spec
    assert plugin.with_suffix(".ran").exists()
    plugin.unlink()  # nor is it missed
    assert read_space(path) == spec


def test_recommended_cells_keep_the_models_arguments(space):
    text = RESNET.replace("  epochs", "  se: [true, false]\n  epochs") + "model: {stem_pool: max}\n"
    spec = load_space(space(text))
    chosen = [
        {"width": 0.25, "depth": 26.0, "resolution": 16.0, "epochs": 1.0,
         "model": {"se": False, "resnet_d": True, "stem_pool": "max"}, "family": "resnet_rs", "top1": 90.0},
    ]  # fmt: skip
    made = load_space(space(dump_space(space_of_cells(spec, chosen), "0")))
    wanted = [trial.trial_id for trial in trials_of(spec) if not trial.model["se"]]
    assert [trial.trial_id for trial in trials_of(made)] == wanted
    both = [*chosen, {**chosen[0], "model": {**chosen[0]["model"], "se": True}}]
    made = space_of_cells(spec, both)
    assert made.model == {"resnet_d": True, "stem_pool": "max"}  # what the cells have in common stands there once
    assert {trial.trial_id for trial in trials_of(made)} == {trial.trial_id for trial in trials_of(spec)}


def test_recommended_cells_are_those_of_the_rows_even_if_the_space_has_changed_since(space):
    before, now = load_space(space(RESNET)), load_space(space(RESNET + "model: {se: false}\n"))
    cell = {"width": 0.25, "depth": 26, "resolution": 16, "epochs": 1}
    (trial,) = trials_of(before)
    made = load_space(space(dump_space(space_of_cells(now, [{**cell, "model": trial.model}]), "0")))
    assert [again.trial_id for again in trials_of(made)] == [trial.trial_id]
    (older,) = trials_of(space_of_cells(now, [{**cell, "model": {}}]))
    assert older.model["se"] is False


def test_fixed_width_and_depth_stand_in_the_recommended_cells(space):
    spec = load_space(space(HEAD + "model: {width: 0.25, depth: 26}\naxes: {resolution: [16, 32], epochs: [1]}\n"))
    cell = {"width": 0.25, "depth": 26, "resolution": 32, "epochs": 1, "model": trials_of(spec)[1].model}
    made = load_space(space(dump_space(space_of_cells(spec, [cell]), "0")))
    assert [trial.trial_id for trial in trials_of(made)] == [trials_of(spec)[1].trial_id]


def test_recommended_cells_of_a_family_without_width_and_depth(space):
    spec = load_space(space(EFFICIENTNET))
    cell = {"width": None, "depth": None, "resolution": 64, "epochs": 1, "model": {"variant": "b4"}}
    made = load_space(space(dump_space(space_of_cells(spec, [cell]), "0")))
    assert shapes(made) == [(None, None, {"variant": "b4"}, 64, 1)]


def test_a_space_need_not_come_from_a_file():
    spec = SweepSpec.model_validate(yaml.safe_load(EFFICIENTNET))
    assert len(trials_of(spec)) == 4


def test_the_shipped_examples_are_those_that_their_headers_count():
    folder = Path(__file__).parents[2] / "search_spaces"
    for name, trials in {"efficientnet": 22, "rsb_a2": 3, "rsb_a3": 1}.items():
        assert f"= {trials} trials" in (folder / f"{name}.yaml").read_text() or trials == 1
        assert len(trials_of(load_space(folder / f"{name}.yaml"))) == trials
    a3 = trials_of(load_space(folder / "rsb_a3.yaml"))[0]
    assert (a3.resolution, a3.recipe.test_resolution, a3.recipe.optimizer) == (160, 224, "lamb")

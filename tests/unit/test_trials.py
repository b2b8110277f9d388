import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sweep import trials
from sweep.data_paths import DataPaths
from sweep.space import SweepSpec, load_space
from sweep.trials import identity, trial_id, trials_of
from workers.contract import Execution
from workers.recipe import OVERRIDABLE

SPACES = Path(__file__).parents[2] / "search_spaces"
# Pinned: a change here makes every result on disk unknown, and is right only together with a new OUTCOME_VERSION.
PINNED = {
    "quickstart": (36, "11ac9858e740", "78e389149035"),
    "paper_grid": (525, "ca4062b898bb", "c60c677a2548"),
    "efficientnet": (22, "39c081868e9a", "452452efb10d"),
    "rsb_a2": (3, "132769e4af00", "1f31ac7a4f9e"),
}
SPACE = {
    "sweep": "a",
    "data": {"name": "digits"},
    "recipe": "small",
    "axes": {"width": [0.5], "depth": [50], "resolution": [32], "epochs": [3]},
}


def ids(**changes):
    return [trial.trial_id for trial in trials_of(SweepSpec.model_validate({**SPACE, **changes}))]


@pytest.fixture
def config():
    (trial,) = trials_of(SweepSpec.model_validate(SPACE))
    return trial


@pytest.mark.parametrize("name", PINNED)
def test_ids_are_what_they_have_always_been(name):
    made = trials_of(load_space(SPACES / f"{name}.yaml"))
    assert (len(made), made[0].trial_id, made[-1].trial_id) == PINNED[name]
    assert len({trial.trial_id for trial in made}) == len(made)


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_ids_are_the_same_in_another_process_with_another_hash_seed(seed, tmp_path):
    program = (
        "import sys; from pathlib import Path; from sweep.space import load_space; from sweep.trials import trials_of\n"
        "print(trials_of(load_space(Path(sys.argv[1])))[0].trial_id)"
    )
    command = [sys.executable, "-c", program, str(SPACES / "quickstart.yaml")]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == PINNED["quickstart"][1]


def test_names_paths_and_spelling_are_not_part_of_an_id(tmp_path):
    wanted = ids()
    assert ids(sweep="another_name") == wanted
    assert ids(data={"name": "digits", "root": "/data/x"}) == wanted
    assert ids(axes={**SPACE["axes"], "width": [0.5]}, recipe={"name": "small", "learning_rate": 0.1}) == wanted
    assert ids(axes=None, cells=[{"epochs": 3, "resolution": 32, "depth": 50, "width": 0.5}]) == wanted
    backwards = tmp_path / "backwards.yaml"
    backwards.write_text(yaml.safe_dump(dict(reversed(SPACE.items())), sort_keys=False))
    assert [trial.trial_id for trial in trials_of(load_space(backwards))] == wanted


def test_the_datas_folders_are_no_part_of_an_id(config):
    (here,) = trials_of(SweepSpec.model_validate(SPACE), DataPaths("/somewhere", "/cache"))
    assert (here.data.root, here.data.cache) == ("/somewhere", "/cache")
    assert here.trial_id == config.trial_id


@pytest.mark.parametrize(("whole", "real"), [("1", "1.0"), ("2", "2.00")])
def test_one_and_one_point_nought_are_the_same(tmp_path, whole, real):
    made = []
    for number in (whole, real):
        path = tmp_path / "a.yaml"
        recipe = f"{{name: small, learning_rate: {number}}}"
        text = yaml.safe_dump({k: v for k, v in SPACE.items() if k not in ("axes", "recipe")})
        axes = f"{{width: [{number}], depth: [50], resolution: [32], epochs: [3]}}"
        path.write_text(f"{text}recipe: {recipe}\naxes: {axes}\n")
        made.append(trials_of(load_space(path))[0].trial_id)
    assert made[0] == made[1]


RECIPE_CHANGES = {
    "batch_size": 64, "bn_batch": 16, "learning_rate": 0.3, "warmup_epochs": 0.7, "weight_decay": 1e-3,
    "optimizer": "lamb", "schedule": "step", "momentum": 0.8, "nesterov": False, "decay_biases": True, "loss": "bce",
    "bce_threshold": 0.2, "label_smoothing": 0.2, "mixup_alpha": 0.1, "cutmix_alpha": 1.0, "ema_decay": 0.99,
    "dropout": 0.1, "stochastic_depth": 0.1, "randaugment_layers": 1, "randaugment_magnitude": 3,
    "randaugment_std": 0.5, "randaugment_increasing": True, "repeated_augmentation": 3, "crop_min_area": 0.5,
    "horizontal_flip": 0.25, "eval_crop": 0.875, "test_resolution": 64,
    "lr_scale": 0.5,
}  # fmt: skip
NEEDED = {  # with what a value makes a recipe
    "bce_threshold": {"loss": "bce"},
    "randaugment_layers": {"randaugment_magnitude": 3},
    "repeated_augmentation": {"horizontal_flip": 0.5},
}
CONFIG_CHANGES = {
    "family": "efficientnet", "width": 0.25, "depth": 26, "model": {"se": False}, "resolution": 16, "epochs": 1,
    "seed": 1, "precision": "bfloat16", "threads": 2, "protocol": "branched",
}  # fmt: skip
DATA_CHANGES = {"name": "other", "version": "2", "classes": 11, "minival": 0.2, "cache_side": 64, "unreadable": "skip"}
OUT_OF_DATA = {"root": "/x", "train_images": 1, "cache": "/y", "download": True, "expected": "some-hash"}
OUT = {"device": "cuda", "plugins": ("/nowhere.py",), "execution": Execution(ranks=2, compile="on", keep_weights=True)}


def test_the_changes_below_cover_every_field(config):
    """A new field of a trial has to be put into the identity, or among those that are left out on purpose."""
    fields = {field.name for field in dataclasses.fields(config)}
    assert set(RECIPE_CHANGES) == set(OVERRIDABLE)
    assert set(CONFIG_CHANGES) | set(OUT) == fields - {"trial_id", "recipe", "data"}
    assert set(DATA_CHANGES) | set(OUT_OF_DATA) == {field.name for field in dataclasses.fields(config.data)}


@pytest.mark.parametrize("field", OUT)
def test_how_a_trial_is_executed_is_no_part_of_its_id(config, field):
    assert trial_id(dataclasses.replace(config, **{field: OUT[field]})) == config.trial_id


@pytest.mark.parametrize("field", OUT_OF_DATA)
def test_where_the_data_lie_is_no_part_of_an_id(config, field):
    data = dataclasses.replace(config.data, **{field: OUT_OF_DATA[field]})
    assert trial_id(dataclasses.replace(config, data=data)) == config.trial_id


def test_values_that_every_recipe_has_by_default_are_left_out_so_that_new_ones_change_no_id(config):
    kept = identity(config)["recipe"]
    assert {"name", "batch_size", "learning_rate", "label_smoothing"} <= kept.keys()
    assert not {"mixup_alpha", "momentum", "optimizer"} & kept.keys()


def test_arguments_that_are_spelt_out_or_left_to_the_family_give_the_same_id():
    spelt = {"se": True, "stem_pool": "conv"}
    assert ids(model=spelt) == ids()
    assert ids(axes={**SPACE["axes"], "se": [True]}) == ids()
    assert ids(axes={**SPACE["axes"], "se": [False]}) == ids(model={"se": False}) != ids()
    without_width = {name: values for name, values in SPACE["axes"].items() if name != "width"}
    assert ids(axes=without_width, model={"width": 0.5}) == ids()


PLUGIN = """
from workers.families import Argument, Family
FAMILIES = [Family("mine", {"layers": Argument(int, "layers")}, build=print, version=%r)]
"""


def test_the_familys_version_changes_the_id_and_the_plugins_path_does_not(tmp_path):
    made = []
    for name, version in (("a", "1"), ("b", "1"), ("c", "2")):
        path = tmp_path / f"{name}.py"
        path.write_text(PLUGIN % version)
        axes = {"layers": [3], "resolution": [32], "epochs": [3]}
        made += ids(family="mine", axes=axes, plugins=[str(path)])
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize("field", [*RECIPE_CHANGES, "name"])
def test_every_value_of_the_recipe_changes_the_id(config, field):
    value = RECIPE_CHANGES.get(field, "other")
    recipe = dataclasses.replace(config.recipe, **NEEDED.get(field, {}))
    assert getattr(recipe, field) != value
    before, after = recipe, dataclasses.replace(recipe, **{field: value})
    assert trial_id(dataclasses.replace(config, recipe=after)) != trial_id(dataclasses.replace(config, recipe=before))


@pytest.mark.parametrize("field", CONFIG_CHANGES)
def test_every_field_of_the_trial_changes_the_id(config, field):
    assert trial_id(dataclasses.replace(config, **{field: CONFIG_CHANGES[field]})) != config.trial_id


@pytest.mark.parametrize("field", DATA_CHANGES)
def test_every_fact_of_the_data_changes_the_id(config, field):
    data = dataclasses.replace(config.data, **{field: DATA_CHANGES[field]})
    assert trial_id(dataclasses.replace(config, data=data)) != config.trial_id


@pytest.mark.parametrize(("name", "value"), [("OUTCOME_VERSION", 10_000), ("SPLIT_RULE", "another")])
def test_the_versions_of_code_and_split_change_the_id(config, monkeypatch, name, value):
    monkeypatch.setattr(trials, name, value)
    assert trial_id(config) != config.trial_id


def test_threads_and_precision_follow_from_the_resources():
    def made(**resources):
        (trial,) = trials_of(SweepSpec.model_validate({**SPACE, "resources": resources}))
        return trial.device, trial.precision, trial.threads

    assert made(cpu=2) == ("cpu", "float32", 2)
    assert made(gpu=1) == ("cuda", "bfloat16", None)
    assert made(gpu=0.5, cpu=8, precision="float32") == ("cuda", "float32", None)
    assert made(tpu=1) == ("xla", "bfloat16", None)
    assert made(gpu=1, precision="float16") == ("cuda", "float16", None)


def test_execution_follows_from_resources_and_checkpoints():
    def made(**changes):
        (trial,) = trials_of(SweepSpec.model_validate({**SPACE, **changes}))
        return trial.execution

    assert made() == Execution(loader_workers=0)
    resources = {"devices": 2, "micro_batch": 32, "compile": False, "loader_workers": 3}
    assert made(resources=resources) == Execution(ranks=2, micro_batch=32, compile="off", loader_workers=3)
    kept = made(checkpoints={"every_minutes": 0.5, "quota_gb": 1.5, "keep_weights": True}, hung_after_minutes=2)
    assert kept == Execution(
        loader_workers=0, checkpoint_every_s=30, checkpoint_quota_bytes=1_500_000_000, keep_weights=True,
        hung_after_s=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("resources", "processes"),
    [({"cpu": 1}, 0), ({"cpu": 4}, 4), ({"gpu": 1}, 1), ({"gpu": 0.5, "cpu": 6}, 6), ({"tpu": 1, "cpu": 3}, 3),
     ({"cpu": 4, "loader_workers": 0}, 0), ({"gpu": 1, "loader_workers": 9}, 9)],
)  # fmt: skip
def test_a_trial_decodes_with_its_own_share_of_the_cores_and_its_id_does_not_depend_on_it(resources, processes):
    (trial,) = trials_of(SweepSpec.model_validate({**SPACE, "resources": resources}))
    assert trial.execution.loader_workers == processes
    (other,) = trials_of(SweepSpec.model_validate({**SPACE, "resources": {**resources, "loader_workers": 5}}))
    assert trial.trial_id == other.trial_id


def test_other_families_have_no_width_and_depth_but_arguments_of_their_own():
    axes = {"variant": ["b0", "b4"], "resolution": [64], "epochs": [3]}
    made = trials_of(SweepSpec.model_validate({**SPACE, "family": "efficientnet", "axes": axes}))
    assert [(trial.width, trial.depth, trial.model) for trial in made] == [
        (None, None, {"variant": "b0"}),
        (None, None, {"variant": "b4"}),
    ]
    assert len({trial.trial_id for trial in made}) == 2


def test_seeds_stand_next_to_each_other():
    made = trials_of(SweepSpec.model_validate({**SPACE, "axes": {**SPACE["axes"], "epochs": [1, 3]}, "seeds": [5, 4]}))
    assert [(trial.epochs, trial.seed) for trial in made] == [(1, 5), (1, 4), (3, 5), (3, 4)]


def test_facts_of_the_data_are_filled_in(config):
    data = config.data
    assert (data.name, data.version, data.classes, data.minival) == ("digits", "sklearn-1797", 10, 0.25)
    assert data.train_images == 1078
    folder = {"name": "folder", "root": "/x", "classes": 7, "version": "mine"}
    (other,) = trials_of(SweepSpec.model_validate({**SPACE, "data": folder}))
    assert (other.data.version, other.data.classes, other.data.train_images) == ("mine", 7, None)

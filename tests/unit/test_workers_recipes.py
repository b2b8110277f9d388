import dataclasses
import re

import pytest

from workers.recipe import Cell, Recipe
from workers.recipes import RECIPES, RELEASED, released_overrides, resolve

REGULARISATION = ("label_smoothing", "dropout", "stochastic_depth", "randaugment_layers", "randaugment_magnitude")
RSB = ("rsb_a1", "rsb_a2", "rsb_a3")


def of(name="small", resolution=16, epochs=10, width=None, depth=None, **overrides):
    return resolve(name, Cell(resolution, epochs, width, depth), overrides)


# --- all ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete_frozen_and_the_same_each_time(name):
    recipe = of(name)
    assert recipe == of(name)
    assert recipe.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.dropout = 0.5


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epochs", [1, 10, 350])
def test_every_value_has_its_fields_type(name, epochs):
    recipe = of(name, 224, epochs, 2.0)
    wrong = {field for field, wanted in Recipe.__annotations__.items() if type(getattr(recipe, field)) is not wanted}
    assert wrong == set()


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epochs", [1, 2, 7, 29, 90, 600])
def test_the_warm_up_is_at_most_half_of_any_budget(name, epochs):
    assert 0 < of(name, epochs=epochs).warmup_epochs <= epochs / 2


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "small"])
def test_the_warm_up_is_the_papers_at_the_papers_budgets(name):
    budgets = {"resnet_rs": (10, 100, 350), "resnet_2015": (90,), "rsb_a1": (600,), "rsb_a2": (300,), "rsb_a3": (100,)}
    assert {of(name, epochs=epochs).warmup_epochs for epochs in budgets[name]} == {5.0}


@pytest.mark.parametrize("name", RECIPES)
def test_a_family_without_a_width_counts_as_width_1(name):
    assert of(name, 224, 350) == of(name, 224, 350, 1.0)


def test_recipes_are_their_declared_values_and_what_is_not_declared_is_off():
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    needed = {"optimizer", "schedule", "decay_biases", "loss", "eval_crop"}  # have no off
    for name, recipe in RECIPES.items():
        assert needed <= recipe.values.keys()
        assert recipe.values["optimizer"].of == "lamb" or {"momentum", "nesterov"} <= recipe.values.keys()
        built = dataclasses.asdict(of(name, 224, 350))
        assert {key for key in defaults if key not in recipe.values and built[key] != defaults[key]} == {"name"}
        assert all(value.source for value in recipe.values.values())


# --- small ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 3, 30])
def test_small_warms_up_over_a_tenth_of_the_budget(epochs):
    recipe = of(epochs=epochs)
    assert recipe.warmup_epochs == pytest.approx(epochs / 10)
    assert (recipe.batch_size, recipe.bn_batch, recipe.learning_rate, recipe.momentum) == (32, 32, 0.1, 0.9)
    assert (recipe.weight_decay, recipe.label_smoothing, recipe.decay_biases) == (4e-5, 0.1, False)
    assert not recipe.augments


# --- ResNet-RS ------------------------------------------------------------------------------------------------------


def test_resnet_rs_is_the_published_recipe():
    recipe = of("resnet_rs", 224, 350, 1.0, 101)
    assert (recipe.batch_size, recipe.learning_rate, recipe.warmup_epochs, recipe.schedule) == (4096, 1.6, 5, "cosine")
    assert (recipe.optimizer, recipe.momentum, recipe.nesterov, recipe.loss) == ("sgd", 0.9, True, "cross_entropy")
    assert (recipe.weight_decay, recipe.decay_biases, recipe.ema_decay) == (4e-5, True, 0.9999)
    assert (recipe.label_smoothing, recipe.dropout, recipe.stochastic_depth) == (0.1, 0.25, 0.2)
    assert (recipe.randaugment_layers, recipe.randaugment_magnitude, recipe.randaugment_increasing) == (2, 15, False)
    assert (recipe.crop_min_area, recipe.horizontal_flip, recipe.eval_crop, recipe.bn_batch) == (0.08, 0.5, 0.875, 64)


@pytest.mark.parametrize("epochs", [1, 10, 100, 349])
@pytest.mark.parametrize(("width", "resolution"), [(0.25, 128), (2.0, 448)])
def test_resnet_rs_below_350_epochs_uses_flips_and_crops_only(width, resolution, epochs):
    recipe = of("resnet_rs", resolution, epochs, width, 400)
    assert {getattr(recipe, name) for name in REGULARISATION} == {0}
    assert (recipe.horizontal_flip, recipe.crop_min_area, recipe.weight_decay) == (0.5, 0.08, 4e-5)
    assert recipe.augments


@pytest.mark.parametrize("epochs", [350, 351, 1000])
def test_resnet_rs_is_fully_regularised_from_350_epochs_on(epochs):
    recipe = of("resnet_rs", 224, epochs, 1.0, 101)
    assert all(getattr(recipe, name) > 0 for name in REGULARISATION)


def test_resnet_rs_regularises_more_where_the_network_is_wider_and_the_image_larger():
    wide = [of("resnet_rs", 224, 350, w).dropout for w in (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)]
    assert wide == [0.0, 0.0, 0.1, 0.1, 0.25, 0.6, 0.75, 0.75]
    large = [of("resnet_rs", r, 350, 1.0) for r in (128, 160, 192, 224, 320, 448)]
    assert [recipe.randaugment_magnitude for recipe in large] == [10, 10, 15, 15, 15, 20]
    assert [recipe.stochastic_depth for recipe in large] == [0.0, 0.0, 0.0, 0.2, 0.2, 0.2]
    assert of("resnet_rs", 448, 350, 0.25).stochastic_depth == 0.0
    assert of("resnet_rs", 448, 350, 0.5).randaugment_magnitude == 10


def test_the_released_models_are_11_and_keep_all_but_their_own_regularisation():
    assert len(RELEASED) == 11
    for depth, resolution in RELEASED:
        cell = Cell(resolution, 350, 1.0, depth)
        released = resolve("resnet_rs", cell, released_overrides(depth, resolution))
        plain = resolve("resnet_rs", cell, {})
        kept = {name for name in vars(plain) if name not in REGULARISATION[1:]}
        assert all(getattr(released, name) == getattr(plain, name) for name in kept)
    assert released_overrides(420, 320) == {"randaugment_magnitude": 15, "dropout": 0.4, "stochastic_depth": 0.1}
    assert released_overrides(50, 160) == {"randaugment_magnitude": 10, "dropout": 0.25, "stochastic_depth": 0}


# --- the ablation's baseline ----------------------------------------------------------------------------------------


def test_resnet_2015_is_steps_flips_and_crops():
    recipe = of("resnet_2015", 224, 90, 1.0, 50)
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (1024, 0.4, 1e-4)
    assert (recipe.schedule, recipe.optimizer, recipe.nesterov, recipe.decay_biases) == ("step", "sgd", True, True)
    assert {getattr(recipe, name) for name in (*REGULARISATION, "ema_decay", "mixup_alpha", "cutmix_alpha")} == {0}
    assert (recipe.crop_min_area, recipe.horizontal_flip, recipe.eval_crop) == (0.08, 0.5, 0.875)
    assert of("resnet_2015", epochs=12).warmup_epochs == 2


# --- ResNet strikes back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RSB)
def test_rsb_recipes_share_lamb_bce_and_mixing(name):
    recipe = of(name, 224, 300)
    assert (recipe.optimizer, recipe.batch_size, recipe.schedule, recipe.loss) == ("lamb", 2048, "cosine", "bce")
    assert (recipe.cutmix_alpha, recipe.bce_threshold, recipe.decay_biases) == (1.0, 0.2, False)
    assert (recipe.randaugment_layers, recipe.randaugment_std, recipe.randaugment_increasing) == (2, 0.5, True)
    assert (recipe.eval_crop, recipe.dropout, recipe.ema_decay, recipe.bn_batch) == (0.95, 0, 0, 64)
    assert recipe.mixes
    assert recipe.augments


def test_rsb_recipes_differ_as_published():
    names = (
        "learning_rate", "weight_decay", "label_smoothing", "mixup_alpha", "stochastic_depth",
        "repeated_augmentation", "randaugment_magnitude",
    )  # fmt: skip
    published = {
        "rsb_a1": (5e-3, 0.01, 0.1, 0.2, 0.05, 3, 7),
        "rsb_a2": (5e-3, 0.02, 0.0, 0.1, 0.05, 3, 7),
        "rsb_a3": (8e-3, 0.02, 0.0, 0.1, 0.0, 1, 6),
    }
    for name, values in published.items():
        assert tuple(getattr(of(name, 160, 100), field) for field in names) == values


def test_a3_tests_at_a_higher_resolution_than_it_trains_at():
    tested = {r: of("rsb_a3", r, 100).test_resolution for r in (32, 128, 160, 192, 224, 256, 288, 320, 448)}
    assert tested == {32: 45, 128: 179, 160: 224, 192: 256, 224: 288, 256: 320, 288: 352, 320: 380, 448: 512}
    assert of("rsb_a1", 224, 600).test_resolution == of("rsb_a2", 224, 300).test_resolution == 0


# --- overrides ------------------------------------------------------------------------------------------------------


def test_overrides_replace_their_values_and_nothing_else():
    plain = dataclasses.asdict(of())
    changed = dataclasses.asdict(of(learning_rate=0.3, batch_size=64))
    assert {key for key in plain if plain[key] != changed[key]} == {"learning_rate", "batch_size"}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "lamb"}, {"schedule": "step"}, {"decay_biases": True}, {"label_smoothing": 0.1},
        {"mixup_alpha": 0.2}, {"cutmix_alpha": 1.0}, {"ema_decay": 0.999}, {"dropout": 0.2},
        {"stochastic_depth": 0.1}, {"randaugment_layers": 2, "randaugment_magnitude": 7}, {"crop_min_area": 0.08},
        {"repeated_augmentation": 3, "horizontal_flip": 0.5}, {"horizontal_flip": 0.5}, {"eval_crop": 0.95},
        {"test_resolution": 320},
        {"loss": "bce"}, {"nesterov": False},
    ],
)  # fmt: skip
def test_any_ingredient_can_be_switched_on_alone(name, values):
    recipe = of(name, **values)
    assert {field: getattr(recipe, field) for field in values} == values


def test_a_whole_number_passes_for_a_real_one_and_becomes_it():
    recipe = of(learning_rate=1)
    assert recipe.learning_rate == 1
    assert type(recipe.learning_rate) is float


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("learning_rate", "0.1", "learning_rate must be a finite number, not '0.1'"),
        ("learning_rate", True, "learning_rate must be a finite number, not True"),
        ("learning_rate", None, "learning_rate must be a finite number, not None"),
        ("batch_size", 32.0, "batch_size must be a whole number, not 32.0"),
        ("batch_size", True, "batch_size must be a whole number, not True"),
        ("repeated_augmentation", 1.5, "repeated_augmentation must be a whole number, not 1.5"),
        ("nesterov", 1, "nesterov must be true or false, not 1"),
        ("optimizer", 1, "optimizer must be text, not 1"),
        ("optimizer", "adam", "optimizer 'adam' is not one of: sgd, lamb"),
        ("learnin_rate", 0.1, "unknown recipe field 'learnin_rate'; known: batch_size, "),
        ("name", "mine", "unknown recipe field 'name'"),
        ("warmup_epochs", 10, "warmup_epochs 10 leaves nothing of 10 epochs; right would be less than that"),
        ("warmup_epochs", 1000.0, "warmup_epochs 1000 leaves nothing of 10 epochs; right would be less than that"),
        (
            "randaugment_magnitude",
            7,
            "randaugment_magnitude 7 has no effect: randaugment_layers is 0 at 10 epochs; set",
        ),
        ("randaugment_std", 0.5, "randaugment_std 0.5 has no effect: randaugment_layers is 0 at 10 epochs; set"),
        (
            "randaugment_layers",
            2,
            "randaugment_layers 2 needs a randaugment_magnitude above 0; without RandAugment both",
        ),
        (
            "repeated_augmentation",
            3,
            "repeated_augmentation 3 repeats equal images: nothing augments them; right would",
        ),
        ("batch_size", 48, "batch_size 48 is not a multiple of bn_batch 32"),
        ("learning_rate", 0.0, "learning_rate 0.0 is not above 0 and at most 1000000"),
    ],
)
def test_an_override_that_cannot_be_trained_with_is_refused_in_one_line(field, value, said):
    with pytest.raises(ValueError, match="^" + re.escape(said)) as refused:
        resolve("small", Cell(16, 10), {field: value})
    assert "\n" not in str(refused.value)


def test_an_ingredient_of_a_recipe_can_be_switched_off_alone():
    assert of("rsb_a2", randaugment_layers=0).randaugment_magnitude == 7
    assert of("resnet_rs", epochs=350, randaugment_magnitude=9).randaugment_layers == 2


def test_an_unknown_recipe_is_refused_in_one_line_with_the_known_ones():
    known = "small, resnet_rs, resnet_2015, rsb_a1, rsb_a2, rsb_a3"
    with pytest.raises(ValueError, match=f"^unknown recipe 'tiny'; known: {known}$"):
        of("tiny")

import dataclasses
import re

import pytest

from workers.recipe import OVERRIDABLE, Cell, Recipe, resolve

REGULARISATION = ("label_smoothing", "dropout", "stochastic_depth", "randaugment_layers", "randaugment_magnitude")


def of(name="small", width=0.25, depth=26, resolution=16, epochs=10, **overrides):
    return resolve(name, Cell(width, depth, resolution, epochs), overrides)


@pytest.mark.parametrize("epochs", [1, 3, 30])
def test_small_warms_up_over_a_tenth_of_the_budget(epochs):
    recipe = of(epochs=epochs)
    assert recipe.warmup_epochs == pytest.approx(epochs / 10)
    assert (recipe.batch_size, recipe.bn_batch, recipe.learning_rate, recipe.momentum) == (32, 32, 0.1, 0.9)
    assert not recipe.augments


def test_resnet_rs_scales_its_rate_with_its_batch():
    recipe = of("resnet_rs", epochs=350)
    assert (recipe.batch_size, recipe.learning_rate, recipe.warmup_epochs) == (4096, 1.6, 5)
    assert (recipe.weight_decay, recipe.ema_decay, recipe.bn_batch) == (4e-5, 0.9999, 64)


@pytest.mark.parametrize("epochs", [1, 10, 100, 349])
@pytest.mark.parametrize(("width", "resolution"), [(0.25, 128), (2.0, 448)])
def test_resnet_rs_below_350_epochs_uses_flips_and_crops_only(width, resolution, epochs):
    recipe = of("resnet_rs", width=width, depth=400, resolution=resolution, epochs=epochs)
    assert {getattr(recipe, name) for name in REGULARISATION} == {0}
    assert (recipe.horizontal_flip, recipe.crop_min_area) == (0.5, 0.08)
    assert recipe.augments


@pytest.mark.parametrize("epochs", [350, 351, 1000])
def test_resnet_rs_is_fully_regularised_from_350_epochs_on(epochs):
    recipe = of("resnet_rs", width=1.0, depth=101, resolution=224, epochs=epochs)
    assert all(getattr(recipe, name) > 0 for name in REGULARISATION)


def test_resnet_rs_regularises_more_where_the_network_is_wider_and_the_image_larger():
    wide = [of("resnet_rs", width=w, resolution=224, epochs=350).dropout for w in (0.25, 0.5, 1.0, 1.5, 2.0)]
    assert wide == [0.0, 0.1, 0.25, 0.6, 0.75]
    large = [of("resnet_rs", width=1.0, resolution=r, epochs=350) for r in (128, 160, 224, 320, 448)]
    assert [recipe.randaugment_magnitude for recipe in large] == [10, 10, 15, 15, 20]
    assert [recipe.stochastic_depth for recipe in large] == [0.0, 0.0, 0.2, 0.2, 0.2]
    assert of("resnet_rs", width=0.25, resolution=448, epochs=350).stochastic_depth == 0.0


def test_overrides_replace_their_values_and_nothing_else():
    plain = dataclasses.asdict(of())
    changed = dataclasses.asdict(of(learning_rate=0.3, batch_size=64))
    assert {key for key in plain if plain[key] != changed[key]} == {"learning_rate", "batch_size"}


def test_a_whole_number_passes_for_a_real_one_and_becomes_it():
    recipe = of(learning_rate=1)
    assert recipe.learning_rate == 1
    assert type(recipe.learning_rate) is float


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("learning_rate", "0.1", "learning_rate must be float, not '0.1'"),
        ("learning_rate", True, "learning_rate must be float, not True"),
        ("learning_rate", None, "learning_rate must be float, not None"),
        ("batch_size", 32.0, "batch_size must be int, not 32.0"),
        ("batch_size", True, "batch_size must be int, not True"),
        ("nesterov", 1, "nesterov must be bool, not 1"),
        ("learnin_rate", 0.1, "unknown recipe field 'learnin_rate'; known: batch_size, "),
        ("name", "mine", "unknown recipe field 'name'"),
        ("batch_size", 48, "batch_size 48 is not a multiple of bn_batch 32"),
        ("bn_batch", 5, "batch_size 32 is not a multiple of bn_batch 5"),
        ("bn_batch", 64, "batch_size 32 is not a multiple of bn_batch 64"),
        ("bn_batch", 0, "bn_batch 0 is not above 0 and finite"),
        ("batch_size", 0, "batch_size 0 is not above 0 and finite"),
        ("batch_size", -32, "batch_size -32 is not above 0 and finite"),
        ("learning_rate", 0.0, "learning_rate 0.0 is not above 0 and finite"),
        ("learning_rate", float("nan"), "learning_rate nan is not above 0 and finite"),
        ("learning_rate", float("inf"), "learning_rate inf is not above 0 and finite"),
        ("dropout", 1.0, "dropout 1.0 is not in [0, 1)"),
        ("stochastic_depth", -0.1, "stochastic_depth -0.1 is not in [0, 1)"),
        ("label_smoothing", 1.5, "label_smoothing 1.5 is not in [0, 1)"),
        ("ema_decay", float("nan"), "ema_decay nan is not in [0, 1)"),
        ("momentum", -0.9, "momentum -0.9 is not in [0, 1)"),
        ("momentum", 0.0, "nesterov needs a momentum above 0"),
        ("warmup_epochs", -1.0, "warmup_epochs -1.0 is not at least 0 and finite"),
        ("weight_decay", float("nan"), "weight_decay nan is not at least 0 and finite"),
        ("randaugment_layers", -1, "randaugment_layers -1 is not at least 0 and finite"),
        ("horizontal_flip", 2.0, "horizontal_flip 2.0 is not in [0, 1]"),
        ("crop_min_area", 0.0, "crop_min_area 0.0 is not in (0, 1]"),
        ("eval_crop", 1.2, "eval_crop 1.2 is not in (0, 1]"),
    ],
)
def test_an_override_that_cannot_be_trained_with_is_refused_in_one_line(field, value, said):
    with pytest.raises(ValueError, match="^" + re.escape(said)) as refused:
        resolve("small", Cell(0.25, 26, 16, 10), {field: value})
    assert "\n" not in str(refused.value)


def test_an_unknown_recipe_is_refused_in_one_line_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^unknown recipe 'tiny'; known: small, resnet_rs$"):
        of("tiny")


def test_momentum_may_be_none_without_nesterov():
    assert of(momentum=0.0, nesterov=False).momentum == 0


def test_every_value_but_the_name_can_be_overridden():
    assert {"name", *OVERRIDABLE} == {field.name for field in dataclasses.fields(Recipe)}
    assert "name" not in OVERRIDABLE


@pytest.mark.parametrize("overrides", [{"crop_min_area": 0.5}, {"horizontal_flip": 0.5}, {"randaugment_layers": 1}])
def test_each_augmentation_alone_makes_images_differ_from_epoch_to_epoch(overrides):
    assert of(**overrides).augments

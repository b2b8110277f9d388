import dataclasses
import re

import pytest

from workers.recipe import CHOICES, LIMITS, OVERRIDABLE, Cell, Recipe

PLAIN = Recipe("mine", batch_size=32, bn_batch=16, learning_rate=0.1, warmup_epochs=1.0, weight_decay=0.0)
RANDAUGMENT = {"randaugment_layers": 1, "randaugment_magnitude": 1.0}


def changed(**values):
    return dataclasses.replace(PLAIN, **values)


def test_every_number_has_limits_and_every_word_its_choices():
    limited = [name for names, _, _ in LIMITS for name in names]
    types = Recipe.__annotations__
    assert sorted(limited) == sorted(name for name in OVERRIDABLE if types[name] in (int, float))
    assert set(CHOICES) == {name for name in OVERRIDABLE if types[name] is str}


def test_every_value_but_the_name_can_be_overridden():
    assert {"name", *OVERRIDABLE} == {field.name for field in dataclasses.fields(Recipe)}
    assert "name" not in OVERRIDABLE


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch_size": 24}, "batch_size 24 is not a multiple of bn_batch 16"),
        ({"bn_batch": 5}, "batch_size 32 is not a multiple of bn_batch 5"),
        ({"bn_batch": 64}, "batch_size 32 is not a multiple of bn_batch 64"),
        ({"bn_batch": 0}, "bn_batch 0 is not above 0 and at most 1000000"),
        ({"batch_size": 0}, "batch_size 0 is not above 0 and at most 1000000"),
        ({"batch_size": -32}, "batch_size -32 is not above 0 and at most 1000000"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 is not above 0 and at most 1000000"),
        ({"learning_rate": float("nan")}, "learning_rate nan is not above 0 and at most 1000000"),
        ({"learning_rate": float("inf")}, "learning_rate inf is not above 0 and at most 1000000"),
        ({"dropout": 1.0}, "dropout 1.0 is not in [0, 1)"),
        ({"stochastic_depth": -0.1}, "stochastic_depth -0.1 is not in [0, 1)"),
        ({"label_smoothing": 1.5}, "label_smoothing 1.5 is not in [0, 1)"),
        ({"ema_decay": float("nan")}, "ema_decay nan is not in [0, 1)"),
        ({"momentum": -0.9}, "momentum -0.9 is not in [0, 1)"),
        ({"momentum": 0.0}, "nesterov needs a momentum above 0"),
        ({"warmup_epochs": -1.0}, "warmup_epochs -1.0 is not in [0, 100000]"),
        ({"weight_decay": float("nan")}, "weight_decay nan is not in [0, 1000]"),
        ({"randaugment_layers": -1}, "randaugment_layers -1 is not in [0, 15]"),
        ({"randaugment_std": -0.5}, "randaugment_std -0.5 is not in [0, 30]"),
        ({"randaugment_magnitude": float("inf")}, "randaugment_magnitude inf is not in [0, 30]"),
        ({"repeated_augmentation": 0}, "repeated_augmentation 0 is not in [1, 100]"),
        ({"test_resolution": -1}, "test_resolution -1 is not in [0, 4096]"),
        ({"mixup_alpha": -0.2}, "mixup_alpha -0.2 is not in [0, 1000]"),
        ({"cutmix_alpha": float("nan")}, "cutmix_alpha nan is not in [0, 1000]"),
        ({"mixup_alpha": 0.2, "bn_batch": 1}, "bn_batch 1 leaves no image to mix with"),
        ({"horizontal_flip": 2.0}, "horizontal_flip 2.0 is not in [0, 1]"),
        ({"crop_min_area": 0.0}, "crop_min_area 0.0 is not in (0, 1]"),
        ({"eval_crop": 1.2}, "eval_crop 1.2 is not in (0, 1]"),
        ({"learning_rate": 1e9}, "learning_rate 1000000000.0 is not above 0 and at most 1000000"),
        ({"batch_size": 10**9}, "batch_size 1000000000 is not above 0 and at most 1000000"),
        ({"randaugment_layers": 1000}, "randaugment_layers 1000 is not in [0, 15]"),
        ({"randaugment_layers": 2, "randaugment_magnitude": 31.0}, "randaugment_magnitude 31.0 is not in [0, 30]"),
        ({"randaugment_layers": 2}, "randaugment_layers 2 needs a randaugment_magnitude above 0; without"),
        ({"repeated_augmentation": 3}, "repeated_augmentation 3 repeats equal images: nothing augments them; right"),
        ({"optimizer": "adam"}, "optimizer 'adam' is not one of: sgd, lamb"),
        ({"schedule": "linear"}, "schedule 'linear' is not one of: cosine, step"),
        ({"loss": "hinge"}, "loss 'hinge' is not one of: cross_entropy, bce"),
        ({"bce_threshold": 1.0, "loss": "bce"}, "bce_threshold 1.0 is not in [0, 1)"),
        ({"bce_threshold": 0.2}, "bce_threshold 0.2 needs loss bce; with cross_entropy it is 0"),
        ({"bce_threshold": 0.9, "label_smoothing": 0.2, "loss": "bce"}, "bce_threshold 0.9 is not below 1 - label_sm"),
    ],
)
def test_values_that_cannot_be_trained_with_are_refused_in_one_line(values, said):
    with pytest.raises(ValueError, match="^" + re.escape(said)) as refused:
        changed(**values)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"momentum": 0.0, "nesterov": False},
        {"loss": "bce", "label_smoothing": 0.1, "bce_threshold": 0.2},
        {"loss": "bce"},
        {"mixup_alpha": 0.2, "bn_batch": 2},
        {"test_resolution": 1},
        {"repeated_augmentation": 3, "horizontal_flip": 0.5},
    ],
)
def test_unusual_values_that_can_be_trained_with_pass(values):
    assert dataclasses.asdict(changed(**values)).items() >= values.items()


@pytest.mark.parametrize("values", [{"crop_min_area": 0.5}, {"horizontal_flip": 0.5}, RANDAUGMENT])
def test_each_augmentation_alone_makes_images_differ_from_epoch_to_epoch(values):
    assert not PLAIN.augments
    assert changed(**values).augments


@pytest.mark.parametrize("values", [{"mixup_alpha": 0.1}, {"cutmix_alpha": 1.0}])
def test_either_kind_of_mixing_mixes(values):
    assert not PLAIN.mixes
    assert changed(**values).mixes


@pytest.mark.parametrize(("warmup", "epochs"), [(0.0, 1), (0.9, 1), (5.0, 10)])
def test_a_warm_up_within_the_budget_passes(warmup, epochs):
    changed(warmup_epochs=warmup).check_budget(epochs)


@pytest.mark.parametrize(("warmup", "epochs"), [(1.0, 1), (20.0, 10)])
def test_a_warm_up_of_the_whole_budget_is_refused(warmup, epochs):
    with pytest.raises(ValueError, match=f"^warmup_epochs {warmup:g} leaves nothing of {epochs} epochs"):
        changed(warmup_epochs=warmup).check_budget(epochs)


def test_a_cell_needs_neither_width_nor_depth():
    assert (Cell(160, 100).width, Cell(160, 100).depth) == (None, None)

import dataclasses

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch.nn.functional import cross_entropy

from workers.objective import _STREAM, Objective, draw_mix
from workers.recipe import Recipe
from workers.stochastic import seed_of

CLASSES, GROUP = 7, 8
PLAIN = Recipe("mine", batch_size=64, bn_batch=GROUP, learning_rate=0.1, warmup_epochs=0.0, weight_decay=0.0)
MIXINGS = {
    "mixup": {"mixup_alpha": 0.4},
    "cutmix": {"cutmix_alpha": 1.0},
    "both": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0},
}


def recipe_of(**values):
    return dataclasses.replace(PLAIN, **values)


def batch(groups=4, height=12, width=10):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(groups * GROUP, 3, height, width, generator=generator).contiguous(
        memory_format=torch.channels_last
    )
    return images, torch.randint(0, CLASSES, (groups * GROUP,), generator=generator)


# --- nothing mixed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_mixing_cross_entropy_is_torchs_on_the_labels(smoothing):
    objective = Objective(recipe_of(label_smoothing=smoothing), CLASSES)
    images, labels = batch()
    same, targets = objective.mix(images, labels, 0, 0, 0)
    assert same is images
    assert targets is labels
    logits = torch.randn(len(labels), CLASSES)
    assert torch.equal(objective.loss(logits, targets), cross_entropy(logits, labels, label_smoothing=smoothing))
    torch.testing.assert_close(
        objective.loss(logits, targets), LabelSmoothingCrossEntropy(smoothing)(logits, labels) if smoothing
        else cross_entropy(logits, labels),
    )  # fmt: skip


@pytest.mark.parametrize(("smoothing", "threshold"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.2)])
def test_without_mixing_bce_is_timms(smoothing, threshold):
    objective = Objective(recipe_of(loss="bce", label_smoothing=smoothing, bce_threshold=threshold), CLASSES)
    images, labels = batch()
    same, targets = objective.mix(images, labels, 0, 0, 0)
    assert same is images
    logits = torch.randn(len(labels), CLASSES)
    timms = BinaryCrossEntropy(smoothing, threshold or None)
    assert torch.equal(objective.loss(logits, targets), timms(logits, labels))


# --- against timm ---------------------------------------------------------------------------------------------------


def redirect(monkeypatch, *key):
    """Let what timm's Mixup draws come from the generator of one group."""
    generator = np.random.default_rng(seed_of(*key, _STREAM))
    whether = [0.0]  # to mix at all; with probability 1 we do not draw
    monkeypatch.setattr(np.random, "rand", lambda: whether.pop() if whether else generator.random())
    monkeypatch.setattr(np.random, "beta", generator.beta)
    monkeypatch.setattr(np.random, "randint", lambda low, high, size: generator.integers(low, high, size))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_images_and_targets_are_timms_given_the_same_draws(mixing, smoothing, monkeypatch):
    recipe = recipe_of(label_smoothing=smoothing, **MIXINGS[mixing])
    images, labels = batch(groups=12)
    mixed, targets = Objective(recipe, CLASSES).mix(images, labels, 5, 9, 3)
    timms = Mixup(recipe.mixup_alpha, recipe.cutmix_alpha, label_smoothing=smoothing, num_classes=CLASSES)
    for index, (part, classes) in enumerate(zip(images.split(GROUP), labels.split(GROUP), strict=True)):
        with monkeypatch.context() as patch:
            redirect(patch, 5, 9, 3 + index)
            x, y = timms(part.clone(), classes)
        place = slice(index * GROUP, (index + 1) * GROUP)
        assert torch.equal(mixed[place], x)
        assert torch.equal(targets[place], y)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_the_loss_of_mixed_targets_is_timms(loss):
    threshold = 0.2 if loss == "bce" else 0.0
    recipe = recipe_of(loss=loss, bce_threshold=threshold, label_smoothing=0.1, **MIXINGS["both"])
    objective = Objective(recipe, CLASSES)
    _, targets = objective.mix(*batch(), 0, 0, 0)
    logits = torch.randn(len(targets), CLASSES)
    timms = BinaryCrossEntropy(0.1, threshold) if loss == "bce" else SoftTargetCrossEntropy()
    torch.testing.assert_close(objective.loss(logits, targets), timms(logits, targets))


def test_bce_counts_every_class_above_the_threshold_in_full():
    objective = Objective(recipe_of(loss="bce", bce_threshold=0.2), 3)
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.85, 0.15, 0.0]])
    logits = torch.tensor([[1.0, -2.0, 0.5], [1.0, -2.0, 0.5]])
    hard = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, hard)
    assert objective.loss(logits, targets).item() == wanted.item()


# --- how a batch is split -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_splitting_a_batch_changes_no_bit(mixing, size):
    objective = Objective(recipe_of(label_smoothing=0.1, **MIXINGS[mixing]), CLASSES)
    images, labels = batch(groups=6)
    whole = objective.mix(images, labels, 3, 4, 2)
    parts = [
        objective.mix(part, classes, 3, 4, 2 + index * size)
        for index, (part, classes) in enumerate(
            zip(images.split(size * GROUP), labels.split(size * GROUP), strict=True)
        )
    ]
    for all_at_once, split in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(all_at_once, torch.cat(split))


@pytest.mark.parametrize("values", [{}, {"loss": "bce"}, MIXINGS["both"], {"loss": "bce", **MIXINGS["both"]}])
def test_a_batchs_loss_is_the_mean_over_its_groups(values):
    objective = Objective(recipe_of(label_smoothing=0.1, **values), CLASSES)
    _, targets = objective.mix(*batch(), 0, 0, 0)
    logits = torch.randn(len(targets), CLASSES)
    losses = [objective.loss(*part) for part in zip(logits.split(GROUP), targets.split(GROUP), strict=True)]
    torch.testing.assert_close(torch.stack(losses).mean(), objective.loss(logits, targets))


@pytest.mark.parametrize("key", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_another_seed_step_or_group_mixes_otherwise(key):
    recipe = recipe_of(**MIXINGS["both"])
    assert draw_mix(recipe, *key, 32, 32) != draw_mix(recipe, 0, 0, 0, 32, 32)
    assert draw_mix(recipe, *key, 32, 32) == draw_mix(recipe, *key, 32, 32)


def test_mixing_leaves_all_other_randomness_and_what_it_is_given_alone():
    images, labels = batch()
    kept = images.clone(), labels.clone()
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    Objective(recipe_of(**MIXINGS["both"]), CLASSES).mix(images, labels, 0, 0, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(images, kept[0])
    assert torch.equal(labels, kept[1])


# --- the draws ------------------------------------------------------------------------------------------------------


def test_the_box_has_the_share_that_targets_say_and_lies_in_the_image():
    recipe = recipe_of(cutmix_alpha=1.0)
    for group in range(300):
        mix = draw_mix(recipe, 0, 0, group, 32, 48)
        top, bottom, left, right = mix.box
        assert 0 <= top <= bottom <= 32
        assert 0 <= left <= right <= 48
        assert mix.kept == pytest.approx(1 - (bottom - top) * (right - left) / (32 * 48))


def test_half_of_the_groups_are_cut_and_shares_follow_their_beta_distributions():
    mixes = [draw_mix(recipe_of(**MIXINGS["both"]), 0, step, 0, 64, 64) for step in range(2000)]
    cut = [mix for mix in mixes if mix.box]
    assert len(cut) / len(mixes) == pytest.approx(0.5, abs=0.04)
    mixed = np.array([mix.kept for mix in mixes if not mix.box])
    assert mixed.mean() == pytest.approx(0.5, abs=0.05)
    # A beta distribution with both parameters a has the variance 1 / (4 (2 a + 1)).
    assert mixed.var() == pytest.approx(1 / (4 * 1.8), abs=0.015)
    assert {bool(draw_mix(recipe_of(mixup_alpha=0.4), 0, step, 0, 8, 8).box) for step in range(50)} == {False}
    assert {bool(draw_mix(recipe_of(cutmix_alpha=1.0), 0, step, 0, 8, 8).box) for step in range(50)} == {True}


# --- shapes, types, devices -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_nothing_is_read_back_from_the_device_and_shapes_do_not_depend_on_the_draws(mixing, loss):
    """On the meta device there is nothing to read, and a read raises."""
    objective = Objective(recipe_of(loss=loss, **MIXINGS[mixing]), CLASSES)
    images, labels = (part.to("meta") for part in batch())
    for step in range(5):
        mixed, targets = objective.mix(images, labels, 0, step, 0)
        assert (mixed.shape, targets.shape) == (images.shape, (len(labels), CLASSES))
        assert objective.loss(torch.empty(len(labels), CLASSES, device="meta"), targets).shape == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_keep_type_and_memory_format_and_the_loss_is_float32(dtype):
    images, labels = batch()
    objective = Objective(recipe_of(**MIXINGS["both"]), CLASSES)
    mixed, targets = objective.mix(images.to(dtype), labels, 0, 0, 0)
    assert mixed.dtype == dtype
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert targets.dtype == torch.float32
    assert objective.loss(torch.randn(len(labels), CLASSES).bfloat16(), targets).dtype == torch.float32


def test_a_group_of_odd_size_keeps_its_middle_image():
    recipe = Recipe("odd", 5, 5, 0.1, 0.0, 0.0, mixup_alpha=0.4)
    images, labels = torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 2, 3, 4])
    mixed, targets = Objective(recipe, CLASSES).mix(images, labels, 0, 0, 0)
    torch.testing.assert_close(mixed[2], images[2])
    assert targets[2].tolist() == pytest.approx([0, 0, 1, 0, 0, 0, 0])

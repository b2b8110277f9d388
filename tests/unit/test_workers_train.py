import copy
import dataclasses
import io
import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from workers.contract import DataConfig, DivergedError, TrialConfig
from workers.data import Loader, Subset, load_splits
from workers.device import Device
from workers.model import build_model
from workers.recipe import Cell, resolve
from workers.train import Trainer, learning_rate, make_optimizer, parameter_groups

DATA = DataConfig("digits", "sklearn-1797", 10, 1078, 0.25)


def config_of(epochs=1, seed=0, **overrides):
    recipe = resolve("small", Cell(0.125, 26, 16, epochs), {"warmup_epochs": 0, **overrides})
    return TrialConfig("t", "resnet_rs", 0.125, 26, 16, epochs, seed, recipe, DATA)


@pytest.fixture(scope="module")
def device():
    return Device("cpu", "float32", 1)


@pytest.fixture(scope="module")
def one_batch():
    """Digits of which 32 are trained on, so that an epoch is one step of the default batch."""
    splits = load_splits(DATA)
    return dataclasses.replace(splits, train=Subset(splits.train.images, splits.train.indices[:32]))


def trainer_of(splits, device, **options):
    config = config_of(**options)
    return Trainer(config, Loader(splits, config.recipe, config.resolution, config.seed), device)


# --- schedule -------------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_linearly_to_its_peak_and_falls_as_a_cosine():
    assert learning_rate(0, 100, 10, 0.4) == pytest.approx(0.04)
    assert learning_rate(4, 100, 10, 0.4) == pytest.approx(0.2)
    assert learning_rate(9, 100, 10, 0.4) == 0.4
    assert learning_rate(10, 100, 10, 0.4) == 0.4
    assert learning_rate(55, 100, 10, 0.4) == pytest.approx(0.2)
    assert learning_rate(32, 100, 10, 0.4) == pytest.approx(0.2 * (1 + math.cos(math.pi * 22 / 90)))
    assert learning_rate(100, 100, 10, 0.4) == 0.0


def test_without_warm_up_the_first_step_has_the_peak():
    assert learning_rate(0, 100, 0, 0.4) == 0.4


@pytest.mark.parametrize("warmup", [0, 1, 3.3, 9.9, 10, 50.5])
@pytest.mark.parametrize("steps", [100, 101, 1000])
def test_the_rate_rises_then_falls_reaches_its_peak_and_ends_near_0(steps, warmup):
    rates = [learning_rate(step, steps, warmup, 0.1) for step in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == 0.1
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in pairwise(rates[top:]))
    assert 0 < rates[-1] < 0.1 * 3e-3
    assert abs(top - warmup) <= 1


def test_a_run_shorter_than_its_warm_up_only_rises():
    rates = [learning_rate(step, 10, 50, 0.1) for step in range(10)]
    assert rates == pytest.approx([0.1 * (step + 1) / 50 for step in range(10)])


def test_a_trials_schedule_counts_its_warm_up_in_epochs(one_batch, device):
    trainer = trainer_of(one_batch, device, epochs=20, batch_size=8, bn_batch=8, warmup_epochs=2)
    assert trainer.loader.steps_per_epoch == 4
    assert [trainer.rate_at(step) for step in (0, 7, 8)] == pytest.approx([0.1 / 8, 0.1, 0.1])
    assert trainer.rate_at(79) == pytest.approx(0.05 * (1 + math.cos(math.pi * 71 / 72)))


# --- optimiser ------------------------------------------------------------------------------------------------------


def test_norms_and_biases_have_no_decay_and_every_parameter_is_in_one_group():
    model = build_model("resnet_rs", 0.125, 26, 10)
    decayed, free = parameter_groups(model, 4e-5)
    assert (decayed["weight_decay"], free["weight_decay"]) == (4e-5, 0.0)
    exempt = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, nn.BatchNorm2d) or name == "bias"
    }
    assert {id(p) for p in free["params"]} == exempt
    assert {id(p) for p in decayed["params"]} == {id(p) for p in model.parameters()} - exempt
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_the_optimiser_is_the_recipes():
    recipe = resolve("small", Cell(1.0, 26, 16, 1), {"momentum": 0.8, "nesterov": False, "learning_rate": 0.3})
    optimizer = make_optimizer(nn.Linear(2, 2), recipe)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"], group["dampening"]) == (0.3, 0.8, False, 0)


# --- steps ----------------------------------------------------------------------------------------------------------


def step_by_hand(trainer, groups):
    """The first epoch's single step done plainly: mean loss of the groups, then SGD; loss, model."""
    recipe = trainer.recipe
    model = copy.deepcopy(trainer.model).train()
    ((images, labels),) = trainer.loader.train(1)
    parts = list(zip(trainer.normalize(images).chunk(groups), labels.chunk(groups), strict=True))
    losses = [cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing) for x, y in parts]
    loss = torch.stack(losses).mean()
    loss.backward()
    torch.optim.SGD(
        parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate, momentum=0.9, nesterov=True
    ).step()
    return loss.item(), model


def assert_alike(model, other):
    for (name, mine), (_, theirs) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_step_follows_the_mean_loss_over_the_batch_norm_groups(one_batch, device, groups):
    trainer = trainer_of(one_batch, device, batch_size=32, bn_batch=32 // groups)
    loss, model = step_by_hand(trainer, groups)
    assert trainer.train_epoch(1) == pytest.approx(loss, rel=1e-5)
    assert_alike(trainer.model, model)


def test_groups_have_their_own_batch_norm_statistics(one_batch, device):
    whole, split = (trainer_of(one_batch, device, batch_size=32, bn_batch=size) for size in (32, 8))
    assert whole.train_epoch(1) != pytest.approx(split.train_epoch(1), rel=1e-5)


def test_gradients_do_not_pile_up_from_step_to_step(one_batch, device):
    trainer = trainer_of(one_batch, device, epochs=2, bn_batch=8)
    trainer.train_epoch(1)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_an_epochs_loss_is_the_mean_over_its_steps(one_batch, device):
    trainer = trainer_of(one_batch, device, batch_size=16, bn_batch=16, learning_rate=1e-12)
    trainer.model.requires_grad_()
    expected = []
    with torch.no_grad():
        model = copy.deepcopy(trainer.model).train()
        for images, labels in trainer.loader.train(1):
            expected.append(cross_entropy(model(trainer.normalize(images)), labels, label_smoothing=0.1).item())
    assert len(expected) == 2
    assert trainer.train_epoch(1) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_the_same_seed_starts_with_the_same_weights_and_another_with_others(one_batch, device):
    def weights(seed):
        return trainer_of(one_batch, device, seed=seed).model.state_dict()["layer1.0.conv1.weight"]

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize(
    "overrides",
    [{}, {"ema_decay": 0.9, "dropout": 0.3, "stochastic_depth": 0.3, "crop_min_area": 0.5, "horizontal_flip": 0.5}],
    ids=["plain", "regularised"],
)
def test_a_state_loaded_elsewhere_goes_on_to_the_same_weights_bit_for_bit(one_batch, device, overrides):
    first = trainer_of(one_batch, device, epochs=3, batch_size=8, bn_batch=8, **overrides)
    first.train_epoch(1)
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    second = trainer_of(one_batch, device, epochs=3, batch_size=8, bn_batch=8, **overrides)
    torch.rand(17)  # another process has another random state
    buffer.seek(0)
    second.load_state(torch.load(buffer, weights_only=True))
    assert [first.train_epoch(epoch) for epoch in (2, 3)] == [second.train_epoch(epoch) for epoch in (2, 3)]
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    if first.average:
        assert all(map(torch.equal, first.average.tensors, second.average.tensors))


def test_a_loss_that_is_no_number_is_divergence(one_batch, device):
    trainer = trainer_of(one_batch, device, batch_size=8, bn_batch=8, learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"the training loss became nan in epoch 1"):
        trainer.train_epoch(1)


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_scores_are_those_of_sorted_logits_over_all_images(one_batch, device):
    trainer = trainer_of(one_batch, device, epochs=2)
    trainer.train_epoch(1)
    (score,) = trainer.evaluate(one_batch.val)
    model = trainer.model.eval()
    images = torch.cat([images for images, _ in trainer.loader.evaluate(one_batch.val)])
    with torch.no_grad():
        logits = model(trainer.normalize(images))
    ranks = logits.argsort(dim=1, descending=True)
    labels = one_batch.val.labels[:, None]
    assert score.images == 359
    assert score.top1 == pytest.approx(100 * (ranks[:, :1] == labels).any(1).float().mean().item())
    assert score.top5 == pytest.approx(100 * (ranks[:, :5] == labels).any(1).float().mean().item())
    assert score.loss == pytest.approx(cross_entropy(logits, labels[:, 0]).item(), rel=1e-4)
    assert score.top1 < score.top5 < 100


def test_evaluation_uses_the_averaged_weights_and_gives_the_trained_ones_back(one_batch, device):
    trainer = trainer_of(one_batch, device, epochs=2, batch_size=8, bn_batch=8, ema_decay=0.9)
    trainer.train_epoch(1)
    trained = copy.deepcopy(trainer.model.state_dict())
    (score,) = trainer.evaluate(one_batch.val)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in trainer.model.state_dict().items())
    averaged = trainer_of(one_batch, device, epochs=2)
    averaged.model.load_state_dict(trained)
    (without,) = averaged.evaluate(one_batch.val)
    trainer.average.swap()
    averaged.model.load_state_dict(trainer.model.state_dict())
    (with_average,) = averaged.evaluate(one_batch.val)
    assert score == with_average
    assert score.loss != without.loss


def test_evaluation_changes_nothing_and_several_parts_come_in_their_order(one_batch, device):
    trainer = trainer_of(one_batch, device)
    before = copy.deepcopy(trainer.model.state_dict())
    scores = trainer.evaluate(one_batch.train_clean, one_batch.minival, one_batch.train)
    assert [score.images for score in scores] == [359, 359, 32]
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())


def test_top_5_of_fewer_classes_counts_them_all(one_batch, device):
    config = config_of()
    config = dataclasses.replace(config, data=dataclasses.replace(DATA, classes=3))
    keep = tuple(i for i in one_batch.train.indices if one_batch.train.images.labels[i] < 3)
    few = dataclasses.replace(one_batch, val=Subset(one_batch.val.images, keep))
    trainer = Trainer(config, Loader(few, config.recipe, 16, 0), device)
    (score,) = trainer.evaluate(few.val)
    assert score.top5 == 100

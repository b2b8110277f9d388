import copy
import dataclasses
import io

import pytest
import torch
from digits_trials import DIGITS, digits_trial
from torch.nn.functional import cross_entropy

from workers.data import Subset, load_splits
from workers.device import Device
from workers.optimize import parameter_groups
from workers.train import Trainer


@pytest.fixture(scope="module")
def device():
    return Device("cpu", "float32", 1)


@pytest.fixture(scope="module")
def one_batch():
    """Digits of which 32 are trained on, so that an epoch is one step of the default batch."""
    splits = load_splits(DIGITS)
    return dataclasses.replace(splits, train=Subset(splits.train.images, splits.train.indices[:32]))


def trainer_of(splits, device, epochs=1, **options):
    return Trainer(digits_trial(epochs, **{"width": 0.125, "warmup_epochs": 0, **options}), splits, device)


def train_epoch(trainer, epoch):
    """Mean loss of an epoch's steps."""
    return torch.stack(list(trainer.train(epoch))).mean().item()


def test_a_trials_schedule_counts_its_warm_up_in_epochs(one_batch, device):
    trainer = trainer_of(one_batch, device, epochs=20, batch_size=8, bn_batch=8, warmup_epochs=2)
    assert trainer.loader.steps_per_epoch == 4
    rates = [trainer.rate_at(step) for step in range(80)]
    assert rates[:8] == pytest.approx([0.1 * (step + 1) / 8 for step in range(8)])
    assert rates[8:] == sorted(rates[8:], reverse=True)


# --- steps ----------------------------------------------------------------------------------------------------------


def step_by_hand(trainer, groups):
    """The first epoch's single step done plainly: mean loss of the groups, then SGD; loss, model."""
    recipe = trainer.config.recipe
    model = copy.deepcopy(trainer.learner.model).train()
    ((images, labels),) = trainer.loader.train(1)
    parts = list(zip(trainer.normalize(images).chunk(groups), labels.chunk(groups), strict=True))
    losses = [cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing) for x, y in parts]
    loss = torch.stack(losses).mean()
    loss.backward()
    torch.optim.SGD(parameter_groups(model, recipe), lr=recipe.learning_rate, momentum=0.9, nesterov=True).step()
    return loss.item(), model


def assert_alike(model, other):
    for (name, mine), (_, theirs) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_step_follows_the_mean_loss_over_the_batch_norm_groups(one_batch, device, groups):
    trainer = trainer_of(one_batch, device, batch_size=32, bn_batch=32 // groups)
    loss, model = step_by_hand(trainer, groups)
    assert train_epoch(trainer, 1) == pytest.approx(loss, rel=1e-5)
    assert_alike(trainer.learner.model, model)


def test_groups_have_their_own_batch_norm_statistics(one_batch, device):
    whole, split = (trainer_of(one_batch, device, batch_size=32, bn_batch=size) for size in (32, 8))
    assert train_epoch(whole, 1) != pytest.approx(train_epoch(split, 1), rel=1e-5)


def test_gradients_do_not_pile_up_from_step_to_step(one_batch, device):
    trainer = trainer_of(one_batch, device, epochs=2, bn_batch=8)
    train_epoch(trainer, 1)
    assert all(parameter.grad is None for parameter in trainer.learner.model.parameters())


def test_an_epochs_loss_is_the_mean_over_its_steps(one_batch, device):
    trainer = trainer_of(one_batch, device, batch_size=16, bn_batch=16, learning_rate=1e-12)
    trainer.learner.model.requires_grad_()
    expected = []
    with torch.no_grad():
        model = copy.deepcopy(trainer.learner.model).train()
        for images, labels in trainer.loader.train(1):
            expected.append(cross_entropy(model(trainer.normalize(images)), labels, label_smoothing=0.1).item())
    assert len(expected) == 2
    assert train_epoch(trainer, 1) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_the_same_seed_starts_with_the_same_weights_and_another_with_others(one_batch, device):
    def weights(seed):
        return trainer_of(one_batch, device, seed=seed).learner.model.state_dict()["layer1.0.conv1.weight"]

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize(
    "overrides",
    [{}, {"ema_decay": 0.9, "dropout": 0.3, "stochastic_depth": 0.3, "crop_min_area": 0.5, "horizontal_flip": 0.5}],
    ids=["plain", "regularised"],
)
def test_a_state_loaded_elsewhere_goes_on_to_the_same_weights_bit_for_bit(one_batch, device, overrides):
    first = trainer_of(one_batch, device, epochs=3, batch_size=8, bn_batch=8, **overrides)
    train_epoch(first, 1)
    buffer = io.BytesIO()
    torch.save(first.state(), buffer)
    second = trainer_of(one_batch, device, epochs=3, batch_size=8, bn_batch=8, **overrides)
    torch.rand(17)  # another process has another random state
    buffer.seek(0)
    second.load_state(torch.load(buffer, weights_only=True))
    assert [train_epoch(first, epoch) for epoch in (2, 3)] == [train_epoch(second, epoch) for epoch in (2, 3)]
    for name, tensor in first.learner.model.state_dict().items():
        assert torch.equal(tensor, second.learner.model.state_dict()[name]), name
    if first.learner.average:
        assert all(map(torch.equal, first.learner.average.tensors, second.learner.average.tensors))


def test_an_epoch_gone_on_with_at_any_step_ends_with_the_same_weights_bit_for_bit(one_batch, device):
    options = {"batch_size": 8, "bn_batch": 4, "dropout": 0.3, "stochastic_depth": 0.3, "mixup_alpha": 0.2}
    whole = trainer_of(one_batch, device, **options)
    losses, states = [], []
    for loss in whole.train(1):
        losses.append(loss)
        states.append(copy.deepcopy(whole.state()))
    assert len(losses) == 4
    for done in (1, 2, 3):
        rest = trainer_of(one_batch, device, **options)
        rest.load_state(states[done - 1])
        torch.rand(done)  # hidden state of a generator must not matter
        assert torch.equal(torch.stack(list(rest.train(1, done))), torch.stack(losses[done:]))
        for name, tensor in whole.learner.model.state_dict().items():
            assert torch.equal(tensor, rest.learner.model.state_dict()[name]), name


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_scores_are_those_of_sorted_logits_over_all_images(one_batch, device):
    trainer = trainer_of(one_batch, device, epochs=2)
    train_epoch(trainer, 1)
    (score,) = trainer.evaluate(one_batch.val)
    model = trainer.learner.model.eval()
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
    train_epoch(trainer, 1)
    trained = copy.deepcopy(trainer.learner.model.state_dict())
    (score,) = trainer.evaluate(one_batch.val)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in trainer.learner.model.state_dict().items())
    averaged = trainer_of(one_batch, device, epochs=2)
    averaged.learner.model.load_state_dict(trained)
    (without,) = averaged.evaluate(one_batch.val)
    trainer.learner.average.swap()
    averaged.learner.model.load_state_dict(trainer.learner.model.state_dict())
    (with_average,) = averaged.evaluate(one_batch.val)
    assert score == with_average
    assert score.loss != without.loss


def test_evaluation_changes_nothing_and_several_parts_come_in_their_order(one_batch, device):
    trainer = trainer_of(one_batch, device)
    before = copy.deepcopy(trainer.learner.model.state_dict())
    scores = trainer.evaluate(one_batch.train_clean, one_batch.minival, one_batch.train)
    assert [score.images for score in scores] == [359, 359, 32]
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.learner.model.state_dict().items())


def test_top_5_of_fewer_classes_counts_them_all(one_batch, device):
    config = digits_trial(data=dataclasses.replace(DIGITS, classes=3))
    keep = tuple(i for i in one_batch.train.indices if one_batch.train.images.labels[i] < 3)
    few = dataclasses.replace(one_batch, val=Subset(one_batch.val.images, keep))
    (score,) = Trainer(config, few, device).evaluate(few.val)
    assert score.top5 == 100

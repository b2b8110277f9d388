"""Training steps on an XLA device: what they compile, what they read back, and that they are those of the CPU."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch_xla.debug.metrics as met
from digits_trials import digits_trial
from torch import nn

from workers import checkpoint, xla
from workers.contract import InvalidConfigError
from workers.data import load_splits
from workers.device import Device
from workers.optimize import make_optimizer
from workers.profiling import measure_trial_shape
from workers.ranks import Ranks
from workers.train import Trainer

# Masks, mixed images, averaged weights and two micro-batches in each step.
EVERYTHING = {
    "batch_size": 64,
    "bn_batch": 32,
    "learning_rate": 0.1,
    "ema_decay": 0.9,
    "dropout": 0.1,
    "stochastic_depth": 0.1,
    "mixup_alpha": 0.1,
    "cutmix_alpha": 1.0,
}
ONE_GROUP = {"batch_size": 32, "bn_batch": 32}


@pytest.fixture(scope="module")
def xla_device():
    return Device("xla", "float32", None)


@pytest.fixture(scope="module")
def cpu():
    return Device("cpu", "float32", 1)


def trainer_of(device, **recipe):
    config = digits_trial(width=0.125, device=device.kind, **{**EVERYTHING, **recipe})
    return Trainer(config, load_splits(config.data), device)


def steps(trainer, count, epoch=1, first=0):
    """Losses of some steps of an epoch, on the host after the last of them."""
    losses = [loss for _, loss in zip(range(count), trainer.train(epoch, first), strict=False)]
    return [loss.item() for loss in losses]


def counts():
    """Compilations, graphs sent off, and numbers that were read back from the device, so far."""
    reads = met.metric_data("TransferFromDeviceTime")
    return {
        "compilations": met.counter_value("UncachedCompile") or 0,
        "cuts": met.counter_value("MarkStep") or 0,
        "reads": reads[0] if reads else 0,
        "items": met.counter_value("aten::_local_scalar_dense") or 0,
        "on the host": sum(met.counter_value(name) for name in met.counter_names() if name.startswith("aten::")),
    }


def counted(trainer, steps_before, steps_counted):
    """What the counted ones of a trainer's steps added to the counts."""
    batches = trainer.train(1)
    kept = [next(batches) for _ in range(steps_before)]
    before = counts()
    kept += [next(batches) for _ in range(steps_counted)]
    after = counts()
    assert all(torch.isfinite(loss) for loss in kept)
    return {name: after[name] - before[name] for name in after}


def test_steps_compile_once_cut_once_and_read_nothing_back(xla_device):
    # The averaged weights' decay grows through all twelve steps, the learning rate rises and falls.
    trainer = trainer_of(xla_device, warmup_epochs=0.3, ema_decay=0.99)
    rates = [trainer.rate_at(step) for step in range(12)]
    assert len(set(rates)) == 12
    first, later = counted(trainer, 0, 3), counted(trainer_of(xla_device, warmup_epochs=0.3, ema_decay=0.99), 3, 9)
    assert first == {"compilations": 1, "cuts": 3, "reads": 0, "items": 0, "on the host": 0}
    assert later == {"compilations": 0, "cuts": 9, "reads": 0, "items": 0, "on the host": 0}


def test_a_number_that_meets_another_of_the_same_value_compiles_nothing(xla_device):
    # 0.5 is each micro-batch's share of the batch, 0.9 the momentum; the rate and the average's weight pass both.
    trainer = trainer_of(xla_device)
    pixels = torch.randint(256, (64, 3, 16, 16), dtype=torch.uint8)
    labels = torch.randint(10, (64,))
    before = None
    for number, rate in enumerate([0.3, 0.5, 0.9, 1.0, 0.1, 4e-5, 0.0, 0.2, 0.3, 0.4]):
        trainer.learner.step(number, rate, pixels, labels, trainer.normalize)
        before = before or counts()["compilations"]
    assert counts()["compilations"] == before


def test_evaluation_compiles_no_step_anew(xla_device):
    trainer = trainer_of(xla_device)
    parts = (trainer.loader.splits.train_clean, trainer.loader.splits.minival, trainer.loader.splits.val)
    steps(trainer, 2)
    trainer.evaluate(*parts)
    before = counts()
    steps(trainer, 2, first=2)
    trainer.evaluate(*parts)
    after = counts()
    assert after["compilations"] == before["compilations"]
    assert after["items"] == before["items"] + 2  # what this test itself asks for


def weights_of(trainer):
    return {name: value.cpu() for name, value in trainer.learner.model.state_dict().items()}


def assert_close(weights, others, rtol, atol):
    for name, value in weights.items():
        torch.testing.assert_close(value, others[name], rtol=rtol, atol=atol, msg=lambda text, name=name: name + text)


def test_steps_are_those_of_the_cpu(xla_device, cpu):
    on_xla, on_cpu = (trainer_of(device) for device in (xla_device, cpu))
    assert_close(weights_of(on_xla), weights_of(on_cpu), 0, 0)
    losses = steps(on_xla, 4), steps(on_cpu, 4)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert_close(weights_of(on_xla), weights_of(on_cpu), 1e-3, 1e-4)
    averages = [[value.cpu() for value in trainer.learner.average.tensors] for trainer in (on_xla, on_cpu)]
    for ours, theirs in zip(*averages, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    evaluated = [trainer.evaluate(trainer.loader.splits.minival)[0] for trainer in (on_xla, on_cpu)]
    assert evaluated[0].loss == pytest.approx(evaluated[1].loss, rel=1e-5)
    assert evaluated[0].images == evaluated[1].images


@pytest.mark.parametrize(("name", "compilations"), [("sgd", 1), ("lamb", 3)])
def test_an_optimiser_moves_weights_as_on_the_cpu_at_any_rate(xla_device, cpu, name, compilations):
    recipe = digits_trial(optimizer=name, weight_decay=0.05).recipe
    models, losses, before = [], [], counts()["compilations"]
    for device in (cpu, xla_device):
        torch.manual_seed(0)
        model = device.place(nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2)))
        optimizer = make_optimizer(model, recipe, device.fuses_optimizer)
        device.start(optimizer)
        device.cut()
        for rate in (0.05, 0.1, 0.9, 0.3, 1.6, 0.1, 0.001):
            optimizer.zero_grad()
            loss = 0.01 * (model(torch.ones(4, 3).to(device.torch)) ** 2).mean()
            loss.backward()
            with device.at_rate(optimizer, rate):
                optimizer.step()
            device.cut()
        models.append({key: value.cpu() for key, value in model.state_dict().items()})
        losses.append(loss.item())
    assert counts()["compilations"] - before <= 1 + compilations  # and one for the model itself
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert_close(models[1], models[0], 1e-4, 1e-5)


def moved(trainer, folder):
    """Its state as a checkpoint file gives it back."""
    checkpoint.save(folder, checkpoint.Mark(0, 3), {"trainer": trainer.state()})
    return checkpoint.load_latest(folder)["trainer"]


@pytest.mark.parametrize("kinds", [("xla", "xla"), ("xla", "cpu"), ("cpu", "xla")], ids=lambda kinds: "-".join(kinds))
def test_a_checkpoint_goes_on_on_another_kind_of_device(xla_device, cpu, tmp_path, kinds):
    devices = {"cpu": cpu, "xla": xla_device}
    begun, gone_on = (trainer_of(devices[kind]) for kind in kinds)
    steps(begun, 3)
    gone_on.load_state(moved(begun, tmp_path))
    expected, before = steps(begun, 3, first=3), counts()["compilations"]
    losses, compiled = steps(gone_on, 3, first=3), counts()["compilations"] - before
    exact = kinds[0] == kinds[1]
    assert compiled == 0 or kinds == ("cpu", "xla")  # there the first steps on XLA are these
    # Measured: 1e-6 of the losses, 2e-5 of the largest weight of a layer.
    assert losses == expected if exact else losses == pytest.approx(expected, rel=1e-5)
    assert_close(weights_of(gone_on), weights_of(begun), *((0, 0) if exact else (1e-3, 1e-4)))


def test_bfloat16_is_computed_in_and_stays_near_float32(xla_device, cpu):
    device = Device("xla", "bfloat16", None)
    low = trainer_of(device, **ONE_GROUP)
    with device.autocast():
        assert low.learner.model.conv1[0](torch.zeros(1, 3, 16, 16, device=device.torch)).dtype is torch.bfloat16
    losses, expected = steps(low, 3), steps(trainer_of(cpu, **ONE_GROUP), 3)
    assert losses == pytest.approx(expected, rel=0.02)
    assert losses != expected
    assert all(value.dtype in (torch.float32, torch.int64) for value in low.learner.model.state_dict().values())


@pytest.mark.parametrize("side", range(1, 8))
@pytest.mark.parametrize("count_include_pad", [False, True])
def test_pooling_over_the_edge_is_that_of_the_cpu(xla_device, side, count_include_pad):
    pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=count_include_pad)
    features = torch.rand(2, 3, side, side, requires_grad=True)
    expected = pool(features)
    (expected**2).sum().backward()
    there = features.detach().to(xla_device.torch).requires_grad_()
    xla.mend(pool)
    pooled = pool(there)
    (pooled**2).sum().backward()
    torch.testing.assert_close(pooled.cpu(), expected)
    torch.testing.assert_close(there.grad.cpu(), features.grad)


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_batch_norms_running_variance_is_that_of_the_cpu(xla_device, momentum):
    norm = nn.BatchNorm2d(3, momentum=momentum)
    there = copy.deepcopy(norm).to(xla_device.torch)
    xla.mend(there)
    for _ in range(3):
        features = torch.rand(4, 3, 1, 2)
        expected, normalised = norm(features), there(features.to(xla_device.torch))
        torch.testing.assert_close(normalised.cpu(), expected)
    torch.testing.assert_close(there.running_var.cpu(), norm.running_var)
    torch.testing.assert_close(there.running_mean.cpu(), norm.running_mean)
    assert list(there.state_dict()) == list(norm.state_dict())


def test_a_shape_is_measured_with_what_its_step_computes(xla_device):
    config = digits_trial(width=0.125, device="xla", **ONE_GROUP)
    measured = measure_trial_shape(config)
    assert measured.device == "CPU by XLA"
    assert measured.peak_memory_bytes is None
    assert measured.train_step_ms > measured.infer_latency_ms > 0.2


def test_what_xla_cannot_do_is_refused_in_one_line(xla_device):
    with pytest.raises(InvalidConfigError, match=r"precision float16: .*; use bfloat16 or float32"):
        Device("xla", "float16", None)
    with pytest.raises(InvalidConfigError, match="a trial of 2 devices: on XLA it has one"):
        Ranks.join(2, xla_device)


@pytest.mark.parametrize(("chosen", "said"), [(None, "no TPU here; PJRT_DEVICE=CPU"), ("TPU", "finds no device here")])
def test_without_a_tpu_the_cpu_does_not_silently_take_its_place(chosen, said):
    environment = {name: value for name, value in os.environ.items() if name != "PJRT_DEVICE"}
    if chosen:
        environment["PJRT_DEVICE"] = chosen
    program = "from workers.device import Device; Device('xla', 'float32', None)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"InvalidConfigError: device xla: {'torch_xla ' if chosen else ''}{said}" in done.stderr

import dataclasses
import logging

import pytest
import torch
from digits_trials import digits_trial

from workers.contract import Execution, InvalidConfigError
from workers.costs import predict_memory
from workers.device import Device
from workers.learner import MEMORY_SHARE, Learner, MicroBatchError, compiles, halvings, micro_batch
from workers.ranks import Ranks

RECIPE = {
    "batch_size": 32,
    "bn_batch": 4,
    "dropout": 0.3,
    "stochastic_depth": 0.4,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
}


@pytest.fixture(scope="module")
def device():
    return Device("cpu", "float32", 1)


def learner_of(device, micro_batch, **recipe):
    """In double precision, where the order of sums hardly matters."""
    execution = Execution(micro_batch=micro_batch)
    learner = Learner(digits_trial(execution=execution, **{**RECIPE, **recipe}), device, Ranks())
    learner.model.double()
    return learner


def batch():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (32, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(10, (32,), generator=generator)


def prepared(pixels):
    return pixels.double() / 255


def steps(learner, count=3):
    return [learner.step(number, 0.1, *batch(), prepared).item() for number in range(count)]


def assert_equal(learner, other):
    for (name, value), expected in zip(
        learner.model.state_dict().items(), other.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_a_batch_split_in_any_way_gives_the_same_weights(device, size):
    split, groups = learner_of(device, size), learner_of(device, 4)
    assert steps(split) == pytest.approx(steps(groups), rel=1e-6)
    assert_equal(split, groups)


def limited(learner, images):
    """A device that cannot hold more images than this in one pass: it fails after the layers' statistics changed."""
    forward = learner._forward

    def passes(batch):
        logits = forward(batch)
        if len(batch) > images:
            raise torch.OutOfMemoryError("out of memory")
        return logits

    learner._forward = passes
    return learner


@pytest.mark.parametrize("fits", [4, 8, 16])
def test_out_of_memory_halves_the_micro_batch_and_the_step_is_done_again_from_the_same_state(device, fits):
    learner, expected = limited(learner_of(device, 32), fits), learner_of(device, 4)
    assert steps(learner) == pytest.approx(steps(expected), rel=1e-6)
    assert learner.micro_batch == fits
    assert_equal(learner, expected)


def test_a_model_without_batch_norm_is_halved_as_well(device):
    config = digits_trial(execution=Execution(micro_batch=32), batch_size=32, bn_batch=4, resolution=32)
    config = dataclasses.replace(config, family="timm:test_vit", width=None, depth=None, model={})
    learner = limited(Learner(config, device, Ranks()), 8)
    images = torch.zeros(32, 3, 32, 32, dtype=torch.uint8)
    learner.step(0, 0.1, images, batch()[1], lambda pixels: pixels.float())
    assert learner.micro_batch == 8


def test_one_group_that_does_not_fit_is_out_of_memory(device):
    learner = limited(learner_of(device, 32), 2)
    with pytest.raises(torch.OutOfMemoryError):
        steps(learner, 1)
    assert learner.micro_batch == 4


class Several(Ranks):
    """The first of two processes, for what it does before it meets the other."""

    def __init__(self):
        super().__init__(0, 2)

    def least(self, value):
        return value

    def parallel(self, model, device):
        return model


def test_of_several_processes_one_cannot_halve_alone_and_says_what_the_next_attempt_should_take(device):
    config = digits_trial(execution=Execution(micro_batch=16, ranks=2), **RECIPE)
    learner = limited(Learner(config, device, Several()), 4)
    images, labels = (part[:16] for part in batch())
    with pytest.raises(MicroBatchError, match=r"^out of memory with micro-batch 16: the next attempt goes on with 8$"):
        learner.step(0, 0.1, images, labels, lambda pixels: pixels.float())
    learner.lower(4)
    assert learner.micro_batch == 4


def test_the_smallest_micro_batch_of_several_processes_cannot_be_made_smaller(device):
    config = digits_trial(execution=Execution(micro_batch=4, ranks=2), **RECIPE)
    learner = limited(Learner(config, device, Several()), 2)
    images, labels = (part[:16] for part in batch())
    with pytest.raises(torch.OutOfMemoryError):
        learner.step(0, 0.1, images, labels, lambda pixels: pixels.float())


@pytest.mark.parametrize(("batch_size", "ranks", "times"), [(32, 1, 3), (32, 2, 2), (24, 1, 2), (4, 1, 0)])
def test_how_often_a_micro_batch_can_be_made_smaller(batch_size, ranks, times):
    config = digits_trial(execution=Execution(ranks=ranks), batch_size=batch_size, bn_batch=4)
    assert halvings(config) == times


def test_a_micro_batch_is_only_ever_lowered_and_only_to_what_divides_the_batch(device):
    learner = learner_of(device, 16)
    for found in (32, 24, 12):
        learner.lower(found)
        assert learner.micro_batch == 16
    learner.lower(8)
    assert learner.micro_batch == 8


def test_another_error_is_not_taken_for_it(device):
    learner = learner_of(device, 32)

    def broken(_):
        raise RuntimeError("shapes do not fit")

    learner._forward = broken
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        steps(learner, 1)
    assert learner.micro_batch == 32


def test_what_was_found_to_fit_is_kept_by_a_checkpoint(device):
    learner = limited(learner_of(device, 32), 8)
    steps(learner, 1)
    resumed = learner_of(device, 32)
    resumed.load_state(learner.state())
    assert resumed.micro_batch == 8


def config_of(execution, **recipe):
    return digits_trial(execution=execution, batch_size=96, bn_batch=16, **recipe)


def test_on_a_cpu_a_micro_batch_is_one_group_unless_told(device):
    assert micro_batch(config_of(Execution()), device) == 16
    assert micro_batch(config_of(Execution(micro_batch=48)), device) == 48
    assert micro_batch(config_of(Execution(ranks=2, micro_batch=48)), device) == 48


@pytest.mark.parametrize(
    ("execution", "said"),
    [
        (Execution(micro_batch=64), "micro_batch 64 does not fit the batch; one of 16, 32, 48, 96"),
        (Execution(micro_batch=96, ranks=2), "micro_batch 96 does not fit the batch; one of 16, 48"),
        (Execution(ranks=4), "batch_size 96 is 6 groups of bn_batch 16: not a multiple of the 4 devices"),
    ],
)
def test_what_does_not_divide_is_refused_in_one_line(device, execution, said):
    with pytest.raises(InvalidConfigError, match=f"^{said}$"):
        micro_batch(config_of(execution), device)


class Roomy(Device):
    """A device that knows how much memory is free."""

    def __init__(self, free):
        super().__init__("cpu", "float32", 1)
        self.free = free

    def free_bytes(self):
        return self.free


def test_the_micro_batch_is_the_largest_that_is_predicted_to_fit():
    config = config_of(Execution())
    shape = (config.family, config.arguments, config.resolution, config.data.classes, config.recipe)
    for size in (16, 32, 48, 96):
        needed = predict_memory(*shape, size, "float32")
        assert micro_batch(config, Roomy(needed / MEMORY_SHARE + 1)) == size
    assert micro_batch(config, Roomy(1)) == 16  # the device will tell


def test_a_cpu_compiles_only_when_told():
    assert not compiles(digits_trial(), "cpu", 10**9)
    assert compiles(digits_trial(execution=Execution(compile="on")), "cpu", 1)


def test_a_gpu_compiles_where_the_run_is_long_enough():
    short = digits_trial(epochs=1)
    long = dataclasses.replace(short, width=1.0, resolution=224, epochs=350)
    assert not compiles(short, "cuda", 1078)
    assert compiles(long, "cuda", 1_281_167)
    assert not compiles(long, "cuda", None)
    assert not compiles(dataclasses.replace(long, execution=Execution(compile="off")), "cuda", 1_281_167)


def test_how_long_a_run_is_follows_from_the_images_that_are_there(device):
    """A folder's images are counted when it is opened: the configuration does not know them."""
    unknown = dataclasses.replace(digits_trial().data, train_images=None)
    config = dataclasses.replace(digits_trial(width=1.0, resolution=224, epochs=350), data=unknown)
    gpu = Device("cpu", "float32", 1)
    gpu.kind = "cuda"
    asked = []
    gpu.place = lambda model: model
    gpu.compiled = lambda model: asked.append(model) or model
    micro = dataclasses.replace(config, execution=Execution(micro_batch=32))
    Learner(micro, gpu, Ranks(), None)
    assert not asked
    Learner(micro, gpu, Ranks(), 1_281_167)
    assert asked


def test_without_a_gpu_the_compiler_does_not_say_that_there_is_none(device, caplog):
    device.compiled(torch.nn.Linear(1, 1))
    logger = logging.getLogger("torch.utils.cpp_extension")
    logger.warning("No CUDA runtime is found, using CUDA_HOME='%s'", "/usr/local/cuda")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]


def test_a_step_that_may_be_done_again_does_not_gather_the_models_state(device, monkeypatch):
    learner = learner_of(device, 16)
    monkeypatch.setattr(learner.model, "state_dict", pytest.fail)
    steps(learner)

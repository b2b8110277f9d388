import dataclasses

import pytest
import torch
from digits_trials import digits_trial

from workers import profiling
from workers.contract import InvalidConfigError
from workers.costs import count_costs
from workers.device import Device
from workers.environment import cpu_model, versions
from workers.learner import Learner
from workers.profiling import measure_trial_shape


def measured(resolution=16, **recipe):
    config = digits_trial(epochs=1, width=0.125, resolution=resolution, **{"batch_size": 16, "bn_batch": 16, **recipe})
    return measure_trial_shape(config)


@pytest.fixture(scope="module")
def small_shape():
    return measured()


@pytest.fixture(scope="module")
def bytes_of_weights():
    config = digits_trial(width=0.125)
    return 4 * count_costs("resnet_rs", config.arguments, 16, 10).params


def test_a_shape_is_measured_on_this_processor(small_shape):
    assert small_shape.device == cpu_model()
    assert 0 < small_shape.infer_latency_p10_ms <= small_shape.infer_latency_ms <= small_shape.infer_latency_p90_ms
    assert small_shape.train_step_ms > small_shape.infer_latency_ms  # 16 images and a backward pass, to one


def test_peak_memory_holds_weights_gradients_momentum_and_activations(small_shape, bytes_of_weights):
    assert small_shape.peak_memory_bytes > 3 * bytes_of_weights
    assert small_shape.peak_memory_bytes < 3 * bytes_of_weights + 100e6


def test_peak_memory_grows_with_the_image_by_its_activations(small_shape, bytes_of_weights):
    larger = measured(resolution=32).peak_memory_bytes
    growth = (larger - 3 * bytes_of_weights) / (small_shape.peak_memory_bytes - 3 * bytes_of_weights)
    assert 2 < growth < 4.5


def test_a_weight_average_costs_the_memory_of_the_weights(small_shape, bytes_of_weights):
    averaged = measured(ema_decay=0.9)
    assert averaged.peak_memory_bytes - small_shape.peak_memory_bytes == pytest.approx(bytes_of_weights, rel=0.2)


def test_splitting_a_batch_into_batch_norm_groups_saves_memory(small_shape):
    assert measured(bn_batch=4).peak_memory_bytes < small_shape.peak_memory_bytes


def test_latency_is_that_of_the_resolution_that_is_tested_at(monkeypatch):
    """Of the images that are passed, not of a clock that other processes share."""
    sides = []

    def watched(config, *others):
        learner = Learner(config, *others)
        learner.model.register_forward_pre_hook(lambda model, images: sides.append(images[0].shape[-1]))
        return learner

    monkeypatch.setattr(profiling, "Learner", watched)
    config = digits_trial(epochs=1, width=0.125, batch_size=4, bn_batch=4)
    measure_trial_shape(config)
    assert set(sides) == {16}
    sides.clear()
    measure_trial_shape(dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, test_resolution=160)))
    assert sides == [16] * sides.count(16) + [160] * (profiling.WARMUP_PASSES + profiling.PASSES)


def config_on(device="cpu", precision="float32"):
    config = digits_trial(epochs=1, device=device, batch_size=8, bn_batch=8)
    return dataclasses.replace(config, precision=precision)


def test_a_trials_shape_is_measured_as_the_trial_computes():
    assert measure_trial_shape(config_on(precision="bfloat16")).train_step_ms > 0
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("tpu9", "float32", "device 'tpu9' is unknown; known: cpu, cuda, xla"),
        ("cpu", "float8", "precision 'float8' is unknown; known: float32, bfloat16, float16"),
        ("xla", "float32", "device xla: torch_xla is not installed"),
    ],
)
def test_an_unknown_device_or_precision_is_refused(device, precision, said):
    with pytest.raises(InvalidConfigError, match=said):
        measure_trial_shape(config_on(device, precision))


def test_autocast_computes_in_the_precision_that_was_asked_for():
    weights = torch.rand(4, 4)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with Device("cpu", precision, 1).autocast():
            assert (weights @ weights).dtype is dtype


def test_versions_name_everything_that_a_result_depends_on():
    told = versions()
    assert f"torch {torch.__version__.partition('+')[0]}" in told
    for name in ("sweep ", "torchvision ", "timm ", "python "):
        assert name in told

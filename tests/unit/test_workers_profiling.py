import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.contract import DataConfig, InvalidConfigError, TrialConfig
from workers.device import Device
from workers.environment import cpu_model, versions
from workers.families import BLOCKS, check_shape
from workers.model import build_model
from workers.profiling import count_costs, count_modules, measure_shape, measure_trial_shape
from workers.recipe import Cell, resolve

MAKER = Path(__file__).parents[1] / "golden" / "make_model_costs.py"
SPEC = importlib.util.spec_from_file_location("make_model_costs", MAKER)
golden_maker = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(golden_maker)


def whole(width, depth, resolution, classes):
    params, (macs,) = golden_maker.count_whole_model(width, depth, [resolution], classes)
    return params, macs


def shortcut(width, depth, resolution, classes):
    costs = count_costs("resnet_rs", width, depth, resolution, classes)
    return costs.params, costs.macs_per_image


@pytest.mark.parametrize(
    "shape", [(0.375, 26, 16, 10), (0.03125, 101, 16, 10), (0.375, 50, 33, 7), (1.0, 26, 448, 1000)]
)
def test_counting_two_blocks_a_stage_equals_counting_the_whole_model(shape):
    assert shortcut(*shape) == whole(*shape)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 64).map(lambda n: n / 32),
    depth=st.sampled_from(sorted(BLOCKS)),
    resolution=st.integers(16, 300),
    classes=st.integers(1, 1000),
)
def test_counting_two_blocks_a_stage_equals_counting_the_whole_model_anywhere(width, depth, resolution, classes):
    assert shortcut(width, depth, resolution, classes) == whole(width, depth, resolution, classes)


def test_the_counted_parameters_are_those_that_a_real_model_allocates():
    model = build_model("resnet_rs", 0.125, 26, 10)
    assert shortcut(0.125, 26, 16, 10)[0] == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_multiply_adds_by_hand():
    with torch.device("meta"):
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 5)
        )
    counted = count_modules(model, 8)
    assert [macs for _, _, macs in counted] == [8 * 4 * 4 * 27, 0, 0, 128 * 5]
    assert [params for _, params, _ in counted] == [8 * 27 + 8, 0, 0, 128 * 5 + 5]


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="unknown family 'vit'"):
        count_costs("vit", 1.0, 50, 224, 10)


def test_every_family_shape_that_passes_the_check_can_be_counted_and_no_other():
    check_shape("resnet_rs", 0.03125, 26, 16)
    assert count_costs("resnet_rs", 0.03125, 26, 16, 10).params > 0
    for shape, said in (
        (("resnet_rs", 0.03, 26, 16), "width 0.03 gives no channels; the smallest is 0.03125"),
        (("resnet_rs", 1.0, 27, 16), "depth 27 is not a resnet_rs; known: 26, 50, 101"),
        (("resnet_rs", 1.0, 26, 15), "resolution 15 is below 16"),
        (("vit", 1.0, 26, 16), "unknown family 'vit'; known: resnet_rs"),
    ):
        with pytest.raises(ValueError, match="^" + said):
            check_shape(*shape)


def measured(resolution=16, width=0.125, **overrides):
    recipe = resolve("small", Cell(width, 26, resolution, 1), {"batch_size": 16, "bn_batch": 16, **overrides})
    return measure_shape("resnet_rs", width, 26, resolution, 10, recipe, Device("cpu", "float32", 1))


@pytest.fixture(scope="module")
def small_shape():
    return measured()


def test_a_shape_is_measured_on_this_processor(small_shape):
    assert small_shape.device == cpu_model()
    assert 0 < small_shape.infer_latency_p10_ms <= small_shape.infer_latency_ms <= small_shape.infer_latency_p90_ms
    assert small_shape.train_step_ms > small_shape.infer_latency_ms  # 16 images and a backward pass, to one


def test_peak_memory_holds_weights_gradients_momentum_and_activations(small_shape):
    bytes_of_weights = 4 * count_costs("resnet_rs", 0.125, 26, 16, 10).params
    assert small_shape.peak_memory_bytes > 3 * bytes_of_weights
    assert small_shape.peak_memory_bytes < 3 * bytes_of_weights + 100e6


def test_peak_memory_grows_with_the_image_by_its_activations(small_shape):
    larger = measured(resolution=32)
    bytes_of_weights = 4 * count_costs("resnet_rs", 0.125, 26, 16, 10).params
    growth = (larger.peak_memory_bytes - 3 * bytes_of_weights) / (small_shape.peak_memory_bytes - 3 * bytes_of_weights)
    assert 2 < growth < 4.5


def test_a_weight_average_costs_the_memory_of_the_weights(small_shape):
    averaged = measured(ema_decay=0.9)
    bytes_of_weights = 4 * count_costs("resnet_rs", 0.125, 26, 16, 10).params
    assert averaged.peak_memory_bytes - small_shape.peak_memory_bytes == pytest.approx(bytes_of_weights, rel=0.2)


def test_splitting_a_batch_into_batch_norm_groups_saves_memory(small_shape):
    assert measured(bn_batch=4).peak_memory_bytes < small_shape.peak_memory_bytes


def config_on(device="cpu", precision="float32"):
    recipe = resolve("small", Cell(0.0625, 26, 16, 1), {"batch_size": 8, "bn_batch": 8})
    data = DataConfig("digits", "sklearn-1797", 10, 1078, 0.25)
    return TrialConfig("t", "resnet_rs", 0.0625, 26, 16, 1, 0, recipe, data, device, precision)


def test_a_trials_shape_is_measured_as_the_trial_computes():
    assert measure_trial_shape(config_on(precision="bfloat16")).train_step_ms > 0
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("device", "precision", "said"),
    [
        ("tpu9", "float32", "device 'tpu9' is unknown; cpu or cuda"),
        ("cpu", "float8", "precision 'float8' is unknown; float32, bfloat16"),
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

import dataclasses

import numpy as np
import pyarrow.parquet as pq
import pytest

from sweep import cost
from sweep.space import SweepSpec
from sweep.table import write_records
from sweep.trials import trials_of
from workers.costs import Costs
from workers.environment import versions
from workers.profiling import Measurement

MEASUREMENT = Measurement(40.0, 1.0, 1.5, 2.5, 123_456_789_012, "a device")
SLOWER = Measurement(50.0, 9.0, 9.5, 9.9, 1, "a device")


def config_of(recipe="small", **changes):
    axes = {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [3]}
    axes |= {name: [value] for name, value in changes.items() if name in axes}
    rest = {name: value for name, value in changes.items() if name not in axes}
    space = {"sweep": "a", "data": {"name": "digits"}, "recipe": recipe, "axes": axes, **rest}
    return trials_of(SweepSpec.model_validate(space))[0]


UNKNOWN_SIZE = {"name": "folder", "root": "/x", "classes": 3}


def test_training_costs_three_forward_passes_of_two_operations_for_every_image_and_epoch():
    config = config_of(epochs=3)
    assert cost.train_flops(config, 1000) == 3 * 2 * 1000 * 1078 * 3
    assert cost.train_flops(config_of(epochs=1), 1000) * 3 == cost.train_flops(config, 1000)
    imagenet = config_of(data={"name": "imagenet", "root": "/x"}, epochs=350)
    assert cost.train_flops(imagenet, 10**10) == pytest.approx(6e10 * 0.98 * 1_281_167 * 350, rel=1e-6)


def test_what_is_not_known_is_none():
    config = config_of(data=UNKNOWN_SIZE)
    assert cost.train_flops(config, 1000) is None
    assert cost.predicted_seconds(config, 10.0) is None


def test_predicted_time_is_training_and_two_evaluations_at_a_third_of_its_price():
    config = config_of(epochs=3)
    images, minival = 1078, 1078 / 3  # a quarter is held out, which is a third of the rest
    step_seconds = 0.032
    wanted = 3 * (images + 2 * minival / 3) / 32 * step_seconds
    assert cost.predicted_seconds(config, 32.0) == pytest.approx(wanted)
    assert cost.predicted_seconds(config, 64.0) == pytest.approx(2 * wanted)


def test_counts_are_those_of_the_model():
    counted = cost.count(config_of())
    assert isinstance(counted, Costs)
    wider = cost.count(config_of(width=0.25))
    assert counted.params < wider.params < 4 * counted.params
    finer = cost.count(config_of(resolution=32))
    assert finer.params == counted.params
    assert finer.macs_per_image > 2 * counted.macs_per_image


def test_two_budgets_and_seeds_of_one_shape_are_one_measurement():
    assert cost.shape_id(config_of(epochs=1)) == cost.shape_id(config_of(epochs=3, seeds=[7]))
    assert cost.shape_id(config_of({"name": "small", "learning_rate": 0.3})) == cost.shape_id(config_of())
    assert cost.shape_id(config_of({"name": "small", "test_resolution": 16})) == cost.shape_id(config_of())
    assert cost.shape_id(config_of(resources={"loader_workers": 2}, hung_after_minutes=1)) == cost.shape_id(config_of())


def test_other_families_are_counted_by_their_own_arguments():
    small, large = (
        config_of(family="efficientnet", axes={"variant": [variant], "resolution": [32], "epochs": [1]})
        for variant in ("b0", "b1")
    )
    assert cost.shape_id(small) != cost.shape_id(large)
    assert cost.count(small).params < cost.count(large).params
    (named,) = {cost.count(config_of(family="timm:resnet18", axes={"resolution": [32], "epochs": [1]})).params}
    assert named > 11_000_000


CHANGES = [
    {"width": 0.25},
    {"depth": 50},
    {"resolution": 32},
    {"recipe": {"name": "small", "batch_size": 64}},
    {"recipe": {"name": "small", "bn_batch": 16}},
    {"recipe": {"name": "small", "ema_decay": 0.9}},
    {"recipe": {"name": "small", "stochastic_depth": 0.1}},
    {"resources": {"cpu": 2}},
    {"resources": {"gpu": 1}},
    {"resources": {"precision": "bfloat16"}},
    {"data": {**UNKNOWN_SIZE, "classes": 100}},
    {"model": {"se": False}},
    {"recipe": {"name": "small", "test_resolution": 32}},
    {"recipe": {"name": "small", "optimizer": "lamb"}},
    {"recipe": {"name": "small", "mixup_alpha": 0.1}},
    {"recipe": {"name": "small", "bn_batch": 16}, "resources": {"devices": 2}},
    {"resources": {"micro_batch": 32}},
    {"resources": {"compile": "on"}},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_whatever_changes_a_step_is_another_measurement(change):
    assert cost.shape_id(config_of(**change)) != cost.shape_id(config_of())


def test_a_long_run_on_a_gpu_that_compiles_is_another_measurement_than_a_short_one_that_does_not():
    imagenet = {"name": "imagenet", "root": "/x"}
    big = {"data": imagenet, "resources": {"gpu": 1}, "width": 1.0, "resolution": 224}
    short, long, longer = (cost.shape_id(config_of(epochs=epochs, **big)) for epochs in (1, 100, 350))
    assert short != long == longer
    off = [cost.shape_id(config_of(epochs=n, **big | {"resources": {"gpu": 1, "compile": "off"}})) for n in (1, 350)]
    assert off[0] == off[1] != short


@pytest.fixture
def measured(tmp_path):
    path = tmp_path / "shape.parquet"
    cost.write_measurement(path, config_of(), [SLOWER, MEASUREMENT])
    return path


def test_of_several_rounds_the_fastest_reads_back_and_how_far_the_slowest_was(measured):
    values = {**dataclasses.asdict(MEASUREMENT), "train_step_spread": 0.25}
    assert cost.read_measurement(measured) == {name: values[name] for name in cost.MEASURED}
    (row,) = pq.read_table(measured).to_pylist()
    assert (row["device"], row["batch_size"], row["width"], row["versions"]) == ("a device", 32, 0.125, versions())


def test_a_measurement_that_other_versions_made_is_not_used(measured):
    (row,) = pq.read_table(measured).to_pylist()
    write_records(measured, [row])
    assert cost.read_measurement(measured) is not None
    write_records(measured, [{**row, "versions": versions() + "0"}])
    assert cost.read_measurement(measured) is None


@pytest.mark.parametrize("name", cost.MEASURED)
def test_a_measurement_that_lacks_a_column_is_not_used(measured, name):
    (row,) = pq.read_table(measured).to_pylist()
    row.pop(name)
    write_records(measured, [row])
    assert cost.read_measurement(measured) is None


def test_no_file_an_empty_one_and_no_row_are_no_measurement(measured, tmp_path):
    assert cost.read_measurement(tmp_path / "none.parquet") is None
    pq.write_table(pq.read_table(measured).slice(0, 0), measured)
    assert cost.read_measurement(measured) is None
    measured.write_bytes(b"")
    assert cost.read_measurement(measured) is None


def test_a_damaged_measurement_is_not_used(measured):
    whole = measured.read_bytes()
    for length in range(0, len(whole), 97):
        measured.write_bytes(whole[:length])
        assert cost.read_measurement(measured) is None
    measured.write_bytes(np.random.default_rng(0).bytes(len(whole)))
    assert cost.read_measurement(measured) is None

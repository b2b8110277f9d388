"""One trial in two processes: the same data, order and result as in one, and a lost process costs only its steps."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from digits_trials import digits_trial
from safetensors.torch import load_file

from workers.contract import Execution, TrialStatus
from workers.trial import run_trial
from workers.work_folder import read_result

ROOT = Path(__file__).parents[2]
RECIPE = {
    "batch_size": 128,
    "bn_batch": 32,
    "learning_rate": 1e-3,  # small: where rounding moves a value over a ReLU's edge, its gradient jumps
    "dropout": 0.2,
    "stochastic_depth": 0.3,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "horizontal_flip": 0.5,
}


def config_of(ranks, **execution):
    return digits_trial(execution=Execution(ranks=ranks, keep_weights=True, loader_workers=0, **execution), **RECIPE)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(config, work):
    """The trial's processes, as torchrun would start them."""
    work.mkdir(parents=True, exist_ok=True)
    file = work.parent / f"{work.name}.json"
    file.write_text(config.to_json())
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(config.execution.ranks)}
    command = [sys.executable, "-m", "workers.trial", "--config", str(file), "--work", str(work)]
    return [
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ, **meeting, "RANK": str(rank)})
        for rank in range(config.execution.ranks)
    ]


def end(processes):
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    return [process.returncode for process in processes], errors


def assert_equal(result, other, work, other_work):
    """Same outcome within what the order of sums changes."""
    for ours, theirs in zip(result.history, other.history, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=2e-4)
        assert ours.minival_top1 == pytest.approx(theirs.minival_top1, abs=0.6)  # two images of 359
    weights, others = load_file(work / "weights.safetensors"), load_file(other_work / "weights.safetensors")
    assert list(weights) == list(others)
    for name, value in weights.items():
        difference = (value.double() - others[name].double()).abs().max()
        assert difference <= 1e-3 * max(1.0, others[name].double().abs().max()), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    work = tmp_path_factory.mktemp("alone") / "work"
    result = run_trial(config_of(1), work)
    assert result.status is TrialStatus.OK, result.error
    return result, work


@pytest.mark.slow
def test_two_processes_give_what_one_gives(alone, tmp_path):
    codes, errors = end(start(config_of(2), tmp_path / "two"))
    assert codes == [0, 0], errors
    result = read_result(tmp_path / "two")
    assert result.attempts == 1
    assert_equal(result, alone[0], tmp_path / "two", alone[1])


@pytest.mark.slow
def test_micro_batches_change_nothing_but_the_order_of_sums(alone, tmp_path):
    result = run_trial(config_of(1, micro_batch=128), tmp_path / "whole")
    assert result.micro_batch == 128
    assert alone[0].micro_batch == 32
    assert_equal(result, alone[0], tmp_path / "whole", alone[1])


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_after_a_lost_process_the_trial_goes_on_from_its_checkpoint(alone, tmp_path, lost):
    work = tmp_path / "lost"
    processes = start(config_of(2, checkpoint_every_s=0.0), work)
    deadline = time.monotonic() + 90
    while not list(work.glob("checkpoint-00000-000000[3-9].json")):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[lost].send_signal(signal.SIGKILL)
    codes, _ = end(processes)  # the other one ends by itself, with no result that passes for a good one
    assert 0 not in codes
    assert (read_result(work) is None) == (lost == 0) or read_result(work).status is TrialStatus.CRASHED
    codes, errors = end(start(config_of(2, checkpoint_every_s=0.0), work))
    assert codes == [0, 0], errors
    result = read_result(work)
    assert result.attempts == 2
    assert_equal(result, alone[0], work, alone[1])


PLUGIN = """
import os
import torch
from torch import nn
from workers.families import Argument, Family


class Limited(nn.Sequential):
    # In the second process, from the second epoch on, no more images than `fits` have room.
    passes = 0

    def __init__(self, fits, classes):
        super().__init__(nn.Conv2d(3, 8, 3, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))
        super().forward(torch.zeros(2, 3, 16, 16))
        self.fits = fits

    def forward(self, images):
        self.passes += self.training
        if self.training and self.passes > 10 and os.environ.get("RANK") == "1" and len(images) > self.fits:
            raise torch.OutOfMemoryError("no room")
        return super().forward(images)


def build(arguments, resolution, classes, recipe):
    return Limited(arguments["fits"], classes)


FAMILIES = [Family("limited", {"fits": Argument(int, "images")}, build)]
"""


def limited(folder, fits, **recipe):
    plugin = folder / "limited.py"
    plugin.write_text(PLUGIN)
    config = digits_trial(epochs=3, execution=Execution(ranks=2, loader_workers=0), batch_size=128, **recipe)
    shape = {"family": "limited", "width": None, "depth": None, "model": {"fits": fits}, "plugins": (str(plugin),)}
    return dataclasses.replace(config, execution=Execution(ranks=2, micro_batch=64, loader_workers=0), **shape)


@pytest.mark.slow
def test_out_of_memory_in_one_of_two_processes_goes_on_from_the_checkpoint_with_smaller_micro_batches(tmp_path):
    work, config = tmp_path / "work", limited(tmp_path, 16, bn_batch=16)
    for tried, smaller in ((64, 32), (32, 16)):
        codes, errors = end(start(config, work))
        assert 0 not in codes
        result = read_result(work)
        assert result.status is TrialStatus.CRASHED, errors
        assert result.error == f"out of memory with micro-batch {tried}: the next attempt goes on with {smaller}"
        assert list(work.glob("checkpoint-00001-*.json"))
    codes, errors = end(start(config, work))
    assert codes == [0, 0], errors
    result = read_result(work)
    assert (result.status, result.attempts, result.micro_batch) == (TrialStatus.OK, 3, 16)
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]
    assert result.notes == (
        "out of memory with micro-batch 64: went on with 32",
        "out of memory with micro-batch 32: went on with 16",
    )


@pytest.mark.slow
def test_one_group_that_does_not_fit_in_one_of_two_processes_is_out_of_memory_for_good(tmp_path):
    work = tmp_path / "work"
    codes, errors = end(start(limited(tmp_path, 16, bn_batch=64), work))
    assert codes == [1, 1], errors
    result = read_result(work)
    assert (result.status, result.error) == (TrialStatus.OOM, "OutOfMemoryError: no room")


@pytest.mark.slow
def test_ranks_that_nobody_started_are_refused_in_one_line(tmp_path):
    result = run_trial(config_of(2), tmp_path)
    assert result.status is TrialStatus.INVALID
    assert "torchrun --nproc-per-node 2" in result.error
    assert "\n" not in result.error


@pytest.mark.slow
def test_a_micro_batch_that_does_not_fit_the_batch_is_refused(tmp_path):
    result = run_trial(config_of(1, micro_batch=48), tmp_path)
    assert result.status is TrialStatus.INVALID
    assert result.error == "micro_batch 48 does not fit the batch; one of 32, 64, 128"


@pytest.mark.slow
def test_groups_that_devices_cannot_share_are_refused(tmp_path):
    result = run_trial(dataclasses.replace(config_of(1), execution=Execution(ranks=3)), tmp_path)
    assert result.status is TrialStatus.INVALID

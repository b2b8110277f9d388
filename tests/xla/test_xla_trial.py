"""A real trial on an XLA device: it trains, is killed, and goes on from its checkpoint."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from digits_trials import digits_trial
from safetensors.torch import load_file

from workers.attempt import Attempt
from workers.contract import Execution, TrialStatus
from workers.data import load_splits
from workers.device import Device
from workers.environment import versions
from workers.loop import Loop
from workers.train import Trainer
from workers.trial import run_trial
from workers.work_folder import read_result

ROOT = Path(__file__).parents[2]
TIMES = ("train_seconds", "seconds", "finished_at")
RECIPE = {
    "batch_size": 64,
    "bn_batch": 32,
    "learning_rate": 0.1,
    "ema_decay": 0.9,
    "dropout": 0.1,
    "stochastic_depth": 0.1,
    "mixup_alpha": 0.1,
    "cutmix_alpha": 1.0,
}


def config_of(**execution):
    return digits_trial(
        epochs=2, width=0.125, device="xla", execution=Execution(loader_workers=0, keep_weights=True, **execution),
        **RECIPE,
    )  # fmt: skip


def outcome(result):
    """All that must come out again, digit for digit: everything but times."""
    history = [{k: v for k, v in dataclasses.asdict(epoch).items() if k not in TIMES} for epoch in result.history]
    return history, result.status, result.val_top1, result.val_top5, result.val_loss


def assert_same_weights(work, other):
    weights, others = (load_file(folder / "weights.safetensors") for folder in (work, other))
    assert list(weights) == list(others)
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A trial with nothing in its way: its work folder and result."""
    work = tmp_path_factory.mktemp("finished")
    return work, run_trial(config_of(), work)


def test_a_trial_learns_the_digits_and_says_where(finished):
    _, result = finished
    assert result.status is TrialStatus.OK, result.error
    assert [epoch.epoch for epoch in result.history] == [1, 2]
    assert result.val_top1 > 75
    assert result.history[-1].minival_top1 > 75
    assert (result.device, result.precision, result.micro_batch) == ("CPU by XLA", "float32", 32)
    assert "torch_xla 2.9.0" in result.versions
    assert result.versions == versions()


class Interrupted(Trainer):
    """Stops as by Ctrl-C after some steps."""

    left = 0

    def train(self, epoch, first_step=0):
        for loss in super().train(epoch, first_step):
            yield loss
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


@pytest.mark.parametrize("after", [5, 16])
def test_interrupted_after_any_step_and_resumed_it_ends_the_same_bit_for_bit(finished, tmp_path, after):
    config = config_of(checkpoint_every_s=0.0)  # every step is saved
    trainer = Interrupted(config, load_splits(config.data), Device("xla", "float32", None))
    trainer.left = after
    with pytest.raises(KeyboardInterrupt):
        Loop(trainer, Attempt(config, tmp_path, leads=True), lambda _: None).run()
    epochs, steps = divmod(after - 1, trainer.loader.steps_per_epoch)
    assert (tmp_path / f"checkpoint-{epochs:05d}-{steps + 1:07d}.json").exists()
    resumed = run_trial(config_of(), tmp_path)
    assert outcome(resumed) == outcome(finished[1])
    assert_same_weights(tmp_path, finished[0])


def test_killed_and_run_again_it_ends_the_same_bit_for_bit(finished, tmp_path):
    config, work, file = config_of(), tmp_path / "work", tmp_path / "trial.json"
    file.write_text(config.to_json())
    command = [sys.executable, "-m", "workers.trial", "--config", str(file), "--work", str(work)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("epoch 1: loss "), line + process.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read_result(work) is None
    epochs = []
    resumed = run_trial(config, work, epochs.append)
    assert epochs[0].epoch > 1
    assert resumed.attempts == 2
    assert outcome(resumed) == outcome(finished[1])
    assert_same_weights(work, finished[0])

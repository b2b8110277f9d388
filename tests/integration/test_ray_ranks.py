"""One trial in two processes that Ray starts, on a cluster of two CPU cores."""

import dataclasses
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from digits_trials import digits_trial

from sweep.jobs import JobQueue
from sweep.layout import SweepFolder
from sweep.ownership import owned
from sweep.ray_executor import RayExecutor
from workers.contract import Execution, TrialStatus
from workers.trial import run_trial

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own deprecations
RECIPE = {"batch_size": 128, "bn_batch": 32, "learning_rate": 1e-3}


class Listener:
    def __init__(self):
        self.results, self.epochs = {}, []

    def started(self, job):
        pass

    def epoch(self, job, metrics):
        self.epochs.append(metrics.epoch)

    def ended(self, job, result):
        self.results[job.config.trial_id] = result


def config_of(ranks):
    execution = Execution(ranks=ranks, loader_workers=0, checkpoint_every_s=0.0)
    return digits_trial(epochs=3, execution=execution, **RECIPE)


def run_on_ray(folder, config=None, stop=lambda owner: None):
    listener = Listener()
    with owned(SweepFolder(folder)) as owner, RayExecutor(cpus=1, gpus=0, ranks=2) as executor:
        jobs = JobQueue([config or config_of(2)], lambda trial_id: folder / trial_id, owner.path)
        stopper = threading.Thread(target=stop, args=(owner,))
        stopper.start()
        executor.run(jobs, listener)
        stopper.join()
    return listener


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run_trial(config_of(1), tmp_path_factory.mktemp("alone"))


def assert_same_outcome(result, alone):
    assert result.status is TrialStatus.OK, result.error
    losses = [epoch.train_loss for epoch in result.history]
    assert losses == pytest.approx([epoch.train_loss for epoch in alone.history], rel=2e-4)
    assert result.val_loss == pytest.approx(alone.val_loss, rel=2e-2)


def owner_of(lock):
    """The process that holds the trial's folder: the first of its processes."""
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if opened.readlink() == lock:
                return int(opened.parts[2])
    return None


def test_a_process_lost_in_mid_training_costs_only_the_steps_since_the_checkpoint(tmp_path, alone):
    work, killed = tmp_path.resolve() / "a-trial", []

    def kill_one():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if list(work.glob("checkpoint-00001-*.json")) and (pid := owner_of(work / "lock")):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill_one)
    killer.start()
    listener = run_on_ray(tmp_path)
    killer.join()
    result = listener.results["a-trial"]
    assert killed
    assert_same_outcome(result, alone)
    assert result.attempts == 2
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]
    assert set(listener.epochs) <= {1, 2, 3}  # the one that was being reported may be lost; the result has it
    assert not (tmp_path / "a-trial" / "ray").exists()


def test_a_failure_that_would_only_come_again_ends_all_processes_and_is_not_tried_again(tmp_path):
    config = config_of(2)
    diverging = dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, learning_rate=1e6))
    result = run_on_ray(tmp_path, diverging).results["a-trial"]
    assert (result.status, result.attempts) == (TrialStatus.DIVERGED, 1)
    assert result.started_at


def test_a_trial_that_has_to_stop_ends_once_with_a_checkpoint_and_the_workers_own_reason(tmp_path):
    work = tmp_path / "a-trial"

    def stop(owner):
        deadline = time.monotonic() + 120
        while not list(work.glob("checkpoint-00000-*.json")) and time.monotonic() < deadline:
            time.sleep(0.005)
        owner.stop_workers()

    config = dataclasses.replace(config_of(2), epochs=2000)
    result = run_on_ray(tmp_path, config, stop).results["a-trial"]
    assert (result.status, result.error) == (TrialStatus.PREEMPTED, "the controller was told to stop")
    assert result.attempts == 1
    assert list(work.glob("checkpoint-*.json"))
    assert not (work / "result.json").exists()

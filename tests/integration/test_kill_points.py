"""A trial killed with SIGKILL at random moments ends with the weights of one that was left alone, bit for bit."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from digits_trials import REGULARISED, digits_trial

from workers.contract import Execution, TrialConfig, TrialStatus
from workers.trial import run_trial
from workers.work_folder import read_result

KILLS = 50


def config_of(**recipe):
    execution = Execution(checkpoint_every_s=0.0, keep_weights=True, loader_workers=0, micro_batch=64)
    regularised = {**REGULARISED, "batch_size": 128, "bn_batch": 32}
    return digits_trial(execution=execution, **{**regularised, **recipe})


def train(config_json: str, work: str) -> None:
    """In a process of its own."""
    run_trial(TrialConfig.from_json(config_json), Path(work))


def left_alone(config, work):
    """Result and final weights of a run that nothing interrupts."""
    result = run_trial(config, work)
    assert result.status is TrialStatus.OK, result.error
    return result, (work / "weights.safetensors").read_bytes()


def newest(work):
    return max((path.stem for path in work.glob("checkpoint-*.json")), default="none")


def progress(work, child, checkpoints):
    """Wait until the process wrote so many checkpoints or ended."""
    seen = {newest(work)}
    while len(seen) <= checkpoints and child.is_alive():
        time.sleep(0.002)
        seen.add(newest(work))


def killed_until_done(config, work, rng, context, wanted):
    """Start again and again, killed at a random moment; how far each killed attempt had got."""
    struck = []
    while True:
        child = context.Process(target=train, args=(config.to_json(), str(work)))
        child.start()
        if len(struck) < wanted:
            progress(work, child, rng.randrange(4))
            child.join(timeout=rng.uniform(0.0, 0.15))
        else:
            child.join()
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            struck.append(newest(work))
        elif child.exitcode == 0:
            return struck
        else:
            raise AssertionError(f"the trial ended with {child.exitcode}")


def without_times(result):
    timed = ("train_seconds", "seconds", "finished_at")
    return [{k: v for k, v in dataclasses.asdict(epoch).items() if k not in timed} for epoch in result.history]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "lamb"])
def test_killed_at_random_moments_a_trial_ends_with_the_same_weights_bit_for_bit(tmp_path, optimizer):
    config = config_of(optimizer=optimizer)
    expected, weights = left_alone(config, tmp_path / "alone")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["workers.trial", "sklearn.datasets"])
    rng, struck, round_ = random.Random(0), [], 0
    while len(struck) < KILLS // 2:
        work = tmp_path / f"killed{round_}"
        struck += killed_until_done(config, work, rng, context, KILLS // 2 - len(struck))
        result = read_result(work)
        assert (work / "weights.safetensors").read_bytes() == weights
        assert without_times(result) == without_times(expected)
        assert (result.val_top1, result.val_loss) == (expected.val_top1, expected.val_loss)
        assert json.loads((work / "attempts.json").read_text())["attempts"] == result.attempts
        round_ += 1
    assert len(set(struck)) >= KILLS // 8  # not all in the same place

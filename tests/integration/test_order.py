"""Trials that share a process, as on a reused Ray actor, come out the same in whatever order they come."""

import dataclasses
from itertools import permutations

import pytest
from digits_trials import QUICK, REGULARISED, digits_trial

from workers.contract import TrialStatus
from workers.trial import run_trial

TIMES = ("train_seconds", "seconds", "finished_at")
# Each leaves another state behind: threads, generators, autocast, a failure in the middle of training.
TRIALS = {
    "plain": digits_trial(epochs=1, seed=3, **QUICK),
    "random": digits_trial(epochs=1, **REGULARISED),
    "two threads": dataclasses.replace(digits_trial(epochs=1, **QUICK), threads=2),
    "bfloat16": dataclasses.replace(digits_trial(epochs=1, resolution=32, **QUICK), precision="bfloat16"),
    "diverged": digits_trial(epochs=1, learning_rate=1e6, **QUICK),
}


def outcome(result):
    history = [{k: v for k, v in dataclasses.asdict(epoch).items() if k not in TIMES} for epoch in result.history]
    return result.status, result.error, result.val_top1, result.val_loss, history


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Each trial's outcome in the order of the list."""
    folder = tmp_path_factory.mktemp("first")
    return {name: outcome(run_trial(trial, folder / name)) for name, trial in TRIALS.items()}


@pytest.mark.parametrize("order", [list(TRIALS)[::-1], list(list(permutations(TRIALS))[60])], ids=["reversed", "mixed"])
def test_the_order_of_trials_in_one_process_changes_nothing(first, order, tmp_path):
    assert order != list(TRIALS)
    for name in order:
        assert outcome(run_trial(TRIALS[name], tmp_path / name)) == first[name], name
    assert [first[name][0] for name in TRIALS] == [TrialStatus.OK] * 4 + [TrialStatus.DIVERGED]

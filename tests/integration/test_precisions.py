"""A trial in each precision, and compiled: the result is about that of float32."""

import dataclasses
from itertools import islice

import pytest
import torch
from digits_trials import DIGITS, digits_trial

from workers.contract import Execution, TrialStatus
from workers.data import load_splits
from workers.device import Device
from workers.train import Trainer
from workers.trial import run_trial

CONFIG = digits_trial(epochs=2, width=0.125, resolution=32)


@pytest.fixture(scope="module")
def float32(tmp_path_factory):
    return run_trial(CONFIG, tmp_path_factory.mktemp("float32"))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_trial_learns_in_half_precision_and_says_so(tmp_path, float32, precision):
    result = run_trial(dataclasses.replace(CONFIG, precision=precision), tmp_path)
    assert (result.status, result.precision) == (TrialStatus.OK, precision), result.error
    losses, expected = ([epoch.train_loss for epoch in trial.history] for trial in (result, float32))
    assert losses == pytest.approx(expected, rel=0.3)
    assert losses != expected
    assert result.val_top1 > 30  # chance is 10 %


def test_bfloat16_where_a_cpu_computes_it_wrongly_is_refused(tmp_path):
    result = run_trial(dataclasses.replace(CONFIG, resolution=16, precision="bfloat16"), tmp_path)
    assert result.status is TrialStatus.INVALID
    assert result.error.startswith("precision bfloat16 on a CPU needs a resolution of at least 32, not 16")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_steps_are_those_that_are_not_compiled():
    recipe = {"batch_size": 32, "bn_batch": 16, "stochastic_depth": 0.3, "dropout": 0.2, "learning_rate": 1e-3}
    losses = []
    for execution in (Execution(), Execution(compile="on", micro_batch=32)):
        config = digits_trial(epochs=1, execution=execution, resolution=32, **recipe)
        config = dataclasses.replace(config, family="timm:test_resnet", width=None, depth=None, model={})
        trainer = Trainer(config, load_splits(DIGITS), Device("cpu", "float32", 1))
        losses.append(torch.stack(list(islice(trainer.train(1), 5))))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)

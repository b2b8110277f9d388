"""The example of docs/plugins.md, run as a person would."""

import re
from pathlib import Path

import pytest

from sweep.space import load_space
from sweep.trials import trials_of
from workers.contract import TrialStatus
from workers.costs import count_costs
from workers.trial import run_trial

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    for language, name in (("python", "shapes.py"), ("yaml", "shapes.yaml")):
        (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
        (folder / name).write_text(text)
    return trials_of(load_space(folder / "shapes.yaml"))


def test_the_examples_axes_make_its_grid(trials):
    assert [trial.arguments for trial in trials] == [
        {"width": width, "blocks": blocks, "patch": 4} for width in (0.25, 0.5) for blocks in (1, 2)
    ]
    assert {(trial.width, trial.depth, trial.data.classes, trial.data.name) for trial in trials} == {
        (0.25, None, 4, "stripes"),
        (0.5, None, 4, "stripes"),
    }
    assert len({trial.trial_id for trial in trials}) == 4


def test_the_examples_model_is_counted_by_hand(trials):
    config = trials[0]
    costs = count_costs(config.family, config.arguments, config.resolution, config.data.classes, config.plugins)
    patches, channels = 4 * 4, 16
    macs = patches * channels * 3 * 16 + patches * channels * (25 + channels) + channels * 4
    norms = 3 * 2 * channels
    params = channels * (3 * 16 + 1) + channels * (25 + 1) + channels * (channels + 1) + norms + channels * 4 + 4
    assert (costs.macs_per_image, costs.params) == (macs, params)


def test_the_example_learns(trials, tmp_path):
    result = run_trial(trials[-1], tmp_path)
    assert (result.status, result.error) == (TrialStatus.OK, None)
    assert result.val_top1 > 90  # chance is 25

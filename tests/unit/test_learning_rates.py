"""`lr_scale`, the axis of studies of whether a verdict hangs on the learning rate."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import yaml

from sweep.cost import shape_id
from sweep.errors import SpaceError
from sweep.naming import label
from sweep.pareto import pareto
from sweep.plan import PlanStatus, make_plan
from sweep.rows import cell_columns, planned_columns
from sweep.space import dump_space, load_space
from sweep.trials import trials_of
from workers.optimize import learning_rate

SPACE = {
    "sweep": "rates",
    "data": {"name": "digits"},
    "recipe": "small",
    "axes": {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [3], "lr_scale": [0.5, 1, 2]},
}


@pytest.fixture
def space(tmp_path):
    def write(**changes):
        path = tmp_path / "rates.yaml"
        path.write_text(yaml.safe_dump({**SPACE, **changes}))
        return load_space(path)

    return write


def axes(**changes):
    return {"axes": {name: values for name, values in {**SPACE["axes"], **changes}.items() if values}}


def test_each_rate_is_a_trial_and_the_recipes_own_keeps_its_id(space):
    half, own, twice = trials_of(space())
    assert [trial.recipe.lr_scale for trial in (half, own, twice)] == [0.5, 1, 2]
    assert trials_of(space(**axes(lr_scale=None))) == [own]
    assert len({trial.trial_id for trial in (half, own, twice)}) == 3
    assert len({shape_id(trial) for trial in (half, own, twice)}) == 1  # it costs nothing


def test_every_step_has_that_share_of_the_recipes_rate(space):
    half, own, _ = trials_of(space())
    rates = [[learning_rate(trial.recipe, step, 10, 3) for step in range(30)] for trial in (half, own)]
    assert rates[0] == pytest.approx(np.array(rates[1]) / 2)
    assert max(rates[1]) == own.recipe.learning_rate


def test_listed_cells_and_exclusions_name_it_too(space):
    cells = [{"width": 0.125, "depth": 26, "resolution": 16, "epochs": 3, "lr_scale": scale} for scale in (0.5, 4)]
    spec = space(axes=None, cells=cells, exclude=[{"lr_scale": 4}])
    plan = make_plan(spec, trials_of(spec), {}, lambda _: pytest.fail("costs were asked for"))
    assert [trial.status for trial in plan.trials] == [PlanStatus.PLANNED, PlanStatus.EXCLUDED]
    assert plan.trials[1].reason == "exclude: lr_scale 4"


def test_a_dumped_space_means_the_same_trials(space, tmp_path):
    path = tmp_path / "dumped.yaml"
    path.write_text(dump_space(space(), "test"))
    assert trials_of(load_space(path)) == trials_of(space())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"recipe": {"name": "small", "lr_scale": 2}}, "recipe.lr_scale: is an axis"),
        (axes(lr_scale=[0]), "axes.lr_scale.0: must be above 0"),
        (axes(lr_scale=["fast"]), "axes.lr_scale.0: must be a finite number"),
        (axes(lr_scale=[1, 1.0]), "axes.lr_scale"),
    ],
)
def test_what_it_cannot_be_is_one_line_with_its_place(space, changes, said):
    with pytest.raises(SpaceError) as caught:
        space(**changes)
    (line,) = str(caught.value).splitlines()
    assert said in line


def test_rows_plans_and_names_tell_it(space):
    half, own, _ = trials_of(space())
    assert cell_columns("rates", half)["recipe_lr_scale"] == planned_columns(half)["recipe_lr_scale"] == 0.5
    assert label(vars(half)) == label(cell_columns("rates", half)) == "d26 w0.125 16px 3ep lrx0.5"
    assert label(vars(own)) == "d26 w0.125 16px 3ep"


def test_a_front_is_of_the_recipes_own_rate_and_counts_the_others(space):
    rows = [cell_columns("rates", trial) for trial in trials_of(space())]
    table = pd.DataFrame(rows).assign(status="ok", minival_top1=[70.0, 60.0, 80.0], train_step_ms=1.0)
    found = pareto(table)
    assert [member["top1"] for member in found["front"]] == [60.0]
    assert found["excluded"] == {"at another learning rate": 2}


def test_the_scale_is_part_of_no_old_trials_identity(space):
    (own,) = trials_of(space(**axes(lr_scale=None)))
    from sweep.trials import identity

    assert "lr_scale" not in identity(own)["recipe"]
    scaled = dataclasses.replace(own, recipe=dataclasses.replace(own.recipe, lr_scale=2.0))
    assert identity(scaled)["recipe"]["lr_scale"] == 2.0

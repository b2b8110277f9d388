import math

import numpy as np
import pandas as pd
import pytest

from sweep.pareto import pareto
from sweep.points import Points
from sweep.speedup import overall_speedup, speedups
from sweep.standing import chance_on_front, groups_of, tied_with


def points(*rows, se=0.1, df=math.inf, families=None):
    """Points of (cost, ..., top-1)."""
    table = np.array(rows, float)
    frame = pd.DataFrame({"family": families or ["f"] * len(table), "trial_id": [f"t{i}" for i in range(len(table))]})
    frame = frame.assign(width=np.nan, depth=np.nan, resolution=np.nan, variant="{}")
    errors = np.broadcast_to(np.asarray(se, float), len(table))
    return Points(frame, table[:, :-1], table[:, -1], errors, table[:, -1], np.ones(len(table), np.int64), df)


@pytest.mark.parametrize("df", [math.inf, 5.0])
def test_a_second_cost_that_never_differs_changes_no_chance(df):
    random = np.random.default_rng(3)
    rows = np.column_stack([random.random(30), 50 + random.random(30)])
    one = chance_on_front(points(*rows, se=0.2, df=df))
    two = chance_on_front(points(*np.insert(rows, 1, 7.0, axis=1), se=0.2, df=df))
    assert two == pytest.approx(one, abs=1e-12)


def test_the_chance_with_two_costs_is_that_of_the_draws():
    cells = points((1, 2, 50.0), (2, 1, 50.0), (2, 2, 50.05), se=0.5)
    # The third one has to be better than both others; the first two are cheapest in one cost.
    difference = np.random.default_rng(0).multivariate_normal([0.05, 0.05], [[0.5, 0.25], [0.25, 0.5]], 200_000)
    assert chance_on_front(cells) == pytest.approx([1, 1, (difference > 0).all(axis=1).mean()], abs=0.03)


def test_equal_costs_and_no_noise_stay_on_the_front_together():
    assert chance_on_front(points((1, 1, 50), (1, 1, 50), (2, 1, 50), se=0)).tolist() == [1, 1, 0]


def test_many_cells_are_drawn_as_fronts_of_their_own(monkeypatch):
    random = np.random.default_rng(3)
    cells = points(*np.column_stack([random.random((60, 2)), 50 + random.random(60)]), se=0.2)
    few = chance_on_front(cells)
    monkeypatch.setattr("sweep.standing._MANY_CELLS", 1)
    assert chance_on_front(cells) == pytest.approx(few, abs=1e-12)


def test_draws_in_parts_are_the_same_share(monkeypatch):
    cells = points((1, 50.0), (2, 50.05), (3, 50.1), se=0.3)
    whole = chance_on_front(cells)
    monkeypatch.setattr("sweep.standing._NUMBERS_DRAWN", 301)
    assert chance_on_front(cells) == pytest.approx(whole, abs=0.15)


def test_a_group_is_within_one_error_of_its_cheapest_member():
    # One standard error of a difference is 0.1 x sqrt 2 = 0.141; the steps of 0.1 do not chain up.
    front = points((1, 50.0), (2, 50.1), (3, 50.2), (4, 50.3), (9, 60.0))
    assert groups_of(front).tolist() == [1, 1, 2, 2, 3]
    assert groups_of(points((4, 50.3), (1, 50.0), (3, 50.2), (2, 50.1))).tolist() == [2, 1, 2, 1]
    assert groups_of(points((1, 50.0), (2, 50.1), se=[0.01, 0.0999])).tolist() == [1, 1]
    assert groups_of(points((1, 50.0), (2, 50.1), se=[0.01, 0.09])).tolist() == [1, 2]


def test_cells_off_the_front_are_tied_with_the_next_dearer_member():
    cells = points((1, 50.0), (5, 55.0), (4, 54.9), (4, 54.8), (6, 55.0), (1, 49.9))
    members = np.array([True, True, False, False, False, False])
    assert tied_with(cells, members).tolist() == [-1, -1, 1, -1, -1, 0]


def test_with_two_costs_a_tied_cell_costs_no_less_in_neither():
    cells = points((1, 9, 50.0), (9, 1, 50.0), (8, 1, 49.9), (8, 8, 49.9))
    assert tied_with(cells, np.array([True, True, False, False])).tolist() == [-1, -1, 1, -1]


def test_ties_are_entries_with_the_group_of_their_member():
    frame = pd.DataFrame({"trial_id": list("abc"), "train_step_ms": [1.0, 5, 5], "minival_top1": [50, 55, 54.9]})
    result = pareto(frame.assign(family="f", width=1.0, depth=[1, 2, 3], resolution=32, epochs=3, seed=0))
    assert [(entry["trial_id"], entry["group"]) for entry in result["front"]] == [("a", 1), ("b", 2)]
    assert [(entry["trial_id"], entry["group"]) for entry in result["ties"]] == [("c", 2)]


FAMILIES = ["ours"] * 3 + ["theirs"] * 3


def test_parallel_curves_are_one_factor_apart():
    cells = points((10, 70), (20, 75), (40, 80), (30, 70), (60, 75), (120, 80), families=FAMILIES)
    overall = overall_speedup(cells, "theirs")
    assert overall["times_faster"] == pytest.approx(3)
    assert (overall["from_top1"], overall["to_top1"]) == (70, 80)
    # Both curves rise by ln 2 in 5 points; their middle points weigh 1/2, the ends 1/4.
    se = math.log(2) / 5 * 0.1 * math.sqrt(2 * (0.25**2 + 0.5**2 + 0.25**2))
    half = 1.959964 * se
    assert overall["ci"] == pytest.approx((3 * math.exp(-half), 3 * math.exp(half)), rel=1e-4)


def test_the_interval_of_the_whole_range_is_that_of_repeated_noise():
    rows = [(10, 70), (25, 76), (40, 80), (28, 71), (60, 75), (150, 82)]
    overall = overall_speedup(points(*rows, families=FAMILIES), "theirs")
    random, logs = np.random.default_rng(0), []
    for _ in range(400):
        noisy = [(cost, top1 + 0.1 * random.standard_normal()) for cost, top1 in rows]
        logs.append(math.log(overall_speedup(points(*noisy, families=FAMILIES), "theirs")["times_faster"]))
    se = math.log(overall["ci"][1] / overall["ci"][0]) / (2 * 1.959964)
    assert np.std(logs) == pytest.approx(se, rel=0.12)
    assert np.mean(logs) == pytest.approx(math.log(overall["times_faster"]), abs=0.01)


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [([(30, 50), (60, 55), (90, 60)], "no top-1 that both reach"), ([(30, 75)] * 3, "fewer than two models")],
)
def test_without_a_common_range_there_is_no_figure_but_a_reason(theirs, reason):
    cells = points((10, 70), (20, 75), (40, 80), *theirs, families=FAMILIES)
    overall = overall_speedup(cells, "theirs")
    assert (overall["times_faster"], overall["ci"]) == (None, None)
    assert reason in overall["reason"]
    assert len(speedups(cells, "theirs")) == (3 if reason.startswith("fewer") else 0)

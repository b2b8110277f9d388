"""Whether verdicts hold at other learning rates and at each cell's best, and that luck in the choice is no merit."""

import json

import numpy as np
import pandas as pd
import pytest

from sweep.errors import NoRulesError, TableError
from sweep.rules import rules
from sweep.rules.robust import judged_rows, with_scale

SHAPES = [(101, 1.0), (202, 1.0), (404, 1.0), (101, 2**0.5), (101, 2.0)]


def table(effect, *, scales=(0.5, 1.0, 2.0), seeds=2, noise=0.05, column="recipe_lr_scale", random=None):
    """Arms of equal costs; `effect` gives the points of (log2 depth, log2 width, scale)."""
    random = random or np.random.default_rng(0)
    rows = [
        {"depth": depth, "width": width, column: scale, "seed": seed,
         "minival_top1": 70 + effect(np.log2(depth / 101), np.log2(width), scale) + random.normal(0, noise),
         "train_step_ms": depth / 101 * width**2, "trial_id": f"{depth}-{width}-{scale}-{seed}"}
        for depth, width in SHAPES for scale in scales for seed in range(seeds)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(family="f", resolution=32, epochs=3, status="ok")


def depth_wins(d, w, scale):
    return 2 * d + 2 * w - (np.log2(scale) ** 2)


def width_at_twice(d, w, scale):
    return depth_wins(d, w, scale) if scale < 2 else 2 * d + 8 * w - 5


def entry(frame):
    found = rules(frame, robust=True)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    (only,) = found["robust"]
    return only


def test_a_verdict_that_all_rates_share_holds():
    found = entry(table(depth_wins))
    assert (found["verdict"], found["holds"]) == ("depth", True)
    assert [(rate["lr_scale"], rate["verdict"]) for rate in found["at"]] == [(0.5, "depth"), (2.0, "depth")]
    assert (found["best_rate"]["verdict"], found["best_rate"]["judged_on"]) == ("depth", "other seeds")
    assert {cell["lr_scale"] for cell in found["best_rate"]["rates"]} == {1.0}


def test_a_verdict_of_one_rate_does_not():
    found = entry(table(width_at_twice))
    assert (found["verdict"], found["holds"]) == ("depth", False)
    assert found["holds_reason"] == "width at 2 x the rate"


def test_the_rules_are_those_of_the_recipes_own_rate():
    frame = table(width_at_twice)
    everything, own = rules(frame), rules(frame[frame["recipe_lr_scale"] == 1])
    assert everything["depth_vs_width"] == own["depth_vs_width"]
    assert everything["coverage"] == own["coverage"]
    assert everything["left_aside"] == [
        {"family": "f", "rows": 20, "reason": "lr_scale 0.5, 2, which --robust is about"}
    ]
    assert "robust" not in everything


def test_what_is_not_there_is_named():
    assert entry(table(depth_wins, scales=(0.5, 1.0)))["holds_reason"] == "no runs at 2 x the rate"
    assert entry(table(depth_wins, scales=(1.0,)))["holds_reason"] == "no runs at 0.5 x and 2 x the rate"
    flat = entry(table(lambda d, w, s: d + 2 * w, noise=0.2, random=np.random.default_rng(5)))
    assert (flat["holds"], flat["holds_reason"]) == (None, "no verdict at the recipe's own rate")
    with pytest.raises(NoRulesError, match=r"rules are about lr_scale 1, and the table has 0\.5, 2"):
        rules(table(depth_wins, scales=(0.5, 2.0)))


def test_one_seed_cannot_prove_it():
    found = entry(table(depth_wins, seeds=1))
    assert found["best_rate"]["judged_on"] == "same seed"
    assert (found["holds"], found["holds_reason"]) == (None, "the best rate was chosen and judged on the same seed")


def test_rates_of_several_sweeps_are_told_by_the_rate_itself():
    frame = table(depth_wins, column="recipe_learning_rate")
    with pytest.raises(TableError, match="mixes recipes"):
        rules(frame)
    assert entry(frame)["holds"] is True
    assert sorted(with_scale(frame.assign(variant="{}"), derive=True)["lr_scale"].unique()) == [0.5, 1.0, 2.0]


def test_the_seed_that_chose_does_not_judge():
    frame = table(depth_wins, seeds=3).assign(variant="{}").rename(columns={"recipe_lr_scale": "lr_scale"})
    rows, on = judged_rows(frame, "minival_top1")
    assert on == "other seeds"
    assert set(rows["seed"]) == {1, 2}
    assert len(rows) == 2 * len(SHAPES)


def test_the_best_of_equal_rates_looks_no_better_than_they_are():
    """The mean of the judged runs is the truth; the mean of the winners' own runs is above it."""
    random, judged, winners = np.random.default_rng(1), [], []
    for _ in range(50):
        frame = table(lambda d, w, s: 0.0, seeds=2, noise=1.0, column="lr_scale", random=random).assign(variant="{}")
        judged.append(judged_rows(frame, "minival_top1")[0]["minival_top1"].mean())
        winners.append(judged_rows(frame[frame["seed"] == 0], "minival_top1")[0]["minival_top1"].mean())
    assert np.mean(judged) == pytest.approx(70, abs=0.3)  # standard error 0.06
    assert np.mean(winners) > 70.6  # 0.85 for the best of three


def test_cells_with_one_rate_keep_all_their_seeds():
    frame = table(depth_wins).rename(columns={"recipe_lr_scale": "lr_scale"}).assign(variant="{}")
    frame = frame[(frame["lr_scale"] == 1) | (frame["width"] == 1.0)]
    rows, _ = judged_rows(frame, "minival_top1")
    assert rows.groupby(["depth", "width"])["seed"].nunique().tolist() == [1, 2, 2, 1, 1]

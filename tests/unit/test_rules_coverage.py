"""Every verdict says what it rests on, and whether what is missing may have mattered."""

import itertools

import numpy as np
import pandas as pd
import pytest

from sweep.rules import rules


def grid(**changes):
    shapes = itertools.product((50, 101, 200, 400), (0.5, 1.0, 2.0), (128, 181, 256), (3, 9), (0, 1))
    frame = pd.DataFrame(shapes, columns=["depth", "width", "resolution", "epochs", "seed"])
    d, w, r = np.log2(frame["depth"] / 101), np.log2(frame["width"]), np.log2(frame["resolution"] / 181)
    frame["macs_per_image"] = frame["depth"] * frame["width"] ** 2 * frame["resolution"] ** 2.0
    error = np.exp(3 - 0.2 * d - 0.3 * w - 0.3 * r + 0.05 * (d**2 + w**2 + r**2))
    frame["minival_top1"] = 100 - error + np.random.default_rng(0).normal(0, 0.1, len(frame))
    return frame.assign(family="f", status="ok", trial_id=frame.index.map(str), **changes)


def fail(frame, status, depth, width, resolution, seeds=(0, 1), epochs=3):
    cell = (frame["depth"] == depth) & (frame["width"] == width) & (frame["resolution"] == resolution)
    lost = cell & frame["seed"].isin(seeds) & (frame["epochs"] == epochs)
    return frame.assign(status=frame["status"].mask(lost, status), minival_top1=frame["minival_top1"].mask(lost))


def entry(found, name, **where):
    (only,) = [e for e in found[name] if all(e[key] == value for key, value in where.items())]
    return only


def test_a_verdict_on_an_arm_that_ran_out_of_memory_is_labelled():
    found = rules(fail(grid(), "oom", 200, 1.0, 256))
    arm = entry(found, "depth_vs_width", budget=3, resolution=256)
    assert arm["coverage"] == {"planned": 12, "ok": 10, "missing_by_status": {"oom": 2}}
    assert arm["missing_not_at_random"]
    assert entry(found, "depth_vs_width_by_budget", budget=3)["missing_not_at_random"]
    assert entry(found, "resolution_exponent", budget=3)["coverage"]["missing_by_status"] == {"oom": 2}
    assert entry(found, "transfer", to=9)["missing_not_at_random"]
    for name in ("depth_vs_width_by_budget", "resolution_exponent"):
        other = entry(found, name, budget=9)
        assert not other["missing_not_at_random"]
        assert other["coverage"]["missing_by_status"] == {}


def test_a_base_that_is_only_second_best_is_labelled():
    """Without the wider cell of (101, 1.0), the arms start elsewhere, and none of their own cells is missing."""
    found = rules(fail(grid(), "oom", 101, 2.0, 256))
    arm = entry(found, "depth_vs_width", budget=3, resolution=256)
    assert (arm["base"]["depth"], arm["missing"]) == (50, [])
    assert arm["missing_not_at_random"]
    assert "the planned base is depth 101, width 1" in arm["flag"]


def test_a_cell_off_the_arms_does_not_touch_them():
    found = rules(fail(grid(), "oom", 200, 2.0, 256))
    assert not entry(found, "depth_vs_width", budget=3, resolution=256)["missing_not_at_random"]
    assert entry(found, "resolution_exponent", budget=3)["missing_not_at_random"]


def test_one_lost_seed_counts_too_since_those_left_may_be_the_lucky_ones():
    found = rules(fail(grid(), "diverged", 200, 1.0, 256, seeds=(1,)))
    arm = entry(found, "depth_vs_width", budget=3, resolution=256)
    assert (arm["coverage"]["ok"], arm["missing_not_at_random"], arm["missing"]) == (11, True, [])


@pytest.mark.parametrize("status", ["not run", "preempted", "data_error"])
def test_what_is_late_or_was_stopped_is_missing_at_random(status):
    planned = grid()
    frame = planned if status != "not run" else planned[planned["depth"] < 400]
    frame = frame if status == "not run" else fail(frame, status, 200, 1.0, 256)
    arm = entry(rules(frame, planned=planned), "depth_vs_width", budget=3, resolution=256)
    assert status in arm["coverage"]["missing_by_status"]
    assert not arm["missing_not_at_random"]


@pytest.mark.parametrize("status", ["oom", "excluded", "crashed", "hung", "diverged"])
def test_what_may_depend_on_the_cell_is_not(status):
    found = rules(fail(grid(), status, 200, 1.0, 256))
    assert entry(found, "depth_vs_width", budget=3, resolution=256)["missing_not_at_random"]


def test_a_step_rests_on_its_next_cells_up_to_the_first_that_is_there():
    found = rules(fail(grid(), "oom", 101, 1.0, 128))
    step = entry(found, "resolution_steps", budget=3, depth=50, width=1.0, **{"from": 128})
    assert step["coverage"] == {
        "planned": 10,
        "ok": 8,
        "missing_by_status": {"oom": 2},
    }  # depth 50, 101 and 200, width 2, 181 px
    assert step["missing_not_at_random"]
    further = rules(fail(grid(), "oom", 200, 1.0, 128))
    assert not entry(further, "resolution_steps", budget=3, depth=50, width=1.0, **{"from": 128})[
        "missing_not_at_random"
    ]


def test_overfitting_rests_on_two_cells():
    frame = grid().assign(train_top1=lambda t: t["minival_top1"] + 5)
    found = rules(fail(frame, "crashed", 200, 1.0, 128, seeds=(1,)))
    one = entry(found, "regime", budget=3, depth=200, width=1.0, resolution=128)
    other = entry(found, "regime", budget=3, depth=101, width=2.0, resolution=128)
    assert (one["coverage"]["ok"], one["missing_not_at_random"]) == (3, True)
    assert (other["coverage"]["ok"], other["missing_not_at_random"]) == (4, False)

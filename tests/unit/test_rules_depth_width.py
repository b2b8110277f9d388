import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep.errors import TableError
from sweep.noise import Estimate
from sweep.rules import rules
from sweep.rules.cells import Cell, Study
from sweep.rules.depth_width import SIDES, by_budget, integral_weights, nodes_of, weights_at
from sweep.table import read_table

PUBLISHED = Path(__file__).parents[2] / "results" / "published"


def cell(depth, width, cost, top1=0.0, resolution=32, sd=0.1, n=1):
    return Cell(depth, width, resolution, cost, top1, n, sd, math.nan, {})


def arms(depth_tops, width_tops, *, base=70.0, resolution=32, epochs=3, **common):
    """Base of cost 1, each arm doubling the cost at every step."""
    rows = [{"depth": 101, "width": 1.0, "train_step_ms": 1.0, "minival_top1": base}]
    rows += [
        {"depth": 101 * 2**i, "width": 1.0, "train_step_ms": 2.0**i, "minival_top1": top1}
        for i, top1 in enumerate(depth_tops, start=1)
    ]
    rows += [
        {"depth": 101, "width": 2.0**i, "train_step_ms": 2.0**i, "minival_top1": top1}
        for i, top1 in enumerate(width_tops, start=1)
    ]
    same = {"family": "f", "seed": 0, "status": "ok", "resolution": resolution, "epochs": epochs}
    frame = pd.DataFrame(rows).assign(**same, **common)
    names = [f"{d}-{w}-{resolution}-{epochs}" for d, w in zip(frame["depth"], frame["width"], strict=True)]
    return frame.assign(trial_id=names)


def entry(table, **question):
    (only,) = rules(table, **question)["depth_vs_width"]
    return only


def test_published_figure_3_by_the_definition():
    result = rules(read_table(PUBLISHED / "resnet_rs_fig3" / "trials"))
    verdicts = {(e["budget"], e["resolution"]): e["verdict"] for e in result["depth_vs_width"]}
    sizes = (128, 160, 224, 320)
    assert [verdicts[10, size] for size in sizes] == ["width"] * 4
    assert [verdicts[350, size] for size in sizes] == ["depth"] * 4
    overall = {e["budget"]: e["verdict"] for e in result["depth_vs_width_by_budget"]}
    assert overall == {10: "width", 100: "mixed", 350: "depth"}
    assert all("not crossed" in e["reason"] for e in result["resolution_exponent"])
    assert {flip["resolution"] for flip in result["transfer"][1]["flips"]} == set(sizes)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_gain_is_the_integral_over_the_shared_range():
    # Difference of the arms: 0 at the base, 1 at one doubling, 0.5 at two; the third doubling is not shared.
    result = entry(arms([72, 73, 99], [71, 72.5]), noise_sd=0.1)
    assert result["gain_points"] == pytest.approx((0.5 + 0.75) / 2)
    # Weights on the arms' cells are 1, 1/2 on each side, over a range of 2; the base cancels.
    se = 0.1 * math.sqrt(2 * (0.5**2 + 0.25**2))
    assert result["ci"] == pytest.approx([0.625 - 1.959964 * se, 0.625 + 1.959964 * se])
    assert result["verdict"] == "depth"
    assert result["base"] == {
        "depth": 101,
        "width": 1.0,
        "resolution": 32,
        "cost": 1.0,
        "top1": 70.0,
        "top1_se": pytest.approx(0.1),
    }


def test_swapping_the_arms_changes_the_side_and_nothing_else():
    one, other = entry(arms([72, 73], [71, 72.5])), entry(arms([71, 72.5], [72, 73]))
    assert other["gain_points"] == pytest.approx(-one["gain_points"])
    assert (one["verdict"], other["verdict"]) == ("depth", "width")


def test_the_noise_of_the_base_is_common_to_both_arms():
    low, high = entry(arms([72, 73], [71, 72.5], base=60)), entry(arms([72, 73], [71, 72.5], base=80))
    assert low["gain_points"] == pytest.approx(high["gain_points"])


@pytest.mark.parametrize("seed", range(20))
def test_integral_weights_equal_numerical_integration(seed):
    random = np.random.default_rng(seed)
    cells = [cell(i, 1.0, cost) for i, cost in enumerate(2 ** np.sort(random.random(5) * 3))]
    nodes = nodes_of(cells)
    values = dict(zip((c.key for c in cells), random.normal(size=5), strict=True))
    low, high = sorted(random.uniform(nodes[0][0], nodes[-1][0], 2))
    exact = sum(w * values[key] for key, w in integral_weights(nodes, low, high).items())
    x = np.linspace(low, high, 20_001)
    y = np.interp(x, [node[0] for node in nodes], list(values.values()))
    assert exact == pytest.approx(np.trapezoid(y, x), abs=1e-6)
    middle = sum(w * values[key] for key, w in weights_at(nodes, float(x[7])).items())
    assert middle == pytest.approx(y[7])


def test_cells_of_equal_cost_on_an_arm_are_averaged():
    ((_, weights),) = nodes_of([cell(1, 1.0, 4.0), cell(2, 1.0, 4.0)])
    assert list(weights.values()) == [0.5, 0.5]


def test_pairs_are_the_cells_within_the_shared_range():
    pairs = entry(arms([72, 73, 99], [71, 72.5]), noise_sd=0.1)["pairs"]
    assert [(p["arm"], p["cost"], p["depth_minus_width"]) for p in pairs] == [
        ("depth", 2, pytest.approx(1)),
        ("depth", 4, pytest.approx(0.5)),
        ("width", 2, pytest.approx(1)),
        ("width", 4, pytest.approx(0.5)),
    ]
    assert pairs[0]["other_top1"] == 71


def test_undetermined_says_why():
    assert entry(arms([72], [71.9]))["reason"] == "interval includes 0"
    assert entry(arms([72], []))["reason"] == "no cell with deeper and wider neighbours"
    cheaper = arms([72], [71])
    cheaper.loc[cheaper["width"] == 2, "train_step_ms"] = 0.5
    assert entry(cheaper)["reason"] == "the arms share no range of cost above the base"


def test_an_arm_of_one_cell_is_flagged():
    assert entry(arms([72, 73], [71]))["flag"] == "one cell on the width arm"
    assert entry(arms([72, 73], [71, 72]))["flag"] is None


def test_base_is_the_papers_else_the_smallest_with_both_arms():
    table = pd.concat([arms([72], [71]), arms([72], [71]).assign(depth=lambda t: t["depth"] // 2)])
    table = table.assign(trial_id=[str(i) for i in range(len(table))])
    assert entry(table)["base"]["depth"] == 101
    assert entry(table.assign(depth=table["depth"] + 1))["base"]["depth"] == 51


def of_budget(*gains, se=0.1, df=math.inf):
    """The verdict of a budget whose resolutions have these gains."""
    entries = [
        {"verdict": SIDES.get(Estimate(gain, se, df).side(), "undetermined"), "gain_points": gain, "se": se, "df": df}
        for gain in gains
    ]
    return by_budget([e | {"resolution": i} for i, e in enumerate(entries)], Study("f", 3, {}, math.inf))


def test_by_budget_needs_all_resolutions_or_calls_it_mixed():
    assert of_budget(0.5, 0.3)["verdict"] == "depth"
    assert of_budget(-0.5, -0.3)["verdict"] == "width"
    assert of_budget(0.5, -0.5)["verdict"] == "mixed"
    assert of_budget(0.5, -0.15)["verdict"] == "mixed"  # Q = 21 with 1 degree of freedom
    assert of_budget(0.5, -0.15, se=0.4)["verdict"] == "undetermined"
    assert of_budget(0.05, 0.05)["verdict"] == "undetermined"


def test_gains_of_different_size_on_one_side_are_no_mixture():
    assert of_budget(0.5, -0.05)["verdict"] == "undetermined"  # a gain within its error is on no side
    found = of_budget(0.5, 0.05)
    assert found["q_p"] < 0.01
    assert found["verdict"] == "undetermined"
    assert found["reason"] == "depth at 0 px; undetermined at 1 px; equal gains rejected, p = 0.0015"


def test_q_allows_for_noise_estimated_from_few_seeds():
    entries = [
        {"verdict": "undetermined", "gain_points": gain, "se": 0.1, "df": df, "resolution": 0}
        for gain, df in ((-0.15, 2), (0.15, 2))
    ]
    few = by_budget(entries, Study("f", 3, {}, math.inf))
    many = by_budget([e | {"df": math.inf} for e in entries], Study("f", 3, {}, math.inf))
    assert few["q"] == pytest.approx(many["q"]) == pytest.approx(4.5)
    assert (few["verdict"], many["verdict"]) == ("undetermined", "mixed")


def test_every_planned_budget_and_resolution_has_an_entry():
    done = arms([72, 73], [71, 72.5])
    planned = pd.concat([done, arms([0], [0], resolution=64), arms([0], [0], epochs=9)])
    result = rules(done, planned=planned)
    assert [(e["budget"], e["resolution"]) for e in result["depth_vs_width"]] == [(3, 32), (3, 64), (9, 32)]
    assert result["depth_vs_width"][2]["reason"] == "no evidence at this resolution"
    assert result["depth_vs_width_by_budget"][0]["verdict"] == "undetermined"
    assert result["depth_vs_width_by_budget"][0]["reason"] == "depth at 32 px; no evidence at 64 px"
    missing = {c["status"] for c in result["depth_vs_width"][1]["missing"]}
    assert missing == {"not run"}


def test_coverage_counts_every_planned_trial_once():
    table = arms([72, 73], [71, 72.5])
    table["status"] = ["ok", "ok", "oom", "ok", "ok"]
    table.loc[4, "train_step_ms"] = np.nan
    result = rules(table, planned=pd.concat([table, arms([0], [0], epochs=9)]))
    assert result["coverage"] == [
        {
            "family": "f",
            "model": {},
            "budget": 3,
            "planned": 5,
            "ok": 3,
            "missing_by_status": {"no train_step_ms": 1, "oom": 1},
            "missing_not_at_random": True,
        },
        {
            "family": "f",
            "model": {},
            "budget": 9,
            "planned": 3,
            "ok": 0,
            "missing_by_status": {"not run": 3},
            "missing_not_at_random": False,
        },
    ]
    assert [c["status"] for c in result["depth_vs_width"][0]["missing"]] == ["no train_step_ms", "oom"]
    # Without ids the cells themselves are compared.
    anonymous = rules(table.drop(columns="trial_id"), planned=table.drop(columns="trial_id"))
    assert anonymous["coverage"] == result["coverage"][:1]


def test_families_are_analysed_apart_and_rows_without_a_shape_are_left_aside():
    both = pd.concat([arms([72], [71]), arms([71], [72]).assign(family="g")])
    both = both.assign(trial_id=[str(i) for i in range(len(both))])
    foreign = both.iloc[:1].assign(family="vit", depth=np.nan, width=np.nan, source="published", trial_id="x")
    result = rules(pd.concat([both.assign(source="measured"), foreign]))
    assert [(e["family"], e["verdict"]) for e in result["depth_vs_width"]] == [("f", "depth"), ("g", "width")]
    assert {e["family"] for e in result["coverage"]} == {"f", "g"}


def test_tables_that_cannot_be_analysed_are_refused_in_one_line():
    table = arms([72], [71])
    with pytest.raises(TableError, match="mixes source measured, simulated"):
        rules(table.assign(source=["measured", "simulated", "measured"]))
    with pytest.raises(TableError, match="mixes protocol"):
        rules(table.assign(protocol=["branched", "independent", None]))
    with pytest.raises(TableError, match="rows with depth, width and resolution"):
        rules(table.assign(width=np.nan))
    with pytest.raises(TableError, match="3 crashed"):
        rules(table.assign(status="crashed"))
    with pytest.raises(TableError, match="no such column"):
        rules(table, cost="latency")
    with pytest.raises(TableError, match="no usable rows"):
        rules(table.iloc[:0])

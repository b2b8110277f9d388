import itertools
import math

import numpy as np
import pandas as pd
import pytest

from sweep.rules import rules
from sweep.rules.cells import AXES, Cell, Study
from sweep.rules.ranks import kendall_tau_b
from sweep.rules.resolution import COMPOUND_GAMMA, Ratio
from sweep.rules.surface import best_path, features, fit

DEPTHS, WIDTHS, SIZES = (50, 101, 200, 400), (0.5, 1.0, 2.0), (128, 181, 256, 362)


def grid(log_error, *, seeds=1, noise=0.0, epochs=(3,), random=None, keep=lambda d, w, r: True):
    """A table over the whole grid; cost is depth x width^2 x resolution^2, as multiply-adds are."""
    cells = [c for c in itertools.product(DEPTHS, WIDTHS, SIZES) if keep(*c)]
    rows = [(*c, e, s) for e in epochs for c in cells for s in range(seeds)]
    table = pd.DataFrame(rows, columns=["depth", "width", "resolution", "epochs", "seed"])
    d, w, r = np.log2(table["depth"] / 141), np.log2(table["width"]), np.log2(table["resolution"] / 215)
    table["macs_per_image"] = table["depth"] * table["width"] ** 2 * table["resolution"] ** 2.0
    top1 = 100 - np.exp(log_error(d, w, r, table["epochs"]))
    errors = 0 if random is None else random.normal(0, noise, len(table))
    return table.assign(family="f", status="ok", minival_top1=top1 + errors)


def bowl(d, w, r, epochs=3):
    """Diminishing returns on every axis; the best path is inside the grid."""
    return 3.0 - 0.2 * d - 0.4 * w - 0.4 * r + 0.05 * d**2 + 0.2 * w**2 + 0.2 * r**2


def exponent(table, **question):
    (only,) = rules(table, **question)["resolution_exponent"]
    return only


def test_exponent_of_a_known_surface():
    # Least error at equal cost: slope / price equal on all axes. Along the path dz is bend^-1 price, per unit of cost
    # price . bend^-1 price, with bend (0.1, 0.4, 0.4) and price (1, 2, 2).
    price, bend = np.array([1, 2, 2]), np.array([0.1, 0.4, 0.4])
    gamma = (price / bend)[2] / (price @ (price / bend))
    result = exponent(grid(bowl))
    assert result["gamma"] == pytest.approx(gamma, abs=1e-6)
    assert result["verdict"] == "slower"
    assert result["compound_rule_gamma"] == pytest.approx(0.2142, abs=1e-4)
    assert result["residual"] < 1e-9


def test_exponent_above_the_rule():
    # Resolution bends least for its price: (2 / 0.4) / (1/0.4 + 4/0.6 + 4/0.4) = 0.26.
    steep = exponent(grid(lambda d, w, r, e: bowl(d, w, r) + 0.15 * d**2 + 0.1 * w**2))
    assert steep["gamma"] == pytest.approx(5 / (2.5 + 4 / 0.6 + 10), abs=1e-6)
    assert steep["ci"][0] > COMPOUND_GAMMA
    assert steep["verdict"] == "faster"


def test_fieller_by_hand():
    exact = Ratio(np.array([1.0, 2.0]), np.zeros((2, 2)), math.inf)
    assert exact.interval() == pytest.approx((0.5, 0.5))
    noisy = Ratio(np.array([1.0, 2.0]), np.diag([0.01, 0.04]), math.inf)
    for end in noisy.interval():  # where the estimate of 1 - end x 2 is 1.96 standard errors from 0
        assert abs(1 - end * 2) == pytest.approx(1.959964 * math.sqrt(0.01 + 0.04 * end**2))
    assert Ratio(np.array([1.0, 2.0]), np.diag([0.01, 4.0]), math.inf).interval() is None


def test_a_curvature_that_noise_leaves_open_has_no_interval():
    result = exponent(grid(bowl), noise_sd=20.0)
    assert (result["ci"], result["verdict"]) == (None, "undetermined")
    assert "no bounds" in result["reason"]


def test_a_surface_that_does_not_fit_is_flagged_and_not_called_noise():
    def kinked(d, w, r, epochs=3):
        return bowl(d, w, r) - 0.1 * np.maximum(r - 0.4, 0.0)

    random = np.random.default_rng(6)
    result = exponent(grid(kinked, seeds=3, noise=0.02, random=random))
    assert result["lack_of_fit_p"] < 1e-6
    assert "does not fit" in result["flag"]
    fits = exponent(grid(bowl, seeds=3, noise=0.02, random=np.random.default_rng(7)))
    assert fits["flag"] is None
    assert fits["lack_of_fit_p"] > 0.001


def test_interval_of_the_exponent_covers_the_truth():
    random = np.random.default_rng(3)
    truth = exponent(grid(bowl))["gamma"]
    results = [exponent(grid(bowl, seeds=2, noise=0.3, random=random)) for _ in range(40)]
    held = sum(r["ci"][0] <= truth <= r["ci"][1] for r in results if r["ci"])
    assert sum(r["ci"] is not None for r in results) > 32
    assert held / sum(r["ci"] is not None for r in results) > 0.85


def test_the_same_table_gives_the_same_answer_twice():
    table = grid(bowl, seeds=2, noise=0.3, random=np.random.default_rng(4))
    assert rules(table) == rules(table.sample(frac=1, random_state=1))


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (lambda d, w, r: w == 1.0 or d == 101, "not crossed: no cells vary depth and width together"),
        (lambda d, w, r: r < 200, "2 levels of resolution"),
        (lambda d, w, r: w == 1.0, "1 level of width"),
        (lambda d, w, r: w == 1.0 or d == 101 or (d, w, r) == (200, 2.0, 256), "rests on a single cell"),
    ],
)
def test_undetermined_where_the_design_does_not_carry_it(keep, reason):
    result = exponent(grid(bowl, keep=keep))
    assert reason in result["reason"]
    assert (result["verdict"], result["gamma"]) == ("undetermined", None)


def test_undetermined_on_the_edge_of_the_grid():
    result = exponent(grid(lambda d, w, r, e: 3 - 0.9 * d - 0.1 * w - 0.1 * r))
    assert "edge" in result["reason"]
    assert result["gamma"] is None


def test_a_perfect_score_has_a_logarithm():
    table = grid(bowl).assign(minival_images=360)
    table.loc[table.index[-1], "minival_top1"] = 100.0
    assert math.isfinite(exponent(table)["residual"])


def test_the_compound_rule_is_priced_in_the_cost_at_hand():
    squared = grid(bowl).assign(train_step_ms=lambda t: t["macs_per_image"] ** 0.5)
    assert exponent(squared)["compound_rule_gamma"] == pytest.approx(2 * COMPOUND_GAMMA)
    assert exponent(squared, cost="macs_per_image")["compound_rule_gamma"] == pytest.approx(COMPOUND_GAMMA)


def study_of(log_error):
    cells = {}
    for d, w, r in itertools.product(DEPTHS, WIDTHS, SIZES):
        top1 = 100 - math.exp(log_error(math.log2(d / 141), math.log2(w), math.log2(r / 215)))
        cells[d, w, r] = Cell(d, w, r, d * w**2 * r**2.0, top1, 1, 0.1, math.nan, {})
    return Study("f", 3, cells, math.inf)


@pytest.mark.parametrize(
    "log_error", [bowl, lambda d, w, r: 3 - 0.3 * d - 0.2 * w + 0.2 * d * w - 0.1 * r**2 + 0.3 * w * r]
)
def test_best_path_beats_a_dense_search(log_error):
    surface = fit(study_of(log_error))
    levels = np.linspace(*surface.design.levels, 9)
    path = best_path(surface.design, surface.beta[None], levels)[0]
    design = surface.design
    assert design.cost0 + path @ design.cost == pytest.approx(levels)
    z1, z2 = (a.ravel() for a in np.meshgrid(np.linspace(-1, 1, 201), np.linspace(-1, 1, 201)))
    for z, level in zip(path, levels, strict=True):
        z3 = (level - design.cost0 - design.cost[0] * z1 - design.cost[1] * z2) / design.cost[2]
        inside = np.abs(z3) <= 1
        searched = features(np.stack([z1, z2, z3], axis=-1)[inside]) @ surface.beta
        found = features(z) @ surface.beta
        assert found <= searched.min(initial=np.inf) + 1e-9
        assert found >= searched.min(initial=found) - 1e-2


def test_path_rises_with_cost_and_prices_each_axis():
    path = rules(grid(bowl))["path"]
    tops = [point["top1"] for point in path]
    assert tops == sorted(tops)
    middle = path[len(path) // 2]
    assert set(middle["returns"]) == set(AXES)
    # On the inside of the grid, the best path is where all axes return the same.
    assert max(middle["returns"].values()) == pytest.approx(min(middle["returns"].values()), rel=1e-6)
    assert middle["ci"][0] <= middle["top1"] <= middle["ci"][1]


def step(top1s, noise=0.1):
    """Base, one step in resolution, in depth and in width, each twice the cost."""
    rows = pd.DataFrame(
        {"depth": [50, 50, 100, 50], "width": [1.0, 1.0, 1.0, 2.0], "resolution": [32, 64, 32, 32]}
    ).assign(family="f", epochs=3, status="ok", train_step_ms=[1.0, 2.0, 2.0, 2.0], minival_top1=top1s)
    (only,) = rules(rows, noise_sd=noise)["resolution_steps"]
    return only


@pytest.mark.parametrize(
    ("top1s", "verdict", "best"),
    [
        ([70, 73, 71, 72], "raise", "width"),
        ([70, 71, 73, 72], "prefer depth", "depth"),
        ([70, 71, 72, 73], "prefer width", "width"),
        ([70, 72, 72.1, 71], "undetermined", "depth"),
    ],
)
def test_steps_against_the_best_alternative(top1s, verdict, best):
    result = step(top1s)
    assert (result["verdict"], result["best_alternative"]) == (verdict, best)
    assert result["points_per_doubling"] == pytest.approx(top1s[1] - 70)
    assert (result["reason"] is None) == (verdict != "undetermined")


def test_step_intervals_hold_together():
    (depth, _) = step([70, 73, 71, 72])["alternatives"]
    # Difference of two cells (the base cancels), each 0.1; two alternatives share the 5 %.
    assert depth["difference"] - depth["ci"][0] == pytest.approx(2.241403 * 0.1 * math.sqrt(2), rel=1e-5)


def test_regime_needs_both_intervals():
    rows = pd.DataFrame({"depth": [50, 100, 200, 50], "width": [1.0, 1.0, 1.0, 2.0]}).assign(
        family="f", epochs=3, status="ok", resolution=32, train_step_ms=[1.0, 2.0, 4.0, 2.0]
    )
    rows["minival_top1"], rows["train_top1"] = [70, 69, 72, 70.1], [80, 85, 86, 85]
    result = rules(rows, noise_sd=0.1)["regime"]
    assert [(e["depth"], e["width"], e["overfits"]) for e in result] == [
        (100, 1.0, True),
        (200, 1.0, False),
        (50, 2.0, None),
    ]
    assert (result[0]["train_gain"], result[0]["heldout_gain"]) == (5, -1)
    assert rules(rows.drop(columns="train_top1"))["regime"] == []


def test_kendall_by_hand():
    assert kendall_tau_b(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])) == pytest.approx(4 / 6)
    # One tie in a: 5 untied pairs there and 6 in b, all concordant.
    assert kendall_tau_b(np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 3, 4])) == pytest.approx(5 / math.sqrt(30))
    assert math.isnan(kendall_tau_b(np.ones(3), np.arange(3.0)))


def test_transfer_counts_regret_on_other_seeds():
    table = grid(lambda d, w, r, e: bowl(d * np.where(e == 3, 1, -1), w, r), epochs=(3, 9), seeds=2)
    (result,) = rules(table, noise_sd=0.1)["transfer"]
    assert (result["from"], result["to"], result["seeds"]) == (3, 9, "different seeds")
    assert result["regret_points"] > 1
    assert result["ci"][0] <= result["kendall_tau"] <= result["ci"][1] < 1
    assert rules(table[table["seed"] == 0])["transfer"][0]["seeds"] == "same seed"
    same = grid(lambda d, w, r, e: bowl(d, w, r), epochs=(3, 9))
    (agreeing,) = rules(same, noise_sd=0.01)["transfer"]
    assert (agreeing["kendall_tau"], agreeing["regret_points"]) == (pytest.approx(1), 0)


def test_noise_is_described_per_budget():
    result = rules(grid(bowl, epochs=(3, 9), seeds=2, noise=0.2, random=np.random.default_rng(0)))
    assert result["noise_source"] == "replicate seeds, 48 degrees of freedom per budget"
    assert result["noise_sd"] == pytest.approx(0.2, rel=0.2)
    assert rules(grid(bowl), noise_sd=0.25)["noise_source"] == "given: 0.25 points"

"""The rules keep their promises: `benchmarks/calibration.py` with fewer draws, and that it asks what `rules` asks.

Bounds are five Monte Carlo standard errors beyond the promise, so that chance fails a test less than once in 10^5 runs.
"""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from calibration import calibrate, design_for, draws_of, matrix, runs_of
from calibration_laws import law_rows, rank_rows, rate_rows, spread_rows
from known_surfaces import BUDGETS, KNOWN, cells_of_grid, cost_of, study_of, top1_of
from tallies import HIGHEST, LOWEST, MOST_FALSE

from sweep.rules import rules
from sweep.rules.depth_width import arms_at
from sweep.rules.resolution import exponent, path_of
from sweep.rules.steps import steps_of
from sweep.rules.surface import fit_errors
from sweep.rules.transfer import rank_correlation, regret_bounds

DRAWS = 200
AT_LEAST = {"kendall tau", "regret", "kendall tau of 1"}  # wider than 95 %: see docs/rules.md


def doubt(shares):
    """Five standard errors of the mean over draws."""
    return 5 * max(float(np.std(shares)), 0.1) / math.sqrt(len(shares))


def check(name, tally):
    if tally.covered:
        mean = np.mean(tally.covered)
        assert mean > LOWEST - doubt(tally.covered), name
        assert mean < HIGHEST + doubt(tally.covered) or name in AT_LEAST, name
    if tally.false:
        assert np.mean(tally.false) < MOST_FALSE + doubt(tally.false), name


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_intervals_cover_the_truth_and_verdicts_are_seldom_false(known, seeds):
    found = calibrate(known, seeds, DRAWS // 2, np.random.default_rng(7))
    for name, tally in found.items():
        check(name, tally)
    if known.name in ("depth wins", "width wins", "crossing"):  # not bought with silence
        assert np.mean(found["gain"].silent) < 0.5


@pytest.mark.parametrize("part", [rank_rows, spread_rows, law_rows])
def test_ranks_spreads_and_power_laws_cover_the_truth(part):
    for surface, _, name, tally in part(np.random.default_rng(8), DRAWS):
        # Where the bend is slight, a place is only given for those draws that show it, which are the lucky ones.
        if not (surface == "30 cells" and name == "its place"):
            check(name, tally)


def test_the_best_rates_are_judged_without_a_winners_curse():
    for _, _, name, tally in rate_rows(np.random.default_rng(9), 40):
        check(name, tally)


@pytest.fixture(scope="module")
def drawn():
    """One draw of two budgets as the benchmark has it, and what `rules` says of the same runs."""
    keys, random = cells_of_grid(), np.random.default_rng(3)
    rows, draws = [], {}
    for budget in BUDGETS:
        truth = top1_of(KNOWN[0].log_error[budget], keys)
        runs = runs_of(random, truth, KNOWN[0].sd(budget, truth), 2, 1)
        draws[budget] = draws_of(runs)
        rows += [
            {"epochs": budget, "seed": seed, "minival_top1": top1, "macs_per_image": cost_of(key)}
            | dict(zip(("depth", "width", "resolution"), key, strict=True))
            for key, cell in zip(keys, runs[0], strict=True)
            for seed, top1 in enumerate(cell)
        ]
    return keys, draws, rules(pd.DataFrame(rows).assign(family="f", status="ok"))


def intervals(drawn, weights):
    low, high = drawn.estimate(weights).interval()
    return np.stack([low[0], high[0]], axis=-1)


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_benchmark_asks_what_the_rules_ask(drawn, budget):
    keys, draws, found = drawn
    study = study_of(keys, draws[budget].means[0], budget, 2)
    own = {name: [e for e in found[name] if e["budget"] == budget] for name in ("depth_vs_width", "resolution_steps")}
    gains = matrix(keys, [arms_at(study, size).gain() for size in study.resolutions()])
    assert np.array([e["ci"] for e in own["depth_vs_width"]]) == pytest.approx(intervals(draws[budget], gains))
    slopes = matrix(keys, [step.slope for step in steps_of(study)])
    assert np.array([e["ci"] for e in own["resolution_steps"]]) == pytest.approx(intervals(draws[budget], slopes))
    surface = fit_errors(design_for(keys), 100 - draws[budget].means[0], draws[budget].se[0], draws[budget].df)
    (entry,) = [e for e in found["resolution_exponent"] if e["budget"] == budget]
    asked = exponent(surface, path_of(surface)[0], entry["compound_rule_gamma"])
    assert (entry["ci"], entry["verdict"]) == (pytest.approx(asked["ci"]), asked["verdict"])


def test_the_benchmark_asks_what_transfer_asks(drawn):
    keys, draws, found = drawn
    short, long = (draws[budget].ranked(0) for budget in BUDGETS)
    (entry,) = found["transfer"]
    asked = rank_correlation(short, long)
    assert (entry["kendall_tau"], entry["ci"]) == (pytest.approx(asked["kendall_tau"]), pytest.approx(asked["ci"]))
    costs = np.array([cost_of(key) for key in keys])
    assert entry["regret_ci"] == pytest.approx(regret_bounds(short, long, costs))

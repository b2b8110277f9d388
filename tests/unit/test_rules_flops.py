"""Ranks, power laws and spreads: by hand, against brute force, and at their edges."""

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from sweep.rules import rules
from sweep.rules.flops import bins_of, true_spread
from sweep.rules.powerlaw import power_law
from sweep.rules.ranks import Ranked, agreement, kendall_bounds, kendall_interval, kendall_tau_b

FEW = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12)


@given(FEW)
def test_tau_is_scipys_ties_included(pairs):
    a, b = np.array(pairs, dtype=float).T
    expected = kendalltau(a, b).statistic
    found = kendall_tau_b(a, b)
    assert (math.isnan(found) and math.isnan(expected)) or found == pytest.approx(expected)


def test_large_tables_are_compared_in_parts(monkeypatch):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 97))
    whole = kendall_tau_b(a, b)
    monkeypatch.setattr("sweep.rules.ranks._MOST_SIGNS", 1000)
    assert kendall_tau_b(a, b) == pytest.approx(whole)


def test_groups_compare_only_their_own_pairs():
    a, b = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 3])
    assert agreement(Ranked.exact(a), Ranked.exact(b), np.array([0, 0, 1, 1])).tau() == 0
    assert agreement(Ranked.exact(a), Ranked.exact(b), np.array([0, 1, 2, 3])).pairs() == 0


def test_bounds_take_every_unknown_pair_once_for_and_once_against():
    far = Ranked(np.array([1.0, 2.0, 9.0]), np.array([0.5, 0.5, 0.5]))
    pairs = agreement(Ranked.exact(np.array([1.0, 2.0, 3.0])), far)
    assert kendall_bounds(pairs) == pytest.approx((1 / 3, 1.0))  # two pairs known, one not
    exact = agreement(Ranked.exact(far.values), Ranked.exact(far.values[::-1].copy()))
    assert kendall_bounds(exact) == (-1.0, -1.0)


def test_noisy_values_that_agree_are_unknown_and_not_tied():
    same = Ranked(np.array([1.0, 1.0]), np.array([0.1, 0.1]))
    assert kendall_bounds(agreement(Ranked.exact(np.array([1.0, 2.0])), same)) == (-1.0, 1.0)


def test_interval_over_models_needs_four_and_contains_the_estimate():
    random = np.random.default_rng(1)
    a = random.normal(size=30)
    pairs = agreement(Ranked.exact(a), Ranked.exact(a + random.normal(size=30)))
    low, high = kendall_interval(pairs)
    assert -1 < low < pairs.tau() < high < 1
    assert math.isnan(kendall_interval(agreement(*[Ranked.exact(a[:3])] * 2))[0])


def test_perfect_order_of_few_models_is_no_certainty():
    few, many = (kendall_interval(agreement(*[Ranked.exact(np.arange(k))] * 2)) for k in (8, 80))
    assert few == (pytest.approx(2 * 0.025 ** (1 / 4) - 1), 1.0)
    assert few[0] < 0 < 0.8 < many[0] < 1
    values = np.arange(8.0)
    assert kendall_interval(agreement(Ranked.exact(values), Ranked.exact(-values))) == (-1.0, pytest.approx(-few[0]))


def test_bins_are_half_a_doubling_from_the_smallest():
    assert bins_of(np.array([4.0, 1.0, 2**0.5, 1.4])).tolist() == [4, 0, 1, 0]


def test_spread_without_noise_is_the_standard_deviation():
    values = np.array([70.0, 71.0, 74.0])
    sd, ends = true_spread(values, 0.0, math.inf)
    assert [sd, *ends] == pytest.approx([values.std(ddof=1)] * 3)
    sd, (low, high) = true_spread(values, 3.0, math.inf)
    assert (sd, low) == (0.0, 0.0)
    assert high > values.std(ddof=1)


@pytest.mark.parametrize("se", [1e-3, 1e-1, 0.5])
def test_spread_is_continuous_where_the_series_gives_way(se):
    values = np.array([70.0, 71.0, 74.0])
    sd, (low, high) = true_spread(values, se, 20)
    assert low < sd < high
    assert high - low < 5 * se + 1e-6


def straight(macs, bend=0.0, at=1e9):
    return np.exp(3 - 0.25 * np.log(macs / 1e8) + bend * np.maximum(np.log(macs / at), 0))


MACS = np.geomspace(1e8, 1e11, 40)


def test_a_power_law_has_its_exponent_and_no_break():
    noise = np.exp(0.02 * np.random.default_rng(2).standard_normal(40))
    found = power_law(MACS, straight(MACS) * noise)
    assert found["verdict"] == "no break shown"
    assert found["ci"][0] < 0.25 < found["ci"][1]
    assert found["residual"] == pytest.approx(0.02, rel=0.4)
    assert found["break"] is None


def test_a_break_is_found_with_its_place_and_both_exponents():
    noise = np.exp(0.02 * np.random.default_rng(3).standard_normal(40))
    found = power_law(MACS, straight(MACS, 0.2, 5e9) * noise)
    place = found["break"]
    assert found["verdict"] == "breaks"
    assert place["ci"][0] < 5e9 < place["ci"][1]
    assert place["ci"][1] / place["ci"][0] < 4
    assert (place["exponent_below"], place["exponent_above"]) == (
        pytest.approx(0.25, abs=0.03),
        pytest.approx(0.05, abs=0.03),
    )


def test_scatter_that_grows_is_told_from_a_bend():
    random = np.random.default_rng(4)
    found = power_law(MACS, straight(MACS) * np.exp(np.where(MACS > 3e9, 0.1, 0.01) * random.standard_normal(40)))
    assert found["scatter_p"] < 1e-6
    assert found["residual_above"] > 5 * found["residual_below"]


def test_too_few_cells_say_so():
    assert power_law(MACS[:5], straight(MACS[:5]))["verdict"] == "undetermined"
    assert "8 of 6" in power_law(MACS[:5], straight(MACS[:5]))["reason"]


@pytest.fixture(scope="module")
def found():
    rows = itertools.product((50, 101, 200, 400), (0.5, 1.0, 2.0), (128, 181, 256), (3,), (0, 1))
    frame = pd.DataFrame(rows, columns=["depth", "width", "resolution", "epochs", "seed"])
    frame["macs_per_image"] = frame["depth"] * frame["width"] ** 2 * frame["resolution"] ** 2.0
    frame["params"] = frame["depth"] * frame["width"] ** 2
    frame["infer_latency_ms"] = frame["depth"] * frame["resolution"]
    frame["minival_top1"] = 100 - 60 * frame["macs_per_image"] ** -0.1
    frame["minival_top1"] += np.random.default_rng(0).normal(0, 0.05, len(frame))
    return rules(frame.assign(family="f", status="ok"))["flops_not_latency"][0]


def tau(found, a, b, at="all"):
    (only,) = [e for e in found["rank_correlation"] if (e["a"], e["b"], e["at"]) == (a, b, at)]
    return only


def test_accuracy_that_follows_macs_does_not_follow_parameters_at_equal_macs(found):
    follows = tau(found, "macs_per_image", "minival_top1")
    assert follows["ci"][0] > 0.8
    assert follows["interval"] == "noise"
    assert tau(found, "params", "minival_top1")["kendall_tau"] < follows["ci"][0]
    low, high = tau(found, "params", "minival_top1", "equal_macs")["ci"]
    assert low < 0.5
    assert tau(found, "macs_per_image", "infer_latency_ms")["interval"] == "models"
    assert not [e for e in found["rank_correlation"] if e["a"] == "macs_per_image" and e["at"] == "equal_macs"]
    assert high <= 1
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_law_holds_and_equal_macs_spread_little(found):
    assert found["power_law"]["verdict"] == "no break shown"
    assert found["power_law"]["exponent"] == pytest.approx(0.1, abs=0.005)
    assert all(e["macs_to"] < e["macs_from"] * 2**0.5 for e in found["equal_macs"])
    assert all(e["ci"][0] <= e["spread_points"] <= e["ci"][1] for e in found["equal_macs"])


def test_a_table_without_macs_has_no_such_entry():
    frame = pd.DataFrame({"depth": [50, 100], "width": 1.0, "resolution": 32, "epochs": 3, "minival_top1": [70.0, 71]})
    assert rules(frame.assign(train_step_ms=[1.0, 2.0]))["flops_not_latency"] == []

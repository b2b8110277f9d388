import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.front import _survivors
from sweep.pareto import pareto_mask

# Few values make many ties, which is where fast routines go wrong.
points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40)


def brute_force(costs, accuracies):
    """A point is out if another is no worse in both and better in one."""
    pairs = list(zip(costs, accuracies, strict=True))
    return [not any(c <= cost and a >= top1 and (c < cost or a > top1) for c, a in pairs) for cost, top1 in pairs]


@settings(deadline=None, max_examples=200)
@given(points)
def test_equals_brute_force_ties_included(pairs):
    costs, accuracies = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)
    assert pareto_mask(costs, accuracies).tolist() == brute_force(costs, accuracies)


@settings(deadline=None, max_examples=100)
@given(points.filter(bool), st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(pairs, random):
    order = list(range(len(pairs)))
    random.shuffle(order)
    costs, accuracies = np.array(pairs, float).T
    assert pareto_mask(costs[order], accuracies[order]).tolist() == pareto_mask(costs, accuracies)[order].tolist()


@settings(deadline=None, max_examples=50)
@given(points, points)
def test_points_that_are_beaten_change_nothing(pairs, more):
    costs, accuracies = np.array([*pairs, (3, 3)], float).T
    beaten = np.array([(3 + c + 1, 3 - a - 1) for c, a in more], float).reshape(-1, 2)
    mask = pareto_mask(np.append(costs, beaten[:, 0]), np.append(accuracies, beaten[:, 1]))
    assert mask[: len(costs)].tolist() == pareto_mask(costs, accuracies).tolist()
    assert not mask[len(costs) :].any()


@pytest.mark.parametrize("shape", ["uniform", "ties", "front", "reverse", "constant"])
def test_large_inputs_are_thinned_without_loss(shape):
    random = np.random.default_rng(7)
    n = 20_000
    costs, accuracies = random.random(n), random.random(n)
    if shape == "ties":
        costs, accuracies = np.round(costs * 40), np.round(accuracies * 40)
    elif shape == "front":
        accuracies = costs.copy()
    elif shape == "reverse":
        accuracies = -costs
    elif shape == "constant":
        costs, accuracies = np.ones(n), np.ones(n)
    by_cost = np.lexsort((-accuracies, costs))
    best, expected = -np.inf, np.zeros(n, dtype=bool)
    last = None
    for i in by_cost:
        expected[i] = accuracies[i] > best or (last == (costs[i], accuracies[i]))
        if expected[i]:
            best, last = accuracies[i], (costs[i], accuracies[i])
    assert (pareto_mask(costs, accuracies) == expected).all()


def test_thinning_is_what_makes_it_fast():
    random = np.random.default_rng(7)
    assert _survivors(random.random(100_000), random.random(100_000)).sum() < 5_000


def test_a_nan_is_never_on_the_front():
    for n in (3, 30_000):
        costs, accuracies = np.linspace(1, 2, n), np.linspace(1, 2, n)
        costs[0], accuracies[-1] = np.nan, np.nan
        mask = pareto_mask(costs, accuracies)
        assert mask.sum() == n - 2
        assert not mask[0]
        assert not mask[-1]

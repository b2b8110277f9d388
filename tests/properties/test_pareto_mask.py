import moocore
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep import front, ordering
from sweep.front import pareto_mask
from sweep.ordering import lexicographic, stable_order

# Few values make many ties, which is where fast routines go wrong.
points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40)
rows = st.integers(2, 4).flatmap(
    lambda d: st.lists(st.tuples(*[st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 1, 2, 3, np.inf])] * d), max_size=90)
)
reals = st.lists(st.floats(allow_nan=False), max_size=60)


def brute_force(costs, accuracies):
    """A point is out if another is no worse in everything and better in one."""
    costs, accuracies = np.asarray(costs, float), np.asarray(accuracies, float)
    costs = costs[:, None] if costs.ndim == 1 else costs
    found = []
    for cost, top1 in zip(costs, accuracies, strict=True):
        as_good = (costs <= cost).all(axis=1) & (accuracies >= top1)
        found.append(not (as_good & ((costs < cost).any(axis=1) | (accuracies > top1))).any())
    return found


@pytest.fixture(params=["as it is", "thinned from the start"], autouse=True)
def thinning(request, monkeypatch):
    """Large tables are thinned and sorted in ways of their own, which small ones are made to take."""
    if request.param != "as it is":
        monkeypatch.setattr(front, "_SAMPLE", 4)
        monkeypatch.setattr(front, "_CHUNK", 7)
        monkeypatch.setattr(front, "_BOXES", 6)
        monkeypatch.setattr(ordering, "_SMALL", 1)


def tried(examples):
    checks = [HealthCheck.function_scoped_fixture]  # which is the same for all examples
    return settings(deadline=None, max_examples=examples, suppress_health_check=checks)


@tried(200)
@given(points)
def test_equals_brute_force_ties_included(pairs):
    costs, accuracies = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)
    assert pareto_mask(costs, accuracies).tolist() == brute_force(costs, accuracies)


@tried(300)
@given(rows)
def test_several_costs_equal_brute_force_with_ties_and_infinities(pairs):
    table = np.array(pairs, float).reshape(len(pairs), -1) if pairs else np.zeros((0, 3))
    assert pareto_mask(table[:, :-1], table[:, -1]).tolist() == brute_force(table[:, :-1], table[:, -1])


@tried(100)
@given(points.filter(bool), st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(pairs, random):
    order = list(range(len(pairs)))
    random.shuffle(order)
    costs, accuracies = np.array(pairs, float).T
    assert pareto_mask(costs[order], accuracies[order]).tolist() == pareto_mask(costs, accuracies)[order].tolist()


@tried(50)
@given(points, points)
def test_points_that_are_beaten_change_nothing(pairs, more):
    costs, accuracies = np.array([*pairs, (3, 3)], float).T
    beaten = np.array([(3 + c + 1, 3 - a - 1) for c, a in more], float).reshape(-1, 2)
    mask = pareto_mask(np.append(costs, beaten[:, 0]), np.append(accuracies, beaten[:, 1]))
    assert mask[: len(costs)].tolist() == pareto_mask(costs, accuracies).tolist()
    assert not mask[len(costs) :].any()


@tried(300)
@given(reals)
def test_the_order_is_the_stable_one(values):
    values = np.array(values, float)
    order, found = stable_order(values)
    assert order.tolist() == np.argsort(values, kind="stable").tolist()
    assert np.array_equal(found, values[order])


@tried(200)
@given(rows)
def test_the_lexicographic_order_is_that_of_tuples(pairs):
    columns = [np.array(column, float) for column in zip(*pairs, strict=True)] or [np.zeros(0)]
    order = lexicographic(columns)
    assert sorted(pairs) == [pairs[i] for i in order]


@tried(200)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(0, 2**20), st.integers(5, 6)), max_size=60))
def test_whole_numbers_have_the_same_lexicographic_order(triples):
    columns = [np.array(column, float) for column in zip(*triples, strict=True)] or [np.zeros(0)]
    assert sorted(triples) == [triples[i] for i in lexicographic(columns)]


SHAPES = {
    "uniform": lambda u: u,
    "ties": lambda u: np.round(u * 40),
    "few values": lambda u: np.floor(u * 3),
    "all on the front": lambda u: u / u.sum(axis=1, keepdims=True),
    "front of ties": lambda u: np.round(100 * u / u.sum(axis=1, keepdims=True)),
    "by rising cost": lambda u: u[np.argsort(u[:, 0])],
    "by falling cost": lambda u: u[np.argsort(-u[:, 0])],
    "all equal": lambda u: u * 0 + 1,
    "one cost": lambda u: np.column_stack([u[:, 0] * 0, u[:, 1:]]),
    "wide": lambda u: np.exp(40 * (u - 0.5)),
    "anti-correlated": lambda u: u / u.sum(axis=1, keepdims=True) + 0.1 * u[::-1],
    "next to zero": lambda u: np.where(u < 0.5, 0, u - 0.7),
}


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_large_tables_have_the_front_that_moocore_finds(shape, objectives):
    table = SHAPES[shape](np.random.default_rng(7).random((20_000, objectives)))
    found = pareto_mask(table[:, :-1], -table[:, -1])
    assert (found == moocore.is_nondominated(table, keep_weakly=True)).all()


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_most_of_a_uniform_table_is_never_sorted(objectives, monkeypatch):
    monkeypatch.setattr(front, "_SAMPLE", 2048)
    monkeypatch.setattr(front, "_BOXES", 4096)
    columns = list(np.random.default_rng(7).random((objectives, 100_000)))
    assert len(front._thinned(columns[:-1], columns[-1])) < 30_000


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("n", [3, 30_000])
def test_a_nan_is_never_on_the_front(n, objectives):
    table = np.column_stack([np.linspace(1, 2, n)] * objectives)
    table[0, 0], table[-1, -1] = np.nan, np.nan
    mask = pareto_mask(table[:, :-1], table[:, -1])
    assert mask.sum() == n - 2
    assert not mask[0]
    assert not mask[-1]


@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (4,)])
def test_shapes_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="right would be"):
        pareto_mask(np.zeros(shape), np.zeros(3))

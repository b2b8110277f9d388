"""Which points nothing beats: the exact Pareto front, costs down and accuracy up.

Most points of a large table are beaten by a handful of good ones. These come from the front of a small sample; what
they beat is dropped without being sorted. The rest is sorted (one cost) or compared by divide and conquer (more).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sweep.dominance import beaten
from sweep.noise import Array
from sweep.ordering import Order, stable_order

Mask = NDArray[np.bool_]
MAX_COSTS = 3
_SAMPLE = 2048
_BOXES = 4096  # of cost, in which the best accuracy of a sample is looked up
_CHUNK = 1 << 16  # points that fit into a core's own cache
_MOST_BOXES = 1 << 22  # of several costs
_PIVOTS = 64  # points of a sample of which one that beats the most is tried
_SCALABLE = (1e-280, 1e300)  # least range and largest number, so that no factor overflows
_WORTH = 0.7  # thinning that leaves more than this share is given up


def pareto_mask(costs: Array, accuracies: Array) -> Mask:
    """Which of n points are on the front (costs down, accuracy up), ties included; a NaN is never on it.

    A point is on the front if no other is at least as good in everything and better in one; equal points are on it
    together.

    Args:
        costs: shape (n,), or (n, k) for k costs, 1 to 3.
        accuracies: shape (n,).

    Raises:
        ValueError: the shapes do not fit, or there are more costs.
    """
    costs, accuracies = np.asarray(costs, dtype=float), np.asarray(accuracies, dtype=float)
    columns = [costs] if costs.ndim == 1 else list(np.ascontiguousarray(costs.T))
    if not 1 <= len(columns) <= MAX_COSTS or any(column.shape != accuracies.shape for column in columns):
        raise ValueError(f"costs of shape {costs.shape}: right would be {accuracies.shape}, or 1 to 3 such columns")
    kept = _thinned(columns, accuracies)
    if kept is not None:
        columns, accuracies = [column.take(kept) for column in columns], accuracies.take(kept)
    known = ~np.logical_or.reduce([np.isnan(column) for column in (*columns, accuracies)])
    if not known.all():
        places = np.flatnonzero(known)
        kept = places if kept is None else kept.take(places)
        columns, accuracies = [column.take(places) for column in columns], accuracies.take(places)
    found = _of_two(columns[0], accuracies) if len(columns) == 1 else ~beaten([*columns, -accuracies])
    if kept is None:
        return found
    mask = np.zeros(len(costs), dtype=bool)
    mask[kept.compress(found)] = True
    return mask


def _of_two(costs: Array, accuracies: Array) -> Mask:
    """The front of points without NaN in one cost and accuracy, by sorting."""
    if len(costs) < 2 or bool((costs[1:] >= costs[:-1]).all()):
        return sorted_front(costs, accuracies)
    if bool((costs[1:] <= costs[:-1]).all()):
        return sorted_front(costs[::-1], accuracies[::-1])[::-1]
    order, costs = stable_order(costs)
    mask = np.empty(len(costs), dtype=bool)
    mask[order] = sorted_front(costs, accuracies.take(order))
    return mask


def sorted_front(costs: Array, accuracies: Array) -> Mask:
    """The front of points by rising cost: the best of their own cost, and better than everything cheaper.

    Args:
        costs: shape (n,), ascending.
        accuracies: shape (..., n), each leading index being a front of its own.
    """
    best = np.maximum.accumulate(accuracies, axis=-1)
    new = costs[1:] != costs[:-1]
    if new.all():
        mask = np.ones(accuracies.shape, dtype=bool)
        np.greater(accuracies[..., 1:], best[..., :-1], out=mask[..., 1:])
        return mask
    ends = np.append(np.flatnonzero(new), len(costs) - 1)
    # Of all points of one cost; NaN, which equals nothing, where something cheaper is as good.
    wanted = best[..., ends]
    behind = np.zeros(wanted.shape, dtype=bool)
    np.less_equal(wanted[..., 1:], wanted[..., :-1], out=behind[..., 1:])
    wanted[behind] = np.nan
    front: Mask = accuracies == np.repeat(wanted, np.diff(ends, prepend=-1), axis=-1)
    return front


def _thinned(columns: list[Array], accuracies: Array) -> Order | None:
    """The points that a few good ones do not beat, none of which is lost; None for all."""
    rounds = _round_of_two if len(columns) == 1 else _round_of_more
    columns = [*columns, accuracies]
    kept: Order | None = None
    while (size := len(columns[0])) > 4 * _SAMPLE:
        left = rounds(columns)
        if left is None:
            break
        kept = left if kept is None else kept.take(left)
        columns = [column.take(left) for column in columns]
        if len(left) > _WORTH * size:
            break
    return kept


def _round_of_two(columns: Sequence[Array]) -> Order | None:
    """What is left of points (cost, accuracy) after the front of a sample; None if the sample is all front."""
    costs, accuracies = columns
    sample = _sample(columns, _SAMPLE)
    c, a = columns[0].take(sample), columns[1].take(sample)
    front = np.flatnonzero(pareto_mask(c, a))
    if not len(front) or len(front) > len(sample) // 4:
        return None
    wins = ((c > c[front, None]) & (a < a[front, None])).sum(axis=1)
    best = int(front[wins.argmax()])
    if wins.max() > len(sample) // 4:
        return _where(lambda part: (costs[part] <= c[best]) | (accuracies[part] >= a[best]), len(costs))
    look_up = _boxes(c[front], a[front])
    if look_up is None:
        return None
    return _where(lambda part: _better(accuracies[part], look_up(costs[part])), len(costs))


def _better(accuracies: Array, best: Array) -> Mask:
    """Which accuracies are above the best of something cheaper, -inf being that of nothing."""
    found: Mask = (accuracies > best) | ((accuracies == -np.inf) & (best == -np.inf))
    return found


def _boxes(costs: Array, accuracies: Array) -> Callable[[Array], Array] | None:
    """For any cost, the best of the given accuracies in a box of lower cost; None where no boxes can be made.

    The box of a cost never falls as the cost rises, however it is rounded: what is in a lower box is cheaper.
    """
    low, high = costs.min(), costs.max()
    if not (max(high, -low) < _SCALABLE[1] and high - low > _SCALABLE[0]):
        return None
    scale = (_BOXES - 2) / (high - low)

    def box(values: Array) -> Order:
        # What is beyond, or NaN, goes into the lowest box, which beats nothing, or the highest.
        with np.errstate(over="ignore"):
            scaled = np.fmax((values - low) * scale, -1.0)
        found: Order = (np.fmin(scaled, _BOXES - 2) + 1).astype(np.int64)
        return found

    best = np.full(_BOXES + 1, -np.inf)
    np.maximum.at(best, box(costs) + 1, accuracies)
    np.maximum.accumulate(best, out=best)
    return lambda values: best.take(box(values))


def _round_of_more(columns: Sequence[Array]) -> Order | None:
    """What is left of points (costs, accuracy) after one or many of a sample; None if they beat few."""
    *costs, accuracies = (column.take(_sample(columns, _SAMPLE)) for column in columns)
    if not len(accuracies):
        return None
    # Those that are good in everything beat the most.
    places = sum(np.argsort(np.argsort(column)) for column in (*costs, -accuracies))
    chosen = np.argsort(places)[:_PIVOTS]
    wins = accuracies < accuracies[chosen, None]
    for cost in costs:
        wins &= cost > cost[chosen, None]
    counts = wins.sum(axis=1)
    best = int(chosen[counts.argmax()])
    if counts.max() > len(accuracies) // 4:
        return _unbeaten(columns, [float(column[best]) for column in (*costs, accuracies)])
    return _unbeaten_by_boxes(columns)


def _unbeaten_by_boxes(columns: Sequence[Array]) -> Order | None:
    """The points that are better than all of a large sample that lie in boxes of lower costs; None if most are."""
    *costs, accuracies = columns
    sample = _sample(columns, max(len(accuracies) // 16, _SAMPLE))
    count = int(min(len(accuracies), _MOST_BOXES) ** (1 / len(costs)))
    edges = []
    for cost in costs:
        known = np.sort(cost.take(sample))
        edges.append(np.unique(known[:: max(len(known) // count, 1)]))
    shape = [len(edge) + 2 for edge in edges]

    def boxes(part: Order | slice, shift: int) -> tuple[Order, ...]:
        return tuple(np.searchsorted(edge, cost[part]) + shift for edge, cost in zip(edges, costs, strict=True))

    best = np.full(shape, -np.inf)
    np.maximum.at(best, boxes(sample, 1), accuracies.take(sample))
    for axis in range(len(costs)):
        np.maximum.accumulate(best, axis=axis, out=best)
    flat = best.ravel()

    def better(part: Order | slice) -> Mask:
        return _better(accuracies[part], flat.take(np.ravel_multi_index(boxes(part, 0), shape)))

    if better(_sample(columns, _SAMPLE)).mean() > _WORTH:
        return None
    return _where(better, len(accuracies))


def _unbeaten(columns: Sequence[Array], pivot: list[float]) -> Order:
    """The points that are as good as a pivot in something."""

    def as_good(part: slice) -> Mask:
        good = columns[-1][part] >= pivot[-1]
        for column, value in zip(columns[:-1], pivot[:-1], strict=True):
            good |= column[part] <= value
        return good

    return _where(as_good, len(columns[0]))


def _where(good: Callable[[slice], Mask], size: int) -> Order:
    """The places that are good, a part at a time."""
    mask = np.empty(size, dtype=bool)
    for start in range(0, size, _CHUNK):
        part = slice(start, start + _CHUNK)
        mask[part] = good(part)
    return np.flatnonzero(mask)


def _sample(columns: Sequence[Array], count: int) -> Order:
    """Places of so many points or a few more, those with NaN left out, evenly spread."""
    size = len(columns[0])
    places = np.arange(0, size, size // count)
    known = ~np.logical_or.reduce([np.isnan(column.take(places)) for column in columns])
    return places.compress(known)

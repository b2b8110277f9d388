"""How sure the place of a cell is: its chance to be on the front, and the cells that noise does not tell apart."""

import math

import numpy as np
from numpy.typing import NDArray

from sweep.front import Mask, pareto_mask, sorted_front
from sweep.noise import Array
from sweep.points import Points

_NUMBERS_DRAWN = 4_000_000
_MOST_DRAWS, _FEWEST_DRAWS = 4000, 100
_MANY_CELLS = 400  # with several costs: above, each draw is a front of its own
_RIVALS = 256  # front members that are tried to rule cells out


def chance_on_front(points: Points) -> Array:
    """Share of draws of all means, each within its error, in which each point is on the front; shape (cells,).

    Errors are normal; with an estimated noise, all of a draw are divided by one chi, which makes each Student's t.
    """
    probability = np.zeros(len(points))
    if not len(points):
        return probability
    hopeful = _hopeful(points)
    few = points.only(hopeful)
    draws = int(np.clip(_NUMBERS_DRAWN // len(few), _FEWEST_DRAWS, _MOST_DRAWS))
    at_once = int(np.clip(_NUMBERS_DRAWN // len(few), 1, draws))
    generator = np.random.default_rng(20210313)
    scale = np.ones(draws) if math.isinf(points.df) else np.sqrt(points.df / generator.chisquare(points.df, draws))
    for start in range(0, draws, at_once):
        part = scale[start : start + at_once, None]
        drawn = few.top1 + generator.standard_normal((len(part), len(few))) * few.se * part
        probability[hopeful] += _times_on_front(few.costs, drawn)
    return probability / draws


def _times_on_front(costs: Array, drawn: Array) -> Array:
    """In how many draws each point is on the front; `drawn` has the shape (draws, cells), by rising first cost."""
    if costs.shape[1] == 1:
        return np.asarray(sorted_front(costs[:, 0], drawn).sum(axis=0), dtype=float)
    if len(costs) > _MANY_CELLS:
        return np.asarray(np.sum([pareto_mask(costs, top1) for top1 in drawn], axis=0), dtype=float)
    return np.array([_times(costs, drawn, i) for i in range(len(costs))])


def _hopeful(points: Points) -> NDArray[np.int64]:
    """The points that need be drawn: none at no more cost is better by eight standard errors on either side.

    By rising first cost.
    """
    order = np.argsort(points.cost, kind="stable")
    low, high = (points.top1 - 8 * points.se)[order], (points.top1 + 8 * points.se)[order]
    if points.costs.shape[1] == 1:
        return order[high >= np.maximum.accumulate(low)]
    costs = points.costs[order]
    rivals = np.flatnonzero(pareto_mask(costs, low))
    hope = np.ones(len(order), dtype=bool)
    for rival in rivals[:: max(len(rivals) // _RIVALS, 1)]:
        hope &= ~((costs[rival] <= costs).all(axis=1) & (low[rival] > high))
    return order[hope]


def _times(costs: Array, drawn: Array, i: int) -> float:
    """In how many draws no point at no more cost is better than point i, or as good and cheaper."""
    rivals = (costs <= costs[i]).all(axis=1)
    same = (costs == costs[i]).all(axis=1)
    beaten = drawn[:, rivals].max(axis=1) > drawn[:, i]
    if (cheaper := rivals & ~same).any():
        beaten |= drawn[:, cheaper].max(axis=1) >= drawn[:, i]
    return float(np.count_nonzero(~beaten))


def groups_of(front: Points) -> NDArray[np.int64]:
    """The group of each member of a front: members that noise does not tell apart, numbered from 1 by rising top-1.

    By rising top-1, a member begins a group if its top-1 lies above that of the group's first member by more than
    one standard error of the difference, sqrt(se_1^2 + se_2^2). With one cost, a group's first member is its cheapest.
    """
    numbers = np.zeros(len(front), dtype=np.int64)
    first, number = -1, 0
    for i in np.lexsort((front.cost, front.top1)):
        if first < 0 or front.top1[i] - front.top1[first] > math.hypot(front.se[i], front.se[first]):
            first, number = int(i), number + 1
        numbers[i] = number
    return numbers


def tied_with(points: Points, members: Mask) -> NDArray[np.int64]:
    """For each point the member of the front that it is tied with, by place among all points; -1 for none.

    A cell off the front is compared with one member: the least accurate of those that cost no less, in all costs. It
    is tied with it if its top-1 is lower by at most one standard error of the difference.
    """
    others, front = np.flatnonzero(~members), np.flatnonzero(members)
    front = front[np.lexsort((points.cost[front], points.top1[front]))]
    nearest = _first_as_dear(points.costs[others], points.costs[front])
    others, nearest = others[nearest >= 0], front[nearest[nearest >= 0]]
    close = points.top1[nearest] - points.top1[others] <= np.hypot(points.se[nearest], points.se[others])
    tied = np.full(len(points), -1)
    tied[others[close]] = nearest[close]
    return tied


def _first_as_dear(costs: Array, members: Array) -> NDArray[np.int64]:
    """For each row of costs the first member that costs no less in anything; -1 for none."""
    if costs.shape[1] == 1:  # members are dearer the more accurate they are
        found = np.searchsorted(members[:, 0], costs[:, 0])
        return np.where(found < len(members), found, -1)
    first = np.full(len(costs), -1)
    left = np.arange(len(costs))
    for number, member in enumerate(members):
        below = (costs[left] <= member).all(axis=1)
        first[left[below]] = number
        left = left[~below]
        if not len(left):
            break
    return first

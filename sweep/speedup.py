"""How many times cheaper one family is than another at the same top-1: for each model, and over their whole range."""

import math
from typing import Any

import numpy as np
import pandas as pd

from sweep.front import Mask, pareto_mask
from sweep.naming import model_name
from sweep.noise import Array, quantile
from sweep.points import Points
from sweep.rules.variants import PLAIN, model_of_variant
from workers.families import TIMM

_STEP = 1e-4  # points of top-1, for derivatives


def speedups(points: Points, family: str) -> list[dict[str, Any]]:
    """Cost of each model of a family over the cost of the others' front at the same top-1.

    Along the front, log cost is linear in top-1 between neighbours; beyond its ends nothing is said. The
    interval takes the noise of the model and of both neighbours through the slope (delta method).
    """
    than, front = _sides(points, family)
    order = np.argsort(front.top1)
    steps = np.searchsorted(front.top1[order], than.top1)
    entries = []
    for i in np.argsort(than.cost):
        # A model as good as the least accurate member is its neighbour's equal, not below the front.
        step = max(int(steps[i]), 1) if len(order) > 1 and than.top1[i] >= front.top1[order[0]] else 0
        if 0 < step < len(order):
            entries.append(_speedup(than, int(i), front, int(order[step - 1]), int(order[step])))
    return entries


def overall_speedup(points: Points, family: str) -> dict[str, Any]:
    """The same as one figure: the geometric mean over the top-1 that both fronts reach.

        ln(times faster) = 1/(b - a) x integral from a to b of [ln cost(family) - ln cost(others)] d top-1

    a is the greater of the fronts' lowest, b the lesser of their highest top-1; log cost is linear in top-1 between
    neighbours. The interval takes the noise of all members of both fronts to first order, the ends of the range
    included; which cells are members is taken as known. Without a common range the figure is None, with the reason.
    """
    than, front = _sides(points, family)
    than = _front_of(than)
    entry = {"than": family, "times_faster": None, "ci": None, "from_top1": None, "to_top1": None, "reason": None}
    sides = [side.only(np.argsort(side.top1)) for side in (than, front)]
    if any(len(side) < 2 for side in sides):
        return entry | {"reason": "one of the two has fewer than two models on its front"}
    low, high = max(side.top1[0] for side in sides), min(side.top1[-1] for side in sides)
    if high <= low:
        return entry | {"reason": "no top-1 that both reach"}
    tops, logs = [side.top1 for side in sides], [np.log(side.cost) for side in sides]
    value = _mean_gap(tops, logs)
    variance = sum(float(np.sum((_slopes(tops, logs, which) * side.se) ** 2)) for which, side in enumerate(sides))
    half = quantile(0.975, points.df) * math.sqrt(variance)
    found = {"times_faster": math.exp(value), "ci": (math.exp(value - half), math.exp(value + half))}
    return entry | found | {"from_top1": float(low), "to_top1": float(high)}


def _mean_gap(tops: list[Array], logs: list[Array]) -> float:
    """Mean of the first curve less the second over the range of both; each is linear between its points."""
    low, high = max(top[0] for top in tops), min(top[-1] for top in tops)
    inner = np.concatenate(tops)
    knots = np.unique(np.concatenate([[low, high], inner[(inner > low) & (inner < high)]]))
    gap = np.interp(knots, tops[0], logs[0]) - np.interp(knots, tops[1], logs[1])
    return float(np.trapezoid(gap, knots) / (high - low))


def _slopes(tops: list[Array], logs: list[Array], which: int) -> Array:
    """Change of the mean gap with the top-1 of each point of one curve, the steps being too small to swap points."""
    slopes = np.zeros(len(tops[which]))
    step = min(_STEP, float(np.diff(tops[which]).min()) / 4)
    for i in range(len(slopes)):
        moved = [top.copy() for top in tops]
        moved[which][i] += step
        above = _mean_gap(moved, logs)
        moved[which][i] -= 2 * step
        slopes[i] = (above - _mean_gap(moved, logs)) / (2 * step)
    return slopes


def _sides(points: Points, family: str) -> tuple[Points, Points]:
    """The family's models, and the front of all others."""
    own = (points.rows["family"] == family).to_numpy(dtype=bool)
    return points.only(own), _front_of(points.only(~own))


def _front_of(points: Points) -> Points:
    """The front in the first cost, one point for each top-1."""
    front = points.only(pareto_mask(points.cost, points.top1))
    return front.only(_first_of_equals(front.top1))


def _first_of_equals(values: Array) -> Mask:
    mask = np.zeros(len(values), dtype=bool)
    mask[np.unique(values, return_index=True)[1]] = True
    return mask


def _speedup(than: Points, i: int, front: Points, left: int, right: int) -> dict[str, Any]:
    """One model against the segment of the front that runs from `left` to `right`."""
    row = than.rows.iloc[i]
    at = float(than.top1[i])
    slope = math.log(front.cost[right] / front.cost[left]) / float(front.top1[right] - front.top1[left])
    u = float((at - front.top1[left]) / (front.top1[right] - front.top1[left]))
    faster = math.log(than.cost[i] / front.cost[left]) - slope * (at - float(front.top1[left]))
    noise = math.hypot(than.se[i], (1 - u) * front.se[left], u * front.se[right])
    half = quantile(0.975, than.df) * slope * noise
    named = "model" in row and pd.notna(row["model"])
    model = row["model"] if named else _name(row)
    entry = {"than": model, "trial_id": row["trial_id"], "at_top1": at, "cost": float(than.cost[i])}
    return entry | {
        "times_faster": math.exp(faster),
        "ci": (math.exp(faster - half), math.exp(faster + half)),
    }


def _name(row: "pd.Series[Any]") -> str:
    """A model of ours with its resolution; one that nothing is known of is called by its trial."""
    shapeless = pd.isna(row["width"]) and pd.isna(row["depth"]) and row["variant"] == PLAIN
    if shapeless and not str(row["family"]).startswith(TIMM):
        return str(row["trial_id"])
    name = model_name(row["family"], row["width"], row["depth"], model_of_variant(row["variant"]))
    return name if pd.isna(row["resolution"]) else f"{name} {row['resolution']:g}px"

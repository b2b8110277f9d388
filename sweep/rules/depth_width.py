"""Depth or width? Two arms from one base cell, compared at equal cost.

    gain = 1/(R - L) x integral from L to R of [accuracy(depth arm) - accuracy(width arm)] d log2(cost)

L is the base's log2 cost, R the lesser of the arms' ends; each arm runs through the base and is interpolated
linearly in log2 cost. The gain is linear in cell means, so its standard error is exact, the base's noise
being common to both arms.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from scipy.special import chdtrc, fdtrc

from sweep.noise import Estimate
from sweep.rules.cells import Cell, Study, Weights

PAPER_BASE = (101, 1.0)  # depth and width that the study of arXiv 2103.07579 starts from
_SIDES = {1: "depth", -1: "width"}
Node = tuple[float, Weights]  # log2 cost, and the cells whose mean is the arm's accuracy there


def base_cell(study: Study, resolution: float, *, both: bool = True) -> Cell | None:
    """The paper's base if it has larger cells on both arms (`both=False`: any), else the smallest that has.

    Size is depth x width^2, to which multiply-adds are proportional: a noisy clock must not choose the base.
    """
    need = all if both else any
    able = [
        cell
        for cell in study.cells.values()
        if cell.resolution == resolution and need(study.arm(cell, axis) for axis in ("depth", "width"))
    ]
    order = sorted(able, key=lambda c: ((c.depth, c.width) != PAPER_BASE, c.depth * c.width**2, c.depth))
    return order[0] if order else None


def nodes_of(cells: list[Cell]) -> list[Node]:
    """Points of an arm by rising log2 cost; cells of equal cost are averaged."""
    groups: dict[float, list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.log_cost].append(cell)
    return [(x, {cell.key: 1 / len(group) for cell in group}) for x, group in sorted(groups.items())]


def weighted_sum(*terms: tuple[float, Weights]) -> Weights:
    """Sum of factor x weights; a cell that occurs twice has one weight, which is how common noise cancels."""
    total: Weights = defaultdict(float)
    for factor, weights in terms:
        for key, weight in weights.items():
            total[key] += factor * weight
    return dict(total)


def weights_at(nodes: list[Node], x: float) -> Weights:
    """Linear interpolation between the nodes, at an x within them."""
    for (a, left), (b, right) in pairwise(nodes):
        if a <= x <= b:
            u = (x - a) / (b - a)
            return weighted_sum((1 - u, left), (u, right))
    raise ValueError(f"{x} lies outside {nodes[0][0]} to {nodes[-1][0]}")


def integral_weights(nodes: list[Node], low: float, high: float) -> Weights:
    """Integral of the piecewise-linear curve from low to high: the integral of each node's hat function."""
    total: Weights = {}
    for (a, left), (b, right) in pairwise(nodes):
        lo, hi = max(a, low), min(b, high)
        if lo < hi:
            rising = ((hi - a) ** 2 - (lo - a) ** 2) / (2 * (b - a))
            total = weighted_sum((1.0, total), (hi - lo - rising, left), (rising, right))
    return total


def compare(study: Study, resolution: float, missing: Mapping[tuple[float, float], str]) -> dict[str, Any]:
    """The `depth_vs_width` entry of one resolution.

    Args:
        study: one family at one budget.
        resolution: the resolution at which both arms run.
        missing: status of each planned cell, by (depth, width), at this resolution that gave no evidence.
    """
    base = base_cell(study, resolution)
    entry = {**study.named, "resolution": resolution}
    if base is None:
        some = any(cell.resolution == resolution for cell in study.cells.values())
        why = "no cell with deeper and wider neighbours" if some else "no evidence at this resolution"
        return entry | undetermined(why) | {"base": None, "arms": None, "missing": _listed(missing)}
    arms = {axis: study.arm(base, axis) for axis in ("depth", "width")}
    described = {
        "base": base.json(),
        "arms": {axis: [cell.json() for cell in [base, *cells]] for axis, cells in arms.items()},
        "missing": _listed({k: s for k, s in missing.items() if k[0] == base.depth or k[1] == base.width}),
    }
    return entry | _verdict(study, base, arms) | described


def undetermined(reason: str) -> dict[str, Any]:
    """What an entry says when there is nothing to estimate."""
    empty: dict[str, Any] = {"gain_points": None, "ci": None, "se": None, "pairs": [], "flag": None}
    return {"verdict": "undetermined", "reason": reason, **empty}


def _listed(missing: Mapping[tuple[float, float], str]) -> list[dict[str, Any]]:
    return [{"depth": d, "width": w, "status": status} for (d, w), status in sorted(missing.items())]


def _verdict(study: Study, base: Cell, arms: dict[str, list[Cell]]) -> dict[str, Any]:
    nodes = {axis: nodes_of([base, *cells]) for axis, cells in arms.items()}
    low, high = base.log_cost, min(nodes["depth"][-1][0], nodes["width"][-1][0])
    # Costs that differ by less than a rounding error span no range to integrate over.
    if high - low < 1e-9:
        return undetermined("the arms share no range of cost above the base")
    gain = study.estimate(
        weighted_sum(
            (1 / (high - low), integral_weights(nodes["depth"], low, high)),
            (-1 / (high - low), integral_weights(nodes["width"], low, high)),
        )
    )
    single = [f"one cell on the {axis} arm" for axis, cells in arms.items() if len(cells) == 1]
    return {
        "verdict": _SIDES.get(gain.side(), "undetermined"),
        "reason": None if gain.side() else "interval includes 0",
        "gain_points": gain.value,
        "ci": gain.interval(),
        "se": gain.se,
        "df": gain.df,
        "pairs": _pairs(study, arms, nodes, low, high),
        "flag": "; ".join(single) or None,
    }


def _pairs(
    study: Study, arms: dict[str, list[Cell]], nodes: dict[str, list[Node]], low: float, high: float
) -> list[dict[str, Any]]:
    """Each cell in the shared range against the other arm at its cost; differences are depth minus width."""
    pairs = []
    for axis, other, sign in (("depth", "width", 1), ("width", "depth", -1)):
        for cell in arms[axis]:
            if low <= cell.log_cost <= high:
                opposite = weights_at(nodes[other], cell.log_cost)
                difference = study.estimate(weighted_sum((sign, {cell.key: 1.0}), (-sign, opposite)))
                pairs.append({"arm": axis, **cell.json(), **_pair(study.estimate(opposite), difference)})
    return pairs


def _pair(other: Estimate, difference: Estimate) -> dict[str, Any]:
    interval = difference.interval()
    return {"other_top1": other.value, "depth_minus_width": difference.value, "ci": interval}


def by_budget(entries: list[dict[str, Any]], study: Study) -> dict[str, Any]:
    """The verdict of a budget from the entries of its resolutions.

    The common verdict if all resolutions have it; else mixed if both sides occur or Cochran's Q rejects equal gains
    at 5 %; else undetermined. Q = sum of (gain - weighted mean)^2 / SE^2 is chi-squared with k - 1 degrees of
    freedom; Q / (k - 1) is F with (k - 1, df) when the noise itself was estimated from df.
    """
    verdicts = {entry["verdict"] for entry in entries}
    q, p = cochran([entry for entry in entries if entry["gain_points"] is not None])
    verdict = "undetermined"
    if verdicts in ({"depth"}, {"width"}):
        verdict = next(iter(verdicts))
    elif {"depth", "width"} <= verdicts or p < 0.05:
        verdict = "mixed"
    reason = _why(entries, verdict, p)
    return {**study.named, "verdict": verdict, "reason": reason, "q": q, "q_p": p}


def cochran(entries: list[dict[str, Any]]) -> tuple[float, float]:
    """Cochran's Q over the gains and the chance of a larger one if all were equal; NaN for fewer than two."""
    known = [(entry["gain_points"], entry["se"]) for entry in entries if entry["se"] > 0]
    if len(known) < 2:
        return math.nan, math.nan
    weights = [1 / se**2 for _, se in known]
    mean = sum(w * gain for w, (gain, _) in zip(weights, known, strict=True)) / sum(weights)
    q = sum(w * (gain - mean) ** 2 for w, (gain, _) in zip(weights, known, strict=True))
    k, df = len(known) - 1, entries[0]["df"]
    return q, float(chdtrc(k, q) if math.isinf(df) else fdtrc(k, df, q / k))


def _why(entries: list[dict[str, Any]], verdict: str, p: float) -> str | None:
    """How the resolutions divide, when they do not all say the same."""
    if verdict in ("depth", "width"):
        return None
    groups: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        name = entry["verdict"] if entry["gain_points"] is not None else "no evidence"
        groups[name].append(f"{entry['resolution']}")
    words = "; ".join(f"{name} at {', '.join(sizes)} px" for name, sizes in groups.items())
    return words + (f"; equal gains rejected, p = {p:.2g}" if verdict == "mixed" and p < 0.05 else "")

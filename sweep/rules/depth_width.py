"""Depth or width? Two arms from one base cell, compared at equal cost.

    gain = 1/(R - L) x integral from L to R of [accuracy(depth arm) - accuracy(width arm)] d log2(cost)

L is the base's log2 cost, R the lesser of the arms' ends; each arm runs through the base and is interpolated
linearly in log2 cost. The gain is linear in cell means, so its standard error is exact, the base's noise
being common to both arms.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from scipy.special import chdtrc, fdtrc

from sweep.noise import Estimate
from sweep.rules.cells import Cell, Study, Weights

PAPER_BASE = (101, 1.0)  # depth and width that the study of arXiv 2103.07579 starts from
EQUAL_GAINS_P = 0.05
SIDES = {1: "depth", -1: "width"}
Shape = tuple[float, float]  # depth and width
Node = tuple[float, Weights]  # log2 cost, and the cells whose mean is the arm's accuracy there


def base_shape(shapes: Collection[Shape], *, both: bool = True) -> Shape | None:
    """The paper's base if larger shapes are on both of its arms (`both=False`: on any), else the smallest that has.

    Size is depth x width^2, to which multiply-adds are proportional: a noisy clock must not choose the base.
    """
    deepest, widest = dict[float, float](), dict[float, float]()
    for depth, width in shapes:
        deepest[width] = max(depth, deepest.get(width, depth))
        widest[depth] = max(width, widest.get(depth, width))
    need = all if both else any
    able = [(depth, width) for depth, width in shapes if need((deepest[width] > depth, widest[depth] > width))]
    return min(able, key=lambda s: (s != PAPER_BASE, s[0] * s[1] ** 2, s[0]), default=None)


def base_cell(study: Study, resolution: float, *, both: bool = True) -> Cell | None:
    """The cell of the base shape among those of one resolution."""
    cells = {key[:2]: cell for key, cell in study.cells.items() if key[2] == resolution}
    shape = base_shape(cells, both=both)
    return None if shape is None else cells[shape]


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


@dataclass(frozen=True)
class Arms:
    """Both arms from one base, and the range of log2 cost that they share."""

    base: Cell
    cells: dict[str, list[Cell]]  # larger than the base, by axis
    nodes: dict[str, list[Node]]  # base included
    low: float
    high: float

    @property
    def share_a_range(self) -> bool:
        """Costs that differ by less than a rounding error span no range to integrate over."""
        return self.high - self.low >= 1e-9

    def gain(self) -> Weights:
        """Depth over width, as weights on cell means."""
        span = self.high - self.low
        depth, width = (integral_weights(self.nodes[axis], self.low, self.high) for axis in ("depth", "width"))
        return weighted_sum((1 / span, depth), (-1 / span, width))


def arms_at(study: Study, resolution: float) -> Arms | None:
    """The arms at one resolution; None without a base that has both."""
    base = base_cell(study, resolution)
    if base is None:
        return None
    cells = {axis: study.arm(base, axis) for axis in ("depth", "width")}
    nodes = {axis: nodes_of([base, *larger]) for axis, larger in cells.items()}
    return Arms(base, cells, nodes, base.log_cost, min(nodes["depth"][-1][0], nodes["width"][-1][0]))


def compare(study: Study, resolution: float, missing: Mapping[tuple[float, float], str]) -> dict[str, Any]:
    """The `depth_vs_width` entry of one resolution.

    Args:
        study: one family at one budget.
        resolution: the resolution at which both arms run.
        missing: status of each planned cell, by (depth, width), at this resolution that gave no evidence.
    """
    arms = arms_at(study, resolution)
    entry = {**study.named, "resolution": resolution}
    if arms is None:
        some = any(cell.resolution == resolution for cell in study.cells.values())
        why = "no cell with deeper and wider neighbours" if some else "no evidence at this resolution"
        return entry | undetermined(why) | {"base": None, "arms": None, "missing": _listed(missing)}
    base = arms.base
    described = {
        "base": base.json(),
        "arms": {axis: [cell.json() for cell in [base, *cells]] for axis, cells in arms.cells.items()},
        "missing": _listed({k: s for k, s in missing.items() if k[0] == base.depth or k[1] == base.width}),
    }
    return entry | _verdict(study, arms) | described


def undetermined(reason: str) -> dict[str, Any]:
    """What an entry says when there is nothing to estimate."""
    names = ("gain_points", "ci", "se", "cost_range")
    return {"verdict": "undetermined", "reason": reason, **dict.fromkeys(names), "pairs": [], "flag": None}


def _listed(missing: Mapping[tuple[float, float], str]) -> list[dict[str, Any]]:
    return [{"depth": d, "width": w, "status": status} for (d, w), status in sorted(missing.items())]


def _verdict(study: Study, arms: Arms) -> dict[str, Any]:
    if not arms.share_a_range:
        return undetermined("the arms share no range of cost above the base")
    gain = study.estimate(arms.gain())
    single = [f"one cell on the {axis} arm" for axis, cells in arms.cells.items() if len(cells) == 1]
    return {
        "verdict": SIDES.get(gain.side(), "undetermined"),
        "reason": None if gain.side() else "interval includes 0",
        "gain_points": gain.value,
        "ci": gain.interval(),
        "se": gain.se,
        "df": gain.df,
        "cost_range": (2.0**arms.low, 2.0**arms.high),
        "pairs": _pairs(study, arms),
        "flag": "; ".join(single) or None,
    }


def _pairs(study: Study, arms: Arms) -> list[dict[str, Any]]:
    """Each cell in the shared range against the other arm at its cost; differences are depth minus width."""
    pairs = []
    for axis, other, sign in (("depth", "width", 1), ("width", "depth", -1)):
        for cell in arms.cells[axis]:
            if arms.low <= cell.log_cost <= arms.high:
                opposite = weights_at(arms.nodes[other], cell.log_cost)
                difference = study.estimate(weighted_sum((sign, {cell.key: 1.0}), (-sign, opposite)))
                pairs.append({"arm": axis, **cell.json(), **_pair(study.estimate(opposite), difference)})
    return pairs


def _pair(other: Estimate, difference: Estimate) -> dict[str, Any]:
    interval = difference.interval()
    return {"other_top1": other.value, "depth_minus_width": difference.value, "ci": interval}


def by_budget(entries: list[dict[str, Any]], study: Study) -> dict[str, Any]:
    """The verdict of a budget from the entries of its resolutions.

    The common verdict if all resolutions have it; else mixed if both sides occur, or if Cochran's Q rejects equal gains
    at 5 % and there are some on both sides, by more than their standard errors; else undetermined.
    Q = sum of (gain - weighted mean)^2 / SE^2 is chi-squared with k - 1 degrees of freedom; Q / (k - 1) is F with
    (k - 1, df) when the noise itself was estimated from df.
    """
    verdicts = {entry["verdict"] for entry in entries}
    known = [entry for entry in entries if entry["gain_points"] is not None]
    q, p = cochran(known)
    # Gains of different size on one side are no mixture, however surely they differ.
    sides = [(entry["gain_points"] > entry["se"], entry["gain_points"] < -entry["se"]) for entry in known]
    opposed = bool(sides) and all(any(side) for side in zip(*sides, strict=True))
    verdict = "undetermined"
    if verdicts in ({"depth"}, {"width"}):
        verdict = next(iter(verdicts))
    elif {"depth", "width"} <= verdicts or (p < EQUAL_GAINS_P and opposed):
        verdict = "mixed"
    return {**study.named, "verdict": verdict, "reason": _why(entries, verdict, p), "q": q, "q_p": p}


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
    return words + (f"; equal gains rejected, p = {p:.2g}" if p < EQUAL_GAINS_P else "")

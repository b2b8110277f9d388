"""Is the next step in resolution worth its cost? Points per doubling of cost, against going deeper or wider.

For cells a (base) and b one step larger along an axis: slope = (top1_b - top1_a) / (log2 cost_b - log2
cost_a). The step in resolution is compared with the step in depth and the step in width from the same base;
the intervals of the (one or two) differences hold together at 95 % (Bonferroni), and the base's noise is
common to both slopes.
"""

from typing import Any

from sweep.noise import CONFIDENCE
from sweep.rules.cells import Cell, Study, Weights
from sweep.rules.depth_width import weighted_sum

# A step that costs less than 1 % more has no meaningful price per doubling.
_LEAST_DOUBLING = 0.0144


def steps(study: Study) -> list[dict[str, Any]]:
    """The `resolution_steps` entries of a study: one for each two neighbouring resolutions of one shape."""
    entries = []
    for base in sorted(study.cells.values(), key=lambda cell: cell.key):
        larger = study.arm(base, "resolution")
        if larger:
            entries.append(_step(study, base, larger[0]))
    return entries


def _slope(base: Cell, larger: Cell) -> Weights | None:
    """Points per doubling from base to larger, as weights on both means; None if the cost does not rise."""
    doublings = larger.log_cost - base.log_cost
    if doublings < _LEAST_DOUBLING:
        return None
    return {larger.key: 1 / doublings, base.key: -1 / doublings}


def _step(study: Study, base: Cell, larger: Cell) -> dict[str, Any]:
    slope = _slope(base, larger)
    entry: dict[str, Any] = {
        **study.named,
        "depth": base.depth,
        "width": base.width,
        "from": base.resolution,
        "to": larger.resolution,
        "points_per_doubling": None,
        "ci": None,
        "best_alternative": None,
        "alternatives": [],
        "verdict": "undetermined",
    }
    if slope is None:
        return entry | {"reason": "the step in resolution does not raise the cost"}
    own = study.estimate(slope)
    entry |= {"points_per_doubling": own.value, "ci": own.interval()}
    alternatives = _alternatives(study, base, slope)
    if not alternatives:
        return entry | {"reason": "no deeper or wider cell from this base"}
    best = max(alternatives, key=lambda a: float(a["points_per_doubling"]))
    verdict, reason = _judge(alternatives)
    named = {"best_alternative": best["axis"], "alternatives": alternatives}
    return entry | named | {"verdict": verdict, "reason": reason}


def _alternatives(study: Study, base: Cell, slope: Weights) -> list[dict[str, Any]]:
    """The next deeper and the next wider cell, each with resolution's slope minus its own."""
    found = []
    for axis in ("depth", "width"):
        arm = study.arm(base, axis)
        other = _slope(base, arm[0]) if arm else None
        if other is not None:
            found.append((axis, getattr(arm[0], axis), other))
    together = 1 - (1 - CONFIDENCE) / max(len(found), 1)
    entries = []
    for axis, to, other in found:
        difference = study.estimate(weighted_sum((1.0, slope), (-1.0, other)))
        slope_points = study.estimate(other).value
        numbers: dict[str, Any] = {"points_per_doubling": slope_points, "difference": difference.value}
        entries.append(
            {
                "axis": axis,
                "to": to,
                **numbers,
                "ci": difference.interval(together),
                "side": difference.side(together),
            }
        )
    return entries


def _judge(alternatives: list[dict[str, Any]]) -> tuple[str, str | None]:
    """Raise if resolution beats all alternatives; prefer the best of those that beat resolution."""
    if all(alternative["side"] > 0 for alternative in alternatives):
        return "raise", None
    better = [alternative for alternative in alternatives if alternative["side"] < 0]
    if better:
        return f"prefer {max(better, key=lambda a: float(a['points_per_doubling']))['axis']}", None
    unclear = [alternative["axis"] for alternative in alternatives if alternative["side"] == 0]
    return "undetermined", f"interval of the difference from {' and '.join(unclear)} includes 0"

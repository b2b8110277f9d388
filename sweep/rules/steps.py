"""Is the next step in resolution worth its cost? Points per doubling of cost, against going deeper or wider.

For cells a (base) and b one step larger along an axis: slope = (top1_b - top1_a) / (log2 cost_b - log2
cost_a). The step in resolution is compared with the step in depth and the step in width from the same base;
the intervals of the (one or two) differences hold together at 95 % (Bonferroni), and the base's noise is
common to both slopes.
"""

from dataclasses import dataclass
from typing import Any

from sweep.noise import CONFIDENCE
from sweep.rules.cells import Cell, Study, Weights
from sweep.rules.depth_width import weighted_sum

# A step that costs less than 1 % more has no meaningful price per doubling.
_LEAST_DOUBLING = 0.0144


@dataclass(frozen=True)
class Step:
    """One step in resolution and its alternatives, as weights on cell means: points per doubling of cost."""

    base: Cell
    larger: Cell
    slope: Weights | None  # None where the cost does not rise
    others: dict[str, tuple[Cell, Weights]]  # by axis: the next deeper and the next wider cell

    @property
    def confidence(self) -> float:
        """Of each difference, so that all of them hold together at 95 %."""
        return 1 - (1 - CONFIDENCE) / max(len(self.others), 1)

    def differences(self) -> dict[str, Weights]:
        """Resolution's slope minus that of each alternative."""
        assert self.slope is not None
        return {axis: weighted_sum((1.0, self.slope), (-1.0, other)) for axis, (_, other) in self.others.items()}


def steps_of(study: Study) -> list[Step]:
    """One step for each two neighbouring resolutions of one shape."""
    found = []
    for base in sorted(study.cells.values(), key=lambda cell: cell.key):
        larger = study.arm(base, "resolution")[:1]
        found += [Step(base, cell, _slope(base, cell), _others(study, base)) for cell in larger]
    return found


def _others(study: Study, base: Cell) -> dict[str, tuple[Cell, Weights]]:
    nearest = {axis: study.arm(base, axis)[:1] for axis in ("depth", "width")}
    slopes = {axis: (cell, _slope(base, cell)) for axis, cells in nearest.items() for cell in cells}
    return {axis: (cell, slope) for axis, (cell, slope) in slopes.items() if slope is not None}


def steps(study: Study) -> list[dict[str, Any]]:
    """The `resolution_steps` entries of a study."""
    return [_described(study, step) for step in steps_of(study)]


def _slope(base: Cell, larger: Cell) -> Weights | None:
    """Points per doubling from base to larger, as weights on both means; None if the cost does not rise."""
    doublings = larger.log_cost - base.log_cost
    if doublings < _LEAST_DOUBLING:
        return None
    return {larger.key: 1 / doublings, base.key: -1 / doublings}


def _described(study: Study, step: Step) -> dict[str, Any]:
    entry: dict[str, Any] = {
        **study.named,
        "depth": step.base.depth,
        "width": step.base.width,
        "from": step.base.resolution,
        "to": step.larger.resolution,
        "points_per_doubling": None,
        "ci": None,
        "best_alternative": None,
        "alternatives": [],
        "verdict": "undetermined",
    }
    if step.slope is None:
        return entry | {"reason": "the step in resolution does not raise the cost"}
    own = study.estimate(step.slope)
    entry |= {"points_per_doubling": own.value, "ci": own.interval()}
    if not step.others:
        return entry | {"reason": "no deeper or wider cell from this base"}
    alternatives = _alternatives(study, step)
    best = max(alternatives, key=lambda a: float(a["points_per_doubling"]))
    verdict, reason = judge(alternatives)
    named = {"best_alternative": best["axis"], "alternatives": alternatives}
    return entry | named | {"verdict": verdict, "reason": reason}


def _alternatives(study: Study, step: Step) -> list[dict[str, Any]]:
    """The next deeper and the next wider cell, each with resolution's slope minus its own."""
    entries = []
    for axis, weights in step.differences().items():
        cell, slope = step.others[axis]
        difference = study.estimate(weights)
        entries.append(
            {
                "axis": axis,
                "to": getattr(cell, axis),
                "points_per_doubling": study.estimate(slope).value,
                "difference": difference.value,
                "ci": difference.interval(step.confidence),
                "side": difference.side(step.confidence),
            }
        )
    return entries


def judge(alternatives: list[dict[str, Any]]) -> tuple[str, str | None]:
    """Raise if resolution beats all alternatives; prefer the best of those that beat resolution."""
    if all(alternative["side"] > 0 for alternative in alternatives):
        return "raise", None
    better = [alternative for alternative in alternatives if alternative["side"] < 0]
    if better:
        return f"prefer {max(better, key=lambda a: float(a['points_per_doubling']))['axis']}", None
    unclear = [alternative["axis"] for alternative in alternatives if alternative["side"] == 0]
    return "undetermined", f"interval of the difference from {' and '.join(unclear)} includes 0"

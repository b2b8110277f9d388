"""How fast should resolution rise with cost? The best path over the response surface, and its exponent.

    gamma = d ln(resolution) / d ln(cost) along the path of least error under a rising cost

against the compound rule (depth x 1.2, width x 1.1, resolution x 1.15 per step), which in multiply-adds gives
ln 1.15 / ln(1.2 x 1.1^2 x 1.15^2) = 0.214.
"""

import math
from typing import Any

import numpy as np

from sweep.noise import Array
from sweep.rules.cells import AXES, Study
from sweep.rules.surface import Surface, UnfitError, best_path, fit

COMPOUND_STEP = {"depth": 1.2, "width": 1.1, "resolution": 1.15}
COMPOUND_GAMMA = math.log(1.15) / math.log(1.2 * 1.1**2 * 1.15**2)
_DRAWS = 500
_LEVELS = 41
_SHOWN = 5  # every fifth level is a row of `path`


def exponent_and_path(study: Study, cost: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The `resolution_exponent` entry of a study and its `path` entries (none without a surface)."""
    entry: dict[str, Any] = {**study.named, "gamma": None, "ci": None}
    entry |= {
        "compound_rule_gamma": COMPOUND_GAMMA,
        "verdict": "undetermined",
        "residual": None,
        "on_edge": None,
    }
    try:
        surface = fit(study)
    except UnfitError as error:
        return entry | {"reason": str(error)}, []
    levels = np.linspace(*surface.levels, _LEVELS)
    path = best_path(surface, surface.beta[None], levels)[0]
    inside = (np.abs(path) < 1 - 1e-6).all(axis=1)
    entry |= {"residual": surface.residual, "on_edge": 1 - float(inside.mean())}
    entry |= {"compound_rule_gamma": compound_gamma(surface, cost)}
    return entry | _exponent(surface, path, levels, inside, entry), _path(study, surface, path, levels)


def compound_gamma(surface: Surface, cost: str) -> float:
    """The compound rule's exponent in the cost at hand: by the fitted cost, in MACs by arithmetic."""
    if cost == "macs_per_image":
        return COMPOUND_GAMMA
    per_log = surface.cost / surface.half  # d log2(cost) / d log2(axis)
    price = sum(p * math.log(COMPOUND_STEP[axis]) for axis, p in zip(AXES, per_log, strict=True))
    return math.log(COMPOUND_STEP["resolution"]) / float(price)


def _exponent(
    surface: Surface,
    path: Array,
    levels: Array,
    inside: np.ndarray[Any, np.dtype[np.bool_]],
    entry: dict[str, Any],
) -> dict[str, Any]:
    if inside.mean() < 0.5:
        return {"reason": f"most of the path lies on the grid's edge ({_edges(path)})"}
    # One window of cost for the estimate and every draw, so that all of them answer the same question.
    window = levels[inside]
    drawn = best_path(surface, surface.draws(_DRAWS), window)[..., 2]
    gamma = float(slopes(surface, path[None, inside, 2], window)[0])
    low, high = np.quantile(slopes(surface, drawn, window), [0.025, 0.975])
    rule = entry["compound_rule_gamma"]
    verdict = "slower" if high < rule else "faster" if low > rule else "undetermined"
    reason = f"interval includes the compound rule's {rule:.3f}" if verdict == "undetermined" else None
    return {"gamma": gamma, "ci": (float(low), float(high)), "verdict": verdict, "reason": reason}


def slopes(surface: Surface, z: Array, levels: Array) -> Array:
    """Least-squares slope of log2 resolution, given as z (m, k), against log2 cost (k)."""
    centred = levels - levels.mean()
    return np.asarray(surface.half[2] * (z @ centred) / (centred @ centred))


def _edges(path: Array) -> str:
    """Which axes are at a bound, on how much of the path."""
    at = (np.abs(path) >= 1 - 1e-6).mean(axis=0)
    return ", ".join(f"{axis} on {share:.0%}" for axis, share in zip(AXES, at, strict=True) if share > 0)


def _path(study: Study, surface: Surface, path: Array, levels: Array) -> list[dict[str, Any]]:
    entries = []
    for z, level in list(zip(path, levels, strict=True))[::_SHOWN]:
        top1, interval = surface.top1(z)
        shape = dict(zip(AXES, surface.axes(z).tolist(), strict=True))
        edges = [axis for axis, value in zip(AXES, z, strict=True) if abs(value) >= 1 - 1e-6]
        beyond = surface.leverage(z) > surface.reach * (1 + 1e-6)
        entries.append(
            {
                **study.named,
                "cost": 2.0 ** float(level),
                **shape,
                "top1": top1,
            }
            | {"ci": interval, "on_edge": edges, "extrapolated": beyond, "returns": surface.returns(z)}
        )
    return entries

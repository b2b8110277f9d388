"""How fast should resolution rise with cost? The best path over the response surface, and its exponent.

    gamma = d ln(resolution) / d ln(cost) along the path of least error under a rising cost

On the inside of the grid that path is a straight line: with H the second derivatives of ln(error) and c the price of
each axis in doublings of cost, it runs along H^-1 c, so that gamma is a ratio of two polynomials in H. Its interval is
Fieller's, which holds where the ratio's own distribution has no normal shape, and may be unbounded.

The compound rule (depth x 1.2, width x 1.1, resolution x 1.15 per step) gives, in multiply-adds,
ln 1.15 / ln(1.2 x 1.1^2 x 1.15^2) = 0.214.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweep.noise import CONFIDENCE, Array, quantile
from sweep.rules.cells import AXES, Study
from sweep.rules.surface import Design, Surface, UnfitError, best_path, fit, hessian

COMPOUND_STEP = {"depth": 1.2, "width": 1.1, "resolution": 1.15}
COMPOUND_GAMMA = math.log(1.15) / math.log(1.2 * 1.1**2 * 1.15**2)
_LEVELS = 41
_SHOWN = 5  # every fifth level is a row of `path`
_UNFIT = 0.01  # a surface is said not to fit below this chance of its residual


@dataclass(frozen=True)
class Ratio:
    """A ratio of two noisy numbers with their covariance: (2,) and (2, 2)."""

    terms: Array
    covariance: Array
    df: float

    def interval(self) -> tuple[float, float] | None:
        """Fieller's 95 % interval: the g for which terms[0] - g x terms[1] is not told from 0; None if unbounded."""
        t2 = quantile((1 + CONFIDENCE) / 2, self.df) ** 2
        (nn, nd), (_, dd) = np.outer(self.terms, self.terms) - t2 * self.covariance
        if dd <= 0:
            return None
        root = math.sqrt(max(nd**2 - dd * nn, 0.0))
        return float(nd - root) / float(dd), float(nd + root) / float(dd)


def exponent_and_path(study: Study, cost: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The `resolution_exponent` entry of a study and its `path` entries (none without a surface)."""
    entry: dict[str, Any] = {**study.named, "gamma": None, "ci": None}
    entry |= {
        "compound_rule_gamma": COMPOUND_GAMMA,
        "verdict": "undetermined",
        "residual": None,
        "lack_of_fit_p": None,
        "on_edge": None,
        "flag": None,
    }
    try:
        surface = fit(study)
    except UnfitError as error:
        return entry | {"reason": str(error)}, []
    path, levels = path_of(surface)
    entry |= {"residual": surface.residual, "lack_of_fit_p": surface.lack_of_fit_p}
    entry |= {"compound_rule_gamma": compound_gamma(surface.design, cost)}
    return entry | exponent(surface, path, entry["compound_rule_gamma"]), _path(study, surface, path, levels)


def path_of(surface: Surface) -> tuple[Array, Array]:
    """The best path (41, 3) in z, and its levels of log2 cost (41,)."""
    levels = np.linspace(*surface.design.levels, _LEVELS)
    return best_path(surface.design, surface.beta[None], levels)[0], levels


def compound_gamma(design: Design, cost: str) -> float:
    """The compound rule's exponent in the cost at hand: by the fitted cost, in MACs by arithmetic."""
    if cost == "macs_per_image":
        return COMPOUND_GAMMA
    per_log = design.cost / design.half  # d log2(cost) / d log2(axis)
    price = sum(p * math.log(COMPOUND_STEP[axis]) for axis, p in zip(AXES, per_log, strict=True))
    return math.log(COMPOUND_STEP["resolution"]) / float(price)


def exponent(surface: Surface, path: Array, rule: float) -> dict[str, Any]:
    """Exponent, interval and verdict of a surface with its best path, against the compound rule's exponent."""
    inside = (np.abs(path) < 1 - 1e-6).all(axis=1)
    found: dict[str, Any] = {"on_edge": 1 - float(inside.mean())}
    if inside.mean() < 0.5:
        return found | {"reason": f"most of the path lies on the grid's edge ({_edges(path)})"}
    ratio = gamma_ratio(surface)
    interval = ratio.interval()
    found |= {"gamma": float(ratio.terms[0] / ratio.terms[1]), "ci": interval}
    if surface.lack_of_fit_p < _UNFIT:
        found["flag"] = (
            f"a quadratic does not fit (p = {surface.lack_of_fit_p:.2g}): the interval is that of noise only"
        )
    if interval is None:
        return found | {"reason": "the noise leaves the surface's curvature open: the interval has no bounds"}
    low, high = interval
    verdict = "slower" if high < rule else "faster" if low > rule else "undetermined"
    reason = f"interval includes the compound rule's {rule:.3f}" if verdict == "undetermined" else None
    return found | {"verdict": verdict, "reason": reason}


def gamma_ratio(surface: Surface) -> Ratio:
    """The exponent as a ratio of polynomials in the second derivatives; their covariance by the delta method."""
    step = 1e-3
    # Second derivatives only, from place 4 on; central differences of a polynomial of second degree are exact.
    shifts = np.zeros((6, 10))
    shifts[np.arange(6), np.arange(4, 10)] = step
    slopes = (_terms(surface.design, surface.beta + shifts) - _terms(surface.design, surface.beta - shifts)) / (
        2 * step
    )
    covariance = slopes.T @ surface.covariance[4:, 4:] @ slopes
    return Ratio(_terms(surface.design, surface.beta[None])[0], covariance, surface.df)


def _terms(design: Design, betas: Array) -> Array:
    """(m, 2): d log2(resolution) and d log2(cost) along adj(H) c, for m betas (m, 10)."""
    second = hessian(betas)
    a, b, c = second[:, 0], second[:, 1], second[:, 2]
    # The columns of the adjugate of a symmetric matrix.
    columns = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=-1)
    along = columns @ design.cost
    return np.stack([design.half[2] * along[:, 2], along @ design.cost], axis=-1)


def _edges(path: Array) -> str:
    """Which axes are at a bound, on how much of the path."""
    at = (np.abs(path) >= 1 - 1e-6).mean(axis=0)
    return ", ".join(f"{axis} on {share:.0%}" for axis, share in zip(AXES, at, strict=True) if share > 0)


def _path(study: Study, surface: Surface, path: Array, levels: Array) -> list[dict[str, Any]]:
    entries = []
    for z, level in list(zip(path, levels, strict=True))[::_SHOWN]:
        top1, interval = surface.top1(z)
        shape = dict(zip(AXES, surface.design.axes(z).tolist(), strict=True))
        edges = [axis for axis, value in zip(AXES, z, strict=True) if abs(value) >= 1 - 1e-6]
        entries.append(
            {
                **study.named,
                "cost": 2.0 ** float(level),
                **shape,
                "top1": top1,
                "ci": interval,
                "on_edge": edges,
                "extrapolated": surface.design.extrapolates(z),
                "returns": surface.returns(z),
            }
        )
    return entries

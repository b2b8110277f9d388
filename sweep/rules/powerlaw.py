"""Does the error fall as a power of the multiply-adds, and up to where? A straight line in log-log, or two that meet.

    ln(error) = a - b ln(macs)                                   one line
    ln(error) = a - b ln(macs) + c max(ln(macs) - psi, 0)        two lines that meet at psi

Cells scatter about the law by their shape more than by their noise, so the residual is the measure of every interval
here. A break is shown where the best of all psi takes more from the residual than it does in 5 % of draws without a
break (sup-F, with the draws made for the same cells). The interval of psi is the set of all that fit nearly as well
as the best; how nearly, draws from the fitted lines say (the F distribution is too narrow where the bend is slight).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import fdtrc, fdtri

from sweep.noise import CONFIDENCE, Array, quantile

LEAST_CELLS = 8
_LEAST_ON_A_SIDE = 3
_PLACES = 81  # of the break that are tried
_DRAWS = 499


@dataclass(frozen=True)
class Line:
    """Least squares on columns (k, m): coefficients, their standard errors and what is left over."""

    coefficients: Array
    se: Array
    squares: float
    df: int

    @property
    def residual(self) -> float:
        """Standard deviation about the line, of ln(error)."""
        return math.sqrt(self.squares / self.df)

    def interval(self, place: int) -> tuple[float, float]:
        """95 % interval of one coefficient."""
        half = quantile((1 + CONFIDENCE) / 2, self.df) * float(self.se[place])
        return float(self.coefficients[place]) - half, float(self.coefficients[place]) + half


def least_squares(columns: Array, values: Array) -> Line:
    """Fit values (k,) by columns (k, m)."""
    inverse = np.linalg.inv(columns.T @ columns)
    found = inverse @ columns.T @ values
    squares = float(np.sum((values - columns @ found) ** 2))
    df = len(values) - columns.shape[1]
    return Line(found, np.sqrt(np.diag(inverse) * squares / df), squares, df)


def power_law(macs: Array, errors: Array) -> dict[str, Any]:
    """The `power_law` object of cells with these multiply-adds (k,) and errors (k,) in points."""
    levels = np.unique(np.log(macs))
    if len(macs) < LEAST_CELLS or len(levels) < 2 * _LEAST_ON_A_SIDE:
        return _nothing(f"{len(macs)} cells of {len(levels)} sizes; a break needs at least {LEAST_CELLS} of 6")
    x, y = np.log(macs), np.log(errors)
    line = least_squares(np.column_stack([np.ones_like(x), x]), y)
    found: dict[str, Any] = {"cells": len(x), "exponent": -float(line.coefficients[1])}
    found |= {"ci": _negated(line.interval(1)), "residual": line.residual, "break": None}
    test = BreakTest(x)
    p = test.p_value(y)
    found |= {"break_p": p, "reason": None}
    if p >= 1 - CONFIDENCE:
        return found | _scatter(x, y, float(np.median(x))) | {"verdict": "no break shown"}
    psi, interval = test.place(y)
    both = least_squares(_two_lines(x, psi), y)
    found["break"] = {"macs": math.exp(psi), "ci": [None if end is None else math.exp(end) for end in interval]}
    above = float(both.coefficients[1] + both.coefficients[2])
    found["break"] |= {"exponent_below": -float(both.coefficients[1]), "exponent_above": -above}
    found["break"] |= {"residual": both.residual, "exponent_below_ci": _negated(both.interval(1))}
    return found | _scatter(x, y, psi) | {"verdict": "breaks"}


def _nothing(reason: str) -> dict[str, Any]:
    names = ("cells", "exponent", "ci", "residual", "break", "break_p", "residual_below", "residual_above", "scatter_p")
    return {**dict.fromkeys(names), "verdict": "undetermined", "reason": reason}


def _negated(interval: tuple[float, float]) -> tuple[float, float]:
    return -interval[1], -interval[0]


def _two_lines(x: Array, psi: float) -> Array:
    return np.column_stack([np.ones_like(x), x, np.maximum(x - psi, 0.0)])


def _scatter(x: Array, y: Array, place: float) -> dict[str, Any]:
    """Residuals of a line of its own on each side of a place, and the chance of so unequal ones."""
    sides = [_own_line(x[side], y[side]) for side in (x <= place, x > place)]
    below, above = sides
    if below is None or above is None or not min(below.squares, above.squares):
        return {"residual_below": None, "residual_above": None, "scatter_p": None}
    ratio = (above.residual / below.residual) ** 2
    one_sided = float(fdtrc(above.df, below.df, ratio))
    p = 2 * min(one_sided, 1 - one_sided)
    return {"residual_below": below.residual, "residual_above": above.residual, "scatter_p": p}


def _own_line(x: Array, y: Array) -> Line | None:
    if len(np.unique(x)) < _LEAST_ON_A_SIDE or len(x) < _LEAST_ON_A_SIDE + 1:
        return None
    return least_squares(np.column_stack([np.ones_like(x), x]), y)


class BreakTest:
    """Where two lines over the same x (k,) may meet, and what each place takes from the residual of one line."""

    def __init__(self, x: Array, within: tuple[float, float] | None = None) -> None:
        self._x, self._k = x, len(x)
        levels = np.unique(x)
        low, high = within or (levels[_LEAST_ON_A_SIDE - 1], levels[-_LEAST_ON_A_SIDE])
        self.places = np.linspace(low, high, _PLACES) if high > low else np.array([low])
        line = np.column_stack([np.ones_like(x), x])
        self._basis = np.linalg.qr(line)[0]  # (k, 2)
        hinges = np.maximum(x[:, None] - self.places, 0.0)
        hinges -= self._basis @ (self._basis.T @ hinges)
        self._hinges = hinges / np.linalg.norm(hinges, axis=0)  # (k, places)

    def _left_over(self, y: Array) -> tuple[Array, Array]:
        """For draws (m, k): squares about one line (m,), and what each place takes from them (m, places)."""
        rest = y - (y @ self._basis) @ self._basis.T
        return (rest**2).sum(axis=1), (rest @ self._hinges) ** 2

    @cached_property
    def _without_break(self) -> Array:
        """Largest share that any place takes, in draws of the noise alone, ascending."""
        squares, taken = self._left_over(self._noise)
        return np.sort(_largest_share(squares, taken))

    @cached_property
    def _noise(self) -> Array:
        """Always the same draws (499, k)."""
        return np.random.default_rng(20210313).standard_normal((_DRAWS, self._k))

    def p_value(self, y: Array) -> float:
        """Chance of a place that takes as large a share, or a larger one, where there is no break."""
        seen = _largest_share(*self._left_over(y[None]))[0]
        larger = _DRAWS - int(np.searchsorted(self._without_break, seen, side="left"))
        return (1 + larger) / (_DRAWS + 1)

    def place(self, y: Array) -> tuple[float, tuple[float | None, float | None]]:
        """The best place and its 95 % interval; an end that the cells do not bound is None."""
        first, last = self._ends(y)[1:]
        end = len(self.places) - 1
        # The same again on a finer scale: an interval may be as short as a step of the coarse one.
        window = float(self.places[max(first - 1, 0)]), float(self.places[min(last + 1, end)])
        finer = BreakTest(self._x, window)
        best, low, high = (float(finer.places[i]) for i in finer._ends(y))
        return best, (None if first == 0 else low, None if last == end else high)

    def _ends(self, y: Array) -> tuple[int, int, int]:
        """Which place is the best, and which are the first and the last that are nearly as good."""
        squares, taken = self._left_over(y[None])
        left = squares[0] - taken[0]
        best = int(left.argmin())
        inside = np.flatnonzero(left <= left[best] * (1 + self._slack(y, best, float(left[best]))))
        return best, int(inside[0]), int(inside[-1])

    def _slack(self, y: Array, place: int, squares: float) -> float:
        """By how much more than the best place the true one leaves over, relatively, in 95 % of draws from the fit."""
        df = self._k - 4
        hinge = self._hinges[:, place]
        drawn, taken = self._left_over((y @ hinge) * hinge + math.sqrt(squares / df) * self._noise)
        left = drawn[:, None] - taken
        lost = left[:, place] / left.min(axis=1) - 1
        return max(float(np.quantile(lost, CONFIDENCE)), float(fdtri(1, df, CONFIDENCE)) / df)


def _largest_share(squares: Array, taken: Array) -> Array:
    return np.asarray(taken.max(axis=1) / np.maximum(squares, 1e-300))

"""Rank correlation: Kendall's tau-b, what noise leaves unknown of it, and how it varies from model to model.

    tau-b = (concordant pairs - discordant pairs) / sqrt(pairs untied in a x pairs untied in b)

The order of two cells that differ by less than their noise cannot be known, and no interval that is both narrow and
true can be had for a sum of such signs: `kendall_bounds` counts these pairs once all for and once all against.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sweep.noise import CONFIDENCE, Array, quantile

_WRONG_PAIRS = 0.75  # the chance that one close pair of k cells is called known wrongly is at most this over k
_WRONG_PAIR = 0.05  # and never more than this
_MOST_SIGNS = 4_000_000  # held at a time


@dataclass(frozen=True)
class Ranked:
    """Values to rank, each with its standard error; 0 where a value is exact. Shapes (k,)."""

    values: Array
    se: Array
    df: float = math.inf

    @staticmethod
    def exact(values: Array) -> "Ranked":
        """Values without noise, such as costs."""
        return Ranked(values, np.zeros(len(values)))


@dataclass(frozen=True)
class Agreement:
    """Sums over the other cells of each cell, shape (k,): every pair is counted at both of its cells."""

    product: Array  # concordant - discordant pairs
    untied_a: Array
    untied_b: Array
    open_a: Array  # pairs that differ, or may differ since their values are noisy
    open_b: Array
    known: Array  # concordant - discordant, of the pairs whose order is known in both
    unknown: Array  # pairs open in both, in an order that is not known

    def tau(self) -> float:
        """Kendall's tau-b; NaN where one side is constant."""
        return _ratio(self.product.sum(), self.untied_a.sum(), self.untied_b.sum())

    def pairs(self) -> int:
        """Pairs that are not exactly tied in a."""
        return int(self.untied_a.sum()) // 2


def _ratio(product: float, untied_a: float, untied_b: float) -> float:
    untied = float(untied_a) * float(untied_b)
    return float(product) / math.sqrt(untied) if untied > 0 else math.nan


def agreement(a: Ranked, b: Ranked, groups: NDArray[np.int64] | None = None) -> Agreement:
    """Compare every two cells; with `groups` (k,), only those of the same group."""
    parts = [_rows(a, b, groups, rows) for rows in _blocks(len(a.values))]
    return Agreement(*(np.concatenate(column).astype(float) for column in zip(*parts, strict=True)))


def _blocks(k: int) -> Iterator[slice]:
    size = max(1, _MOST_SIGNS // max(k, 1))
    yield from (slice(start, start + size) for start in range(0, k, size))


def _rows(a: Ranked, b: Ranked, groups: NDArray[np.int64] | None, rows: slice) -> tuple[Array, ...]:
    """The columns of `Agreement` for some cells."""
    (x, open_x, far_x), (y, open_y, far_y) = _signs(a, rows), _signs(b, rows)
    together = True if groups is None else groups[rows, None] == groups
    known, both = far_x & far_y & together, open_x & open_y & together
    product = x * y * together
    columns = (
        product,
        (x != 0) & together,
        (y != 0) & together,
        open_x & together,
        open_y & together,
        product * known,
        both & ~known,
    )
    return tuple(column.sum(axis=1, dtype=float) for column in columns)


def _signs(side: Ranked, rows: slice) -> tuple[NDArray[np.int8], NDArray[np.bool_], NDArray[np.bool_]]:
    """Sign of each difference, whether there may be one (noisy values are never tied), and whether it is sure."""
    difference = side.values[rows, None] - side.values
    sign = (difference > 0).view(np.int8) - (difference < 0).view(np.int8)
    if not side.se.any():
        return sign, sign != 0, sign != 0
    reach = quantile(1 - min(_WRONG_PAIR, _WRONG_PAIRS / len(side.values)) / 2, side.df) * np.hypot(
        side.se[rows, None], side.se
    )
    noisy = reach > 0
    np.fill_diagonal(noisy[:, rows], False)
    return sign, (sign != 0) | noisy, np.abs(difference) > reach


def kendall_tau_b(a: Array, b: Array) -> float:
    """(concordant - discordant) / sqrt(pairs untied in a x pairs untied in b); NaN where one is constant."""
    return agreement(Ranked.exact(a), Ranked.exact(b)).tau()


def kendall_bounds(pairs: Agreement) -> tuple[float, float]:
    """Least and greatest tau of the noise-free values: every pair of unknown order counted against, then for it.

    It holds the truth at least as often as all pairs that are called known are known rightly, so in 95 % of tables and
    mostly in nearly all: it is as wide as near ties make it.
    """
    known, unknown = float(pairs.known.sum()), float(pairs.unknown.sum())
    low, high = (_ratio(known + side * unknown, pairs.open_a.sum(), pairs.open_b.sum()) for side in (-1, 1))
    return max(-1.0, low), min(1.0, high)


def kendall_interval(pairs: Agreement) -> tuple[float, float]:
    """95 % interval of tau over models like these: jackknife over cells, on Fisher's z scale with Student's t.

    Where all cells are ordered alike, the jackknife sees no spread; then it is how much disorder k / 2 separate pairs
    could have missed. Fewer than 4 cells give none.
    """
    tau, k = pairs.tau(), len(pairs.product)
    if math.isnan(tau) or k < 4:
        return math.nan, math.nan
    if abs(tau) > 1 - 1e-9:
        missed = 1 - 2 * ((1 - CONFIDENCE) / 2) ** (2 / k)
        return (-missed, 1.0) if tau > 0 else (-1.0, missed)
    without = (
        pairs.product.sum() - 2 * pairs.product,
        pairs.untied_a.sum() - 2 * pairs.untied_a,
        pairs.untied_b.sum() - 2 * pairs.untied_b,
    )
    left = np.array([_ratio(*sums) for sums in zip(*without, strict=True)])
    inside = 1 - tau**2
    variance = (k - 1) / k * float(np.sum((left - left.mean()) ** 2))
    # Tau is a U-statistic: the jackknife counts once too often what varies from pair to pair and not from cell to cell,
    # which matters where tau is near 1.
    single = 2 / (k * (k - 1))
    variance -= single * max(inside - k * variance / 2, 0.0)
    half = quantile((1 + CONFIDENCE) / 2, k - 1) * math.sqrt(max(variance, single * inside)) / inside
    middle = math.atanh(tau)
    return math.tanh(middle - half), math.tanh(middle + half)

"""Response surfaces whose rules are known, on a grid that lacks its large corner: what `calibration.py` draws from.

ln(error) is a function of d = log2(depth / 101), w = log2(width) and r = log2(resolution / 224); the cost is
depth x width^2 x resolution^2, so that one step of w or r costs as much as two of d. The arms' cells lie at equal
costs, so that a tie is an exact one.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sweep.noise import Array
from sweep.rules.cells import Cell, Key, Study

DEPTHS, WIDTHS, SIZES = (51, 101, 202, 404), (0.5, 1.0, 2**0.5, 2.0), (128, 160, 224, 320)
BUDGETS = (10, 350)
NOISE = {10: 0.5, 350: 0.3}  # standard deviation of one run, points
LIMIT = 8.0  # dearer cells, in units of depth 101, width 1.0 at 224 px, run out of memory

LogError = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Known:
    """A surface by budget, and what is true of it."""

    name: str
    log_error: dict[int, LogError]
    about: str
    power: float = 0.0  # noise is proportional to error^power, with NOISE at the geometric mean

    def sd(self, budget: int, top1: Array) -> Array:
        """Standard deviation of one run of cells with this noise-free top-1, (k,)."""
        errors = 100 - top1
        return NOISE[budget] * (errors / np.exp(np.mean(np.log(errors)))) ** self.power


def _bowl(depth: float, width: float, resolution: float, level: float) -> LogError:
    """Returns of a doubling along each axis at the base, diminishing; a tie where width = 2 x depth."""

    def log_error(d: Array, w: Array, r: Array) -> Array:
        curved = 0.02 * d**2 + 0.08 * w**2 + 0.10 * r**2
        return level - depth * d - width * w - resolution * r + curved

    return log_error


def _saturating(level: float) -> LogError:
    """Nothing is gained above 224 px."""

    def log_error(d: Array, w: Array, r: Array) -> Array:
        return _bowl(0.12, 0.20, 0.0, level)(d, w, 0 * r) - 0.35 * np.minimum(r, 0.0)

    return log_error


KNOWN = (
    Known("depth wins", {10: _bowl(0.14, 0.22, 0.30, 3.4), 350: _bowl(0.16, 0.24, 0.30, 2.8)}, "at both budgets"),
    Known("width wins", {10: _bowl(0.08, 0.24, 0.30, 3.4), 350: _bowl(0.10, 0.26, 0.30, 2.8)}, "at both budgets"),
    Known("tie", {10: _bowl(0.12, 0.24, 0.30, 3.4), 350: _bowl(0.12, 0.24, 0.30, 2.8)}, "equal at equal cost"),
    Known("crossing", {10: _bowl(0.08, 0.24, 0.30, 3.4), 350: _bowl(0.16, 0.24, 0.30, 2.8)}, "width, then depth"),
    Known("saturating", {10: _saturating(3.4), 350: _saturating(2.8)}, "resolution pays up to 224 px"),
    Known("tie, s ~ e", dict.fromkeys(BUDGETS, _bowl(0.12, 0.24, 0.30, 2.8)), "a tie; noise as the error", 1.0),
    Known("tie, s ~ 1/e", dict.fromkeys(BUDGETS, _bowl(0.12, 0.24, 0.30, 2.8)), "a tie; noise as 1 / error", -1.0),
)


def cells_of_grid(arms_only: bool = False) -> list[Key]:
    """Depth, width and resolution of the cells that there are; with `arms_only`, of those that leave one base."""
    cells = itertools.product(DEPTHS, WIDTHS, SIZES)
    there = [key for key in cells if cost_of(key) <= LIMIT * (1 + 1e-9)]
    return [key for key in there if not arms_only or key[0] == 101 or key[1] == 1.0]


def cost_of(key: Key) -> float:
    """Cost in units of the base's."""
    depth, width, resolution = key
    return depth / 101 * width**2 * (resolution / 224) ** 2


def top1_of(log_error: LogError, keys: list[Key]) -> Array:
    """Noise-free top-1 of each cell, percent, (k,)."""
    axes = np.array(keys)
    d, w, r = np.log2(axes[:, 0] / 101), np.log2(axes[:, 1]), np.log2(axes[:, 2] / 224)
    return 100 - np.exp(log_error(d, w, r))


def study_of(keys: list[Key], top1: Array, budget: int, seeds: int) -> Study:
    """Cells with these means as the rules know them."""
    values = zip(keys, top1.tolist(), strict=True)
    cells = {key: Cell(*key, cost_of(key), mean, seeds, NOISE[budget], math.nan, {}) for key, mean in values}
    return Study("known", budget, cells, len(keys) * (seeds - 1.0))

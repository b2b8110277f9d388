"""Do short runs choose what long runs would? Rank correlation, regret, and verdicts that flip."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.noise import Array, quantile
from sweep.rules.cells import Cell, Study
from sweep.rules.ranks import Ranked, agreement, kendall_bounds

_LIMITS = 8  # cost limits, evenly spaced in log cost
_WRONG_CHOICE = 0.1  # chance that a cell as good as the best is taken for worse, at most; among many cells less
_DETERMINED = {"depth", "width"}


def transfer(short: Study, long: Study, verdicts: dict[int | None, dict[float, str]]) -> dict[str, Any]:
    """The `transfer` entry of a short and a long budget of one family and variant.

    Args:
        short: the study at the shorter budget.
        long: the study at the longer budget.
        verdicts: depth-or-width verdicts by budget and resolution.
    """
    keys = sorted(short.cells.keys() & long.cells.keys())
    kind = {name: value for name, value in short.named.items() if name != "budget"}
    entry = {**kind, "from": short.budget, "to": long.budget, "cells": len(keys)}
    flips = _flips(verdicts.get(short.budget, {}), verdicts.get(long.budget, {}))
    if len(keys) < 2:
        nothing = dict.fromkeys(("kendall_tau", "ci", "pairs_unknown", "regret_points", "regret_ci", "seeds"))
        return entry | nothing | {"flips": flips, "reason": f"{len(keys)} cells in common"}
    a, b = [short.cells[key] for key in keys], [long.cells[key] for key in keys]
    ranked = ranks_of(a, short.df), ranks_of(b, long.df)
    costs = np.array([cell.cost for cell in b])
    regret, seeds = regret_points(a, b)
    numbers = {"regret_points": regret, "regret_ci": regret_bounds(*ranked, costs), "seeds": seeds}
    return entry | rank_correlation(*ranked) | numbers | {"flips": flips, "reason": None}


def ranks_of(cells: list[Cell], df: float) -> Ranked:
    """Means and standard errors of cells, in their order."""
    return Ranked(np.array([cell.top1 for cell in cells]), np.array([cell.se for cell in cells]), df)


def rank_correlation(a: Ranked, b: Ranked) -> dict[str, Any]:
    """Kendall's tau-b of the means, the interval of that of the noise-free means, and the share of unknown pairs."""
    pairs = agreement(a, b)
    unknown = float(pairs.unknown.sum()) / max(float(pairs.open_a.sum()), 1.0)
    return {"kendall_tau": pairs.tau(), "ci": kendall_bounds(pairs), "pairs_unknown": unknown}


def _flips(before: dict[float, str], after: dict[float, str]) -> list[dict[str, Any]]:
    """Resolutions whose verdict goes from one determined side to the other."""
    common = sorted(before.keys() & after.keys())
    return [
        {"resolution": size, "from": before[size], "to": after[size]}
        for size in common
        if {before[size], after[size]} == _DETERMINED
    ]


def cost_limits(costs: Array) -> Array:
    """The limits of cost that regret is averaged over, (8,)."""
    limits = np.geomspace(costs.min(), costs.max(), _LIMITS)
    limits[-1] = costs.max()
    return limits


def true_regret(short: Array, long: Array, costs: Array) -> float:
    """Mean over the limits of: best affordable accuracy at the long budget, less that of the short budget's choice.

    Args:
        short: accuracies (k,) at the short budget, taken for exact.
        long: the same at the long budget.
        costs: of the k cells.
    """
    return float(np.mean([_regret(short, long, long, costs <= limit) for limit in cost_limits(costs)]))


def regret_bounds(short: Ranked, long: Ranked, costs: Array) -> tuple[float, float]:
    """Least and greatest regret of the noise-free means that the noise leaves possible.

    Of each limit, the short budget may have chosen any cell that it cannot tell from its best; each of these falls
    short of the long budget's best by their difference, less or more its noise.
    """
    bounds = [_bounds(short, long, costs <= limit) for limit in cost_limits(costs)]
    low, high = np.mean(bounds, axis=0)
    return float(low), float(high)


def _bounds(short: Ranked, long: Ranked, allowed: NDArray[np.bool_]) -> tuple[float, float]:
    chosen = _behind_best(short, allowed)
    possible = chosen[0] <= chosen[1]
    behind, reach = (part[possible] for part in _behind_best(long, allowed))
    return float(np.maximum(behind - reach, 0.0).min()), float((behind + reach).max())


def _behind_best(side: Ranked, allowed: NDArray[np.bool_]) -> tuple[Array, Array]:
    """How far each allowed cell is behind the best of them, and the reach of that difference's noise."""
    values, se = side.values[allowed], side.se[allowed]
    best = values.argmax()
    reach = quantile(1 - min(_WRONG_CHOICE, 6 / len(side.values)) / 2, side.df) * np.hypot(se, se[best])
    reach[best] = 0.0
    return values[best] - values, reach


def regret_points(short: list[Cell], long: list[Cell]) -> tuple[float, str]:
    """Points lost at the long budget by choosing at the short one, meaned over cost limits; on which seeds.

    With replicate seeds, both choices are made without a seed and compared on that seed, for each seed in
    turn, so that luck in the choice is not counted as merit. Without, choice and comparison share their
    noise.
    """
    costs = np.array([cell.cost for cell in long])
    limits = cost_limits(costs)
    seeds = sorted({seed for cell in long for seed in cell.runs})
    regrets = [r for seed in seeds for r in _held_out_regrets(short, long, costs, limits, seed)]
    if regrets:
        return float(np.mean(regrets)), "different seeds"
    a, b = np.array([cell.top1 for cell in short]), np.array([cell.top1 for cell in long])
    return float(np.mean([_regret(a, b, b, costs <= limit) for limit in limits])), "same seed"


def _held_out_regrets(short: list[Cell], long: list[Cell], costs: Array, limits: Array, seed: int) -> list[float]:
    """Regrets measured on one seed, with both choices made on the others; none where a cell lacks either."""
    a, b = (np.array([_mean_without(cell, seed) for cell in cells]) for cells in (short, long))
    judge = np.array([cell.runs.get(seed, math.nan) for cell in long])
    usable = np.isfinite(a) & np.isfinite(b) & np.isfinite(judge)
    masks = [usable & (costs <= limit) for limit in limits]
    return [_regret(a, b, judge, mask) for mask in masks if mask.any()]


def _mean_without(cell: Cell, seed: int) -> float:
    others = [value for name, value in cell.runs.items() if name != seed]
    return sum(others) / len(others) if others else math.nan


def _regret(short: Array, long: Array, judge: Array, allowed: NDArray[np.bool_]) -> float:
    """Judged accuracy of the long budget's choice minus that of the short budget's choice."""
    chosen, best = (np.where(allowed, values, -np.inf).argmax() for values in (short, long))
    return float(judge[best] - judge[chosen])

"""Do short runs choose what long runs would? Rank correlation, regret, and verdicts that flip."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweep.noise import Array
from sweep.rules.cells import Cell, Study

_LIMITS = 8  # cost limits, evenly spaced in log cost
_MOST_SIGNS = 40_000_000  # pairs x draws held at a time when many cells are ranked
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
        nothing = {"kendall_tau": None, "ci": None, "regret_points": None, "seeds": None}
        return entry | nothing | {"flips": flips, "reason": f"{len(keys)} cells in common"}
    a, b = [short.cells[key] for key in keys], [long.cells[key] for key in keys]
    tau, interval = rank_correlation(a, b, short.df, long.df)
    regret, seeds = regret_points(a, b)
    numbers = {"kendall_tau": tau, "ci": interval, "regret_points": regret, "seeds": seeds}
    return entry | numbers | {"flips": flips, "reason": None}


def _flips(before: dict[float, str], after: dict[float, str]) -> list[dict[str, Any]]:
    """Resolutions whose verdict goes from one determined side to the other."""
    common = sorted(before.keys() & after.keys())
    return [
        {"resolution": size, "from": before[size], "to": after[size]}
        for size in common
        if {before[size], after[size]} == _DETERMINED
    ]


def kendall_tau_b(a: Array, b: Array) -> float:
    """(concordant - discordant) / sqrt(pairs untied in a x pairs untied in b); NaN where one is constant."""
    i, j = np.triu_indices(len(a), 1)
    x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
    untied = float(np.count_nonzero(x)) * float(np.count_nonzero(y))
    return float(x @ y) / math.sqrt(untied) if untied else math.nan


def rank_correlation(a: list[Cell], b: list[Cell], df_a: float, df_b: float) -> tuple[float, tuple[float, float]]:
    """Kendall's tau-b of the cell means, and its interval under the noise of both budgets.

    The means are noisy already, which pulls tau towards 0; drawing noise again pulls it by as much once more. The
    draws are therefore reflected at the estimate, 2 tau - draw, which undoes both; the interval is bounded by -1
    and 1 and, where the pull is larger than the spread, extended to the estimate itself.
    """
    means = [np.array([cell.top1 for cell in cells]) for cells in (a, b)]
    tau = kendall_tau_b(*means)
    if math.isnan(tau):
        return tau, (math.nan, math.nan)
    pairs = len(a) * (len(a) - 1) // 2
    count = int(min(400, max(40, _MOST_SIGNS // pairs)))
    generator = np.random.default_rng(20210313)
    noisy = [_noisy(generator, cells, df, count) for cells, df in ((a, df_a), (b, df_b))]
    drawn = np.array([kendall_tau_b(x, y) for x, y in zip(*noisy, strict=True)])
    low, high = (2 * tau - float(q) for q in np.quantile(drawn, [0.975, 0.025]))
    return tau, (max(-1.0, min(low, tau)), min(1.0, max(high, tau)))


def _noisy(generator: np.random.Generator, cells: list[Cell], df: float, count: int) -> Array:
    """(count, cells) means with noise; s itself is drawn where it was estimated."""
    means, ses = np.array([cell.top1 for cell in cells]), np.array([cell.se for cell in cells])
    scale = np.ones(count) if math.isinf(df) else np.sqrt(df / generator.chisquare(df, count))
    noisy: Array = means + generator.standard_normal((count, len(cells))) * ses * scale[:, None]
    return noisy


def regret_points(short: list[Cell], long: list[Cell]) -> tuple[float, str]:
    """Points lost at the long budget by choosing at the short one, meaned over cost limits; on which seeds.

    With replicate seeds, both choices are made without a seed and compared on that seed, for each seed in
    turn, so that luck in the choice is not counted as merit. Without, choice and comparison share their
    noise.
    """
    costs = np.array([cell.cost for cell in long])
    limits = np.geomspace(costs.min(), costs.max(), _LIMITS)
    limits[-1] = costs.max()
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

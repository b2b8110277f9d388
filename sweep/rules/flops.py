"""FLOPs are not latency: how multiply-adds, parameters and measured time rank models, and what equal ones hide.

Kendall's tau-b of each two columns over the cells of a budget: over all pairs of cells, and over those that share a bin
of half a doubling of multiply-adds. Between two costs, which are taken for exact, the interval is over models
like these (jackknife over cells); with accuracy, it is that of the noise-free accuracies of these cells.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr, chndtrinc

from sweep.noise import CONFIDENCE, Array, least_error, quantile
from sweep.rules.cells import AXES, Evidence, Key, Study, whole
from sweep.rules.coverage import Group
from sweep.rules.powerlaw import power_law
from sweep.rules.ranks import Ranked, agreement, kendall_bounds, kendall_interval

MACS = "macs_per_image"
COSTS = (MACS, "params", "infer_latency_ms", "train_step_ms")
BIN_DOUBLINGS = 0.5  # of multiply-adds: cells in one bin count as equally large
_LEAST_IN_BIN = 3
_LARGE = 1000.0  # sums of squares


def flops_not_latency(evidence: Evidence, studies: list[Study]) -> list[dict[str, Any]]:
    """The `flops_not_latency` entries: one for each study whose cells have multiply-adds."""
    names = [name for name in COSTS if name in evidence.rows and evidence.rows[name].notna().any()]
    if MACS not in names:
        return []
    costs = _costs_by_cell(evidence, names)
    return [
        _entry(study, names, costs[study.family, study.variant, study.budget], evidence.accuracy) for study in studies
    ]


Costs = dict[Key, Array]  # means of the cost columns, by cell


def _costs_by_cell(evidence: Evidence, names: list[str]) -> dict[Group, Costs]:
    rows = evidence.rows
    means = rows.groupby(["family", "variant", "epochs", *AXES], dropna=False)[names].mean()
    found: dict[Group, Costs] = {}
    for place, values in zip(means.index, means.to_numpy(dtype=float), strict=True):
        family, variant, epochs, depth, width, resolution = place
        group = (family if isinstance(family, str) else None), str(variant), (None if epochs != epochs else int(epochs))
        found.setdefault(group, {})[whole(depth), float(width), whole(resolution)] = values
    return found


def _entry(study: Study, names: list[str], costs: Costs, accuracy: str) -> dict[str, Any]:
    keys = [key for key in study.cells if np.isfinite(costs[key][0]) and costs[key][0] > 0]
    table = np.array([costs[key] for key in keys]).reshape(-1, len(names))
    top1 = np.array([study.cells[key].top1 for key in keys])
    ranked = Ranked(top1, np.array([study.cells[key].se for key in keys]), study.df)
    columns = {name: Ranked.exact(column) for name, column in zip(names, table.T, strict=True)} | {accuracy: ranked}
    entry: dict[str, Any] = {**study.named, "cells": len(keys), "bin_doublings": BIN_DOUBLINGS}
    if len(keys) < _LEAST_IN_BIN:
        return entry | {"rank_correlation": [], "equal_macs": [], "power_law": power_law(table[:, 0], 100 - top1)}
    bins = bins_of(table[:, 0])
    errors = np.maximum(100 - top1, least_error(np.array([study.cells[key].images for key in keys])))
    return entry | {
        "rank_correlation": list(rank_correlations(columns, bins, accuracy)),
        "equal_macs": list(spreads(table[:, 0], ranked, bins, trend_of(table[:, 0], errors))),
        "power_law": power_law(table[:, 0], errors),
    }


def bins_of(macs: Array) -> NDArray[np.int64]:
    """Number of each cell's bin: half a doubling each, from the smallest cell on."""
    doublings = np.log2(macs / macs.min())
    return np.asarray(np.floor(doublings / BIN_DOUBLINGS + 1e-9), dtype=np.int64)


def rank_correlations(columns: dict[str, Ranked], bins: NDArray[np.int64], accuracy: str) -> Iterator[dict[str, Any]]:
    """Tau of each two columns: at all sizes, and at equal multiply-adds where neither is the multiply-adds."""
    for a, b in combinations(columns, 2):
        for groups in (None, bins):
            if groups is None or a != MACS:
                yield {"a": a, "b": b, "at": "all" if groups is None else "equal_macs"} | tau_entry(
                    columns[a], columns[b], groups, noisy=b == accuracy
                )


def tau_entry(a: Ranked, b: Ranked, groups: NDArray[np.int64] | None, *, noisy: bool) -> dict[str, Any]:
    """Tau-b with its interval, over the cells that have both values."""
    known = np.isfinite(a.values) & np.isfinite(b.values)
    a, b = (Ranked(side.values[known], side.se[known], side.df) for side in (a, b))
    pairs = agreement(a, b, None if groups is None else groups[known])
    interval = kendall_bounds(pairs) if noisy else kendall_interval(pairs)
    kind = "noise" if noisy else "models"
    return {"kendall_tau": pairs.tau(), "ci": interval, "interval": kind, "pairs": pairs.pairs()}


def trend_of(macs: Array, errors: Array) -> Array:
    """Top-1 (k,) that the power law gives each size."""
    x, y = np.log(macs), np.log(errors)
    columns = np.column_stack([np.ones_like(x), x])
    return np.asarray(100 - np.exp(columns @ np.linalg.lstsq(columns, y)[0]))


def spreads(macs: Array, top1: Ranked, bins: NDArray[np.int64], trend: Array) -> Iterator[dict[str, Any]]:
    """Spread of accuracy in each bin of at least three cells: range, and standard deviation without the noise.

    The standard deviation is about the power law: sizes within a bin are not quite equal.
    """
    for number in np.unique(bins):
        here = bins == number
        if np.count_nonzero(here) >= _LEAST_IN_BIN:
            values = top1.values[here]
            noise = float(np.sqrt(np.mean(top1.se[here] ** 2)))
            sd, interval = true_spread(values - trend[here], noise, top1.df)
            yield {
                "macs_from": float(macs[here].min()),
                "macs_to": float(macs[here].max()),
                "cells": len(values),
                "top1_from": float(values.min()),
                "top1_to": float(values.max()),
                "spread_points": sd,
                "ci": interval,
            }


def true_spread(values: Array, se: float, df: float) -> tuple[float, tuple[float, float]]:
    """Standard deviation of the noise-free means of some cells, and its 95 % interval, points.

    Sum of squares over se^2 is noncentral chi-squared, with the noise-free sum for noncentrality. An estimated se is
    made larger by what Student's t has over the normal distribution.
    """
    k = len(values) - 1
    squares = float(np.sum((values - values.mean()) ** 2))
    if se <= 0:
        sd = float(np.sqrt(squares / k))
        return sd, (sd, sd)
    sd = float(np.sqrt(max(squares / k - se**2, 0.0)))
    upper = (1 + CONFIDENCE) / 2
    larger = se * quantile(upper, df) / quantile(upper, np.inf)
    low, high = (larger * float(np.sqrt(_noncentrality(squares / larger**2, k, p) / k)) for p in (upper, 1 - upper))
    return sd, (low, high)


def _noncentrality(squares: float, k: int, p: float) -> float:
    """The noncentrality at which squares as small as these have probability p; 0 where none is that small."""
    if chdtr(k, squares) <= p:
        return 0.0
    if squares > _LARGE:  # where the series is slow, the root of the squares is all but normal
        return float(max(np.sqrt(squares - k + 1) - quantile(p, np.inf), 0.0) ** 2)
    return float(chndtrinc(squares, k, p))

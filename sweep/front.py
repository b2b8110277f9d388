"""Which points nothing beats: the exact Pareto front of two objectives, cost down and accuracy up."""

import numpy as np
from numpy.typing import NDArray

from sweep.noise import Array

Mask = NDArray[np.bool_]
_SAMPLE = 2048


def pareto_mask(costs: Array, accuracies: Array) -> Mask:
    """Which of n points are on the front (cost down, accuracy up), ties included; a NaN is never on it.

    Large inputs are first thinned by the front of a sample, which rarely leaves more than a few per cent to
    be sorted.
    """
    costs, accuracies = np.asarray(costs, dtype=float), np.asarray(accuracies, dtype=float)
    mask = np.zeros(len(costs), dtype=bool)
    kept = np.flatnonzero(_survivors(costs, accuracies)) if len(costs) > 4 * _SAMPLE else np.arange(len(costs))
    kept = kept[~(np.isnan(costs[kept]) | np.isnan(accuracies[kept]))]
    mask[kept[sorted_front(costs[kept], accuracies[kept])]] = True
    return mask


def _survivors(costs: Array, accuracies: Array) -> Mask:
    """Points that no point of a small sample beats in both; those it beats cannot be on the front."""
    every = len(costs) // _SAMPLE
    c, a = costs[::every], accuracies[::every]
    known = ~(np.isnan(c) | np.isnan(a))
    c, a = c[known], a[known]
    front = np.flatnonzero(sorted_front(c, a))
    if not len(front) or len(front) > len(c) // 4:
        return np.ones(len(costs), dtype=bool)
    beaten = ((c > c[front, None]) & (a < a[front, None])).sum(axis=1)
    pivot = front[beaten.argmax()]
    kept = np.flatnonzero(~((costs > c[pivot]) & (accuracies < a[pivot])))
    order = front[np.argsort(c[front])]
    # The most accurate sampled point that is strictly cheaper; where there is none, nothing is beaten.
    place = np.searchsorted(c[order], costs[kept], side="left")
    best = np.concatenate([[-np.inf], a[order]])[place]
    mask = np.zeros(len(costs), dtype=bool)
    mask[kept[~(accuracies[kept] < best)]] = True
    return mask


def sorted_front(costs: Array, accuracies: Array) -> Mask:
    """The exact front by sorting: the best of its own cost, and better than everything strictly cheaper.

    Costs are (n,); accuracies (..., n), each leading index being a front of its own.
    """
    if not len(costs):
        return np.zeros(accuracies.shape, dtype=bool)
    order = np.argsort(costs)
    c, a = costs[order], accuracies[..., order]
    starts = np.flatnonzero(np.concatenate([[True], c[1:] != c[:-1]]))
    best = np.maximum.reduceat(a, starts, axis=-1)
    leads = np.ones(best.shape, dtype=bool)
    leads[..., 1:] = best[..., 1:] > np.maximum.accumulate(best, axis=-1)[..., :-1]
    sizes = np.diff(np.append(starts, len(c)))
    mask = np.empty(accuracies.shape, dtype=bool)
    mask[..., order] = (a == np.repeat(best, sizes, axis=-1)) & np.repeat(leads, sizes, axis=-1)
    return mask

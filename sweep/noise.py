"""How much two runs of one cell differ, and what that makes of a difference between cells.

All values are percent points of top-1. The noise of one run is, in this order of preference, what the caller
says, the standard deviation between replicate seeds of a cell (pooled over the cells of a budget), or a
prior:

    s = sqrt(0.10^2 + 100^2 p (1 - p) / n)

0.10 is the standard deviation over 100 seeds of ResNet-50 in "ResNet strikes back" (arXiv 2110.00476); the
second term is the sampling error of n held-out images. Published figures carry 0.10 in all, reading error
included.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

Array = NDArray[np.float64]

SEED_SD = 0.10
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Noise:
    """Standard deviation of one run of each cell, its degrees of freedom, and where it comes from."""

    sd: Array
    df: float
    source: str


@dataclass(frozen=True)
class Estimate:
    """A number linear in cell means, with its exact standard error; `df` is infinite for a known noise."""

    value: float
    se: float
    df: float = math.inf

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Two-sided interval: value -+ t_df((1 + confidence) / 2) x se."""
        half = quantile((1 + confidence) / 2, self.df) * self.se
        return self.value - half, self.value + half

    def side(self, confidence: float = CONFIDENCE) -> int:
        """1 or -1 if the whole interval lies above or below 0, else 0."""
        low, high = self.interval(confidence)
        return int(low > 0) - int(high < 0)


def quantile(probability: float, df: float) -> float:
    """Quantile of Student's t, of the normal distribution when `df` is infinite."""
    return float(ndtri(probability) if math.isinf(df) else stdtrit(df, probability))


def prior_sd(top1: Array, images: Array) -> Array:
    """sqrt(0.10^2 + 100^2 p(1-p)/n) in points; without a known n (NaN), 0.10.

    p is (k + 0.5) / (n + 1) for k right answers of n, so that 100 % right is not taken for certainty.
    """
    known = np.isfinite(images) & (images > 0)
    n = np.where(known, images, 1.0)
    p = (top1 / 100 * n + 0.5) / (n + 1)
    return np.sqrt(SEED_SD**2 + np.where(known, 1e4 * p * (1 - p) / n, 0.0))


def pooled_sd(values: Array, cells: NDArray[np.int64]) -> tuple[float, float]:
    """Within cells: sqrt(sum of squares / df), and df = sum of (n - 1); NaN without replicates."""
    counts = np.bincount(cells)
    means = np.bincount(cells, values) / np.maximum(counts, 1)
    df = float((counts[counts > 0] - 1).sum())
    squares = float(((values - means[cells]) ** 2).sum())
    return (math.sqrt(squares / df) if df else math.nan), df


def noise_of_cells(values: Array, cells: NDArray[np.int64], images: Array, given: float | None = None) -> Noise:
    """Noise of one run for each cell of one budget.

    Args:
        values: top-1 of each run, percent.
        cells: index of each run's cell, 0 to k - 1, each occurring.
        images: held-out images behind each run's top-1; NaN where unknown or published.
        given: a standard deviation in points that overrides all evidence.
    """
    k = int(cells.max()) + 1
    if given is not None:
        return Noise(np.full(k, float(given)), math.inf, f"given: {given:g} points")
    sd, df = pooled_sd(values, cells)
    # Seeds that agree to the last image say that minival is small, not that there is no noise.
    if df > 0 and sd > 1e-9:
        return Noise(np.full(k, sd), df, f"replicate seeds, {df:g} degrees of freedom")
    counts = np.bincount(cells)
    prior = prior_sd(np.bincount(cells, values) / counts, np.bincount(cells, images) / counts)
    return Noise(prior, math.inf, _prior_words(images))


def _prior_words(images: Array) -> str:
    """Which prior it was: with the sampling error of minival or without."""
    known = images[np.isfinite(images)]
    if not len(known):
        return "prior: 0.10 points (published, or number of images unknown)"
    low, high = int(known.min()), int(known.max())
    span = f"{low}" if low == high else f"{low} to {high}"
    return f"prior: 0.10 points and the sampling error of {span} images"


def root_mean_square(noises: Mapping[int | None, Noise]) -> float:
    """One number for the noise of a whole table: the root mean square of s over the cells."""
    return math.sqrt(float(np.mean(np.concatenate([noise.sd for noise in noises.values()]) ** 2)))


def describe(noises: Mapping[int | None, Noise]) -> str:
    """Where the noise of each budget comes from, in words; once where all agree."""
    sources = {budget: noise.source for budget, noise in noises.items()}
    if len(set(sources.values())) == 1:
        return next(iter(sources.values())) + (" per budget" if _replicated(noises) else "")
    return "; ".join(f"{source} at {budget} epochs" for budget, source in sources.items())


def _replicated(noises: Mapping[int | None, Noise]) -> bool:
    return len(noises) > 1 and all(math.isfinite(noise.df) for noise in noises.values())

"""How much two runs of one cell differ, and what that makes of a difference between cells.

All values are percent points of top-1. The noise of one run is, in this order of preference, what the caller
says, the standard deviation between replicate seeds of a cell (pooled over the cells of a budget; where the seeds
show that it follows the cell's error, as a power of that), or a prior:

    s = sqrt(0.10^2 + 100^2 p (1 - p) / n)

0.10 is the standard deviation over 100 seeds of ResNet-50 in "ResNet strikes back" (arXiv 2110.00476); the
second term is the sampling error of n held-out images. Published figures carry 0.10 in all, reading error
included.

The 0.10 was measured on long runs on a million images. Short runs on small data scatter far more, and with one seed
per cell nothing else says so: there the prior is a lower bound, and the scatter of ln(error) about a smooth surface
over the cells takes its place where it is larger. It holds lack of fit too, so it errs on the side of caution.
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
MIN_SCATTER_DF = 4  # fewer say too little of a spread
MAX_SCATTER_CELLS = 100_000  # tables beyond are not of one sweep
MIN_TREND_DF = 16  # for saying that noise follows the error
MIN_TREND_SPREAD = 0.05  # of ln(error) between cells: below it there is nothing to follow


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


def least_error(images: Array) -> Array:
    """Half an image in points, so that a cell without any error has a logarithm; 0.005 without a known number."""
    known = np.isfinite(images) & (images > 0)
    return np.where(known, 50 / np.where(known, images, 1.0), 0.005)


def pooled_sd(values: Array, cells: NDArray[np.int64]) -> tuple[float, float]:
    """Within cells: sqrt(sum of squares / df), and df = sum of (n - 1); NaN without replicates."""
    counts = np.bincount(cells)
    means = np.bincount(cells, values) / np.maximum(counts, 1)
    df = float((counts[counts > 0] - 1).sum())
    squares = float(((values - means[cells]) ** 2).sum())
    return (math.sqrt(squares / df) if df else math.nan), df


def sd_by_error(values: Array, cells: NDArray[np.int64], errors: Array) -> Array | None:
    """Noise of one run of each cell (k,) where it follows the cell's error, s = c x error^b; None where it does not.

    The variances within cells are fitted by maximum likelihood, each being a multiple of chi-squared. The power b is
    used only if the likelihood ratio rejects b = 0 at 5 %, so that equal noises keep the one pooled estimate.

    Args:
        values: top-1 of each run, percent.
        cells: index of each run's cell, 0 to k - 1, each occurring.
        errors: of each cell, points, above 0, shape (k,).
    """
    df: Array = np.bincount(cells).astype(float) - 1
    means: Array = np.bincount(cells, values) / (df + 1)
    squares: Array = np.bincount(cells, (values - means[cells]) ** 2).astype(float)
    logs: Array = np.log(errors) - float(df @ np.log(errors)) / max(float(df.sum()), 1.0)
    if df.sum() < MIN_TREND_DF or float(df @ logs**2) / df.sum() < MIN_TREND_SPREAD**2:
        return None
    start = math.log(float(squares.sum() / df.sum()))
    level, slope = _variance_trend(df, squares, logs, start)
    gained = _deviance(df, squares, logs, start, 0.0) - _deviance(df, squares, logs, level, slope)
    return np.exp((level + slope * logs) / 2) if gained > ndtri((1 + CONFIDENCE) / 2) ** 2 else None


def _variance_trend(df: Array, squares: Array, logs: Array, level: float) -> tuple[float, float]:
    """Level and slope of ln(variance) of greatest likelihood, by Fisher scoring."""
    found = np.array([level, 0.0])
    columns = np.column_stack([np.ones_like(logs), logs])
    information = columns.T @ (columns * df[:, None])
    for _ in range(50):
        excess = squares * np.exp(-columns @ found) - df
        step = np.linalg.solve(information, columns.T @ excess)
        found = found + step * min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    return float(found[0]), float(found[1])


def _deviance(df: Array, squares: Array, logs: Array, level: float, slope: float) -> float:
    """-2 ln(likelihood) of the variances within cells, up to a constant."""
    trend = level + slope * logs
    return float(np.sum(df * trend + squares * np.exp(-trend)))


def scatter_sd(top1: Array, images: Array, positions: Array) -> tuple[Array, float]:
    """Scatter of cells about a quadratic in their positions, fitted to ln(error): sd of each in points, and df.

    Args:
        top1: of each cell, percent, shape (k,).
        images: held-out images behind each, shape (k,); an error is at least half an image.
        positions: coordinates of each cell, shape (k, m); terms that the cells cannot tell apart are dropped.

    Returns:
        Standard deviations (k,) and degrees of freedom; NaN and 0 where too few cells are left to tell.
    """
    k, m = positions.shape
    unknown = np.full(k, np.nan), 0.0
    if not MIN_SCATTER_DF < k <= MAX_SCATTER_CELLS or not np.isfinite(positions).all():
        return unknown
    squares = [positions[:, i] * positions[:, j] for i in range(m) for j in range(i, m)]
    design = np.column_stack([np.ones(k), positions, *squares])
    error = np.maximum(100 - top1, 50 / images)
    beta, _, rank, _ = np.linalg.lstsq(design, np.log(error))
    df = float(k - rank)
    if df < MIN_SCATTER_DF:
        return unknown
    residual = math.sqrt(float(np.sum((np.log(error) - design @ beta) ** 2)) / df)
    return residual * error, df


def noise_of_cells(
    values: Array,
    cells: NDArray[np.int64],
    images: Array,
    given: float | None = None,
    positions: Array | None = None,
) -> Noise:
    """Noise of one run for each cell of one budget.

    Args:
        values: top-1 of each run, percent.
        cells: index of each run's cell, 0 to k - 1, each occurring.
        images: held-out images behind each run's top-1; NaN where unknown or published.
        given: a standard deviation in points that overrides all evidence.
        positions: log2 of depth, width and resolution of each run, shape (runs, m), for the scatter.
    """
    k = int(cells.max()) + 1
    if given is not None:
        return Noise(np.full(k, float(given)), math.inf, f"given: {given:g} points")
    sd, df = pooled_sd(values, cells)
    # Seeds that agree to the last image say that minival is small, not that there is no noise.
    counts = np.bincount(cells)
    means, sizes = np.bincount(cells, values) / counts, np.bincount(cells, images) / counts
    if df > 0 and sd > 1e-9:
        words = f"replicate seeds, {df:g} degrees of freedom"
        trend = sd_by_error(values, cells, np.maximum(100 - means, least_error(sizes)))
        if trend is not None:
            return Noise(trend, df, words + ", following the cells' error")
        return Noise(np.full(k, sd), df, words)
    prior = prior_sd(means, sizes)
    if positions is not None and np.isfinite(sizes).all():
        first = np.unique(cells, return_index=True)[1]
        scatter, df = scatter_sd(means, sizes, positions[first])
        if np.mean(scatter**2) > np.mean(prior**2):
            words = f"one seed per cell: scatter about a smooth surface, {df:g} degrees of freedom"
            return Noise(np.maximum(scatter, prior), df, words)
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
    return "; ".join(f"at {budget} epoch{'' if budget == 1 else 's'} {source}" for budget, source in sources.items())


def _replicated(noises: Mapping[int | None, Noise]) -> bool:
    return len(noises) > 1 and all(math.isfinite(noise.df) for noise in noises.values())

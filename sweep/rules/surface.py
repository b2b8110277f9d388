"""Response surface of one study, and the best shape at each cost.

    ln(error) = quadratic in z (10 coefficients),  log2(cost) = c0 + c . z,  z = (log2 axes, each scaled to
    [-1, 1])

error = 100 - top-1 in points. Ordinary least squares over cell means: the coefficients are the same functional of the
means whatever their noise. Their covariance is that of the noise, where seeds tell it (a surface that does not fit is
then tested for, not counted as noise); else the residual's, lack of fit included, where that is larger. On the grid
of arXiv 2103.07579 at 350 epochs the residual is 2.4 %.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.special import chdtrc, fdtrc

from sweep.noise import Array, least_error, quantile
from sweep.rules.cells import AXES, Study

COEFFICIENTS = 10
_PAIRS = ((0, 1), (0, 2), (1, 2))
_LEAST_DF = 3
_LARGEST_CONDITION = 100.0


class UnfitError(Exception):
    """The surface cannot be fitted; the message says why."""


@dataclass(frozen=True)
class Design:
    """What a fit owes to where its k cells lie and what they cost. `centre` and `half` map z to log2 of the axes."""

    features: Array  # (k, 10)
    inverse: Array  # (10, 10): (X'X)^-1
    centre: Array  # (3,)
    half: Array  # (3,)
    cost0: float
    cost: Array  # (3,) doublings of cost per unit of z
    levels: tuple[float, float]  # fitted log2 cost of the cheapest and of the dearest cell

    @property
    def solve(self) -> Array:
        """(10, k): coefficients = solve @ ln(error)."""
        return np.asarray(self.inverse @ self.features.T)

    @property
    def leverages(self) -> Array:
        """(k,): how much of each cell's own value is in its fitted one."""
        return np.asarray(((self.features @ self.inverse) * self.features).sum(axis=1))

    def axes(self, z: Array) -> Array:
        """Depth, width and resolution at z (..., 3)."""
        return np.asarray(2.0 ** (self.centre + self.half * z), dtype=float)

    def extrapolates(self, z: Array) -> bool:
        """Whether z (3,) lies farther out than any cell."""
        row = features(z)
        return float(row @ self.inverse @ row) > float(self.leverages.max()) * (1 + 1e-6)


@dataclass(frozen=True)
class Surface:
    """A fitted surface."""

    design: Design
    beta: Array  # (10,)
    covariance: Array  # (10, 10)
    df: float
    residual: float  # of ln(error), so 0.024 is 2.4 %
    lack_of_fit_p: float  # chance of such a residual, or a larger one, from noise alone

    def top1(self, z: Array) -> tuple[float, tuple[float, float]]:
        """Top-1 at one z and its 95 % interval, percent."""
        row = features(z)
        half = quantile(0.975, self.df) * float(np.sqrt(row @ self.covariance @ row))
        middle = float(row @ self.beta)
        return 100 - float(np.exp(middle)), (
            100 - float(np.exp(middle + half)),
            100 - float(np.exp(middle - half)),
        )

    def returns(self, z: Array) -> dict[str, float]:
        """Points of top-1 per doubling of cost along each axis at z."""
        slope = self.beta[1:4] + hessian(self.beta) @ z
        error = float(np.exp(features(z) @ self.beta))
        return {axis: -error * float(s / c) for axis, s, c in zip(AXES, slope, self.design.cost, strict=True)}


def features(z: Array) -> Array:
    """(..., 3) -> (..., 10): 1, z, z^2 and the products of two axes."""
    products = [z[..., i] * z[..., j] for i, j in _PAIRS]
    return np.stack([np.ones(z.shape[:-1]), *np.moveaxis(z, -1, 0), *np.moveaxis(z**2, -1, 0), *products], axis=-1)


def hessian(beta: Array) -> Array:
    """(..., 10) -> (..., 3, 3) second derivatives."""
    second = np.zeros((*beta.shape[:-1], 3, 3))
    for i in range(3):
        second[..., i, i] = 2 * beta[..., 4 + i]
    for n, (i, j) in enumerate(_PAIRS):
        second[..., i, j] = second[..., j, i] = beta[..., 7 + n]
    return second


def design_of(axes: Array, log_costs: Array) -> Design:
    """The design of cells at axes (k, 3) with log2 costs (k,).

    Raises:
        UnfitError: too few levels or cells, axes not crossed, ill-conditioned, or a cost that an axis does
        not raise.
    """
    _enough_levels(axes)
    logs = np.log2(axes)
    low, high = logs.min(axis=0), logs.max(axis=0)
    centre, half = (low + high) / 2, (high - low) / 2
    rows = features((logs - centre) / half)
    inverse = _inverse(rows)
    cost = np.asarray(np.linalg.lstsq(rows[:, :4], log_costs)[0], dtype=float)
    _costs_rise(cost[1:])
    fitted = rows[:, :4] @ cost
    levels = (float(fitted.min()), float(fitted.max()))
    return Design(rows, inverse, centre, half, float(cost[0]), cost[1:], levels)


def fit(study: Study) -> Surface:
    """Fit the surface to the cells of a study.

    Raises:
        UnfitError: as in `design_of`.
    """
    cells = list(study.cells.values())
    axes = np.array([cell.key for cell in cells], dtype=float).reshape(-1, 3)
    design = design_of(axes, np.array([cell.log_cost for cell in cells]))
    least = least_error(np.array([cell.images for cell in cells]))
    errors = np.maximum(100 - np.array([cell.top1 for cell in cells]), least)
    return fit_errors(design, errors, np.array([cell.se for cell in cells]), study.df)


def fit_errors(design: Design, errors: Array, ses: Array, df: float) -> Surface:
    """Fit the surface to errors (k,) in points with standard errors (k,) that have `df` degrees of freedom."""
    logs, solve = np.log(errors), design.solve
    beta = solve @ logs
    spare = len(errors) - COEFFICIENTS
    squares = float(np.sum((logs - design.features @ beta) ** 2))
    variances = (ses / errors) ** 2  # of ln(error), to first order
    expected = float(variances @ (1 - design.leverages))  # of `squares`, from noise alone
    p = _tail(squares / expected, spare, df) if expected > 0 else math.nan
    covariance = (solve * variances) @ solve.T
    # A noise that no seed has told is a lower bound: what the surface leaves over may be noise as well.
    if math.isinf(df) and squares > expected:
        covariance, df = squares / spare * design.inverse, float(spare)
    return Surface(design, beta, covariance, df, math.sqrt(squares / spare), p)


def _tail(ratio: float, spare: int, df: float) -> float:
    """Chance of a larger ratio of residual to noise variance."""
    return float(chdtrc(spare, spare * ratio) if math.isinf(df) else fdtrc(spare, df, ratio))


def _enough_levels(axes: Array) -> None:
    for name, column in zip(AXES, axes.T, strict=True):
        levels = len(np.unique(column))
        if levels < 3:
            raise UnfitError(f"{levels} {'level' if levels == 1 else 'levels'} of {name}; a curve needs at least 3")


def _inverse(design: Array) -> Array:
    """(X'X)^-1 of a design on which all ten coefficients rest safely."""
    need = COEFFICIENTS + _LEAST_DF
    if len(design) < need:
        raise UnfitError(f"{len(design)} cells; {COEFFICIENTS} coefficients need at least {need}")
    scaled = design / np.maximum(np.linalg.norm(design, axis=0), 1e-12)
    values = np.linalg.svd(scaled, compute_uv=False)
    if values[-1] < 1e-8:
        raise UnfitError(_not_crossed(scaled))
    if values[0] / values[-1] > _LARGEST_CONDITION:
        raise UnfitError(f"ill-conditioned: condition number {values[0] / values[-1]:.0f}")
    inverse = np.linalg.inv(design.T @ design)
    # Leverage 1: without this one cell some coefficient could not be estimated at all.
    if np.einsum("ij,jk,ik->i", design, inverse, design).max() > 1 - 1e-8:
        raise UnfitError("not crossed: how two axes act together rests on a single cell")
    return np.asarray(inverse)


def _not_crossed(scaled: Array) -> str:
    """Name the pair of axes whose product adds nothing to the rank."""
    rank = np.linalg.matrix_rank(scaled, 1e-8)
    for column, (i, j) in enumerate(_PAIRS, start=7):
        if np.linalg.matrix_rank(np.delete(scaled, column, axis=1), 1e-8) == rank:
            return f"not crossed: no cells vary {AXES[i]} and {AXES[j]} together (arms)"
    return "not crossed: too few combinations of depth, width and resolution"


def _costs_rise(cost: Array) -> None:
    for name, slope in zip(AXES, cost, strict=True):
        if slope < 0.01:
            raise UnfitError(f"the cost does not rise with {name}")


def best_path(design: Design, betas: Array, levels: Array) -> Array:
    """(m, k, 3): the z in the box [-1, 1]^3 of least ln(error) at each of k log2 costs, for each of m betas.

    On the plane of equal cost the optimum of a quadratic is stationary on the inside, on a face or on an edge
    of the box: each of these is solved for, and the best feasible one taken. That is exact, also where the
    quadratic is a saddle.
    """
    best = np.full((len(betas), len(levels)), np.inf)
    path = np.zeros((len(betas), len(levels), 3))
    for pattern in product((None, -1.0, 1.0), repeat=3):
        free = [i for i, value in enumerate(pattern) if value is None]
        if free:
            z = _stationary(design, betas, levels, pattern, free)
            inside = (np.abs(z) <= 1 + 1e-9).all(axis=-1)
            value = np.where(inside, np.einsum("mkf,mf->mk", features(z), betas), np.inf)
            path = np.where((value < best)[..., None], z, path)
            best = np.minimum(best, value)
    return path


def _stationary(
    design: Design, betas: Array, levels: Array, pattern: tuple[float | None, ...], free: list[int]
) -> Array:
    """Stationary point of the quadratic on the plane of each cost, the pattern's axes held at bounds."""
    held = np.array([value or 0.0 for value in pattern])
    slope = design.cost[free]
    z = np.broadcast_to(held, (len(betas), len(levels), 3)).copy()
    # One point of the plane, then the best step within it: z = start + null @ step.
    rest = levels - design.cost0 - design.cost @ held
    z[..., free] = (rest[:, None] * slope / (slope @ slope))[None]
    if len(free) > 1:
        null = np.zeros((3, len(free) - 1))
        null[free] = np.linalg.svd(slope[None])[2][1:].T
        second = hessian(betas)
        gradient = betas[:, None, 1:4] + np.einsum("mij,mkj->mki", second, z)
        bend = np.linalg.pinv(np.einsum("ia,mij,jb->mab", null, second, null), hermitian=True)
        z -= np.einsum("ic,mca,ja,mkj->mki", null, bend, null, gradient)
    return z

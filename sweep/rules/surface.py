"""Response surface of one study, and the best shape at each cost.

    ln(error) = quadratic in z (10 coefficients),  log2(cost) = c0 + c . z,  z = (log2 axes, each scaled to
    [-1, 1])

error = 100 - top-1 in points. Least squares over cell means; the residual, lack of fit included, gives the
covariance of the coefficients, with n - 10 degrees of freedom. On the grid of arXiv 2103.07579 at 350 epochs
the residual is 2.4 %.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from sweep.noise import Array, quantile
from sweep.rules.cells import AXES, Study

COEFFICIENTS = 10
_PAIRS = ((0, 1), (0, 2), (1, 2))
_LEAST_DF = 3
_LARGEST_CONDITION = 100.0


class UnfitError(Exception):
    """The surface cannot be fitted; the message says why."""


@dataclass(frozen=True)
class Surface:
    """A fitted surface. `centre` and `half` map z to log2 of (depth, width, resolution)."""

    beta: Array  # (10,)
    covariance: Array  # (10, 10)
    df: int
    residual: float  # of ln(error), so 0.024 is 2.4 %
    centre: Array  # (3,)
    half: Array  # (3,)
    cost0: float
    cost: Array  # (3,) doublings of cost per unit of z
    levels: tuple[float, float]  # fitted log2 cost of the cheapest and of the dearest cell
    reach: float  # largest leverage of a cell: points beyond it are extrapolated

    def axes(self, z: Array) -> Array:
        """Depth, width and resolution at z (..., 3)."""
        return np.asarray(2.0 ** (self.centre + self.half * z), dtype=float)

    def draws(self, count: int) -> Array:
        """(count, 10) coefficients from their multivariate t, always the same ones."""
        generator = np.random.default_rng(20210313)
        factor = np.linalg.cholesky(self.covariance + 1e-18 * np.eye(COEFFICIENTS))
        scale = np.sqrt(self.df / generator.chisquare(self.df, count))
        normal = generator.standard_normal((count, COEFFICIENTS))
        return np.asarray(self.beta + (normal @ factor.T) * scale[:, None])

    def top1(self, z: Array) -> tuple[float, tuple[float, float]]:
        """Top-1 at one z and its 95 % interval, percent."""
        row = features(z)
        half = quantile(0.975, self.df) * float(np.sqrt(row @ self.covariance @ row))
        middle = float(row @ self.beta)
        return 100 - float(np.exp(middle)), (
            100 - float(np.exp(middle + half)),
            100 - float(np.exp(middle - half)),
        )

    def leverage(self, z: Array) -> float:
        """Variance of the fit at z over the residual variance: how far z is from the cells."""
        row = features(z)
        return float(row @ self.covariance @ row) / max(self.residual**2, 1e-30)

    def returns(self, z: Array) -> dict[str, float]:
        """Points of top-1 per doubling of cost along each axis at z."""
        slope = self.beta[1:4] + _hessian(self.beta) @ z
        error = float(np.exp(features(z) @ self.beta))
        return {axis: -error * float(s / c) for axis, s, c in zip(AXES, slope, self.cost, strict=True)}


def features(z: Array) -> Array:
    """(..., 3) -> (..., 10): 1, z, z^2 and the products of two axes."""
    products = [z[..., i] * z[..., j] for i, j in _PAIRS]
    return np.stack([np.ones(z.shape[:-1]), *np.moveaxis(z, -1, 0), *np.moveaxis(z**2, -1, 0), *products], axis=-1)


def _hessian(beta: Array) -> Array:
    """(..., 10) -> (..., 3, 3) second derivatives."""
    second = np.zeros((*beta.shape[:-1], 3, 3))
    for i in range(3):
        second[..., i, i] = 2 * beta[..., 4 + i]
    for n, (i, j) in enumerate(_PAIRS):
        second[..., i, j] = second[..., j, i] = beta[..., 7 + n]
    return second


def fit(study: Study) -> Surface:
    """Fit the surface to the cells of a study.

    Raises:
        UnfitError: too few levels or cells, axes not crossed, ill-conditioned, or a cost that an axis does
        not raise.
    """
    cells = list(study.cells.values())
    axes = np.array([cell.key for cell in cells], dtype=float).reshape(-1, 3)
    _enough_levels(axes)
    logs = np.log2(axes)
    low, high = logs.min(axis=0), logs.max(axis=0)
    centre, half = (low + high) / 2, (high - low) / 2
    z = (logs - centre) / half
    design = features(z)
    inverse = _inverse(design)
    error = np.log([max(100 - cell.top1, _least_error(cell.images)) for cell in cells])
    beta = inverse @ design.T @ error
    df = len(cells) - COEFFICIENTS
    residual = float(np.sqrt(np.sum((error - design @ beta) ** 2) / df))
    cost = np.linalg.lstsq(design[:, :4], np.array([cell.log_cost for cell in cells]))[0]
    _costs_rise(cost[1:])
    fitted = design[:, :4] @ cost
    levels = (float(fitted.min()), float(fitted.max()))
    reach = float(np.einsum("ij,jk,ik->i", design, inverse, design).max())
    covariance = residual**2 * inverse
    return Surface(beta, covariance, df, residual, centre, half, float(cost[0]), cost[1:], levels, reach)


def _least_error(images: float) -> float:
    """Half an image, so that a cell without any error has a logarithm."""
    return 50 / images if np.isfinite(images) and images > 0 else 0.005


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


def best_path(surface: Surface, betas: Array, levels: Array) -> Array:
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
            z = _stationary(surface, betas, levels, pattern, free)
            inside = (np.abs(z) <= 1 + 1e-9).all(axis=-1)
            value = np.where(inside, np.einsum("mkf,mf->mk", features(z), betas), np.inf)
            path = np.where((value < best)[..., None], z, path)
            best = np.minimum(best, value)
    return path


def _stationary(
    surface: Surface, betas: Array, levels: Array, pattern: tuple[float | None, ...], free: list[int]
) -> Array:
    """Stationary point of the quadratic on the plane of each cost, the pattern's axes held at bounds."""
    held = np.array([value or 0.0 for value in pattern])
    slope = surface.cost[free]
    z = np.broadcast_to(held, (len(betas), len(levels), 3)).copy()
    # One point of the plane, then the best step within it: z = start + null @ step.
    rest = levels - surface.cost0 - surface.cost @ held
    z[..., free] = (rest[:, None] * slope / (slope @ slope))[None]
    if len(free) > 1:
        null = np.zeros((3, len(free) - 1))
        null[free] = np.linalg.svd(slope[None])[2][1:].T
        second = _hessian(betas)
        gradient = betas[:, None, 1:4] + np.einsum("mij,mkj->mki", second, z)
        bend = np.linalg.pinv(np.einsum("ia,mij,jb->mab", null, second, null), hermitian=True)
        z -= np.einsum("ic,mca,ja,mkj->mki", null, bend, null, gradient)
    return z

"""Do the rules keep their promises? Coverage of their 95 % intervals and false verdicts, where the truth is known.

    python benchmarks/calibration.py [--draws 1000] [--seed 0]

For each surface of `known_surfaces.py`, with 2 and with 3 seeds: draw the runs of all cells, and ask each rule. Truth
is the same functional on the noise-free grid with the same cells missing. Coverage is meant over the budgets,
resolutions or steps that a rule speaks about; the interval beside it is Monte Carlo's. "false" is the share of
verdicts that the truth contradicts (at a tie: any), "silent" that of verdicts that are undetermined.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from calibration_laws import Row, law_rows, rank_rows, rate_rows, spread_rows
from known_surfaces import BUDGETS, KNOWN, Known, cells_of_grid, cost_of, study_of, top1_of
from tallies import Tally, holds, wrong_sides

from sweep.noise import Array, Estimate, noise_of_cells
from sweep.rules.cells import Key, Study, Weights
from sweep.rules.depth_width import SIDES, arms_at, by_budget
from sweep.rules.ranks import Ranked
from sweep.rules.resolution import compound_gamma, exponent, gamma_ratio, path_of
from sweep.rules.steps import judge, steps_of
from sweep.rules.surface import Design, UnfitError, best_path, design_of, fit_errors
from sweep.rules.transfer import rank_correlation, regret_bounds, true_regret

SEEDS = (2, 3)


@dataclass
class Draws:
    """Means (n, k) of noisy runs of one budget, and the standard deviation (n, k) of one run that their seeds show."""

    means: Array
    sd: Array
    seeds: int
    df: float

    @property
    def se(self) -> Array:
        """Standard errors of the means, (n, k)."""
        return self.sd / np.sqrt(self.seeds)

    def estimate(self, weights: Array) -> Estimate:
        """Draws (n, f) of functionals with weights (f, k)."""
        return Estimate(self.means @ weights.T, np.sqrt(self.se**2 @ weights.T**2), self.df)  # type: ignore[arg-type]

    def ranked(self, draw: int) -> Ranked:
        """One draw's means."""
        return Ranked(self.means[draw], self.se[draw], self.df)


def runs_of(random: np.random.Generator, truth: Array, sd: Array, seeds: int, draws: int) -> Array:
    """Top-1 (draws, k, seeds) of runs about the truth (k,), with a standard deviation (k,) of one run."""
    return np.asarray(truth[:, None] + sd[:, None] * random.standard_normal((draws, len(truth), seeds)))


def draws_of(runs: Array) -> Draws:
    """Runs (n, k, seeds), averaged, with the noise that their seeds show."""
    _, k, seeds = runs.shape
    cells, images = np.repeat(np.arange(k), seeds), np.full(k * seeds, np.nan)
    noises = [noise_of_cells(each.ravel(), cells, images) for each in runs]
    return Draws(runs.mean(axis=2), np.array([noise.sd for noise in noises]), seeds, noises[0].df)


def matrix(keys: list[Key], weights: Iterable[Weights]) -> Array:
    """Weights by cell as rows (f, k)."""
    place = {key: i for i, key in enumerate(keys)}
    rows = list(weights)
    found = np.zeros((len(rows), len(keys)))
    for row, each in enumerate(rows):
        for key, weight in each.items():
            found[row, place[key]] = weight
    return found


def judge_gains(keys: list[Key], study: Study, truth: Array, drawn: Draws) -> Iterator[tuple[str, Tally]]:
    """Depth or width at each resolution, and of the budget."""
    resolutions = study.resolutions()
    weights = matrix(keys, [arms.gain() for size in resolutions if (arms := arms_at(study, size))])
    gain, true = drawn.estimate(weights), weights @ truth
    low, high = gain.interval()
    sides = (np.asarray(low) > 0).astype(int) - (np.asarray(high) < 0)
    each, whole = Tally(), Tally()
    settled = {
        "depth": (true > 1e-9).all(),
        "width": (true < -1e-9).all(),
        "mixed": (true > 1e-9).any() and (true < -1e-9).any(),
    }
    for i in range(len(drawn.sd)):
        each.add(holds((low[i], high[i]), true), wrong_sides(sides[i], true), sides[i] == 0)  # type: ignore[index]
        entries = [
            {"verdict": SIDES.get(s, "undetermined"), "gain_points": v, "se": e, "df": drawn.df, "resolution": r}
            for s, v, e, r in zip(sides[i], gain.value[i], gain.se[i], resolutions, strict=True)  # type: ignore[index]
        ]
        verdict = by_budget(entries, study)["verdict"]
        whole.add(None, verdict != "undetermined" and not settled[verdict], verdict == "undetermined")
    yield "gain", each
    yield "budget's verdict", whole


def judge_steps(keys: list[Key], study: Study, truth: Array, drawn: Draws) -> Iterator[tuple[str, Tally]]:
    """Points per doubling, and the differences from both alternatives, which hold together."""
    slopes, together = Tally(), Tally()
    known = [step for step in steps_of(study) if step.slope is not None and step.others]
    own = matrix(keys, [step.slope for step in known if step.slope is not None])
    inside = holds(drawn.estimate(own).interval(), own @ truth)
    joint, false, silent = [], [], []
    for step in known:
        weights = matrix(keys, step.differences().values())
        others = matrix(keys, [slope for _, slope in step.others.values()])
        true = weights @ truth
        low, high = drawn.estimate(weights).interval(step.confidence)
        sides = (np.asarray(low) > 0).astype(int) - (np.asarray(high) < 0)
        prices = drawn.means @ others.T
        joint.append(holds((low, high), true).all(axis=1))
        verdicts = [_verdict(step.others, *each) for each in zip(sides, prices, strict=True)]
        right = {"raise": (true > 1e-9).all(), "undetermined": True}
        right |= {f"prefer {axis}": d < -1e-9 for axis, d in zip(step.others, true, strict=True)}
        false.append([not right[verdict] for verdict in verdicts])
        silent.append([verdict == "undetermined" for verdict in verdicts])
    for i, (a, b, c) in enumerate(zip(np.transpose(joint), np.transpose(false), np.transpose(silent), strict=True)):
        slopes.add(inside[i])
        together.add(a, b, c)
    yield "points per doubling", slopes
    yield "step against others", together


def _verdict(axes: Iterable[str], sides: Array, prices: Array) -> str:
    entries = [{"axis": a, "side": s, "points_per_doubling": p} for a, s, p in zip(axes, sides, prices, strict=True)]
    return judge(entries)[0]


def design_for(keys: list[Key]) -> Design:
    """The response surface's design for these cells."""
    return design_of(np.array(keys, dtype=float), np.log2([cost_of(key) for key in keys]))


def judge_exponent(keys: list[Key], study: Study, truth: Array, drawn: Draws) -> Iterator[tuple[str, Tally]]:
    """gamma, where the noise-free grid has one, and the fitted accuracy in the middle of the path."""
    design = design_for(keys)
    exact = fit_errors(design, 100 - truth, np.full(len(keys), 1e-6), drawn.df)
    true_path, levels = path_of(exact)
    rule = compound_gamma(design, "macs_per_image")
    true = exponent(exact, true_path, rule)
    ratio = gamma_ratio(exact).terms
    gammas, fitted = Tally(), Tally()
    middle = true_path[len(true_path) // 2]
    for i, means in enumerate(drawn.means):
        surface = fit_errors(design, 100 - means, drawn.se[i], drawn.df)
        found = exponent(surface, best_path(design, surface.beta[None], levels)[0], rule)
        covered = None if found.get("ci") is None else holds(found["ci"], ratio[0] / ratio[1])
        verdict = found.get("verdict", "undetermined")
        right = {"slower": ratio[0] / ratio[1] < rule, "faster": ratio[0] / ratio[1] > rule, "undetermined": True}
        gammas.add(covered if "gamma" in true else None, not right[verdict], verdict == "undetermined")
        fitted.add(holds(surface.top1(middle)[1], exact.top1(middle)[0]))
    yield "resolution exponent", gammas
    yield "top-1 on the path", fitted


def judge_regime(keys: list[Key], study: Study, truth: Array, drawn: Draws) -> Iterator[tuple[str, Tally]]:
    """Gain of each larger cell on the arms; train top-1 is such a difference too."""
    found = [arms for size in study.resolutions() if (arms := arms_at(study, size))]
    pairs = [{cell.key: 1.0, arms.base.key: -1.0} for arms in found for arm in arms.cells.values() for cell in arm]
    weights = matrix(keys, pairs)
    gain = drawn.estimate(weights)
    low, high = gain.interval()
    sides = (np.asarray(low) > 0).astype(int) - (np.asarray(high) < 0)
    tally = Tally()
    for inside, side in zip(holds((low, high), weights @ truth), sides, strict=True):
        tally.add(inside, wrong_sides(side, weights @ truth), side == 0)
    yield "gain of a larger cell", tally


def judge_transfer(costs: Array, truths: list[Array], drawn: list[Draws]) -> Iterator[tuple[str, Tally]]:
    """Rank correlation and regret between the two budgets."""
    exact = [Ranked.exact(truth) for truth in truths]
    true_tau, regret = rank_correlation(*exact)["kendall_tau"], true_regret(truths[0], truths[1], costs)
    taus, regrets = Tally(), Tally()
    for i in range(len(drawn[0].sd)):
        short, long = (each.ranked(i) for each in drawn)
        taus.add(holds(rank_correlation(short, long)["ci"], true_tau))
        regrets.add(holds(regret_bounds(short, long, costs), regret))
    yield "kendall tau", taus
    yield "regret", regrets


JUDGES = (judge_gains, judge_steps, judge_exponent, judge_regime)


def calibrate(known: Known, seeds: int, draws: int, random: np.random.Generator) -> dict[str, Tally]:
    """Every rule on one surface; the draws of both budgets are counted together."""
    keys = cells_of_grid()
    found: dict[str, Tally] = defaultdict(Tally)
    truths, drawn = [], []
    for budget in BUDGETS:
        truth = top1_of(known.log_error[budget], keys)
        study = study_of(keys, truth, budget, seeds)
        truths.append(truth)
        drawn.append(draws_of(runs_of(random, truth, known.sd(budget, truth), seeds, draws)))
        for judged in JUDGES:
            for name, tally in judged(keys, study, truth, drawn[-1]):
                found[name].join(tally)
    costs = np.array([cost_of(key) for key in keys])
    return found | dict(judge_transfer(costs, truths, drawn))


def arms_are_refused() -> str:
    """The reason why arms that are not crossed have no exponent."""
    try:
        design_for(cells_of_grid(arms_only=True))
    except UnfitError as error:
        return str(error)
    raise AssertionError("arms that are not crossed were fitted")


def rows_of(draws: int, seed: int) -> Iterator[Row]:
    """Every row of the table."""
    random = np.random.default_rng(seed)
    for known in KNOWN:
        for seeds in SEEDS:
            for name, tally in calibrate(known, seeds, draws, random).items():
                yield known.name, seeds, name, tally
    for part in (rank_rows, spread_rows, law_rows, rate_rows):
        yield from part(random, draws)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.perf_counter()
    line = "{:<13} {:>5} {:<24} {:<22} {:<22} {:<8} {}"
    print(line.format("surface", "seeds", "functional", "coverage", "false", "silent", ""))
    for surface, seeds, name, tally in rows_of(given.draws, given.seed):
        print(line.format(surface, seeds or "-", name, *tally.printed(), tally.remark()).rstrip(), flush=True)
    print(f"arms that are not crossed: no exponent ({arms_are_refused()})")
    print(f"{given.draws} draws of each in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()

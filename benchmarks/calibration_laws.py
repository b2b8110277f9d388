"""Coverage of what the rules say about ranks, power laws, spreads and learning rates; part of `calibration.py`."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from tallies import Tally, holds

from sweep.noise import Array
from sweep.rules.cells import Evidence
from sweep.rules.coverage import Fates
from sweep.rules.flops import tau_entry, true_spread
from sweep.rules.powerlaw import BreakTest, least_squares
from sweep.rules.ranks import Ranked
from sweep.rules.robust import SCALE, at_best

Row = tuple[str, int | None, str, Tally]
_BREAK = 3.5  # on x from 0 to 6
_RATES = (0.5, 1.0, 2.0)


def rank_rows(random: np.random.Generator, draws: int) -> Iterator[Row]:
    """Tau between two costs of models drawn at random; tau of accuracies that are ordered alike but close."""
    for cells in (20, 60):
        for correlation in (0.8, 0.98):
            true, tally = 2 / math.pi * math.asin(correlation), Tally()
            for _ in range(draws):
                a, b = random.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], cells).T
                tally.add(holds(tau_entry(Ranked.exact(a), Ranked.exact(b), None, noisy=False)["ci"], true))
            yield f"{cells} models", None, f"tau {true:.2f} of two costs", tally
    for seeds in (2, 3):
        df, tally = 60 * (seeds - 1), Tally()
        truth = np.sort(random.uniform(60, 80, 60))
        for _ in range(draws):
            two = [_noisy(random, truth, 1.0 / math.sqrt(seeds), df) for _ in range(2)]
            tally.add(holds(tau_entry(*two, None, noisy=True)["ci"], 1.0))
        yield "same order", seeds, "kendall tau of 1", tally


def _noisy(random: np.random.Generator, truth: Array, se: float, df: int) -> Ranked:
    estimated = se * math.sqrt(random.chisquare(df) / df)
    return Ranked(truth + random.normal(0, se, len(truth)), np.full(len(truth), estimated), df)


def spread_rows(random: np.random.Generator, draws: int) -> Iterator[Row]:
    """Spread of accuracy among cells of equal size."""
    for spread in (0.2, 1.0):
        truth = np.array([-1.0, -0.5, 0.0, 0.2, 1.3])
        truth = spread * (truth - truth.mean()) / truth.std(ddof=1)
        tally = Tally()
        for _ in range(draws):
            seen = _noisy(random, truth, 0.3, 50)
            tally.add(holds(true_spread(seen.values, float(seen.se[0]), seen.df)[1], spread))
        yield "equal size", 2, f"spread of {spread:g} points", tally


def law_rows(random: np.random.Generator, draws: int) -> Iterator[Row]:
    """Power laws without a break and with one, cells scattering by 5 % about them."""
    for cells in (30, 100):
        x = np.sort(random.uniform(0, 6, cells))
        test = BreakTest(x)
        for bend in (0.0, 0.06, 0.2):
            called, place = Tally(), Tally()
            slope = Tally()
            for _ in range(draws):
                y = 3 - 0.25 * x + bend * np.maximum(x - _BREAK, 0) + random.normal(0, 0.05, cells)
                found = test.p_value(y) < 0.05
                called.add(None, found and bend == 0, not found)
                if found and bend:
                    low, high = test.place(y)[1]
                    place.add((low is None or low <= _BREAK) and (high is None or high >= _BREAK))
                if bend == 0:
                    slope.add(holds(least_squares(np.column_stack([np.ones(cells), x]), y).interval(1), -0.25))
            name = f"{cells} cells"
            yield name, None, f"break in a bend of {bend:g}", called
            yield from [(name, None, "exponent", slope)] if bend == 0 else [(name, None, "its place", place)]


def rate_rows(random: np.random.Generator, draws: int) -> Iterator[Row]:
    """Depth or width at each cell's best rate, all rates and both arms being equally good."""
    for seeds in (2, 3):
        rows = pd.DataFrame(
            [
                {"depth": depth, "width": width, SCALE: rate, "seed": seed}
                for depth, width in ((101, 1.0), (202, 1.0), (404, 1.0), (101, 2**0.5), (101, 2.0))
                for rate in _RATES
                for seed in range(seeds)
            ]
        ).assign(family="f", variant="{}", resolution=224, epochs=10, source=None, minival_images=np.nan)
        rows["cost"] = rows["depth"] / 101 * rows["width"] ** 2
        truth = 75 + np.log2(rows["cost"].to_numpy())
        tally = Tally()
        for _ in range(draws):
            seen = rows.assign(minival_top1=truth + random.normal(0, 0.3, len(rows)))
            evidence = Evidence(seen, pd.Series("", index=seen.index), "minival_top1", "cost")
            (entry,) = at_best(evidence, Fates({}), None)[0]["f", "{}", 10]
            tally.add(holds(entry["ci"], 0.0), entry["verdict"] != "undetermined", entry["verdict"] == "undetermined")
        yield "tie, 3 rates", seeds, "gain at the best rates", tally

"""How long finding the front takes, beside moocore and paretoset, on the same points in the same process.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/pareto_front.py [--rows 1e7] [--rounds 5] [--objectives 2 3 4] [--only SHAPE]

Each round runs all of them once, one after the other, so that other work on the machine slows all alike. Each gets the
points as it likes them best, made beforehand: columns for us, rows for the others. Before it is timed, an answer is
compared with moocore's (not with NaN, for which the others promise nothing). paretoset compares each point with all
front members so far, which takes hours where these are many: there it stands as "-".
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import moocore
import numpy as np
from numpy.typing import NDArray
from paretoset import paretoset

from sweep.front import pareto_mask

Array = NDArray[np.float64]
MEMBERS_FOR_PARETOSET = 3000


def shapes(n: int, d: int) -> Iterator[tuple[str, Array]]:
    """Points to be minimised, by the shape of their front."""
    random = np.random.default_rng(7)
    even = random.random((n, d))
    yield "uniform", even
    simplex = -np.log(random.random((n, d)))
    simplex /= simplex.sum(axis=1, keepdims=True)
    yield "all on the front", simplex
    yield "all on it, sorted", simplex[np.argsort(simplex[:, 0])]
    yield "sorted by cost", even[np.argsort(even[:, 0])]
    normal = random.standard_normal((n, d))
    yield "anti-correlated", 0.05 * normal + simplex * 3
    yield "correlated", normal[:, :1] + 0.1 * normal
    yield "log-normal costs", np.exp(2 * normal)
    yield "many ties", np.round(even * 1000)
    yield "front of ties", np.round(simplex * 1000)
    yield "few values", np.floor(even * 5)
    yield "all equal", np.ones((n, d))
    gaps = even.copy()
    gaps[random.random(n) < 0.1, 0] = np.nan
    yield "10 % NaN", gaps


def contestants(points: Array, members: int) -> dict[str, Callable[[], NDArray[np.bool_]]]:
    """What finds the front of these points, by name."""
    rows = np.ascontiguousarray(points)
    costs, accuracies = np.ascontiguousarray(points[:, :-1].T).T, -points[:, -1]
    costs = costs[:, 0].copy() if costs.shape[1] == 1 else costs
    found = {
        "sweep": lambda: pareto_mask(costs, accuracies),
        "moocore": lambda: moocore.is_nondominated(rows, keep_weakly=True),
    }
    if members <= MEMBERS_FOR_PARETOSET:
        found["paretoset"] = lambda: paretoset(rows, distinct=False)
    return found


def main() -> None:
    """Print a table for each number of objectives."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=float, default=1e7, help="with 2 objectives; a tenth of it with 3 and 4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--objectives", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--only", default="", help="shapes whose name has this in it")
    options = parser.parse_args()
    paretoset(np.random.default_rng(0).random((100, 2)), distinct=False)  # compiles it
    for d in options.objectives:
        n = int(options.rows if d == 2 else options.rows / 10)
        print(f"\n{d} objectives, {n:,} rows; median seconds (least to most) of {options.rounds} rounds")
        for name, points in shapes(n, d):
            if options.only in name:
                compare(name, points, options.rounds)


def compare(name: str, points: Array, rounds: int) -> None:
    """Time all on one set of points and print a line."""
    first = moocore.is_nondominated(points, keep_weakly=True)
    runs = contestants(points, int(first.sum()))
    if not np.isnan(points).any():
        assert (runs["sweep"]() == first).all(), f"{name}: not the same front"
    times: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(rounds):
        for who, run in runs.items():
            start = time.perf_counter()
            run()
            times[who].append(time.perf_counter() - start)
    medians = {who: statistics.median(taken) for who, taken in times.items()}
    best = min(value for who, value in medians.items() if who != "sweep")
    cells = [f"{who} {medians[who]:.4f} ({min(times[who]):.4f} to {max(times[who]):.4f})" for who in times]
    cells += ["paretoset -"] if "paretoset" not in runs else []
    ratios = f"{medians['sweep'] / medians['moocore']:.2f} of moocore, {medians['sweep'] / best:.2f} of the faster one"
    print(f"{name:18} front {first.sum():>9,}  {'  '.join(cells)}  {ratios}", flush=True)


if __name__ == "__main__":
    main()

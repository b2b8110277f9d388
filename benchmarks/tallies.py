"""Counting what became of a rule's intervals and verdicts over many draws."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sweep.noise import Array

LOWEST, HIGHEST, MOST_FALSE = 0.93, 0.97, 0.07


@dataclass
class Tally:
    """What happened to one functional: per draw, the shares that were covered, false and silent."""

    covered: list[float] = field(default_factory=list)
    false: list[float] = field(default_factory=list)
    silent: list[float] = field(default_factory=list)

    def add(self, covered: Any = None, false: Any = None, silent: Any = None) -> None:
        """Count one draw; each an array of booleans over what the rule spoke about, or nothing."""
        for kept, given in ((self.covered, covered), (self.false, false), (self.silent, silent)):
            if given is not None and np.size(given):
                kept.append(float(np.mean(given)))

    def join(self, other: "Tally") -> None:
        """Count the draws of another as well."""
        self.covered += other.covered
        self.false += other.false
        self.silent += other.silent

    def printed(self) -> tuple[str, str, str]:
        """Coverage and false verdicts with their Monte Carlo intervals, and the share of silence."""
        silent = f"{np.mean(self.silent):.3f}" if self.silent else "-"
        return _share(self.covered), _share(self.false), silent

    def remark(self) -> str:
        """What is outside of the range that was asked for, beyond the doubt that the draws leave."""
        words = []
        if self.covered:
            _, low, high = mean_and_interval(self.covered)
            words += ["COVERS TOO LITTLE"] if high < LOWEST else []
            words += ["covers more"] if low > HIGHEST else []
        if self.false and mean_and_interval(self.false)[1] > MOST_FALSE:
            words.append("FALSE VERDICTS")
        return ", ".join(words)


def mean_and_interval(shares: list[float]) -> tuple[float, float, float]:
    """Mean over draws and its 95 % Monte Carlo interval; at 0 or 1 the rule of three gives the other end."""
    values = np.array(shares)
    mean, half = float(values.mean()), 1.96 * float(values.std()) / np.sqrt(len(values))
    half = half or 3 / len(values)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _share(shares: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*mean_and_interval(shares)) if shares else "-"


def holds(interval: tuple[Any, Any], truth: Any) -> Array:
    """Where the truth is inside, to rounding."""
    return np.asarray((interval[0] <= truth + 1e-9) & (truth - 1e-9 <= interval[1]))


def wrong_sides(sides: Array, truth: Array) -> Array:
    """Verdicts against the truth, or on any side where there is none."""
    true_sides = np.sign(np.where(np.abs(truth) < 1e-9, 0.0, truth))
    return np.asarray((sides != 0) & (sides != true_sides))

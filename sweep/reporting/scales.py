"""From values to places on paper, and the round numbers at an axis."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sweep.reporting.charts import Axis

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Maps values from low to high onto paper from start to end, linearly or in the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; what lies outside is put on the border."""
        low, high = self._of(self.low), self._of(self.high)
        share = (self._of(value) - low) / (high - low)
        return self.start + min(max(share, -0.02), 1.02) * (self.end - self.start)

    def _of(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    def holds(self, value: float) -> bool:
        """Whether a value lies within, up to rounding."""
        slack = 1e-9 * max(abs(self.low), abs(self.high))
        return self.low - slack <= value <= self.high + slack


def scale_of(axis: Axis, values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """A scale on which all values have room; an axis without any runs from 0 to 1."""
    if axis.bounds is not None:
        return Scale(*axis.bounds, start, end, axis.log)
    usable = [value for value in values if not axis.log or value > 0]
    low, high = (min(usable), max(usable)) if usable else ((1.0, 10.0) if axis.log else (0.0, 1.0))
    if axis.zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if axis.log:
        low, high = math.log10(low), math.log10(high)
        room = max((high - low) * margin, 0.03)
        return Scale(10 ** (low - room), 10 ** (high + room), start, end, log=True)
    room = (high - low) * margin or max(abs(high) * 0.01, 0.5)
    return Scale(low - room, high + room, start, end)


def ticks_of(axis: Axis, scale: Scale, count: int) -> list[tuple[float, str]]:
    """Values and texts at an axis, about `count` of them."""
    if axis.ticks is not None:
        return [tick for tick in axis.ticks if scale.holds(tick[0])]
    if scale.log and scale.high / scale.low > 3:
        return [(value, short(value)) for value in _log_ticks(scale, count)]
    values = linear_ticks(scale.low, scale.high, count)
    step = values[1] - values[0] if len(values) > 1 else 1.0
    places = next(n for n in range(12) if n == 11 or abs(step * 10**n - round(step * 10**n)) < 1e-6)
    large = max(map(abs, values), default=0.0) >= 1e4
    return [
        (value, short(value) if large else f"{value:.{places}f}".replace("-", "\N{MINUS SIGN}")) for value in values
    ]


def linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from low to high."""
    raw = (high - low) / max(count, 1)
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in _STEPS if size * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(scale: Scale, count: int) -> list[float]:
    """1, 2, 5 of each decade where they have room, else 1 and 3, else every n-th decade."""
    first, last = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    every = max(1, math.ceil((last - first) / count))
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [
            factor * 10.0**e for e in range(first, last + 1, every if factors == (1,) else 1) for factor in factors
        ]
        within = [value for value in found if scale.holds(value)]
        if len(within) <= count + 1 or factors == (1,):
            return within
    return []


def short(value: float) -> str:
    """1500 as 1500, 2e9 as 2 G: four digits at most, prefixes only here."""
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size * (1 - 1e-9):
            return f"{value / (1e3 if prefix == 'k' else size):.4g} {prefix}"
    return f"{value:.4g}"

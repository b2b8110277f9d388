"""What a figure shows, before anybody draws it: panels with axes, and series of marks with their words.

`svg` draws it for the page, `png` for everywhere else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

# Light and dark value of each colour. Okabe and Ito's, which colour-blind readers tell apart, made lighter for the
# dark page; r0 to r5 are a ramp of one hue for what is ordered. No series is told by its colour alone.
PALETTE = {
    "ink": ("#1c1f23", "#e8eaed"),
    "quiet": ("#5b6370", "#a7b0bc"),
    "grid": ("#e3e6ea", "#343a43"),
    "paper": ("#ffffff", "#15181c"),
    "blue": ("#0072b2", "#5ab4ec"),
    "orange": ("#c65200", "#f59a52"),
    "green": ("#00805c", "#3fc79d"),
    "purple": ("#8a3f9c", "#cf94de"),
    "red": ("#b3261e", "#ff8a80"),
    "grey": ("#6b7480", "#98a2ae"),
    "r0": ("#79b3d9", "#2f6b9a"),
    "r1": ("#57a0cf", "#3d82b8"),
    "r2": ("#3787c0", "#5499d0"),
    "r3": ("#1a6aa9", "#74b0e2"),
    "r4": ("#0a4c8b", "#9bc9f0"),
    "r5": ("#072f66", "#c9e2fa"),
}
RAMP = ("r0", "r1", "r2", "r3", "r4", "r5")
KINDS = ("blue", "orange", "green", "purple", "red", "grey")
MARKERS = ("circle", "square", "triangle", "diamond", "down", "cross")


@dataclass(frozen=True)
class Style:
    """How a series looks: colour of the palette, marker, and its line (none, solid, dash, dot or step)."""

    colour: str = "ink"
    marker: str = "circle"
    line: str = "none"
    size: float = 4.0
    hollow: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Mark:
    """One datum at (x, y), with the words that a reader of it gets; `low` and `high` are the ends of its bar.

    With `start`, it is a horizontal bar from there to x.
    """

    x: float
    y: float
    words: str
    low: float | None = None
    high: float | None = None
    across: bool = False  # the error bar lies along x
    label: str | None = None
    start: float | None = None
    last: bool = False  # no bar follows on its line, so that a label may stand after it


@dataclass(frozen=True)
class Series:
    """Marks of one kind under one name. Those of a `crowd` are drawn, but have no words of their own."""

    name: str
    style: Style
    marks: Sequence[Mark]
    crowd: bool = False
    in_legend: bool = True


@dataclass(frozen=True)
class Axis:
    """An axis: its words, and where it has `ticks` of its own (value and text), those instead of round numbers."""

    label: str
    log: bool = False
    ticks: tuple[tuple[float, str], ...] | None = None
    bounds: tuple[float, float] | None = None
    zero: bool = False  # a line at 0


@dataclass(frozen=True, eq=False)
class Panel:
    """One plot, equal to itself only. `bands` are ranges of x that are shaded, such as the interval of a break."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    summary: str = ""
    bands: Sequence[tuple[float, float]] = ()
    height: int = 320


@dataclass(frozen=True)
class Table:
    """The data behind a figure: columns with their rows of text or numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """Panels under one title, stored as `name`.svg and `name`.png."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    tables: Sequence[Table] = field(default_factory=tuple)

    def legend(self) -> list[Series]:
        """One series for each name and style that occurs."""
        found = {(s.name, s.style): s for panel in self.panels for s in panel.series if s.in_legend and s.marks}
        return list(found.values())


def values_of(panel: Panel, axis: str) -> list[float]:
    """Everything that a panel shows along x or y, ends of bars included."""
    found: list[float | None] = []
    for mark in (mark for series in panel.series for mark in series.marks):
        ends = [mark.low, mark.high] if mark.across == (axis == "x") else []
        found += [mark.x if axis == "x" else mark.y, *ends, *([mark.start] if axis == "x" else [])]
    return [value for value in found if value is not None and value == value and abs(value) != float("inf")]

"""Where labels go so that they cover no dot, bar, line or other label."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

_LETTER = 7.2  # mean width of a letter at 12 px
_NARROW = set("iIl.,:;|'!fjtr ()[]1")
# Offsets in px from a dot: above first, for over a front that side is empty.
_OFFSETS = [
    (distance * x, distance * y)
    for distance in (10, 16, 24, 34, 46, 60, 80, 104, 130)
    for x, y in (
        (-0.7, -0.7),
        (0, -1),
        (-1, 0),
        (-0.9, -0.4),
        (-0.4, -0.9),
        (0.7, 0.7),
        (1, 0),
        (0, 1),
        (0.7, -0.7),
        (-0.4, 0.9),
    )
]
_FAR = 22
_LABEL = 50  # covering a label is as bad as covering so many dots
_OUTSIDE = 1000
_WORST = 4  # dots or pieces of line; a label that covers more is left out: the tooltip and the table have it


def text_width(text: str) -> float:
    """About how wide a text is at 12 px."""
    return sum(
        0.55 * _LETTER if letter in _NARROW else _LETTER * (1.15 if ord(letter) < 0x2E80 else 2) for letter in text
    )


@dataclass(frozen=True)
class Box:
    """A rectangle on paper; y grows downwards."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: "Box") -> bool:
        """Whether the two share more than an edge."""
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def within(self, other: "Box") -> bool:
        """Whether this one lies inside the other."""
        return self.x0 >= other.x0 and self.x1 <= other.x1 and self.y0 >= other.y0 and self.y1 <= other.y1


@dataclass(frozen=True)
class Placed:
    """A label: its text on the base line `at_y`, from, to or about `at_x` (`anchor`), and the dot at (x, y)."""

    text: str
    x: float
    y: float
    at_x: float
    at_y: float
    far: bool
    anchor: str  # start, end or middle


class Places:
    """What is taken on a panel, and the labels that wait for a place."""

    def __init__(self, area: Box) -> None:
        self._area = area
        self._taken: list[Box] = []
        self._wanted: list[tuple[float, float, str]] = []
        self._labels: list[Box] = []

    def block_dot(self, x: float, y: float, size: float) -> None:
        """Nothing may cover a dot of this size."""
        size += 3
        self._taken.append(Box(x - size, y - size, x + size, y + size))

    def block_bar(self, place: tuple[float, float], low: float, high: float, *, across: bool) -> None:
        """Nothing may cover this error bar."""
        x, y = place
        low, high = min(low, high), max(low, high)
        self._taken.append(Box(low, y - 2, high, y + 2) if across else Box(x - 2, low, x + 2, high))

    def block_line(self, places: Sequence[tuple[float, float]], *, step: bool) -> None:
        """Nothing should cover this line: small boxes along it."""
        for (x0, y0), (x1, y1) in pairwise(places):
            legs = [((x0, y0), (x1, y0)), ((x1, y0), (x1, y1))] if step else [((x0, y0), (x1, y1))]
            for (a, b), (c, d) in legs:
                count = max(int(math.hypot(c - a, d - b) / 6), 1)
                for k in range(count + 1):
                    x, y = a + (c - a) * k / count, b + (d - b) * k / count
                    self._taken.append(Box(x - 2, y - 2, x + 2, y + 2))

    def want(self, x: float, y: float, text: str) -> None:
        """Ask for a label at a dot."""
        self._wanted.append((x, y, text))

    def placed(self) -> Iterator[Placed]:
        """The labels, each at the first free place, else where it covers least and not much."""
        for x, y, text in self._wanted:
            tries = []
            for rank, (dx, dy) in enumerate(_OFFSETS):
                box = _box(x + dx, y + dy, dx, dy, text_width(text))
                covered = sum(box.overlaps(other) for other in self._taken) + (
                    0 if box.within(self._area) else _OUTSIDE
                )
                covered += _LABEL * sum(box.overlaps(other) for other in self._labels)
                tries.append((covered, rank, box))
                if not covered:
                    break
            covered, rank, box = min(tries, key=lambda attempt: attempt[:2])
            if covered > _WORST:
                continue
            self._labels.append(box)
            dx, dy = _OFFSETS[rank]
            anchor = "end" if dx < -3 else "start" if dx > 3 else "middle"
            yield Placed(text, x, y, x + dx, box.y1 - 3, math.hypot(dx, dy) > _FAR, anchor)


def _box(x: float, y: float, dx: float, dy: float, width: float) -> Box:
    """The box of a text that grows away from its dot."""
    left = x - width if dx < -3 else x if dx > 3 else x - width / 2
    top = y - 14 if dy < -3 else y if dy > 3 else y - 7
    return Box(left, top, left + width, top + 14)

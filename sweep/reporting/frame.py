"""A panel's layout in px, the same for SVG and PNG: area, scales, ticks, and where the labels go."""

from functools import cached_property, lru_cache

from sweep.reporting.charts import Mark, Panel, Series, values_of
from sweep.reporting.labels import Box, Placed, Places, text_width
from sweep.reporting.markup import clean
from sweep.reporting.scales import Scale, scale_of, ticks_of

WIDTH = 440
TOP, RIGHT, BOTTOM = 34, 16, 46
_MOST_TICKS = 6


class Frame:
    """Where everything of a panel lies; y grows downwards."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.top, self.bottom, self.right = TOP, panel.height - BOTTOM, WIDTH - RIGHT
        self.y = scale_of(panel.y, values_of(panel, "y"), self.bottom, self.top)
        ticks = ticks_of(panel.y, self.y, max(3, panel.height // 60))
        widest = max((text_width(text) for _, text in ticks), default=0.0)
        self.left = min(max(36.0, widest + (28 if panel.y.label else 12)), 170.0)
        room = max(int((self.left - 12) / 7), 6)
        self.y_ticks = [(value, clean(text, room)) for value, text in ticks]
        self.x = scale_of(panel.x, values_of(panel, "x"), self.left, self.right)
        self.x_ticks = _spaced(ticks_of(panel.x, self.x, _MOST_TICKS), self.x)

    def place(self, mark: Mark) -> tuple[float, float]:
        """Where a mark lies."""
        return self.x(mark.x), self.y(mark.y)

    def holds(self, mark: Mark) -> bool:
        """Whether a mark lies within the axes; else it is drawn on their border."""
        return self.x.holds(mark.x) and self.y.holds(mark.y)

    def bar(self, mark: Mark) -> tuple[float, float] | None:
        """The ends of a mark's error bar along its axis."""
        if mark.low is None or mark.high is None:
            return None
        along = self.x if mark.across else self.y
        return along(mark.low), along(mark.high)

    @cached_property
    def labels(self) -> list[Placed]:
        """The labels of all marks at places where they cover nothing."""
        places = Places(Box(self.left, self.top, self.right, self.bottom))
        wanted = []
        for series in self.panel.series:
            self._block(places, series)
            wanted += [mark for mark in series.marks if mark.label and mark.start is None]
        for mark in wanted:
            places.want(*self.place(mark), clean(mark.label, 28))
        return list(places.placed()) if wanted else []

    def _block(self, places: Places, series: Series) -> None:
        """Take up the room of a series."""
        at = [self.place(mark) for mark in series.marks]
        if series.style.line != "none":
            places.block_line(at, step=series.style.line == "step")
        if not series.style.marker:
            return
        if series.crowd:  # neighbours of a crowd stand for each other
            for x, y in {(round(x / 6) * 6, round(y / 6) * 6) for x, y in at}:
                places.block_dot(x, y, series.style.size)
            return
        for mark, place in zip(series.marks, at, strict=True):
            places.block_dot(*place, series.style.size)
            if ends := self.bar(mark):
                places.block_bar(place, *ends, across=mark.across)


@lru_cache(maxsize=32)
def frame_of(panel: Panel) -> Frame:
    """The frame of a panel, which is drawn as SVG and as PNG."""
    return Frame(panel)


def _spaced(ticks: list[tuple[float, str]], scale: Scale) -> list[tuple[float, str]]:
    """Ticks whose texts do not touch: the others are left out."""
    kept: list[tuple[float, str]] = []
    for value, text in ticks:
        if not kept or scale(value) - text_width(text) / 2 > scale(kept[-1][0]) + text_width(kept[-1][1]) / 2 + 6:
            kept.append((value, clean(text, 24)))
    return kept

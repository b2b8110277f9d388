"""The same figures as PNG, drawn by matplotlib where the page has everything. Names are never read as formulas."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from sweep.reporting.charts import PALETTE, Axis, Figure, Series, Style
from sweep.reporting.frame import WIDTH, Frame, frame_of
from sweep.reporting.markup import clean
from sweep.reporting.scales import Scale

_MARKERS = {"circle": "o", "square": "s", "triangle": "^", "down": "v", "diamond": "D", "cross": "x", "": ""}
_LINES = {"none": "", "solid": "-", "dash": "--", "dot": ":", "step": "-"}
_INCH = 96  # px of the page per inch of the picture
_DPI = 144
_MOST_COLUMNS = 3
_TEXT, _SMALL, _TITLE, _HEAD = 9.0, 8.5, 10.0, 12.0  # points


@contextmanager
def plain_texts() -> Iterator[None]:
    """Names of others are no formulas: a dollar sign is one, and a letter that the font has not is a box."""
    with mpl.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def draw_png(figure: Figure) -> bytes:
    """A figure as PNG, always light: it is for documents and slides."""
    with plain_texts():
        columns = min(len(figure.panels), _MOST_COLUMNS)
        rows = math.ceil(len(figure.panels) / columns)
        handles = [_handle(series) for series in figure.legend()]
        in_a_row = 3 * columns
        head = 40 + 20 * math.ceil(len(handles) / in_a_row)
        tall = max(panel.height for panel in figure.panels)
        width, height = columns * WIDTH, rows * tall + head
        canvas = Canvas(figsize=(width / _INCH, height / _INCH), facecolor="white")
        FigureCanvasAgg(canvas)
        for number, panel in enumerate(figure.panels):
            row, column = divmod(number, columns)
            _panel(canvas, frame_of(panel), (column * WIDTH, head + row * tall), (width, height))
        title = clean(figure.title, 60 * columns)
        canvas.text(8 / width, 1 - 10 / height, title, ha="left", va="top", fontsize=_HEAD, fontweight="bold")
        if handles:
            corner: Any = {"loc": "upper left", "bbox_to_anchor": (0.0, 1 - 30 / height), "borderaxespad": 0.0}
            canvas.legend(handles=handles, ncols=in_a_row, frameon=False, fontsize=_SMALL, columnspacing=1.2, **corner)
        file = io.BytesIO()
        canvas.savefig(file, dpi=_DPI, format="png")
    return file.getvalue()


def _colour(name: str) -> str:
    return PALETTE[name][0]


def _handle(series: Series) -> Any:
    style, name = series.style, "\u200b" + clean(series.name, 40)  # a name that begins with _ would be left out
    if style.marker == "bar":
        return Patch(color=_colour(style.colour), label=name)
    return Line2D([], [], label=name, **_looks(style))


def _looks(style: Style) -> dict[str, Any]:
    colour = _colour(style.colour)
    looks = {"color": colour, "marker": _MARKERS[style.marker], "linestyle": _LINES[style.line], "linewidth": 1.3}
    return looks | {"markersize": style.size * 1.4, "markerfacecolor": "none" if style.hollow else colour}


def _panel(canvas: Canvas, frame: Frame, corner: tuple[float, float], paper: tuple[float, float]) -> None:
    """One panel whose upper left corner lies there on the paper, px."""
    (x, y), (width, height), panel = corner, paper, frame.panel
    area = frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top
    place = (x + area[0]) / width, 1 - (y + area[1] + area[3]) / height, area[2] / width, area[3] / height
    ax: Any = canvas.add_axes(place)
    for which, axis, scale, ticks in (("x", panel.x, frame.x, frame.x_ticks), ("y", panel.y, frame.y, frame.y_ticks)):
        _axis(ax, which, axis, scale, ticks)
    for band in panel.bands:
        ax.axvspan(*band, color=_colour("quiet"), alpha=0.15, linewidth=0)
    for series in panel.series:
        if series.marks:
            _series(ax, frame, series)
    _labels(ax, frame)
    title: Any = {"fontsize": _TITLE, "fontweight": "bold", "va": "top"}
    canvas.text((x + 8) / width, 1 - (y + 8) / height, clean(panel.title, 62), **title)
    ax.grid(color=_colour("grid"), linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(colors=_colour("quiet"), labelsize=_SMALL, length=0, which="both")
    ax.spines[:].set_visible(False)


def _axis(ax: Any, which: str, axis: Axis, scale: Scale, ticks: list[tuple[float, str]]) -> None:
    """Bounds, ticks and words as on the page."""
    getattr(ax, f"set_{which}scale")("log" if axis.log else "linear")
    getattr(ax, f"set_{which}lim")(scale.low, scale.high)
    own: Any = getattr(ax, f"{which}axis")
    own.set_ticks([value for value, _ in ticks], labels=[text for _, text in ticks])
    own.set_ticks([], minor=True)
    getattr(ax, f"set_{which}label")(clean(axis.label, 62), fontsize=_SMALL, color=_colour("quiet"))
    if axis.zero:
        (ax.axvline if which == "x" else ax.axhline)(0.0, color=_colour("quiet"), linewidth=1)


def _series(ax: Any, frame: Frame, series: Series) -> None:
    style, marks = series.style, series.marks
    xs, ys = [mark.x for mark in marks], [mark.y for mark in marks]
    colour = _colour(style.colour)
    if style.marker == "bar":
        starts = [mark.start or 0.0 for mark in marks]
        lengths = [mark.x - start for mark, start in zip(marks, starts, strict=True)]
        ax.barh(ys, lengths, left=starts, height=0.65, color=colour, edgecolor="white", linewidth=0.8)
        return
    if style.line == "step":
        ax.step(xs, ys, where="post", color=colour, linewidth=1.3)
        ax.plot(xs, ys, **_looks(style) | {"linestyle": ""})
    else:
        ax.plot(xs, ys, **_looks(style))
    beyond = [mark for mark in marks if not frame.holds(mark)]
    for mark in beyond:
        ax.plot(mark.x, min(max(mark.y, frame.y.low), frame.y.high), "x", color=colour, markersize=5, clip_on=False)
    if not series.crowd:
        _error_bars(ax, series, colour)


def _error_bars(ax: Any, series: Series, colour: str) -> None:
    for across, draw in ((True, ax.hlines), (False, ax.vlines)):
        if bars := [mark for mark in series.marks if mark.across is across and mark.low is not None]:
            at = [mark.y if across else mark.x for mark in bars]
            draw(at, [mark.low for mark in bars], [mark.high for mark in bars], color=colour, linewidth=1)


def _labels(ax: Any, frame: Frame) -> None:
    """Labels where the page has them; numbers in bars."""
    wide, tall = frame.right - frame.left, frame.bottom - frame.top
    for placed in frame.labels:
        dot, end, text = (
            ((x - frame.left) / wide, (frame.bottom - y) / tall)
            for x, y in ((placed.x, placed.y), (placed.at_x, placed.at_y - 4), (placed.at_x, placed.at_y))
        )
        if placed.far:
            line: Any = {"color": _colour("quiet"), "linewidth": 0.7, "transform": ax.transAxes}
            ax.plot(*zip(dot, end, strict=True), **line)
        side = {"start": "left", "end": "right", "middle": "center"}[placed.anchor]
        ax.text(*text, placed.text, fontsize=_TEXT, transform=ax.transAxes, ha=side)
    for mark in (mark for series in frame.panel.series for mark in series.marks if mark.start is not None):
        start = mark.start or 0.0
        style: Any = {"va": "center", "fontsize": _TEXT}
        if mark.label and frame.x(mark.x) - frame.x(start) > 7 * len(mark.label) + 8:
            ax.text((mark.x + start) / 2, mark.y, mark.label, ha="center", color="white", fontweight="bold", **style)
        elif mark.label and mark.last:
            ax.annotate(mark.label, (mark.x, mark.y), xytext=(3, 0), textcoords="offset points", **style)

"""Figures as SVG: panels for the page, whole figures as files. Colours are CSS variables, so that both themes work."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise

from sweep.reporting.charts import PALETTE, Figure, Mark, Panel, Series, Style
from sweep.reporting.frame import WIDTH, Frame, frame_of
from sweep.reporting.labels import text_width
from sweep.reporting.markup import Markup, clean, element, join

_DASHES = {"dash": "6 4", "dot": "1.5 4"}
_GAP = 16
_MOST_COLUMNS = 3


def theme() -> str:
    """CSS of the palette: light, and dark where the reader's system is."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in PALETTE.items()) for i in (0, 1))
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def asset(name: str) -> str:
    """One of the files beside this module."""
    return (files("sweep.reporting") / name).read_text(encoding="utf-8")


def draw_panel(panel: Panel, *, x: float | None = None, y: float | None = None) -> Markup:
    """One panel as an `svg` element; with x and y, for a place in a larger one."""
    size = {"width": WIDTH, "height": panel.height} if x is not None else {}
    return element(
        "svg", _inside(panel), x=x, y=y, **size, viewBox=f"0 0 {WIDTH} {panel.height}", class_="plot", role="group",
        aria_label=clean(panel.summary or panel.title, 400),
    )  # fmt: skip


@lru_cache(maxsize=32)
def _inside(panel: Panel) -> Markup:
    """What is in a panel, on the page as in the file."""
    frame = frame_of(panel)
    bands = (_band(frame, band) for band in panel.bands)
    return join(_grid(frame), *bands, *(_series(frame, series) for series in panel.series), _labels(frame))


def draw_figure(figure: Figure) -> bytes:
    """A whole figure as a file of its own: title, legend, panels."""
    columns = min(len(figure.panels), _MOST_COLUMNS)
    width = columns * (WIDTH + _GAP) + _GAP
    legend, top = _legend_rows(figure.legend(), width, 52)
    parts: list[Markup] = []
    for start in range(0, len(figure.panels), columns):
        row = figure.panels[start : start + columns]
        parts += [draw_panel(panel, x=_GAP + i * (WIDTH + _GAP), y=top) for i, panel in enumerate(row)]
        top += max(panel.height for panel in row) + _GAP
    background = element("rect", width=width, height=top, class_="paper")
    title = element("text", clean(figure.title), x=_GAP, y=30, class_="head")
    style = element("style", Markup(theme() + asset("chart.css")))
    view = {"viewBox": f"0 0 {width} {top}", "width": width, "height": top, "class_": "plot"}
    whole = element("svg", style, background, title, *legend, *parts, xmlns="http://www.w3.org/2000/svg", **view)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{whole}\n'.encode()


def draw_legend(entries: Iterable[Series]) -> Markup:
    """The legend as a list for the page."""
    items = []
    for series in entries:
        swatch = element(
            "svg", _swatch(series.style, 0, 8), viewBox="0 0 30 16", class_="plot swatch", aria_hidden="true"
        )
        items.append(element("li", swatch, clean(series.name, 60)))
    return element("ul", *items, class_="legend") if items else Markup("")


def _legend_rows(entries: Sequence[Series], width: float, y: float) -> tuple[list[Markup], float]:
    """The legend in rows that fit, and where they end."""
    found, x = [], float(_GAP)
    for series in entries:
        name = clean(series.name, 60)
        long = 36 + text_width(name) + 14
        if x + long > width and x > _GAP:
            x, y = float(_GAP), y + 20
        found += [_swatch(series.style, x, y), element("text", name, x=_n(x + 34), y=_n(y + 4), class_="t")]
        x += long
    return found, y + (18 if entries else 0)


def _swatch(style: Style, x: float, y: float) -> Markup:
    """A short piece of a series' line with its marker."""
    line = None
    if style.line != "none":
        line = _line([(x + 1, y), (x + 29, y)], style)
    if style.marker == "bar":
        return element("rect", x=_n(x + 6), y=_n(y - 6), width=18, height=12, class_=f"fill {style.colour}")
    dot = _dot(x + 15, y, style) if style.marker else None
    return join(line, dot)


def _grid(frame: Frame) -> Markup:
    """Title, axes with their words, grid lines."""
    parts = [element("text", clean(frame.panel.title, 62), x=4, y=18, class_="title")]
    for value, text in frame.y_ticks:
        y = frame.y(value)
        parts.append(element("line", x1=_n(frame.left), x2=_n(frame.right), y1=_n(y), y2=_n(y), class_="grid"))
        parts.append(element("text", text, x=_n(frame.left - 7), y=_n(y + 4), class_="t end"))
    for value, text in frame.x_ticks:
        x = frame.x(value)
        parts.append(element("line", x1=_n(x), x2=_n(x), y1=frame.top, y2=frame.bottom, class_="grid"))
        parts.append(element("text", text, x=_n(x), y=frame.bottom + 16, class_="t mid"))
    return join(*parts, *_zeros(frame), *_words(frame))


def _zeros(frame: Frame) -> list[Markup]:
    zeros = []
    if frame.panel.x.zero:
        x = _n(frame.x(0.0))
        zeros.append(element("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="zero"))
    if frame.panel.y.zero:
        y = _n(frame.y(0.0))
        zeros.append(element("line", x1=_n(frame.left), x2=_n(frame.right), y1=y, y2=y, class_="zero"))
    return zeros


def _words(frame: Frame) -> list[Markup]:
    middle, place = (frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2
    words = [element("text", clean(frame.panel.x.label, 62), x=_n(middle), y=frame.bottom + 36, class_="t mid q")]
    if frame.panel.y.label:
        turn = f"translate(12 {_n(place)}) rotate(-90)"
        words.append(element("text", clean(frame.panel.y.label, 44), transform=turn, class_="t mid q"))
    return words


def _band(frame: Frame, band: tuple[float, float]) -> Markup:
    low, high = frame.x(band[0]), frame.x(band[1])
    return element("rect", x=_n(low), y=frame.top, width=_n(high - low), height=frame.bottom - frame.top, class_="band")


def _series(frame: Frame, series: Series) -> Markup:
    """The line of a series, then its marks."""
    style = series.style
    places = [frame.place(mark) for mark in series.marks]
    line = _line(places, style) if style.line != "none" and len(places) > 1 else None
    if not style.marker:
        return element("g", line)
    if series.crowd:
        return element("g", line, _crowd(places, style))
    return element(
        "g", line, *(_mark(frame, mark, style) for mark in series.marks), class_="faint" if style.faint else None
    )


def _line(places: Sequence[tuple[float, float]], style: Style) -> Markup:
    if style.line == "step":
        corners = [places[0]]
        for (_, y0), (x1, y1) in pairwise(places):
            corners += [(x1, y0), (x1, y1)]
        places = corners
    points = " ".join(f"{_n(x)},{_n(y)}" for x, y in places)
    kind = f"line {style.colour}" + (" faint" if style.faint else "")
    return element("polyline", points=points, class_=kind, stroke_dasharray=_DASHES.get(style.line))


def _crowd(places: Sequence[tuple[float, float]], style: Style) -> Markup:
    """Many dots as one path; those of one pixel once."""
    seen = dict.fromkeys((round(x), round(y)) for x, y in places)
    path = "".join(f"M{x} {y}h0" for x, y in seen)
    return element("path", d=path, class_=f"crowd {style.colour}")


def _mark(frame: Frame, mark: Mark, style: Style) -> Markup:
    """One mark: its bar, its dot, its words."""
    x, y = frame.place(mark)
    at = f"translate({_n(x)} {_n(y)})"
    title = element("title", clean(mark.words, 600)) if mark.words else None
    if mark.start is not None:
        return element("g", title, *_bar(frame, mark, style), class_="mark", transform=at)
    error = None
    if ends := frame.bar(mark):
        low, high = (_n(end - (x if mark.across else y)) for end in ends)
        along = {"x1": low, "x2": high} if mark.across else {"y1": low, "y2": high}
        error = element("line", **along, class_=f"err {style.colour}")
    dot = _dot(0, 0, style if frame.holds(mark) else Style(style.colour, "cross", size=style.size))
    return element("g", title, error, dot, class_=f"mark {style.colour}" if mark.words else style.colour, transform=at)


def _bar(frame: Frame, mark: Mark, style: Style) -> list[Markup]:
    """A horizontal bar that ends at the mark's place, with its label within where it has room."""
    x, start = frame.x(mark.x), frame.x(mark.start or 0.0)
    width = max(x - start, 0.5)
    parts = [element("rect", x=_n(start - x), y=-11, width=_n(width), height=22, class_=f"fill {style.colour}")]
    if mark.label and text_width(mark.label) + 8 < width:
        parts.append(element("text", mark.label, x=_n((start - x) / 2), y=4, class_="t mid on"))
    elif mark.label and mark.last:
        parts.append(element("text", mark.label, x=5, y=4, class_="t"))
    return parts


def _labels(frame: Frame) -> Markup:
    """The labels; a thin line leads to one that is far away."""
    parts = []
    for placed in frame.labels:
        if placed.far:
            ends = {"x1": placed.x, "y1": placed.y, "x2": placed.at_x, "y2": placed.at_y - 4}
            parts.append(element("line", **{name: _n(value) for name, value in ends.items()}, class_="lead"))
        at = {"x": _n(placed.at_x), "y": _n(placed.at_y)}
        parts.append(element("text", placed.text, **at, text_anchor=placed.anchor, class_="t lab"))
    return join(*parts)


def _dot(x: float, y: float, style: Style) -> Markup:
    kind = f"{'hollow' if style.hollow or style.marker == 'cross' else 'fill'} {style.colour}"
    r = style.size
    if style.marker == "circle":
        return element("circle", cx=_n(x), cy=_n(y), r=_n(r), class_=kind)
    corners = {
        "square": f"M{_n(x - 0.9 * r)} {_n(y - 0.9 * r)}h{_n(1.8 * r)}v{_n(1.8 * r)}h{_n(-1.8 * r)}z",
        "triangle": f"M{_n(x)} {_n(y - 1.2 * r)}L{_n(x + 1.1 * r)} {_n(y + 0.8 * r)}H{_n(x - 1.1 * r)}z",
        "down": f"M{_n(x)} {_n(y + 1.2 * r)}L{_n(x + 1.1 * r)} {_n(y - 0.8 * r)}H{_n(x - 1.1 * r)}z",
        "diamond": f"M{_n(x)} {_n(y - 1.3 * r)}l{_n(1.3 * r)} {_n(1.3 * r)}l{_n(-1.3 * r)} {_n(1.3 * r)}"
        f"l{_n(-1.3 * r)} {_n(-1.3 * r)}z",
        "cross": f"M{_n(x - r)} {_n(y - r)}L{_n(x + r)} {_n(y + r)}M{_n(x - r)} {_n(y + r)}L{_n(x + r)} {_n(y - r)}",
    }
    return element("path", d=corners[style.marker], class_=kind)


def _n(value: float) -> str:
    """A coordinate to a tenth."""
    return f"{value:.1f}".removesuffix(".0")

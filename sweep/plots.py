"""Figures: the front of each budget, and depth against width. Written to a file; no window, no global state."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import Bbox

from sweep.imports import LATENCY_KIND
from sweep.naming import kind_in_words, model_in_words
from sweep.pareto import pareto
from sweep.points import Points, gather_all, points_of
from sweep.rules.cells import sweep_name, with_columns
from sweep.table import COLUMNS
from workers.files import replaced

# Told apart by colour-blind readers too (Okabe and Ito; a single-hue ramp for what is ordered).
BLUE, ORANGE, PURPLE, INK, GREY = "#0072B2", "#D55E00", "#7B3294", "#222222", "#6f6f6f"
_FAMILIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999")
_RAMP = ("#b9d7ea", "#85bcdb", "#519ccc", "#2878b8", "#0d559f", "#08306b")
_ARMS = {"depth": (BLUE, "o", "-"), "width": (ORANGE, "s", "--")}
_VERDICTS = {"depth": BLUE, "width": ORANGE, "mixed": PURPLE, "undetermined": GREY}
_REFERENCE, _OTHERS = "#8a8a8a", "#c9c9c9"
_DPI = 150
_UNITS = {column.name: column.unit for column in COLUMNS}
_NAMES = {
    "train_step_ms": "training step",
    "infer_latency_ms": "inference latency, one image",
    "macs_per_image": "multiply-adds per image",
    "params": "parameters",
    "peak_memory_bytes": "peak memory, training step",
    "train_device_hours": "device time of the training run",
}
_ACCURACIES = {"minival_top1": "minival top-1 (%)", "val_top1": "validation top-1 (%)"}
# A panel, its labels (x, y, text), and the dots that they must not cover.
_Labels = tuple[Any, list[tuple[float, float, str]], list[Any]]
# Where a label may go, in points from its dot: over the front first, for that side is empty.
_PLACES = [
    (distance * x, distance * y)
    for distance in (9, 15, 23, 33, 45, 60)
    for x, y in ((-0.7, 0.7), (0, 1), (-1, 0), (-0.9, 0.4), (-0.4, 0.9), (0.7, -0.7), (1, 0), (0, -1), (0.7, 0.7))
]


def plot_front(
    table: pd.DataFrame,
    path: Path,
    *,
    budget: int | None = None,
    cost: str | Sequence[str] | None = None,
    max_cost: float | Mapping[str, float] | None = None,
    device: str | None = None,
    noise_sd: float | None = None,
    reference: pd.DataFrame | None = None,
) -> Path:
    """Draw every cell and the front of each budget (or of one), its recommended members labelled; returns the path.

    Bars are one standard error. Cells are coloured by family where there are several, else by resolution. With several
    costs, the first one is drawn and members are ringed, without a line. The cells of `reference` are drawn behind,
    with the accuracy and the cost that they have, and belong to no front.
    """
    result = pareto(table, budget=budget, cost=cost, max_cost=max_cost, device=device, noise_sd=noise_sd)
    fronts = [front for front in result.get("fronts", [result]) if front["considered"]]
    table = with_columns(table).reset_index(drop=True)
    evidence = gather_all(table, fronts[0]["costs"], device=device)
    others = None if reference is None else _reference_points(reference, fronts[0])
    colours = _colours(evidence.rows)
    figure, axes = _panels(len(fronts), 4.5)
    labels: list[_Labels] = []
    for ax, front in zip(axes, fronts, strict=True):
        epochs = evidence.rows["epochs"]
        within = epochs.isna() if front["budget"] is None else epochs == front["budget"]
        points = points_of(evidence, evidence.rows[within], noise_sd)
        if others is not None:
            _draw_reference(ax, others, front["budget"])
        _draw_front(ax, points, front, colours)
        _style(ax, front["cost"], front["accuracy_column"], _budget_words(front["budget"]))
        _say_what_cost_is(ax, front, evidence.rows if others is None else others)
        marks = list(zip(points.cost, points.top1, strict=True))
        labels.append((ax, [(m["cost"], m["top1"], _label(m)) for m in front["recommended"]], marks))
    several = len(fronts[0]["costs"]) > 1
    legend = _front_legend(colours, several) + ([] if others is None else [_reference_legend(others)])
    _head(figure, f"{result['sweep'] or 'table'}: accuracy against cost", legend)
    _place_labels(figure, labels)
    return _save(figure, path)


def _reference_points(reference: pd.DataFrame, front: dict[str, Any]) -> pd.DataFrame:
    """The rows of a reference that can be drawn: cost, top-1 and what that is, epochs, name."""
    rows = with_columns(reference).reset_index(drop=True)
    evidence = gather_all(rows, [front["cost"]])
    name = evidence.accuracy if evidence.rows[front["accuracy_column"]].isna().all() else front["accuracy_column"]
    rows = evidence.rows.assign(drawn_cost=evidence.rows[front["cost"]], drawn_top1=evidence.rows[name])
    return rows.assign(drawn_as=f"{sweep_name(rows) or 'another table'}, {_ACCURACIES[name].removesuffix(' (%)')}")


def _draw_reference(ax: Any, others: pd.DataFrame, budget: int | None) -> None:
    """Where a row says its epochs, it belongs to that budget; else to all."""
    shown = others[others["epochs"].isna() | (others["epochs"] == budget)]
    style = {"facecolors": "none", "edgecolors": _REFERENCE, "linewidths": 0.9, "marker": "D"}
    ax.scatter(shown["drawn_cost"], shown["drawn_top1"], s=16, alpha=0.8, zorder=1, **style)


def _reference_legend(others: pd.DataFrame) -> Line2D:
    style: dict[str, Any] = {"marker": "D", "markerfacecolor": "none", "markersize": 5, "linestyle": ""}
    return Line2D([], [], color=_REFERENCE, label=f"reference: {others['drawn_as'].iloc[0]}", **style)


def _say_what_cost_is(ax: Any, front: dict[str, Any], rows: pd.DataFrame) -> None:
    """Imported latencies are those of whole batches."""
    if front["cost"] == "infer_latency_ms" and LATENCY_KIND in rows and rows[LATENCY_KIND].notna().any():
        all_of_them = rows[LATENCY_KIND].notna().all() and "drawn_as" not in rows
        words = "inverse throughput" if all_of_them else "inference latency (reference: inverse throughput)"
        ax.set_xlabel(f"{words}, infer_latency_ms (ms), log scale", color=INK, fontsize=9)


def plot_depth_width(result: dict[str, Any], path: Path) -> Path:
    """Draw the answer of `rules`: the depth arm and the width arm of each resolution, a panel per budget.

    Bars are one standard error; under each panel stand the gain of depth over width and its 95 % interval.
    """
    groups = result["depth_vs_width_by_budget"]
    figure, axes = _panels(len(groups), 5.0)
    labels: list[_Labels] = []
    for ax, group in zip(axes, groups, strict=True):
        kind = ("family", "model", "budget")
        entries = [e for e in result["depth_vs_width"] if all(e[name] == group[name] for name in kind)]
        drawn = [entry for entry in entries if entry["arms"]]
        for entry in drawn:
            _draw_arms(ax, entry)
        words = ", ".join(filter(None, (kind_in_words(group, groups), _budget_words(group["budget"]))))
        title = f"{words}: {group['verdict']}"
        _style(ax, result["cost"], result["accuracy_column"], title, _VERDICTS[group["verdict"]])
        _gains(ax, entries)
        marks = [(cell["cost"], cell["top1"]) for e in drawn for arm in e["arms"].values() for cell in arm]
        sizes = [(e["base"]["cost"], e["base"]["top1"], f"{e['resolution']} px") for e in drawn]
        labels.append((ax, sizes, marks))
    _head(figure, f"{result['sweep'] or 'table'}: deeper or wider?", _arms_legend())
    _place_labels(figure, labels)
    return _save(figure, path)


def _panels(count: int, height: float) -> tuple[Figure, list[Any]]:
    """A figure of `count` panels, at most three in a row."""
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    size = (max(4.6 * columns, 6.4), height * rows + 0.6)
    spread = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=size, layout=spread, facecolor="white")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes[:count]


def _head(figure: Figure, title: str, handles: Sequence[Line2D]) -> None:
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
    style = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = int(figure.get_figwidth() * 13 / (longest + 6))  # some 13 letters to an inch
    figure.legend(handles=handles, ncols=min(max(columns, 1), len(handles), 8), **style)


def _style(ax: Any, cost: str, accuracy: str, title: str, colour: str = INK) -> None:
    """What all panels share: log cost with plain numbers, quiet grid, no box."""
    ax.set_xscale("log")
    ax.margins(x=0.1, y=0.1)
    ax.xaxis.set_major_locator(_ticks(*ax.get_xlim()))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _si(value)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    unit = _UNITS.get(cost) or ("ms" if cost.endswith("_ms") else "")
    name = f"{_NAMES[cost]}, {cost}" if cost in _NAMES else cost
    ax.set_xlabel(f"{name} ({unit}), log scale" if unit else f"{name}, log scale", color=INK, fontsize=9)
    ax.set_ylabel(_ACCURACIES[accuracy], color=INK, fontsize=9)
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=colour)
    ax.grid(color="#e6e6e6", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(colors=GREY, labelsize=8.5, length=0)
    ax.spines[:].set_visible(False)


def _ticks(low: float, high: float) -> Locator:
    """Round numbers, several of them however narrow the range: decades alone may miss it."""
    if high / low < 4:
        return MaxNLocator(5)
    return LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,))


def _si(value: float) -> str:
    """1500 as 1500, 2e9 as 2 G: prefixes only here, at display."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if prefix == 'k' else size):g} {prefix}"
    return f"{value:g}"


def _budget_words(budget: int | None) -> str:
    return "epochs not stated" if budget is None else f"{budget} {'epoch' if budget == 1 else 'epochs'}"


def _colours(rows: pd.DataFrame) -> dict[Any, tuple[str, str]]:
    """(colour, words) by family where there are several, else by resolution."""
    counts = rows["family"].dropna().astype(str).value_counts()
    families = sorted(counts.index[: len(_FAMILIES)])
    if len(families) > 1:
        others = dict.fromkeys(counts.index[len(_FAMILIES) :], (_OTHERS, "other families"))
        return {name: (_FAMILIES[i], name) for i, name in enumerate(families)} | others
    sizes = sorted(rows["resolution"].dropna().unique())
    step = (len(_RAMP) - 1) / max(len(sizes) - 1, 1)
    return {size: (_RAMP[round(i * step)], f"{size:g} px") for i, size in enumerate(sizes)}


def _draw_front(ax: Any, points: Points, front: dict[str, Any], colours: dict[Any, tuple[str, str]]) -> None:
    column = "family" if isinstance(next(iter(colours), None), str) else "resolution"
    shades = [colours.get(value, (GREY, ""))[0] for value in points.rows[column]]
    ax.errorbar(points.cost, points.top1, points.se, fmt="none", ecolor="#b0b0b0", elinewidth=0.9, zorder=1)
    ax.scatter(points.cost, points.top1, c=shades, s=30, alpha=0.9, linewidths=0, zorder=2)
    cost, top1 = ([member[key] for member in front["front"]] for key in ("cost", "top1"))
    if len(front["costs"]) == 1:
        # A step: between two members, the cheaper one is the best that the money buys.
        ax.step(cost, top1, where="post", color=INK, linewidth=1.5, zorder=3)
    ax.scatter(cost, top1, s=52, facecolors="none", edgecolors=INK, linewidths=1.4, zorder=4)


def _front_legend(colours: dict[Any, tuple[str, str]], several: bool = False) -> list[Line2D]:
    kinds = dict.fromkeys(colours.values())
    dots = [Line2D([], [], marker="o", linestyle="", color=colour, label=words) for colour, words in kinds]
    ring: dict[str, Any] = {"marker": "o", "markerfacecolor": "none", "markersize": 7}
    line: dict[str, Any] = {"linestyle": ""} if several else {"linewidth": 1.5}
    words = "Pareto front in all costs" if several else "Pareto front"
    return [Line2D([], [], color=INK, label=words, **line, **ring), *dots]


def _label(member: dict[str, Any]) -> str:
    """The model in words: what a published table calls it, else its shape."""
    name = model_in_words(member)
    return f"{name}, {member['resolution']} px" if member["resolution"] else name


def _draw_arms(ax: Any, entry: dict[str, Any]) -> None:
    for axis, (colour, marker, line) in _ARMS.items():
        cells = sorted(entry["arms"][axis], key=lambda cell: float(cell["cost"]))
        cost, top1, se = ([cell[key] for cell in cells] for key in ("cost", "top1", "top1_se"))
        style = {"color": colour, "marker": marker, "linestyle": line, "markersize": 5, "linewidth": 1.6}
        ax.errorbar(cost, top1, se, **style, elinewidth=0.9, alpha=0.9, zorder=3)
    base = entry["base"]
    ax.plot(base["cost"], base["top1"], marker="D", color=INK, markersize=6, zorder=4)


def _arms_legend() -> list[Line2D]:
    words = {"depth": "deeper, same width", "width": "wider, same depth"}
    arms = [
        Line2D([], [], color=colour, marker=marker, linestyle=line, markersize=5, label=words[axis])
        for axis, (colour, marker, line) in _ARMS.items()
    ]
    return [Line2D([], [], color=INK, marker="D", linestyle="", markersize=6, label="base"), *arms]


def _gains(ax: Any, entries: list[dict[str, Any]]) -> None:
    """Under the panel, a line for each resolution: verdict, gain of depth over width, interval (or why none)."""
    lines = [(GREY, f"{'':>9}{'':<14}depth minus width, points")]
    for entry in entries:
        words = f"{entry['resolution']:>4} px  {entry['verdict']:<13}"
        if entry["gain_points"] is None:
            words = f"{words} ({entry['reason']})"
        else:
            low, high = entry["ci"]
            words += f" {entry['gain_points']:+.2f}  [{low:+.2f}, {high:+.2f}]"
        lines.append((_VERDICTS[entry["verdict"]], words))
    place = {"xy": (0, 0), "xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
    for i, (colour, words) in enumerate(lines):
        style = {"color": colour, "fontsize": 8, "family": "DejaVu Sans Mono"}
        ax.annotate(words, xytext=(0, -36 - 12 * i), annotation_clip=False, **place, **style)


def _place_labels(figure: Figure, labels: list[_Labels]) -> None:
    """Put each label where it covers no dot, line or other label. The layout is fixed first, so that sizes hold."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    renderer = cast(FigureCanvasAgg, figure.canvas).get_renderer()
    for ax, words, marks in labels:
        inside = ax.get_window_extent(renderer).padded(-2)
        taken = [_dot(ax, x, y) for x, y in marks] + _line_boxes(ax)
        for x, y, text in words:
            taken.append(_place(ax, x, y, text, inside, taken, renderer))


def _dot(ax: Any, x: float, y: float) -> Bbox:
    px, py = ax.transData.transform((x, y))
    return Bbox.from_extents(px - 8, py - 8, px + 8, py + 8)


def _line_boxes(ax: Any) -> list[Bbox]:
    """The lines and error bars of a panel as small boxes along them."""
    paths = [line.get_path().vertices for line in ax.get_lines()]
    bars = [bar for group in ax.collections if isinstance(group, LineCollection) for bar in group.get_segments()]
    boxes = []
    for path in paths + bars:
        for (x0, y0), (x1, y1) in pairwise(ax.transData.transform(path)):
            count = max(int(math.hypot(x1 - x0, y1 - y0) / 6), 1)
            steps = [(x0 + (x1 - x0) * k / count, y0 + (y1 - y0) * k / count) for k in range(count + 1)]
            boxes += [Bbox.from_extents(x - 2, y - 2, x + 2, y + 2) for x, y in steps]
    return boxes


def _place(ax: Any, x: float, y: float, text: str, inside: Bbox, taken: list[Bbox], renderer: Any) -> Bbox:
    """Draw one label at the first free place, else at the one that covers least; returns its box."""
    note = ax.annotate(text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8.5, color=INK, zorder=6)
    tries = []
    for rank, place in enumerate(_PLACES):
        _move(note, place)
        box = note.get_window_extent(renderer)
        whole = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
        covered = box.count_overlaps(taken) + (0 if whole else 1000)
        tries.append((covered, rank, place))
        if covered == 0:
            break
    place = min(tries)[2]
    _move(note, place)
    if math.hypot(*place) > 20:
        arrow = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 5}
        ax.annotate("", (x, y), xytext=place, textcoords="offset points", arrowprops=arrow, zorder=5)
    return cast(Bbox, note.get_window_extent(renderer).padded(2))


def _move(note: Any, place: tuple[float, float]) -> None:
    """Put a label at an offset from its dot, growing away from it."""
    dx, dy = place
    note.set_position(place)
    note.set_ha("right" if dx < -3 else "left" if dx > 3 else "center")
    note.set_va("bottom" if dy > 3 else "top" if dy < -3 else "center")


def _save(figure: Figure, path: Path) -> Path:
    with replaced(path) as file:
        figure.savefig(file, dpi=_DPI, format=path.suffix.removeprefix("."))
    return path

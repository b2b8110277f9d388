"""Figures of the rules: gain of depth over width, the arms behind it, and what a step in resolution returns."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sweep.reporting.charts import Axis, Figure, Mark, Panel, Series, Style, Table
from sweep.reporting.facts import Entry, Facts
from sweep.reporting.words import (
    accuracy_in_words,
    cost_axis,
    cost_in_words,
    heading_of,
    interval,
    shape_in_words,
    signed,
    with_unit,
)
from sweep.rules.depth_width import PAPER_BASE

_SIDES = {
    "depth": ("depth is better", Style("blue", "circle", size=5)),
    "width": ("width is better", Style("orange", "square", size=5)),
    "undetermined": ("undetermined", Style("grey", "diamond", size=4.5, hollow=True)),
}
_ARMS = {
    "depth": ("deeper, same width", Style("blue", "circle", "solid")),
    "width": ("wider, same depth", Style("orange", "square", "dash")),
}
_STEPS = {
    "raise": ("raise", Style("green", "triangle", size=4.5)),
    "prefer depth": ("prefer depth", Style("blue", "circle", size=4)),
    "prefer width": ("prefer width", Style("orange", "square", size=4)),
    "undetermined": ("undetermined", Style("grey", "diamond", size=3.5, hollow=True)),
}
_MANY_BARS = 10  # shapes at one step; of more, only the base has its interval drawn


def kind_of(entry: Entry) -> tuple[Any, str]:
    """What tells the groups of entries apart: family and arguments."""
    return entry["family"], repr(entry["model"])


def of_group(entries: Sequence[Entry], group: Entry) -> list[Entry]:
    """The entries of one family, model and budget."""
    return [e for e in entries if kind_of(e) == kind_of(group) and e["budget"] == group["budget"]]


def with_gains(rules: Entry) -> list[tuple[Entry, list[Entry]]]:
    """The groups (family, model, budget) that have any gain, each with its entries."""
    groups = [(group, of_group(rules["depth_vs_width"], group)) for group in rules["depth_vs_width_by_budget"]]
    return [(group, own) for group, own in groups if any(e["gain_points"] is not None for e in own)]


def gains_figure(facts: Facts) -> Figure | None:
    """Gain of depth over width at equal cost, with its interval, at each resolution of each budget."""
    rules = facts.rules
    if not rules or not (groups := with_gains(rules)):
        return None
    ends = [end for _, own in groups for e in own if e["ci"] for end in (*e["ci"], 0.0)]
    room = 0.06 * (max(ends) - min(ends)) or 0.1
    bounds = (min(ends) - room, max(ends) + room)
    panels = [_gain_panel(group, own, bounds, rules) for group, own in groups]
    all_groups = rules["depth_vs_width_by_budget"]
    rows = [
        [heading_of(e, all_groups), f"{e['resolution']:g}", e["verdict"], signed(e["gain_points"]), interval(e["ci"]),
         f"{e['coverage']['ok']} of {e['coverage']['planned']}", "; ".join(filter(None, (e["reason"], e["flag"])))]
        for e in rules["depth_vs_width"]
    ]  # fmt: skip
    columns = ["budget", "px", "verdict", "gain (points)", "95 % interval", "trials", "remark"]
    tables = [Table(columns, rows, "Depth minus width at equal cost"), _pairs_table(rules)]
    caption = "Right of 0 depth is better at equal cost, left of 0 width. Bars are 95 % intervals."
    return Figure("depth-width-gains", "Depth or width: the gain of depth over width", caption, panels, tables)


def _gain_panel(group: Entry, own: Sequence[Entry], bounds: tuple[float, float], rules: Entry) -> Panel:
    drawn = [e for e in own if e["gain_points"] is not None]
    series = []
    for verdict, (name, style) in _SIDES.items():
        marks = [
            Mark(e["gain_points"], -i, _gain_words(e), e["ci"][0], e["ci"][1], across=True)
            for i, e in enumerate(drawn) if e["verdict"] == verdict
        ]  # fmt: skip
        series.append(Series(name, style, marks))
    ticks = tuple((-float(i), f"{e['resolution']:g} px") for i, e in enumerate(drawn))
    y = Axis("", ticks=ticks, bounds=(-len(drawn) + 0.4, 0.6))
    title = f"{heading_of(group, rules['depth_vs_width_by_budget'])}: {group['verdict']}"
    x = Axis("depth minus width (points of top-1)", bounds=bounds, zero=True)
    return Panel(
        title, x, y, series, f"{title}. " + "; ".join(_gain_words(e) for e in drawn), height=84 + 30 * len(drawn)
    )


def _gain_words(entry: Entry) -> str:
    lines = [f"{entry['resolution']:g} px: {entry['verdict']}"]
    lines.append(f"depth minus width {signed(entry['gain_points'])} points")
    return "\n".join([*lines, f"95 % interval {interval(entry['ci'])}"])


def _pairs_table(rules: Entry) -> Table:
    groups = rules["depth_vs_width_by_budget"]
    rows = [
        [heading_of(e, groups), f"{e['resolution']:g}", p["arm"], shape_in_words(p),
         with_unit(p["cost"], rules["cost"]), f"{p['top1']:.2f}", f"{p['other_top1']:.2f}",
         signed(p["depth_minus_width"]), interval(p["ci"])]
        for e in rules["depth_vs_width"] for p in e["pairs"]
    ]  # fmt: skip
    columns = ["budget", "px", "arm", "cell", "cost", "top-1 (%)", "other arm (%)", "depth − width", "95 % interval"]
    return Table(columns, rows, "The pairs behind the gains: each cell against the other arm at its cost")


def arms_figures(facts: Facts) -> list[Figure]:
    """One figure for each family, model and budget: both arms at each resolution."""
    if not facts.rules:
        return []
    groups = facts.rules["depth_vs_width_by_budget"]
    figures = []
    for number, group in enumerate(groups):
        own = [e for e in of_group(facts.rules["depth_vs_width"], group) if e["arms"]]
        if own:
            panels = [_arms_panel(facts, e) for e in own]
            title = f"{heading_of(group, groups)}: {group['verdict']}"
            caption = "From the base cell (diamond) one arm goes deeper, the other wider. Bars are one standard error."
            figures.append(Figure(f"arms-{number + 1}", title, caption, panels, [_arms_table(facts, own)]))
    return figures


def _arms_panel(facts: Facts, entry: Entry) -> Panel:
    series = []
    for axis, (name, style) in _ARMS.items():
        cells = sorted(entry["arms"][axis], key=lambda cell: float(cell["cost"]))
        marks = [_arm_mark(facts, cell, axis, cell == entry["base"]) for cell in cells]
        series.append(Series(name, style, marks))
    base = Mark(entry["base"]["cost"], entry["base"]["top1"], f"base\n{_cell_words(facts, entry['base'])}")
    series.append(Series("base", Style("ink", "diamond", size=5), [base]))
    title = f"{entry['resolution']:g} px: {entry['verdict']}"
    if entry["gain_points"] is not None:
        title += f", {signed(entry['gain_points'])} {interval(entry['ci'])}"
    axes = Axis(cost_axis(facts.cost), log=True), Axis(f"{accuracy_in_words(facts.accuracy)} (%)")
    return Panel(title, *axes, series, f"Arms at {title}", height=290)


def _arm_mark(facts: Facts, cell: Entry, axis: str, is_base: bool) -> Mark:
    low, high = cell["top1"] - cell["top1_se"], cell["top1"] + cell["top1_se"]
    label = None if is_base else f"{axis[0]}{cell[axis]:g}"
    return Mark(cell["cost"], cell["top1"], "" if is_base else _cell_words(facts, cell), low, high, label=label)


def _cell_words(facts: Facts, cell: Entry) -> str:
    lines = [
        f"{shape_in_words(cell)}, {cell['resolution']:g} px",
        f"{cost_in_words(facts.cost)} {with_unit(cell['cost'], facts.cost)}",
        f"top-1 {cell['top1']:.2f} ± {cell['top1_se']:.2f} %",
    ]
    return "\n".join(lines)


def _arms_table(facts: Facts, entries: Sequence[Entry]) -> Table:
    rows = [
        [f"{e['resolution']:g}", axis, shape_in_words(c), with_unit(c["cost"], facts.cost), f"{c['top1']:.2f}",
         f"{c['top1_se']:.2f}"]
        for e in entries for axis, cells in e["arms"].items() for c in cells
    ]  # fmt: skip
    return Table(["px", "arm", "cell", cost_in_words(facts.cost), "top-1 (%)", "SE"], rows, "The arms, base included")


def base_steps(steps: Sequence[Entry]) -> list[Entry]:
    """The steps of the shape that a reader is told of: the paper's base where it is there, else the commonest one."""
    counts: dict[tuple[Any, Any], int] = defaultdict(int)
    for step in steps:
        counts[step["depth"], step["width"]] += step["points_per_doubling"] is not None
    if not counts:
        return []
    shape = max(counts, key=lambda s: (s == PAPER_BASE and counts[s] > 0, counts[s], -s[0] * s[1] ** 2))
    return [step for step in steps if (step["depth"], step["width"]) == shape]


def returns_figure(facts: Facts) -> Figure | None:
    """Points per doubling of cost for each step in resolution: all shapes, the base among them with its interval."""
    if not facts.rules:
        return None
    groups = facts.rules["depth_vs_width_by_budget"]
    panels = []
    for group in groups:
        own = [s for s in of_group(facts.rules["resolution_steps"], group) if s["points_per_doubling"] is not None]
        if own:
            panels.append(_returns_panel(heading_of(group, groups), own))
    if not panels:
        return None
    rows = [
        [heading_of(s, groups), shape_in_words(s), f"{s['from']:g} to {s['to']:g}", s["verdict"],
         signed(s["points_per_doubling"]), interval(s["ci"]), _alternative(s), s["reason"] or ""]
        for s in facts.rules["resolution_steps"]
    ]  # fmt: skip
    columns = [
        "budget",
        "shape",
        "step (px)",
        "verdict",
        "points per doubling",
        "95 % interval",
        "best alternative",
        "remark",
    ]
    caption = "What a doubling of cost buys when it goes into resolution. A cross lies beyond the axis."
    return Figure(
        "resolution-returns", "What resolution returns", caption, panels, [Table(columns, rows, "Every step")]
    )


def _alternative(step: Entry) -> str:
    found = [a for a in step["alternatives"] if a["axis"] == step["best_alternative"]]
    return f"{found[0]['axis']} {signed(found[0]['points_per_doubling'])}" if found else "–"


def _returns_panel(title: str, steps: Sequence[Entry]) -> Panel:
    sizes = sorted({(s["from"], s["to"]) for s in steps})
    base = base_steps(steps)
    marks: dict[str, list[Mark]] = defaultdict(list)
    for place, size in enumerate(sizes):
        here = [s for s in steps if (s["from"], s["to"]) == size and s not in base]
        for i, step in enumerate(here):
            shift = 0.64 * ((i + 0.5) / len(here) - 0.5)
            bar = step["ci"] if len(here) <= _MANY_BARS else (None, None)
            marks[step["verdict"]].append(Mark(place + shift, step["points_per_doubling"], _step_words(step), *bar))
    series = [Series(name, style, marks[verdict]) for verdict, (name, style) in _STEPS.items()]
    own = [Mark(sizes.index((s["from"], s["to"])), s["points_per_doubling"], _step_words(s), *s["ci"]) for s in base]
    name = f"{shape_in_words(base[0])}" if base else "base"
    series.append(Series(name, Style("ink", "circle", "solid", 5), own))
    ticks = tuple((float(i), f"{low:g}→{high:g} px") for i, (low, high) in enumerate(sizes))
    x = Axis("step in resolution", ticks=ticks, bounds=(-0.5, len(sizes) - 0.5))
    y = Axis("points per doubling of cost", zero=True, bounds=_robust(steps, base))
    return Panel(title, x, y, series, f"{title}: {len(steps)} steps in resolution", height=340)


def _robust(steps: Sequence[Entry], base: Sequence[Entry]) -> tuple[float, float]:
    """Bounds for most of the steps: one that hardly changes the cost has an enormous slope."""
    values = sorted(s["points_per_doubling"] for s in steps)
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    reach = max(2.5 * (quarters[2] - quarters[0]), 1.0)
    kept = [v for v in values if quarters[0] - reach <= v <= quarters[2] + reach]
    kept += [end for s in base for end in s["ci"] if quarters[0] - 2 * reach <= end <= quarters[2] + 2 * reach]
    low, high = min([*kept, 0.0]), max([*kept, 0.0])
    room = 0.08 * (high - low) or 0.5
    return low - room, high + room


def _step_words(step: Entry) -> str:
    lines = [f"{shape_in_words(step)}: {step['from']:g} to {step['to']:g} px", step["verdict"]]
    lines.append(f"{signed(step['points_per_doubling'])} points per doubling {interval(step['ci'])}")
    if step["best_alternative"]:
        lines.append(f"best alternative: {_alternative(step)}")
    return "\n".join(lines)

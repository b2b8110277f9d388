"""Figures of accuracy against cost, and of error against multiply-adds: every cell, budget by budget."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sweep.reporting.charts import Axis, Figure, Mark, Panel, Series, Style, Table
from sweep.reporting.facts import Entry, Facts
from sweep.reporting.markup import clean
from sweep.reporting.scales import short
from sweep.reporting.words import (
    accuracy_in_words,
    budget_in_words,
    cell_in_words,
    cost_axis,
    cost_in_words,
    counted,
    heading_of,
    interval,
    plain_number,
    unit_of,
    with_unit,
)

_LABELS = 5
_CROWDED = 15  # members of a front, whose rings are smaller


def front_figures(facts: Facts) -> list[Figure]:
    """One figure for each budget: every cell, the front, its recommended members by name."""
    return [_front_figure(facts, front) for front in facts.drawn_fronts]


def front_name(budget: int | None) -> str:
    """Name of a budget's figure."""
    return "front" if budget is None else f"front-{budget}"


def _front_figure(facts: Facts, front: Entry) -> Figure:
    cells = facts.cells[front["budget"]]
    on = {_place(member) for member in front["front"]}
    series = _by_kind(facts, cells, on)
    labelled = {_place(member) for member in front["recommended"][:_LABELS]}
    marks = [_member_mark(facts, member, labelled) for member in front["front"]]
    ring = Style("ink", "circle", "step", 7 if len(marks) < _CROWDED else 5, hollow=True)
    series.append(Series("Pareto front", ring, marks))
    summary = f"{budget_in_words(front['budget'])}: {len(cells)} cells, {len(marks)} of them on the front"
    axes = Axis(cost_axis(front["cost"]), log=True), Axis(f"{accuracy_in_words(facts.accuracy)} (%)")
    panel = Panel(budget_in_words(front["budget"]), *axes, series, summary, height=360)
    words = f"{counted(front['considered'], 'run')} in {counted(len(cells), 'cell')}; bars are one standard error."
    tables = [_front_table(front), _cells_table(facts, cells)]
    return Figure(
        front_name(front["budget"]), f"{clean(facts.sweep, 40)}: accuracy against cost", words, [panel], tables
    )


def _place(cell: Entry) -> tuple[Any, ...]:
    return cell["cost"], cell["top1"], cell["trial_id"]


def _by_kind(facts: Facts, cells: Sequence[Entry], on: set[tuple[Any, ...]]) -> list[Series]:
    """The cells by resolution or family; those on the front get their words there."""
    marks: dict[tuple[str, Style], list[Mark]] = defaultdict(list)
    for cell in cells:
        low, high = cell["top1"] - cell["top1_se"], cell["top1"] + cell["top1_se"]
        words = "" if facts.many or _place(cell) in on else cell_words(facts, cell)
        marks[facts.style_of(cell)].append(Mark(cell["cost"], cell["top1"], words, low, high))
    order = list(dict.fromkeys([*facts.styles.values(), *marks]))
    return [Series(*kind, marks[kind], crowd=facts.many) for kind in order if kind in marks]


def _member_mark(facts: Facts, member: Entry, labelled: set[tuple[Any, ...]]) -> Mark:
    low, high = member["top1"] - member["top1_se"], member["top1"] + member["top1_se"]
    label = cell_in_words(member) if _place(member) in labelled else None
    return Mark(member["cost"], member["top1"], cell_words(facts, member), low, high, label=label)


def cell_words(facts: Facts, cell: Entry) -> str:
    """What the tooltip of a cell says, a line each."""
    lines = [
        clean(cell_in_words(cell), 60),
        f"{cost_in_words(facts.cost)} {with_unit(cell['cost'], facts.cost)}",
        f"{accuracy_in_words(facts.accuracy)} {cell['top1']:.2f} ± {cell['top1_se']:.2f} %",
        f"on the front with p = {cell['p_on_front']:.2f}",
        counted(cell["n_seeds"], "run"),
    ]
    return "\n".join(lines)


def _front_table(front: Entry) -> Table:
    unit = unit_of(front["cost"])
    columns = [
        "model",
        f"{cost_in_words(front['cost'])}{f' ({unit})' if unit else ''}",
        "top-1 (%)",
        "SE",
        "val top-1 (%)",
    ]
    rows = [
        [cell_in_words(m), short(m["cost"]), f"{m['top1']:.2f}", f"{m['top1_se']:.2f}", plain_number(m["val_top1"]),
         f"{m['p_on_front']:.2f}", m["group"], m["n_seeds"]]
        for m in front["front"]
    ]  # fmt: skip
    return Table([*columns, "p on front", "group", "runs"], rows, "The front")


def _cells_table(facts: Facts, cells: Sequence[Entry]) -> Table:
    unit = unit_of(facts.cost)
    columns = [
        "model",
        f"{cost_in_words(facts.cost)}{f' ({unit})' if unit else ''}",
        "top-1 (%)",
        "SE",
        "p on front",
        "runs",
    ]
    rows = [
        [cell_in_words(c), short(c["cost"]), f"{c['top1']:.2f}", f"{c['top1_se']:.2f}",
         f"{c['p_on_front']:.2f}", c["n_seeds"]]
        for c in cells
    ]  # fmt: skip
    return Table(columns, rows, "All cells, by cost")


def law_figure(facts: Facts) -> Figure | None:
    """Error against multiply-adds, log-log, with the power law of each kind and budget and its break."""
    panels, rows = [], []
    laws = facts.rules["flops_not_latency"] if facts.rules else []
    for budget, cells in facts.cells.items():
        known = [cell for cell in cells if cell["macs"]]
        if known:
            own = [law for law in laws if law["budget"] == budget]
            panels.append(_law_panel(facts, budget, known, own))
            rows += [[budget_in_words(budget), *_law_row(cell)] for cell in known]
    if not panels:
        return None
    columns = ["budget", "model", "multiply-adds", "error (%)", "SE"]
    tables = [Table(columns, rows, "All cells")]
    if laws:
        tables.insert(0, _laws_table(laws))
    caption = "Both axes are logarithmic: a power law is a straight line. The band is the interval of the break."
    return Figure("error-flops", "Error against multiply-adds", caption, panels, tables)


def _law_row(cell: Entry) -> list[Any]:
    return [cell_in_words(cell), short(cell["macs"]), f"{100 - cell['top1']:.2f}", f"{cell['top1_se']:.2f}"]


def _law_panel(facts: Facts, budget: int | None, cells: Sequence[Entry], laws: Sequence[Entry]) -> Panel:
    marks: dict[tuple[str, Style], list[Mark]] = defaultdict(list)
    for cell in cells:
        error = max(100 - cell["top1"], 0.005)
        ends = max(error - cell["top1_se"], error / 2), error + cell["top1_se"]
        lines = [clean(cell_in_words(cell), 60), f"{short(cell['macs'])} multiply-adds"]
        words = "\n".join([*lines, f"error {error:.2f} ± {cell['top1_se']:.2f} %"])
        marks[facts.style_of(cell)].append(Mark(cell["macs"], error, words, *ends))
    order = list(dict.fromkeys([*facts.styles.values(), *marks]))
    series = [Series(*kind, marks[kind], crowd=facts.many) for kind in order if kind in marks]
    bands = []
    for law in laws:
        own = [cell for cell in cells if (cell["family"], cell["model"]) == (law["family"], law["model"])]
        series += _law_lines(own, law["power_law"])
        if law["power_law"]["break"] and None not in law["power_law"]["break"]["ci"]:
            bands.append(tuple(law["power_law"]["break"]["ci"]))
    axes = (
        Axis("multiply-adds per image, log scale", log=True),
        Axis(f"error, 100 − {accuracy_in_words(facts.accuracy)} (%)", log=True),
    )
    return Panel(
        budget_in_words(budget), *axes, series, f"{budget_in_words(budget)}: error of {len(cells)} cells", bands, 360
    )


def _law_lines(cells: Sequence[Entry], law: Entry) -> list[Series]:
    """The fitted line, or the two that meet; each goes through the cells' centre, as least squares have it."""
    if law["exponent"] is None or len(cells) < 2:
        return []
    logs = [math.log(cell["macs"]) for cell in cells]
    errors = [math.log(max(100 - cell["top1"], 0.005)) for cell in cells]
    below = above = float(law["exponent"])
    psi = min(logs)
    if law["break"]:
        psi, below, above = (
            math.log(law["break"]["macs"]),
            law["break"]["exponent_below"],
            law["break"]["exponent_above"],
        )

    def rise(x: float) -> float:
        return -below * (x - psi) if x < psi else -above * (x - psi)

    centre = sum(y - rise(x) for x, y in zip(logs, errors, strict=True)) / len(logs)
    corners = sorted({min(logs), min(max(psi, min(logs)), max(logs)), max(logs)})
    marks = [Mark(math.exp(x), math.exp(centre + rise(x)), "") for x in corners]
    name = "power law, with its break" if law["break"] else "power law"
    return [Series(name, Style("ink", "", "dash"), marks)]


def _laws_table(laws: Sequence[Entry]) -> Table:
    columns = ["budget", "exponent", "95 % interval", "break", "95 % interval", "below", "above", "residual", "verdict"]
    rows = []
    for entry in laws:
        law, fold = entry["power_law"], entry["power_law"]["break"] or {}
        ends = [end if end is None else short(end) for end in fold.get("ci", (None, None))]
        rows.append([
            heading_of(entry, laws), plain_number(law["exponent"], 3), interval(law["ci"], 3, sign=False),
            short(fold["macs"]) if fold else "–", " to ".join("…" if e is None else e for e in ends) if fold else "–",
            plain_number(fold.get("exponent_below"), 3), plain_number(fold.get("exponent_above"), 3),
            plain_number(law["residual"], 3), law["verdict"] + (f": {law['reason']}" if law["reason"] else ""),
        ])  # fmt: skip
    return Table(columns, rows, "The power law, error = a × multiply-adds to the power of −exponent")

"""Figures and tables of the runs themselves: learning curves, coverage and failures, what they cost, their noise."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweep.reporting.charts import KINDS, MARKERS, Axis, Figure, Mark, Panel, Series, Style, Table
from sweep.reporting.facts import Entry, Facts, curve_of, row_in_words
from sweep.reporting.markup import clean
from sweep.reporting.scales import short
from sweep.reporting.words import budget_in_words, cell_in_words, counted, plain_number
from workers.contract import EpochMetrics

_CURVES = 5  # of one budget
_DRAWN = 60  # epochs of one curve
_LINES = ("solid", "dash", "dot")
_FAILURES = 200  # listed
_DEAREST = 10


def curves_figure(facts: Facts) -> Figure | None:
    """Learning curves of each budget's recommended models, where they were kept."""
    panels, rows = [], []
    styles: dict[str, Style] = {}
    for front in facts.drawn_fronts:
        found = [(member, _known(curve_of(facts, member["trial_id"]))) for member in front["recommended"][:_CURVES]]
        found = [(member, curve) for member, curve in found if curve]
        if found:
            panels.append(_curves_panel(front["budget"], found, styles))
            rows += [
                [budget_in_words(front["budget"]), cell_in_words(member), e.epoch, plain_number(e.minival_top1),
                 plain_number(e.train_top1)]
                for member, curve in found for e in _thinned(curve)
            ]  # fmt: skip
    if not panels:
        return None
    columns = ["budget", "model", "epoch", "minival top-1 (%)", "train top-1 (%)"]
    caption = "The recommended models of each budget, one run each."
    return Figure("learning-curves", "Learning curves", caption, panels, [Table(columns, rows, "The curves")])


def _known(curve: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    return [epoch for epoch in curve if epoch.minival_top1 is not None and math.isfinite(epoch.minival_top1)]


def _thinned(curve: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    """At most so many epochs, the first and the last among them."""
    if len(curve) <= _DRAWN:
        return list(curve)
    return [curve[i] for i in np.unique(np.linspace(0, len(curve) - 1, _DRAWN).astype(int))]


def _curves_panel(
    budget: int | None, found: Sequence[tuple[Entry, list[EpochMetrics]]], styles: dict[str, Style]
) -> Panel:
    """The curves of one budget; a model looks the same in every panel, which `styles` remembers."""
    series = []
    for member, curve in found:
        name = clean(cell_in_words(member), 40)
        shown = _thinned(curve)
        marks = [
            Mark(e.epoch, e.minival_top1, f"{name}\nepoch {e.epoch:g}\nminival top-1 {e.minival_top1:.2f} %")
            for e in shown
        ]
        i = len(styles)  # colours, markers and lines repeat after 6, 5 and 3, together after 30
        style = styles.setdefault(name, Style(KINDS[i % 6], MARKERS[i % 5], _LINES[i % 3], 2.8))
        series.append(Series(name, style, marks))
    axes = Axis("epoch"), Axis("minival top-1 (%)")
    return Panel(budget_in_words(budget), *axes, series, f"{budget_in_words(budget)}: {len(found)} learning curves")


def coverage_counts(facts: Facts) -> dict[int | None, Counter[str]]:
    """How many trials of each budget were ok, or missing for which reason."""
    counts: dict[int | None, Counter[str]] = {}
    if facts.rules:
        for entry in facts.rules["coverage"]:
            own = counts.setdefault(entry["budget"], Counter())
            own.update({"ok": entry["ok"]} | entry["missing_by_status"])
        return counts
    for front in facts.fronts:
        counts[front["budget"]] = Counter({"ok": front["considered"]}) + Counter(front["excluded"])
    return counts


def coverage_figure(facts: Facts) -> Figure | None:
    """What was planned, what there is, and why the rest is missing."""
    counts = coverage_counts(facts)
    statuses = ["ok", *sorted({name for own in counts.values() for name in own} - {"ok"})]
    if not any(own.total() for own in counts.values()):
        return None
    budgets = sorted(counts, key=lambda budget: budget or 0)
    series = []
    starts = dict.fromkeys(budgets, 0)
    for i, status in enumerate(statuses):
        marks = []
        for place, budget in enumerate(budgets):
            if n := counts[budget][status]:
                last = starts[budget] + n == counts[budget].total()
                words = f"{budget_in_words(budget)}\n{n} of {counts[budget].total()} trials {status}"
                marks.append(Mark(starts[budget] + n, -place, words, label=str(n), start=starts[budget], last=last))
                starts[budget] += n
        series.append(Series(status, Style(_status_colour(i), "bar"), marks))
    panel = _bars("Trials by outcome", "trials", [budget_in_words(b) for b in budgets], series, max(starts.values()))
    rows = [[budget_in_words(b), counts[b].total(), *(counts[b][s] for s in statuses)] for b in budgets]
    table = Table(["budget", "planned", *statuses], rows, "Trials by outcome")
    return Figure("coverage", "Coverage", "Every planned trial is counted, failed ones too.", [panel], [table])


def _status_colour(place: int) -> str:
    return ("blue", "orange", "purple", "red", "green", "grey")[min(place, 5)]


def _bars(title: str, label: str, names: Sequence[str], series: Sequence[Series], longest: float) -> Panel:
    ticks = tuple((-float(i), name) for i, name in enumerate(names))
    y = Axis("", ticks=ticks, bounds=(-len(names) + 0.4, 0.6))
    return Panel(title, Axis(label, bounds=(0.0, longest * 1.12 or 1.0)), y, series, title, height=84 + 34 * len(names))


def failures_table(facts: Facts) -> Table | None:
    """The trials that ended otherwise than well, with their messages."""
    status = facts.table["status"].fillna("ok").astype(str)
    failed = facts.table[status != "ok"]
    if failed.empty:
        return None
    names = ("epochs", "seed", "status", "error")
    rows = [
        [_text(row["trial_id"]), row_in_words(row), *(_text(row.get(name)) for name in names)]
        for row in failed.head(_FAILURES).to_dict("records")
    ]  # fmt: skip
    more = f": the first {_FAILURES} of {len(failed)}" if len(failed) > _FAILURES else ""
    return Table(["trial", "model", "epochs", "seed", "status", "message"], rows, f"Trials without a result{more}")


def _text(value: Any) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def hours_of(facts: Facts, name: str) -> "pd.Series[float]":
    """A column of hours, 0 where a row has none."""
    if name not in facts.table:
        return pd.Series(0.0, index=facts.table.index)
    return facts.table[name].astype(float).replace([math.inf, -math.inf], math.nan).fillna(0.0)


def cost_figure(facts: Facts) -> Figure | None:
    """Device-hours that the trials of each budget held, those among them that were lost; None where no row says."""
    spent, lost = hours_of(facts, "train_device_hours"), hours_of(facts, "lost_device_hours")
    if spent.sum() + lost.sum() <= 0:
        return None
    epochs = facts.table["epochs"]
    budgets: list[Any] = sorted(epochs.dropna().unique()) + ([None] if epochs.isna().any() else [])
    kept_marks, lost_marks, rows = [], [], []
    for place, budget in enumerate(budgets):
        here = epochs.isna() if budget is None else epochs == budget
        a, b = float(spent[here].sum()), float(lost[here].sum())
        useful = max(a - b, 0.0)
        words = budget_in_words(budget)
        kept_marks.append(
            Mark(
                useful,
                -place,
                f"{words}\n{short(useful)} device-hours of work",
                label=short(useful),
                start=0.0,
                last=not b,
            )
        )
        if b:
            lost_marks.append(
                Mark(
                    useful + b,
                    -place,
                    f"{words}\n{short(b)} device-hours lost",
                    label=short(b),
                    start=useful,
                    last=True,
                )
            )
        rows.append([words, int(here.sum()), short(a), short(b)])
    series = [
        Series("work", Style("blue", "bar"), kept_marks),
        Series("lost to attempts that ended early", Style("orange", "bar"), lost_marks),
    ]
    longest = max(mark.x for mark in [*kept_marks, *lost_marks])
    panel = _bars("Device-hours by budget", "device-hours", [budget_in_words(b) for b in budgets], series, longest)
    tables = [
        Table(["budget", "trials", "device-hours", "of them lost"], rows, "Cost by budget"),
        _dearest(facts, spent),
    ]
    caption = "Time that trials held their devices, all attempts and evaluation included."
    return Figure("cost", "Cost spent", caption, [panel], tables)


def _dearest(facts: Facts, spent: "pd.Series[float]") -> Table:
    order = spent.sort_values(ascending=False).head(_DEAREST).index
    rows = [
        [row_in_words(row), _text(row["epochs"]), _text(row["seed"]), short(hours), _text(row.get("device"))]
        for row, hours in zip(facts.table.loc[order].to_dict("records"), spent[order], strict=True)
    ]
    return Table(["model", "epochs", "seed", "device-hours", "device"], rows, "The dearest trials")


def cost_in_a_sentence(facts: Facts) -> str:
    """All device-hours, what was lost, and how much of them a tenth of the trials took."""
    spent, lost = hours_of(facts, "train_device_hours"), hours_of(facts, "lost_device_hours")
    total = float(spent.sum())
    if total <= 0:
        return "The table does not say how long the trials held their devices."
    counted_rows = spent[spent > 0].sort_values(ascending=False)
    tenth = max(len(counted_rows) // 10, 1)
    share = float(counted_rows.iloc[:tenth].sum()) / total
    words = f"{short(total)} device-hours in {counted(len(counted_rows), 'trial')}, "
    words += f"{short(float(lost.sum()))} of them lost to attempts that ended early."
    return f"{words} The dearest {counted(tenth, 'trial')} took {100 * share:.0f} %."


def noise_table(facts: Facts) -> Table:
    """Standard deviation of one run in each budget, its degrees of freedom, and how many runs it rests on."""
    rows = []
    for budget, points in facts.points.items():
        sd = points.se * np.sqrt(points.runs)
        spread = f"{sd.min():.2f} to {sd.max():.2f}" if sd.max() - sd.min() > 0.005 else "the same"
        df = "known" if math.isinf(points.df) else f"{points.df:g}"
        rows.append(
            [
                budget_in_words(budget),
                f"{math.sqrt(float(np.mean(sd**2))):.3f}",
                spread,
                df,
                len(points),
                int(points.runs.sum()),
            ]
        )
    columns = ["budget", "s (points)", "over cells", "degrees of freedom", "cells", "runs"]
    return Table(columns, rows, "Noise of one run: s is the root mean square over cells")

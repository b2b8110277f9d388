"""The page: words, figures and tables in one HTML file that needs nothing else."""

import base64
import hashlib
import re
from collections.abc import Sequence

from sweep.reporting.arms import arms_figures, gains_figure, returns_figure
from sweep.reporting.charts import Figure, Table
from sweep.reporting.facts import Entry, Facts
from sweep.reporting.fronts import front_figures, law_figure
from sweep.reporting.markup import Markup, clean, element, join
from sweep.reporting.runs import (
    cost_figure,
    cost_in_a_sentence,
    coverage_counts,
    coverage_figure,
    curves_figure,
    failures_table,
    noise_table,
)
from sweep.reporting.scales import short
from sweep.reporting.svg import asset, draw_legend, draw_panel, theme
from sweep.reporting.verdicts import advice_list, caveats, resolution_cards, verdict_cards
from sweep.reporting.words import accuracy_in_words, budget_in_words, cost_in_words, counted, interval

_NUMBER = re.compile("[+\N{MINUS SIGN}]?[0-9][0-9.,e]*( ?[kMGTPE]?(ms|h|bytes|MACs)?)?|\\[.*\\]|–")
_MOST_ROWS = 1000  # of one table on the page

Section = tuple[str, str, list[Markup]]  # id, heading, contents


def page_and_figures(facts: Facts) -> tuple[bytes, list[Figure]]:
    """The page, and the figures on it."""
    fronts, gains, arms = front_figures(facts), gains_figure(facts), arms_figures(facts)
    laws, returns, curves = law_figure(facts), returns_figure(facts), curves_figure(facts)
    covered, cost = coverage_figure(facts), cost_figure(facts)
    sections: list[Section] = [
        ("verdicts", "What the study says", _verdicts(facts, gains)),
        ("fronts", "Accuracy against cost", [_grid(fronts)]),
        ("arms", "Depth against width", [_figure(figure) for figure in arms]),
        ("flops", "Error against FLOPs", _optional(laws)),
        ("resolution", "What resolution returns", [*_optional(returns), *_path(facts)]),
        ("curves", "Learning curves", _optional(curves)),
        ("coverage", "Coverage and failures", [*_optional(covered), *_tables([failures_table(facts)])]),
        ("cost", "Cost spent", [element("p", cost_in_a_sentence(facts)), *_optional(cost)]),
        ("noise", "Noise", _noise(facts)),
    ]
    found = [*fronts, gains, *arms, laws, returns, curves, covered, cost]
    return _document(facts, [s for s in sections if s[2]]), [figure for figure in found if figure]


def _document(facts: Facts, sections: Sequence[Section]) -> bytes:
    title = f"{clean(facts.sweep)}: scaling report"
    css = Markup(theme() + asset("chart.css") + asset("page.css"))
    script = asset("page.js")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(css, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", css),
    )
    links = [element("li", element("a", heading, href=f"#{name}")) for name, heading, _ in sections]
    top = element("header", element("h1", clean(facts.sweep)), *_about(facts))
    contents = element("nav", element("ul", *links), aria_label="Contents")
    body = [element("section", element("h2", heading), *parts, id=name) for name, heading, parts in sections]
    tip = element("div", "", id="tip", role="status", aria_live="polite", hidden="")
    main = element("main", *body, id="main")
    skip = element("a", "Skip to the verdicts", href="#verdicts", class_="skip")
    whole = element(
        "html", head, element("body", skip, top, contents, main, tip, element("script", Markup(script))), lang="en"
    )
    return f"<!doctype html>\n{whole}\n".encode()


def _policy(css: str, script: str) -> str:
    """Nothing is loaded, nothing runs but what is ours: a name that got through would still do nothing."""
    ours = {
        name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for name, text in (("s", script), ("c", css))
    }
    return (
        f"default-src 'none'; script-src 'sha256-{ours['s']}'; style-src 'sha256-{ours['c']}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _about(facts: Facts) -> list[Markup]:
    """What was studied, in two lines."""
    rows = facts.table
    families = sorted(rows["family"].dropna().astype(str).unique())
    devices = sorted({device for front in facts.fronts for device in front["devices"]})
    counts = coverage_counts(facts)
    planned = sum(own.total() for own in counts.values())
    ok = sum(own["ok"] for own in counts.values())
    named = ", ".join(families[:4]) + (f" and {len(families) - 4} more" if len(families) > 4 else "")
    words = [
        f"{ok:,} of {counted(planned, 'trial')}" + (f" of {named}" if named else ""),
        f"accuracy: {accuracy_in_words(facts.accuracy)}",
        f"cost: {cost_in_words(facts.cost)}" + (f" on {', '.join(devices[:3])}" if devices else ""),
    ]
    dates = list(rows["finished_at"].dropna().astype(str)) if "finished_at" in rows else []
    when = f"Trained until {clean(max(dates)[:10])}. " if dates else ""
    note = f"{when}Arrow keys move between the marks of a plot; every plot has its data as a table below it."
    return [element("p", clean("; ".join(words), 400), class_="lead"), element("p", note, class_="quiet")]


def _verdicts(facts: Facts, gains: Figure | None) -> list[Markup]:
    parts: list[Markup] = []
    if facts.rules:
        parts = [
            verdict_cards(facts),
            *([_figure(gains)] if gains else []),
            resolution_cards(facts),
            advice_list(facts),
        ]
    else:
        parts = [element("p", "The table supports no scaling rules; what it has is a front for each budget.")]
    if notes := caveats(facts):
        items = [element("li", note) for note in notes]
        parts.append(element("aside", element("h3", "Before you rely on it"), element("ul", *items), class_="notes"))
    return parts


def _path(facts: Facts) -> list[Markup]:
    """The best shape at each cost, where the surface could be fitted."""
    if not facts.rules or not facts.rules["path"]:
        return []
    rows = [
        [budget_in_words(p["budget"]), short(p["cost"]), f"{p['depth']:.0f}", f"{p['width']:.2f}",
         f"{p['resolution']:.0f}", f"{p['top1']:.2f}", interval(p["ci"], sign=False), _path_remark(p)]
        for p in facts.rules["path"]
    ]  # fmt: skip
    columns = ["budget", cost_in_words(facts.cost), "depth", "width", "px", "top-1 (%)", "95 % interval", "remark"]
    return _tables([Table(columns, rows, "The best shape at each cost, from the fitted surface")])


def _path_remark(point: Entry) -> str:
    edges = [f"{axis} at the grid's edge" for axis in point["on_edge"]]
    return "; ".join([*edges, *(["extrapolated"] if point["extrapolated"] else [])])


def _noise(facts: Facts) -> list[Markup]:
    words = "How much two runs of one cell differ; every interval on this page rests on it."
    source = ""
    if facts.rules:
        source = f" Taken from: {facts.rules['noise_source']}."
    return [element("p", words, clean(source, 600)), _table(noise_table(facts))]


def _optional(figure: Figure | None) -> list[Markup]:
    """A section's only figure: the section's heading is its title."""
    return [_figure(figure, titled=False)] if figure else []


def _grid(figures: Sequence[Figure]) -> Markup:
    """Figures beside each other, with one legend."""
    legend = draw_legend(list({(s.name, s.style): s for figure in figures for s in figure.legend()}.values()))
    return join(
        legend, element("div", *(_figure(figure, legend=False, titled=False) for figure in figures), class_="grid2")
    )


def _figure(figure: Figure, *, legend: bool = True, titled: bool = True) -> Markup:
    """A figure: its title where the section does not say it, panels, legend, caption, data."""
    parts = [element("h3", clean(figure.title))] if titled else []
    parts += [draw_legend(figure.legend())] if legend and len(figure.legend()) > 1 else []
    kind = "panels two" if len(figure.panels) in (2, 4) else "panels"
    parts.append(element("div", *map(draw_panel, figure.panels), class_=kind))
    caption = element("figcaption", figure.caption)
    return element("figure", *parts, caption, *_tables(figure.tables), id=f"figure-{figure.name}")


def _tables(tables: Sequence[Table | None]) -> list[Markup]:
    """Tables that open when asked for."""
    return [
        element("details", element("summary", f"{table.caption} ({counted(len(table.rows), 'row')})"), _table(table))
        for table in tables if table and table.rows
    ]  # fmt: skip


def _table(table: Table) -> Markup:
    texts = [["–" if value is None else clean(value, 300) for value in row] for row in table.rows[:_MOST_ROWS]]
    kinds = [_kind(column) for column in zip(*texts, strict=True)]
    named = zip(table.columns, kinds, strict=True)
    head = element("tr", *(element("th", name, scope="col", class_=kind) for name, kind in named))
    rows = [
        element("tr", *(element("td", text, class_=kind) for text, kind in zip(row, kinds, strict=True)))
        for row in texts
    ]
    more = None
    if len(table.rows) > _MOST_ROWS:
        more = element("p", f"The first {_MOST_ROWS:,} of {len(table.rows):,} rows.", class_="quiet")
    caption = element("caption", table.caption or "Data", class_="hidden")
    inside = element("table", caption, element("thead", head), element("tbody", *rows))
    box = element("div", inside, class_="scroll", tabindex="0", role="region", aria_label=table.caption or "Data")
    return join(box, more)


def _kind(texts: Sequence[str]) -> str | None:
    """Numbers stand on the right, under each other."""
    return "n" if all(_NUMBER.fullmatch(text) for text in texts) and texts[0] != "–" else None

"""Writes what a table says into a folder: a page for people, fronts and rules as JSON, and every picture."""

from pathlib import Path
from typing import Any

import pandas as pd

from sweep.errors import NoRulesError
from sweep.imports import MARK
from sweep.pareto import pareto
from sweep.plots import plot_depth_width
from sweep.reporting.charts import Figure
from sweep.reporting.facts import Curves, gather_facts
from sweep.reporting.page import page_and_figures
from sweep.reporting.png import draw_png, plain_texts
from sweep.reporting.svg import draw_figure
from sweep.rules import rules
from workers.files import write_bytes, write_json

RULES = "rules.json"  # `SweepFolder.reported`
PAGE = "report.html"


def write_report(
    table: pd.DataFrame,
    planned: pd.DataFrame | None,
    folder: Path,
    cost: str | None = None,
    curves: Curves | None = None,
) -> None:
    """Write report.html, pareto.json, rules.json and every figure as SVG and PNG.

    Where the models have no depth and width, or the table supports no rules, rules.json holds a note in place of them.
    It is written last: where it is, the report is whole. Pictures of an earlier report that this one has not are
    removed.

    Args:
        table: the results.
        planned: all planned cells, for the coverage.
        folder: made if it is not there.
        cost: column that is paid; None takes the default one.
        curves: the learning curve of a trial id; None leaves them out.

    Raises:
        TableError: the table has no row to report on.
    """
    found = pareto(table, budget=None, cost=cost)
    derived, note = _rules_or_note(table, planned, cost)
    fronts = found.get("fronts", [found])
    page, figures = page_and_figures(gather_facts(table, planned, fronts, derived, note, curves))
    (folder / RULES).unlink(missing_ok=True)
    write_json(folder / "pareto.json", found)
    pictures = _drawn(figures, folder)
    if derived:
        with plain_texts():
            pictures.add(plot_depth_width(derived, folder / "depth-width.png"))
    _remove_others(folder, pictures)
    write_bytes(folder / PAGE, page)
    write_json(folder / RULES, derived or {"sweep": found["sweep"], "note": note})


def _rules_or_note(
    table: pd.DataFrame, planned: pd.DataFrame | None, cost: str | None
) -> tuple[dict[str, Any] | None, str | None]:
    """The rules, or why there are none: models without these axes, or rows that are only a reference."""
    if MARK in table and (count := int(table[MARK].notna().sum())):
        return (
            None,
            f"{count} rows were imported from {table[MARK].dropna().iloc[0]}: a reference, no evidence for a rule",
        )
    try:
        return rules(table, cost=cost, planned=planned), None
    except NoRulesError as error:
        return None, str(error)


def _drawn(figures: list[Figure], folder: Path) -> set[Path]:
    """The page's figures as files."""
    written = set()
    for figure in figures:
        for suffix, data in ((".svg", draw_figure(figure)), (".png", draw_png(figure))):
            write_bytes(folder / f"{figure.name}{suffix}", data)
            written.add(folder / f"{figure.name}{suffix}")
    return written


def _remove_others(folder: Path, pictures: set[Path]) -> None:
    """Remove the pictures of an earlier report, which would be of other data."""
    for path in [*folder.glob("*.png"), *folder.glob("*.svg")]:
        if path not in pictures:
            path.unlink()

"""Writes what a table says into a folder: fronts and rules as JSON, and their pictures."""

from pathlib import Path

import pandas as pd

from sweep.errors import NoRulesError
from sweep.pareto import pareto
from sweep.plots import plot_depth_width, plot_front
from sweep.rules import rules
from workers.files import write_json

RULES = "rules.json"  # `SweepFolder.reported`


def write_report(table: pd.DataFrame, planned: pd.DataFrame | None, folder: Path, cost: str | None = None) -> None:
    """Write pareto.json, rules.json, one front-<budget>.png per budget and depth-width.png.

    Where the models have no depth and width, rules.json holds a note in place of rules. It is written last: where it
    is, the report is whole.

    Args:
        table: the results.
        planned: all planned cells, for the coverage.
        folder: made if it is not there.
        cost: column that is paid; None takes the default one.

    Raises:
        TableError: the table has no row to report on.
    """
    found = pareto(table, budget=None, cost=cost)
    (folder / RULES).unlink(missing_ok=True)
    write_json(folder / "pareto.json", found)
    for front in found.get("fronts", [found]):
        name = "front.png" if front["budget"] is None else f"front-{front['budget']}.png"
        plot_front(table, folder / name, budget=front["budget"], cost=cost)
    try:
        derived = rules(table, cost=cost, planned=planned)
    except NoRulesError as error:  # models without these axes: the front is all that there is to say
        (folder / "depth-width.png").unlink(missing_ok=True)
        write_json(folder / RULES, {"sweep": found["sweep"], "note": str(error)})
        return
    plot_depth_width(derived, folder / "depth-width.png")
    write_json(folder / RULES, derived)

"""Everything that the page is made of, gathered once: the table, its fronts and rules, and each budget's cells."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sweep.errors import SweepError
from sweep.naming import model_name
from sweep.points import Points, gather_all, points_of
from sweep.reporting.charts import KINDS, MARKERS, RAMP, Style
from sweep.rules.cells import sweep_name, with_columns
from sweep.rules.variants import model_of_variant
from sweep.standing import chance_on_front
from workers.contract import EpochMetrics

Curves = Callable[[str], Sequence[EpochMetrics]]  # the learning curve of a trial id; empty where there is none
Entry = dict[str, Any]
_MANY = 2000  # cells with words of their own; those beyond are dots without
_CROWDED = 80  # cells of one budget, whose marks are smaller
_MOST_KINDS = 6


@dataclass(frozen=True)
class Facts:
    """What is reported. `rules` is None where the table supports none, and `note` says why."""

    table: pd.DataFrame
    planned: pd.DataFrame | None
    fronts: Sequence[Entry]
    rules: Entry | None
    note: str | None
    curves: Curves | None = None

    @property
    def sweep(self) -> str:
        """Name of the sweep."""
        return sweep_name(self.table) or "table"

    @property
    def cost(self) -> str:
        """The column that is paid."""
        return str(self.fronts[0]["cost"])

    @property
    def accuracy(self) -> str:
        """The column that is compared."""
        return str(self.fronts[0]["accuracy_column"])

    @property
    def drawn_fronts(self) -> list[Entry]:
        """The budgets that have any cell."""
        return [front for front in self.fronts if front["considered"]]

    @cached_property
    def points(self) -> dict[int | None, Points]:
        """The cells of every budget."""
        evidence = gather_all(self.table, [self.cost])
        found = {}
        for front in self.drawn_fronts:
            epochs, budget = evidence.rows["epochs"], front["budget"]
            rows = evidence.rows[epochs.isna() if budget is None else epochs == budget]
            found[budget] = points_of(evidence, rows, None)
        return found

    @cached_property
    def cells(self) -> dict[int | None, list[Entry]]:
        """The cells of every budget as entries like a front's, by rising cost."""
        return {budget: _entries(points) for budget, points in self.points.items()}

    @cached_property
    def styles(self) -> dict[Any, tuple[str, Style]]:
        """Name and style of each family where there are several, else of each resolution."""
        rows = pd.concat([points.rows for points in self.points.values()])
        size = 4.0 if max(map(len, self.cells.values())) < _CROWDED else 3.0
        counts = rows["family"].dropna().astype(str).value_counts()
        if len(counts) > 1:
            names = sorted(counts.index[:_MOST_KINDS])
            found = {name: (name, Style(KINDS[i], MARKERS[i], size=size)) for i, name in enumerate(names)}
            return found | dict.fromkeys(
                counts.index[_MOST_KINDS:], ("other families", Style("grey", "circle", size=3))
            )
        sizes: list[Any] = sorted(rows["resolution"].dropna().unique())
        step = (len(RAMP) - 1) / max(len(sizes) - 1, 1)
        return {
            px: (f"{px:g} px", Style(RAMP[round(i * step)], MARKERS[i % 5], size=size)) for i, px in enumerate(sizes)
        }

    def style_of(self, cell: Entry) -> tuple[str, Style]:
        """Name and style of a cell."""
        key = "family" if any(isinstance(name, str) for name in self.styles) else "resolution"
        return self.styles.get(cell[key], ("size not stated", Style("grey")))

    @property
    def many(self) -> bool:
        """Whether there are too many cells for each to have its own words."""
        return sum(map(len, self.cells.values())) > _MANY


def gather_facts(
    table: pd.DataFrame,
    planned: pd.DataFrame | None,
    fronts: Sequence[Entry],
    rules: Entry | None,
    note: str | None = None,
    curves: Curves | None = None,
) -> Facts:
    """The facts of one report; `fronts` and `rules` are what `pareto` and `rules` gave."""
    return Facts(with_columns(table).reset_index(drop=True), planned, fronts, rules, note, curves)


def _entries(points: Points) -> list[Entry]:
    """Cells as entries: shape, cost, accuracy, chance to be on the front, runs, multiply-adds."""
    chance = chance_on_front(points)
    rows = points.rows
    macs = rows["macs_per_image"] if "macs_per_image" in rows else pd.Series(math.nan, index=rows.index)
    names = ["trial_id", "family", "width", "depth", "resolution", "variant"]
    shapes = rows[names].astype(object).where(rows[names].notna(), None).to_dict("records")
    models = rows["model"].tolist() if "model" in rows else [None] * len(rows)
    found = []
    for i in np.argsort(points.cost, kind="stable"):
        model = models[i] if isinstance(models[i], str) else model_of_variant(str(shapes[i]["variant"]))
        numbers = {"cost": points.cost[i], "top1": points.top1[i], "top1_se": points.se[i], "p_on_front": chance[i]}
        entry = {**shapes[i], "model": model, **{name: float(value) for name, value in numbers.items()}}
        found.append(entry | {"n_seeds": int(points.runs[i]), "macs": _finite(macs.iloc[i])})
    return found


def _finite(value: Any) -> float | None:
    return float(value) if value is not None and pd.notna(value) and 0 < float(value) < math.inf else None


def row_in_words(row: Mapping[Any, Any]) -> str:
    """A row of the table: the model, its size, its budget and seed."""
    model = row.get("model")
    if not isinstance(model, str) or not model:
        names = {name: row.get(name) for name in ("family", "width", "depth")}
        model = model_name(names["family"], names["width"], names["depth"], model_of_variant(str(row["variant"])))
    size = "" if pd.isna(row["resolution"]) else f" {row['resolution']:g} px"
    return f"{model or row['trial_id']}{size}"


def curve_of(facts: Facts, trial_id: Any) -> Sequence[EpochMetrics]:
    """A trial's learning curve; none where it is damaged, which `sweep run` says, or its name is none of ours."""
    if facts.curves is None or not isinstance(trial_id, str):
        return ()
    try:
        return facts.curves(trial_id)
    except (SweepError, OSError, ValueError, TypeError, KeyError):
        return ()

"""What was planned, what there is, and what is missing for which reason: the gaps under every verdict."""

from collections import Counter, defaultdict
from typing import Any, cast

import pandas as pd

from sweep.rules.cells import AXES, Evidence, whole, whole_or_none
from sweep.rules.variants import model_of_variant

Group = tuple[str | None, str, int | None]  # family, variant, budget
Missing = dict[tuple[float, float], str]  # status by (depth, width)
_IDENTITY = ["family", "variant", *AXES, "epochs", "seed"]


def fate_of(planned: pd.DataFrame, table: pd.DataFrame, evidence: Evidence) -> pd.DataFrame:
    """The planned trials with a column `fate`: ok, or why there is no evidence (a status, `not run`, ...)."""
    fates = table.assign(fate=evidence.reasons.mask(evidence.reasons == "", "ok"))
    if planned is table:
        return fates
    by_id = planned["trial_id"].notna().all() and table["trial_id"].notna().all()
    names = ["trial_id"] if by_id else _IDENTITY
    # A good row wins over a failed or doubled one of the same trial.
    ordered = fates.assign(good=fates["fate"] == "ok").sort_values("good", kind="stable")
    known = {_identity(row): row[-1] for row in ordered[[*names, "fate"]].itertuples(index=False)}
    found = [known.get(_identity((*row, "")), "not run") for row in planned[names].itertuples(index=False)]
    return planned.assign(fate=found)


def _identity(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """All but the last value, numbers compared as numbers and every NaN equal to every other."""
    return tuple(None if pd.isna(v) else v if isinstance(v, str) else float(v) for v in row[:-1])


def coverage(fates: pd.DataFrame) -> list[dict[str, Any]]:
    """The `coverage` entries: planned, ok and missing by status, for each budget, family and variant."""
    entries = []
    for group_name, part in fates.groupby(["epochs", "family", "variant"], dropna=False):
        epochs, family, variant = cast(tuple[Any, Any, str], group_name)
        counts = Counter(part["fate"])
        ok = counts.pop("ok", 0)
        kind = {"family": None if pd.isna(family) else str(family), "model": model_of_variant(variant)}
        missing = {str(name): n for name, n in sorted(counts.items())}
        entries.append(
            {**kind, "budget": whole_or_none(epochs), "planned": len(part), "ok": ok, "missing_by_status": missing}
        )
    return entries


def missing_cells(fates: pd.DataFrame) -> dict[Group, dict[float, Missing]]:
    """For each family, variant and budget, each planned resolution with its cells that have no evidence at all."""
    found: dict[Group, dict[float, Missing]] = defaultdict(lambda: defaultdict(dict))
    present = set()
    columns = fates[["family", "variant", "epochs", *AXES, "fate"]]
    for family, variant, epochs, depth, width, resolution, fate in columns.itertuples(index=False):
        group = (None if pd.isna(family) else str(family), str(variant), whole_or_none(epochs))
        cells = found[group][whole(resolution)]
        cell = (whole(depth), float(width))
        if fate == "ok":
            present.add((group, whole(resolution), cell))
            cells.pop(cell, None)
        elif (group, whole(resolution), cell) not in present:
            cells[cell] = str(fate)
    return found

"""Is a verdict an artefact of one learning rate? Depth or width at other rates, and at each cell's best.

A cell's best rate is the winner of a noisy comparison, and what won looks better than it is. So the rate is chosen on
one seed and the cell judged on its others: the interval then holds for the accuracy at the rates that were chosen. With
one seed per rate, choice and judgement share their noise; the verdict is given, marked, and not counted as proof.
"""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from sweep.noise import Array, noise_of_cells
from sweep.rules.cells import AXES, Evidence, Study, images_of, studies_of, whole_or_none
from sweep.rules.coverage import Fates
from sweep.rules.variants import codes_of
from sweep.rules.verdicts import Entries, depth_or_width

SCALE = "lr_scale"  # the rate over the recipe's own
_COLUMNS = ("recipe_lr_scale", SCALE)
_RATE = "recipe_learning_rate"
RATES = (_RATE, *_COLUMNS)  # the columns that say at which rate a row was trained
_CELL = ["family", "variant", *AXES, "epochs"]
_ASKED = (0.5, 2.0)


def with_scale(table: pd.DataFrame, *, derive: bool) -> pd.DataFrame:
    """The table with `lr_scale`: its own column, or 1.

    With `derive`, a table in which it does not vary has its rate over the middle one of those that the same cell was
    trained with.
    """
    for name in _COLUMNS:
        if name in table and table[name].notna().any():
            scales = table[name].astype(float).fillna(1.0)
            if not derive or scales.nunique() > 1:
                return table.assign(**{SCALE: scales})
    if not derive or _RATE not in table or not table[_RATE].notna().any():
        return table.assign(**{SCALE: 1.0})
    rates = table[_RATE].astype(float)
    cells = pd.Series(codes_of(table, _CELL), index=table.index)
    tried = pd.DataFrame({"cell": cells.to_numpy(), "rate": rates.to_numpy()}).drop_duplicates()
    middle = cells.map(tried.groupby("cell")["rate"].median())
    return table.assign(**{SCALE: (rates / middle).round(6).fillna(1.0)})


def at_scale(evidence: Evidence, scale: float) -> Evidence:
    """The evidence of one rate."""
    return dataclasses.replace(evidence, rows=evidence.rows[np.isclose(evidence.rows[SCALE], scale)])


def robust(evidence: Evidence, nominal: Entries, fates: Fates, noise_sd: float | None) -> list[dict[str, Any]]:
    """The `robust` entries, one for each depth-or-width entry.

    Args:
        evidence: rows of all rates, with `lr_scale`.
        nominal: the depth-or-width entries at the recipe's own rate.
        fates: of the trials at that rate.
        noise_sd: as in `rules`.
    """
    scales = sorted(float(scale) for scale in evidence.rows[SCALE].unique() if not np.isclose(scale, 1.0))
    by_scale = {scale: _entries(at_scale(evidence, scale), fates, noise_sd) for scale in scales}
    best, on = at_best(evidence, fates, noise_sd) if scales else ({}, "no other rate")
    found = []
    for group, entries in nominal.items():
        for entry in entries:
            size = entry["resolution"]
            rates = [{SCALE: s, **_short(_find(own, group, size))} for s, own in by_scale.items()]
            chosen = {"judged_on": on, **_short(_find(best, group, size)), "rates": _chosen(best, group, size)}
            named = {name: entry[name] for name in ("family", "model", "budget", "resolution", "verdict")}
            found.append(named | {"at": rates, "best_rate": chosen} | _holds(entry["verdict"], rates, chosen))
    return found


def _entries(evidence: Evidence, fates: Fates, noise_sd: float | None) -> Entries:
    return {} if evidence.rows.empty else depth_or_width(studies_of(evidence, evidence.accuracy, noise_sd)[0], fates)


def _find(entries: Entries, group: Any, size: float) -> dict[str, Any] | None:
    return next((entry for entry in entries.get(group, []) if entry["resolution"] == size), None)


def _short(entry: dict[str, Any] | None) -> dict[str, Any]:
    names = ("verdict", "gain_points", "ci", "reason")
    return (
        dict.fromkeys(names) | {"verdict": "undetermined"} if entry is None else {name: entry[name] for name in names}
    )


def _chosen(entries: Entries, group: Any, size: float) -> list[dict[str, Any]]:
    entry = _find(entries, group, size)
    if entry is None or entry["arms"] is None:
        return []
    cells = {(cell["depth"], cell["width"]): cell for arm in entry["arms"].values() for cell in arm}
    return [{"depth": d, "width": w, SCALE: cell[SCALE]} for (d, w), cell in sorted(cells.items()) if SCALE in cell]


def _holds(verdict: str, rates: list[dict[str, Any]], best: dict[str, Any]) -> dict[str, Any]:
    """True where half, twice and the best rate say the same, False where one says the contrary, else None."""
    if verdict not in ("depth", "width"):
        return {"holds": None, "holds_reason": "no verdict at the recipe's own rate"}
    contrary = {"depth": "width", "width": "depth"}[verdict]
    others = {f"{rate[SCALE]:g} x the rate": rate["verdict"] for rate in rates} | {"the best rate": best["verdict"]}
    against = [name for name, other in others.items() if other == contrary]
    if against:
        return {"holds": False, "holds_reason": f"{contrary} at {' and '.join(against)}"}
    absent = [f"{scale:g} x" for scale in _ASKED if not any(np.isclose(rate[SCALE], scale) for rate in rates)]
    if absent:
        return {"holds": None, "holds_reason": f"no runs at {' and '.join(absent)} the rate"}
    silent = [name for name, other in others.items() if other != verdict]
    if silent:
        return {"holds": None, "holds_reason": f"undetermined at {' and '.join(silent)}"}
    if best["judged_on"] != "other seeds":
        return {"holds": None, "holds_reason": "the best rate was chosen and judged on the same seed"}
    return {"holds": True, "holds_reason": None}


def at_best(evidence: Evidence, fates: Fates, noise_sd: float | None) -> tuple[Entries, str]:
    """Entries with every cell at the rate that its first seed chose, judged on the others."""
    rows, on = judged_rows(evidence.rows, evidence.accuracy)
    chosen = dataclasses.replace(evidence, rows=rows)
    noises = _noise_by_budget(evidence, noise_sd)
    studies = [
        dataclasses.replace(study, df=noises[study.budget][1])
        for budget in noises
        for study in _studies(chosen, budget, noises[budget][0])
    ]
    entries = depth_or_width(studies, fates)
    scales = rows.groupby(_CELL, dropna=False)[SCALE].first()
    _mark(entries, scales)
    return entries, on


def _studies(evidence: Evidence, budget: int | None, sd: float) -> list[Study]:
    epochs = evidence.rows["epochs"]
    rows = evidence.rows[epochs.isna() if budget is None else epochs == budget]
    return [] if rows.empty else studies_of(dataclasses.replace(evidence, rows=rows), evidence.accuracy, sd)[0]


def judged_rows(rows: pd.DataFrame, accuracy: str) -> tuple[pd.DataFrame, str]:
    """Of every cell, the rows at its best rate: chosen on the first seed that all its rates have, that seed left out.

    Where a cell has no other seed left, it is judged on the one that chose; then all are called `same seed`.
    """
    kept, honest = [], True
    for members in _groups(codes_of(rows, _CELL)):
        cell = rows.iloc[members]
        scales = cell[SCALE].round(6)
        if scales.nunique() == 1:
            kept.append(members)
            continue
        seeds = cell["seed"]
        common = set.intersection(*(set(part.dropna()) for _, part in seeds.groupby(scales)))
        judge = seeds == min(common) if common else pd.Series(True, index=cell.index)
        best = scales[judge].loc[cell.loc[judge, accuracy].idxmax()]
        others = members[((scales == best) & ~judge).to_numpy()]
        honest &= len(others) > 0
        kept.append(others if len(others) else members[(scales == best).to_numpy()])
    return rows.iloc[np.sort(np.concatenate(kept))], "other seeds" if honest else "same seed"


def _groups(codes: "np.ndarray[Any, np.dtype[np.int64]]") -> list[Any]:
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def _noise_by_budget(evidence: Evidence, noise_sd: float | None) -> dict[int | None, tuple[float, float]]:
    """Noise of one run and its degrees of freedom: between the seeds of one cell at one rate, all rates together."""
    found = {}
    for budget, part in evidence.rows.groupby("epochs", dropna=False):
        values: Array = part[evidence.accuracy].to_numpy(dtype=float)
        codes = codes_of(part, [*_CELL, SCALE])
        noise = noise_of_cells(values, codes, images_of(part, evidence.accuracy), noise_sd)
        found[whole_or_none(budget)] = float(np.sqrt(np.mean(noise.sd**2))), noise.df
    return found


def _mark(entries: Entries, scales: "pd.Series[float]") -> None:
    """Write into each cell of the arms which rate it is at."""
    known = {tuple(None if pd.isna(v) else v for v in place): scale for place, scale in scales.items()}  # type: ignore[attr-defined]
    for (family, variant, budget), own in entries.items():
        for entry in own:
            for cell in [cell for arm in (entry["arms"] or {}).values() for cell in arm]:
                place = family, variant, cell["depth"], cell["width"], cell["resolution"], budget
                cell[SCALE] = known.get(place)

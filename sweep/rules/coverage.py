"""What was planned, what there is, and what is missing for which reason: the gaps under every verdict."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from sweep.rules.cells import AXES, Evidence, Key, Study, whole, whole_or_none
from sweep.rules.depth_width import Shape, base_shape
from sweep.rules.variants import model_of_variant

Group = tuple[str | None, str, int | None]  # family, variant, budget
Missing = dict[tuple[float, float], str]  # status by (depth, width)
OK = "ok"
# Reasons that have nothing to do with what the cell would have shown. All others may: memory, divergence, a crash, a
# limit on the size, a step that could not be measured. A cell that is not run yet is only late.
UNRELATED = frozenset({"not run", "preempted", "data_error", "duplicate trial_id"})
_IDENTITY = ["family", "variant", *AXES, "epochs", "seed"]


@dataclass(frozen=True)
class Fates:
    """How the planned trials of every cell ended: by group and cell, how many of each fate."""

    counts: Mapping[Group, Mapping[Key, Counter[str]]]

    def cells(self, group: Group) -> Mapping[Key, Counter[str]]:
        """The planned cells of a group."""
        return self.counts.get(group, {})

    def missing(self, group: Group) -> dict[float, Missing]:
        """By planned resolution: the cells that have no evidence at all, each with its commonest reason."""
        found: dict[float, Missing] = defaultdict(dict)
        for (depth, width, resolution), fates in self.cells(group).items():
            gaps = found[resolution]
            if OK not in fates:
                gaps[depth, width] = fates.most_common(1)[0][0]
        return found

    def basis(self, group: Group, keys: Iterable[Key] | None = None) -> dict[str, Any]:
        """What stands behind a verdict on these cells (all of the group's without `keys`).

        `missing_not_at_random` is true where trials are missing for a reason that may have to do with their result.
        """
        cells = self.cells(group)
        return described(sum((cells[key] for key in (cells if keys is None else keys) if key in cells), Counter()))


def described(fates: Counter[str]) -> dict[str, Any]:
    """Coverage of some trials, and whether what is missing of them is missing at random."""
    missing = {name: n for name, n in sorted(fates.items()) if name != OK}
    counted = {"planned": fates.total(), "ok": fates[OK], "missing_by_status": missing}
    return {"coverage": counted, "missing_not_at_random": bool(missing.keys() - UNRELATED)}


def planned_base(entry: Mapping[str, Any], cells: Iterable[Key]) -> Shape | None:
    """Depth and width of the base that a depth-or-width entry would have if nothing were missing."""
    return base_shape([key[:2] for key in cells if key[2] == entry["resolution"]])


def arms_of(entry: Mapping[str, Any], cells: Iterable[Key]) -> list[Key]:
    """The planned cells that a depth-or-width entry rests on, or else all of its resolution.

    They are those on the arms of its base, and of the base that it would have if nothing were missing.
    """
    there = [key for key in cells if key[2] == entry["resolution"]]
    used, planned = entry["base"], planned_base(entry, there)
    if used is None:
        return there
    bases = [(used["depth"], used["width"])] + ([planned] if planned else [])
    return [key for key in there if any(key[0] == depth or key[1] == width for depth, width in bases)]


def neighbours_of(step: Mapping[str, Any], lines: "Lines") -> list[Key]:
    """The planned cells that a step in resolution rests on: along each axis, up to the first that has evidence."""
    base = step["depth"], step["width"], step["from"]
    found = [base]
    for axis in range(len(AXES)):
        for key, present in lines.get(_line(base, axis), []):
            if key[axis] > base[axis]:
                found.append(key)
                if present:
                    break
    return found


Lines = Mapping[tuple[int, tuple[float, ...]], list[tuple[Key, bool]]]


def lines_of(cells: Mapping[Key, Counter[str]]) -> Lines:
    """The planned cells along each axis, ascending, and whether they have evidence."""
    lines = defaultdict(list)
    for key in sorted(cells):
        for axis in range(len(AXES)):
            lines[_line(key, axis)].append((key, OK in cells[key]))
    return lines


def _line(key: Key, axis: int) -> tuple[int, tuple[float, ...]]:
    return axis, key[:axis] + key[axis + 1 :]


def fates_of(planned: pd.DataFrame, table: pd.DataFrame, evidence: Evidence) -> tuple[Fates, pd.DataFrame]:
    """The fates of all planned trials by cell, and the trials themselves with a column `fate`."""
    fates = _fate_of(planned, table, evidence)
    counts: dict[Group, dict[Key, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    columns = fates[["family", "variant", "epochs", *AXES, "fate"]]
    for family, variant, epochs, depth, width, resolution, fate in columns.itertuples(index=False):
        group = (None if pd.isna(family) else str(family), str(variant), whole_or_none(epochs))
        counts[group][whole(depth), float(width), whole(resolution)][str(fate)] += 1
    return Fates(counts), fates


def _fate_of(planned: pd.DataFrame, table: pd.DataFrame, evidence: Evidence) -> pd.DataFrame:
    """The planned trials with a column `fate`: ok, or why there is no evidence (a status, `not run`, ...)."""
    fates = table.assign(fate=evidence.reasons.mask(evidence.reasons == "", OK))
    if planned is table:
        return fates
    by_id = planned["trial_id"].notna().all() and table["trial_id"].notna().all()
    names = ["trial_id"] if by_id else _IDENTITY
    # A good row wins over a failed or doubled one of the same trial.
    ordered = fates.assign(good=fates["fate"] == OK).sort_values("good", kind="stable")
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
        kind = {"family": None if pd.isna(family) else str(family), "model": model_of_variant(variant)}
        found = described(Counter(part["fate"].astype(str)))
        entries.append({**kind, "budget": whole_or_none(epochs), **found.pop("coverage"), **found})
    return entries


def group_of(study: Study) -> Group:
    """Which family, variant and budget a study is of."""
    return study.family, study.variant, study.budget

"""Which scaling rules a table supports: depth or width, how fast to raise resolution, what carries over.

`rules(table)` answers with one JSON-ready dict. Every verdict has an interval and the pairs behind it, and is
`undetermined`, with the reason, where the evidence does not carry it. docs/rules.md explains each rule and
its limits.
"""

from collections import Counter
from itertools import combinations
from typing import Any, cast

import pandas as pd

from sweep.errors import NoRulesError
from sweep.noise import describe, root_mean_square
from sweep.rules.cells import (
    AXES,
    Evidence,
    Study,
    gather,
    plain,
    refuse_mixtures,
    studies_of,
    sweep_name,
    with_columns,
)
from sweep.rules.coverage import Group, Missing, coverage, fate_of, missing_cells
from sweep.rules.depth_width import by_budget, compare
from sweep.rules.regime import regimes
from sweep.rules.resolution import exponent_and_path
from sweep.rules.steps import steps
from sweep.rules.transfer import transfer
from sweep.rules.variants import refuse_two_recipes

__all__ = ["rules"]


def rules(
    table: pd.DataFrame,
    *,
    cost: str | None = None,
    planned: pd.DataFrame | None = None,
    noise_sd: float | None = None,
) -> dict[str, Any]:
    """Derive the scaling rules of a results table.

    Args:
        table: one row per trial; rows without depth, width or resolution are left aside.
        cost: column that is the price of a model; by default the first of train_step_ms, infer_latency_ms and
            macs_per_image that has values.
        planned: the trials that were planned (trial_id, family, width, depth, resolution, epochs, seed), for coverage;
            by default the rows of the table.
        noise_sd: standard deviation of one run in points, in place of replicate seeds and prior.

    Raises:
        TableError: nothing to analyse, an unsuitable cost, or rows that must not be compared.
    """
    table = with_columns(table)
    aside = left_aside(table)
    table = _concerned(table, aside)
    planned = table if planned is None else _with_shape(with_columns(planned))
    evidence = gather(table, cost)
    refuse_two_recipes(evidence.rows, ["family", "variant", *AXES, "epochs"])
    studies, noises = studies_of(evidence, evidence.accuracy, noise_sd)
    fates = fate_of(planned, table, evidence)
    entries = _depth_or_width(studies, missing_cells(fates))
    surfaces = [exponent_and_path(study, evidence.cost) for study in studies]
    result = {
        "sweep": sweep_name(table),
        "cost": evidence.cost,
        "accuracy_column": evidence.accuracy,
        "noise_sd": root_mean_square(noises),
        "noise_source": describe(noises),
        "left_aside": aside,
        "depth_vs_width": [entry for group in entries.values() for entry in group],
        "depth_vs_width_by_budget": [by_budget(group, _empty(name)) for name, group in entries.items()],
        "resolution_steps": [step for study in studies for step in steps(study)],
        "resolution_exponent": [entry for entry, _ in surfaces],
        "path": [point for _, path in surfaces for point in path],
        "regime": _regimes(evidence, studies, noise_sd),
        "transfer": _transfers(studies, entries),
        "coverage": coverage(fates),
    }
    return cast(dict[str, Any], plain(result))


def _with_shape(table: pd.DataFrame) -> pd.DataFrame:
    return table[table[list(AXES)].notna().all(axis=1)].reset_index(drop=True)


def left_aside(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows that rules say nothing about, by family: how many, and which axes they have not got."""
    lacking = pd.Series("", index=table.index)
    for axis in AXES:
        gaps = table[axis].isna()
        lacking = lacking.mask(gaps, lacking + f" and no {axis}")
    families = table["family"].fillna("").astype(str)
    counts = Counter(zip(families[lacking != ""], lacking[lacking != ""], strict=True))
    return [
        {"family": family or None, "rows": rows, "reason": reason.removeprefix(" and ")}
        for (family, reason), rows in sorted(counts.items())
    ]


def _concerned(table: pd.DataFrame, aside: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows that rules are about, which must all be comparable."""
    rows = _with_shape(table)
    if rows.empty:
        have = "; ".join(f"{e['family'] or 'a family without a name'} has {e['reason']}" for e in aside[:3])
        raise NoRulesError("no usable rows: rules need rows with depth, width and resolution" + (have and f"; {have}"))
    refuse_mixtures(rows, ("source", "protocol", "dataset", "recipe"))
    return rows


def _depth_or_width(
    studies: list[Study], missing: dict[Group, dict[float, Missing]]
) -> dict[Group, list[dict[str, Any]]]:
    """Entries of every family, budget and resolution that was planned or has evidence."""
    found = {_group(study): study for study in studies}
    groups = sorted(missing.keys() | found.keys(), key=lambda g: (g[0] or "", g[1], g[2] or 0))
    entries = {}
    for group in groups:
        study = found.get(group) or _empty(group)
        gaps = missing.get(group, {})
        sizes = sorted(gaps.keys() | set(study.resolutions()))
        entries[group] = [compare(study, size, gaps.get(size, {})) for size in sizes]
    return entries


def _group(study: Study) -> Group:
    return study.family, study.variant, study.budget


def _empty(group: Group) -> Study:
    """A study without evidence."""
    family, variant, budget = group
    return Study(family, budget, {}, float("inf"), variant)


def _regimes(evidence: Evidence, studies: list[Study], noise_sd: float | None) -> list[dict[str, Any]]:
    if not evidence.rows["train_top1"].notna().any():
        return []
    trained, _ = studies_of(evidence, "train_top1", noise_sd)
    by_name = {_group(study): study for study in trained}
    pairs = [(study, by_name.get(_group(study))) for study in studies]
    return [entry for study, train in pairs if train for entry in regimes(study, train)]


def _transfers(studies: list[Study], entries: dict[Group, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    found = []
    for kind in dict.fromkeys((study.family, study.variant) for study in studies):
        own = [s for s in studies if (s.family, s.variant) == kind and s.budget is not None]
        verdicts = {
            group[2]: {entry["resolution"]: entry["verdict"] for entry in found_there}
            for group, found_there in entries.items()
            if group[:2] == kind
        }
        ordered = sorted(own, key=lambda s: s.budget or 0)
        found += [transfer(short, long, verdicts) for short, long in combinations(ordered, 2)]
    return found

"""Which scaling rules a table supports: depth or width, how fast to raise resolution, what carries over.

`rules(table)` answers with one JSON-ready dict. Every verdict has an interval and the pairs behind it, and is
`undetermined`, with the reason, where the evidence does not carry it. docs/rules.md explains each rule and
its limits.
"""

from collections import Counter
from typing import Any, cast

import pandas as pd

from sweep.callable_module import make_callable
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
from sweep.rules.coverage import coverage, fates_of
from sweep.rules.flops import flops_not_latency
from sweep.rules.robust import SCALE, with_scale
from sweep.rules.robust import robust as robust_entries
from sweep.rules.variants import refuse_two_recipes
from sweep.rules.verdicts import budgets, depth_or_width, exponents_and_paths, regimes_of, resolution_steps, transfers

__all__ = ["rules"]


def rules(
    table: pd.DataFrame,
    *,
    cost: str | None = None,
    planned: pd.DataFrame | None = None,
    noise_sd: float | None = None,
    robust: bool = False,
) -> dict[str, Any]:
    """Derive the scaling rules of a results table.

    Args:
        table: one row per trial; rows without depth, width or resolution are left aside, and so are those of another
            learning rate than the recipe's (`lr_scale` other than 1), which only `robust` is about.
        cost: column that is the price of a model; by default the first of train_step_ms, infer_latency_ms and
            macs_per_image that has values.
        planned: the trials that were planned (trial_id, family, width, depth, resolution, epochs, seed), for coverage;
            by default the rows of the table.
        noise_sd: standard deviation of one run in points, in place of replicate seeds and prior.
        robust: also say, as `robust`, whether each depth-or-width verdict holds at the other learning rates that the
            table has and at each cell's best.

    Raises:
        TableError: nothing to analyse, an unsuitable cost, or rows that must not be compared.
    """
    table = with_columns(table)
    aside = left_aside(table)
    everything = with_scale(_concerned(table, aside), derive=robust)
    table = _at_own_rate(everything)
    aside += _at_other_rates(everything)
    planned = table if planned is None else _planned_at_own_rate(_with_shape(with_columns(planned)), everything)
    evidence = gather(table, cost)
    refuse_two_recipes(evidence.rows, ["family", "variant", *AXES, "epochs"])
    studies, noises = studies_of(evidence, evidence.accuracy, noise_sd)
    fates, trials = fates_of(planned, table, evidence)
    entries = depth_or_width(studies, fates)
    exponents, path = exponents_and_paths(studies, fates, evidence.cost)
    result = {
        "sweep": sweep_name(table),
        "cost": evidence.cost,
        "accuracy_column": evidence.accuracy,
        "noise_sd": root_mean_square(noises),
        "noise_source": describe(noises),
        "left_aside": aside,
        "depth_vs_width": [entry for group in entries.values() for entry in group],
        "depth_vs_width_by_budget": budgets(entries, fates),
        "resolution_steps": resolution_steps(studies, fates),
        "resolution_exponent": exponents,
        "path": path,
        "regime": regimes_of(studies, _trained(evidence, noise_sd), fates),
        "transfer": transfers(studies, entries, fates),
        "flops_not_latency": flops_not_latency(evidence, studies),
        "coverage": coverage(trials),
    }
    if robust:
        result["robust"] = robust_entries(gather(everything, evidence.cost), entries, fates, noise_sd)
    return cast(dict[str, Any], plain(result))


def _at_own_rate(table: pd.DataFrame) -> pd.DataFrame:
    own = (table[SCALE] - 1).abs() < 1e-6
    if not own.any():
        rates = ", ".join(f"{scale:g}" for scale in sorted(table[SCALE].unique()))
        raise NoRulesError(f"no usable rows: rules are about {SCALE} 1, and the table has {rates}")
    return table[own].reset_index(drop=True)


def _at_other_rates(table: pd.DataFrame) -> list[dict[str, Any]]:
    """How many rows of each family are of another learning rate than the recipe's."""
    others = table[(table[SCALE] - 1).abs() >= 1e-6]
    found = []
    for family, part in others.groupby("family", dropna=False):
        rates = ", ".join(f"{scale:g}" for scale in sorted(part[SCALE].unique()))
        name = str(family) if isinstance(family, str) else None
        found.append({"family": name, "rows": len(part), "reason": f"{SCALE} {rates}, which --robust is about"})
    return found


def _planned_at_own_rate(planned: pd.DataFrame, everything: pd.DataFrame) -> pd.DataFrame:
    """The planned trials without those that the table, or they themselves, say are of another rate."""
    planned = planned.reset_index(drop=True)
    others = set(everything["trial_id"][(everything[SCALE] - 1).abs() >= 1e-6].dropna())
    scales = with_scale(planned, derive=False)[SCALE]
    return planned[((scales - 1).abs() < 1e-6) & ~planned["trial_id"].isin(others)].reset_index(drop=True)


def _trained(evidence: Evidence, noise_sd: float | None) -> list[Study]:
    """The studies with train top-1 for accuracy; none where it was not measured."""
    known = evidence.rows["train_top1"].notna().any()
    return studies_of(evidence, "train_top1", noise_sd)[0] if known else []


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


make_callable(__name__)

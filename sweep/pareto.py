"""The Pareto front of a results table: the models that nothing cheaper or equal in cost beats.

A point is dominated if another is at least as accurate and at most as costly in every cost, and better in one of them;
equal points are on the front together. Accuracy has noise: `p_on_front` is the probability that a cell is on the front
when every mean is drawn from its error (normal, or Student's t where the noise itself was estimated), and `group`
numbers the members that noise does not tell apart.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from sweep.callable_module import make_callable
from sweep.errors import TableError
from sweep.front import pareto_mask
from sweep.noise import Array
from sweep.points import Points, as_costs, devices_of, gather_all, named, notes_of, over, points_of
from sweep.rules.cells import Evidence, plain, refuse_mixtures, sweep_name, tally, whole, with_columns
from sweep.rules.variants import model_of_variant
from sweep.speedup import overall_speedup, speedups
from sweep.standing import chance_on_front, groups_of, tied_with

__all__ = ["pareto", "pareto_mask"]

_SHOWN = ("trial_id", "family", "width", "depth", "resolution", "epochs", "model")
_COUNTS = {"depth", "resolution", "epochs"}
_RECOMMENDED = 5
_TIES_LISTED = 1000


@dataclass(frozen=True)
class _Question:
    """What is asked of every budget alike; `costs` are the columns that are paid, `limited` those with a limit only."""

    costs: list[str]
    limited: list[str]
    limits: Mapping[str, float]
    top: int
    compare: str | None
    noise_sd: float | None


def pareto(
    table: pd.DataFrame,
    *,
    budget: int | None = None,
    cost: str | Sequence[str] | None = None,
    max_cost: float | Mapping[str, float] | None = None,
    top: int | None = None,
    compare: str | None = None,
    device: str | None = None,
    noise_sd: float | None = None,
) -> dict[str, Any]:
    """Front, recommended models and speed-ups of one budget; of every budget, as "fronts", if there are more.

    Args:
        table: one row per trial; the seeds of one cell are averaged into one point.
        budget: epochs; may be left out.
        cost: column to keep low, or up to three of them; default as in `rules`.
        max_cost: leave out what costs more; a limit for each of several columns, by name.
        top: how many members to recommend, evenly spread in log cost (default: at most 5).
        compare: a family; how much faster is the front of all others, by the first cost, at the same top-1?
        device: only rows of this device; capitals make no difference.
        noise_sd: standard deviation of one run in points, in place of replicate seeds and prior.

    Raises:
        TableError: an unknown budget, family, device or cost, no usable rows, or rows that must not be compared.
    """
    table = with_columns(table).reset_index(drop=True)
    costs, named_limits = as_costs(cost), max_cost if isinstance(max_cost, Mapping) else {}
    limited = [name for name in named_limits if name not in costs]
    evidence = gather_all(table, costs, limited, device)
    refuse_mixtures(evidence.rows)
    costs = costs or [evidence.cost]
    limits = named_limits if isinstance(max_cost, Mapping) else _only_limit(max_cost, costs)
    budgets = sorted({int(value) for value in table["epochs"].dropna().unique()})
    _check(table, budgets, budget, top, compare)
    rest = [name for name in limited if name not in costs]
    question = _Question(costs, rest, limits, top or _RECOMMENDED, compare, noise_sd)
    chosen: list[int | None] = [budget] if budget is not None else [*budgets] or [None]
    fronts = [_front(table, evidence, name, question) for name in chosen]
    if not any(front["considered"] for front in fronts):
        raise TableError(f"no usable rows: {_reasons(fronts)}; right would be another budget, cost or max_cost")
    several = {"sweep": sweep_name(table), "fronts": fronts}
    return cast(dict[str, Any], plain(fronts[0] if len(fronts) == 1 else several))


def _only_limit(max_cost: float | None, costs: list[str]) -> dict[str, float]:
    """A limit without a name, which is that of the only cost."""
    if max_cost is None:
        return {}
    if len(costs) > 1:
        raise TableError(f"max_cost {max_cost:g}: of which cost? right would be {costs[0]}={max_cost:g}")
    return {costs[0]: max_cost}


def _check(table: pd.DataFrame, budgets: list[int], budget: int | None, top: int | None, compare: str | None) -> None:
    """Refuse what the table cannot answer, with what it can."""
    if top is not None and top < 1:
        raise TableError(f"top {top}: nothing to recommend; right would be 1 or more")
    if budget is not None and budget not in budgets:
        right = ", ".join(map(str, budgets)) or "no budget, for the table has no epochs"
        raise TableError(f"budget {budget}: not in the table; right would be {right}")
    families = sorted({str(family) for family in table["family"].dropna().unique()})
    if compare is not None and (compare not in families or len(families) < 2):
        raise TableError(
            f"compare {compare!r}: right would be one of two or more families; here: {', '.join(families)}"
        )


def _reasons(fronts: list[dict[str, Any]]) -> str:
    counts: Counter[str] = Counter()
    for front in fronts:
        counts.update(front["excluded"])
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def _front(table: pd.DataFrame, evidence: Evidence, budget: int | None, question: _Question) -> dict[str, Any]:
    """The JSON object of one budget."""
    within = table["epochs"] == budget if budget is not None else table["epochs"].isna()
    rows = evidence.rows[within.loc[evidence.rows.index]]
    points = points_of(evidence, rows, question.noise_sd, [*question.costs, *question.limited])
    points, dear = _affordable(points, question)
    excluded = tally(evidence.reasons[within]) | dear
    excluded["no epochs"] = int(table["epochs"].isna().sum()) if budget is not None else 0
    members = pareto_mask(points.costs, points.top1)
    chance = chance_on_front(points)
    names = question.costs
    front = _described(points.only(members), names, chance[members], groups_of(points.only(members)))
    return {
        "sweep": sweep_name(table),
        "budget": budget,
        "cost": names[0],
        "costs": names,
        "accuracy_column": evidence.accuracy,
        "devices": devices_of(points.rows),
        "considered": int(points.runs.sum()),
        "cells": len(points),
        "excluded": {reason: n for reason, n in excluded.items() if n},
        "excluded_trials": named(evidence.reasons[within], table["trial_id"]),
        "notes": notes_of(points.rows, names),
        "front": front,
        "ties": _ties(points, names, members, chance),
        "recommended": recommended(front, question.top),
        "speedups": speedups(points, question.compare) if question.compare is not None else [],
        "overall_speedup": overall_speedup(points, question.compare) if question.compare is not None else None,
    }


def _affordable(points: Points, question: _Question) -> tuple[Points, dict[str, int]]:
    """The cells within all limits, without the columns that are only limited; how many runs are over each limit."""
    names = [*question.costs, *question.limited]
    dear = over(points, names, question.limits)
    words = {i: "over max_cost" if i == 0 else f"over max_cost of {name}" for i, name in enumerate(names)}
    counts = {words[i]: int(points.runs[dear == i].sum()) for i in range(len(names))}
    kept = points.only(dear < 0)
    paid = kept.costs[:, : len(question.costs)]
    return Points(kept.rows, paid, kept.top1, kept.se, kept.val, kept.runs, kept.df), counts


def _ties(
    points: Points, names: list[str], members: "np.ndarray[Any, np.dtype[np.bool_]]", chance: Array
) -> list[dict[str, Any]]:
    """The cells off the front that noise does not tell from a member which costs no less, each in its group."""
    member = tied_with(points, members)
    places = np.flatnonzero(member >= 0)[:_TIES_LISTED]
    numbers = np.zeros(len(points), dtype=np.int64)
    numbers[members] = groups_of(points.only(members))
    return _described(points.only(places), names, chance[places], numbers[member[places]])


def _described(
    points: Points, costs: Sequence[str], probability: Array, groups: "np.ndarray[Any, np.dtype[np.int64]]"
) -> list[dict[str, Any]]:
    """The points as JSON, by rising cost."""
    names = [name for name in _SHOWN if name in points.rows]
    shapes = points.rows[names].astype(object).where(points.rows[names].notna(), None).to_dict("records")
    columns = {"n_seeds": points.runs, "top1": points.top1, "top1_se": points.se, "val_top1": points.val}
    columns |= {"cost": points.cost, "p_on_front": probability, "group": groups}
    entries = []
    for i in np.lexsort((points.top1, *points.costs.T[::-1])):
        shape = {k: whole(v) if k in _COUNTS and v is not None else v for k, v in shapes[i].items()}
        # A published table names its models; ours are known by the family's arguments.
        shape["model"] = shape.get("model") or model_of_variant(points.rows["variant"].iloc[i])
        entry = {**shape, **{name: column[i].item() for name, column in columns.items()}}
        entries.append(entry | {"costs": dict(zip(costs, points.costs[i].tolist(), strict=True))})
    return entries


def recommended(front: list[dict[str, Any]], top: int) -> list[dict[str, Any]]:
    """At most `top` members evenly spread in log cost, the cheapest and the most accurate among them.

    For one model, that is the most accurate one. Of several costs it is the mean of their logarithms.
    """
    if len(front) <= top:
        return list(front)
    logs = np.array([np.mean(np.log(list(member["costs"].values()))) for member in front])
    chosen = [int(max(range(len(front)), key=lambda i: (front[i]["top1"], i)))]
    # From the dear end: a family of one is its best model.
    for target in np.linspace(logs.max(), logs.min(), top)[1:]:
        distance = np.abs(logs - target)
        distance[chosen] = math.inf
        chosen.append(int(len(logs) - 1 - distance[::-1].argmin()))
    return [front[i] for i in sorted(chosen)]


make_callable(__name__)

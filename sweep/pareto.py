"""The Pareto front of a results table: the models that nothing cheaper or equal in cost beats.

A point is dominated if another is at least as accurate and at most as costly, and better in one of the two;
equal points are on the front together. Accuracy has noise: `p_on_front` is the probability that a cell is on
the front when every mean is drawn from its error (normal, or Student's t where the noise itself was
estimated).
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweep.errors import TableError
from sweep.front import Mask, pareto_mask, sorted_front
from sweep.naming import model_name
from sweep.noise import Array, noise_of_cells, quantile
from sweep.rules.cells import (
    Evidence,
    gather,
    images_of,
    plain,
    positions_of,
    refuse_mixtures,
    sweep_name,
    tally,
    whole,
    with_columns,
)
from sweep.rules.variants import PLAIN, codes_of, model_of_variant, recipe_columns
from workers.families import TIMM

__all__ = ["pareto", "pareto_mask"]

_CELL = ["family", "width", "depth", "resolution", "epochs", "recipe", "model", "variant"]
_SHOWN = ("trial_id", "family", "width", "depth", "resolution", "epochs", "model")
_COUNTS = {"depth", "resolution", "epochs"}
_RECOMMENDED = 5
_NUMBERS_DRAWN = 4_000_000


@dataclass(frozen=True)
class _Question:
    """What is asked of every budget alike."""

    max_cost: float | None
    top: int
    compare: str | None
    noise_sd: float | None


@dataclass(frozen=True)
class Points:
    """The cells of one budget as columns, each the mean of its `runs` seeds; `rows` are the first seeds'."""

    rows: pd.DataFrame
    cost: Array
    top1: Array
    se: Array
    val: Array
    runs: NDArray[np.int64]
    df: float

    def __len__(self) -> int:
        return len(self.cost)

    def only(self, which: Mask) -> "Points":
        """The points for which `which` is true."""
        cost, top1, se = self.cost[which], self.top1[which], self.se[which]
        return Points(self.rows[which], cost, top1, se, self.val[which], self.runs[which], self.df)


def pareto(
    table: pd.DataFrame,
    *,
    budget: int | None = None,
    cost: str | None = None,
    max_cost: float | None = None,
    top: int | None = None,
    compare: str | None = None,
    noise_sd: float | None = None,
) -> dict[str, Any]:
    """Front, recommended models and speed-ups of one budget; of every budget, as "fronts", if there are more.

    Args:
        table: one row per trial; the seeds of one cell are averaged into one point.
        budget: epochs; may be left out.
        cost: column to keep low; default as in `rules`.
        max_cost: leave out what costs more.
        top: how many members to recommend, evenly spread in log cost (default: at most 5).
        compare: a family; how much faster is the front of all others at the top-1 of each of its models?
        noise_sd: standard deviation of one run in points, in place of replicate seeds and prior.

    Raises:
        TableError: an unknown budget, family or cost, no usable rows, or rows that must not be compared.
    """
    table = with_columns(table).reset_index(drop=True)
    refuse_mixtures(table)
    evidence = gather(table, cost)
    budgets = sorted({int(value) for value in table["epochs"].dropna().unique()})
    _check(table, budgets, budget, top, compare)
    question = _Question(max_cost, top or _RECOMMENDED, compare, noise_sd)
    chosen: list[int | None] = [budget] if budget is not None else [*budgets] or [None]
    fronts = [_front(table, evidence, name, question) for name in chosen]
    if not any(front["considered"] for front in fronts):
        raise TableError(f"no usable rows: {_reasons(fronts)}; right would be another budget, cost or max_cost")
    several = {"sweep": sweep_name(table), "fronts": fronts}
    return cast(dict[str, Any], plain(fronts[0] if len(fronts) == 1 else several))


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
    excluded = tally(evidence.reasons[within])
    unplaced = int(table["epochs"].isna().sum()) if budget is not None else 0
    points = points_of(evidence, evidence.rows[within.loc[evidence.rows.index]], question.noise_sd)
    dear = points.cost > (math.inf if question.max_cost is None else question.max_cost)
    excluded |= {"no epochs": unplaced, "over max_cost": int(points.runs[dear].sum())}
    points = points.only(~dear)
    members = pareto_mask(points.cost, points.top1)
    probability = _probability_on_front(points)
    front = _described(points.only(members), probability[members])
    return {
        "sweep": sweep_name(table),
        "budget": budget,
        "cost": evidence.cost,
        "accuracy_column": evidence.accuracy,
        "considered": int(points.runs.sum()),
        "cells": len(points),
        "excluded": {reason: n for reason, n in excluded.items() if n},
        "front": front,
        "recommended": recommended(front, question.top),
        "speedups": _speedups(points, question.compare) if question.compare is not None else [],
    }


def points_of(evidence: Evidence, rows: pd.DataFrame, noise_sd: float | None) -> Points:
    """Average the seeds of each cell. Rows without a seed are no replicates: each is a point.

    Of one cell are rows whose family, arguments, resolution, epochs and recipe with all its values are the same.
    """
    if rows.empty:
        nothing = np.zeros(0)
        return Points(rows, nothing, nothing, nothing, nothing, np.zeros(0, dtype=np.int64), math.inf)
    alone = np.where(rows["seed"].isna(), np.arange(len(rows)), -1)
    keys = [name for name in _CELL if name in rows]
    codes = codes_of(rows.assign(alone=alone), [*keys, *recipe_columns(rows), "alone"])
    top1 = rows[evidence.accuracy].to_numpy(dtype=float)
    noise = noise_of_cells(top1, codes, images_of(rows, evidence.accuracy), noise_sd, positions_of(rows))
    runs = np.bincount(codes)
    cost = np.bincount(codes, rows[evidence.cost].to_numpy(dtype=float)) / runs
    val = np.asarray(rows["val_top1"].astype(float).groupby(codes).mean(), dtype=float)
    # The first seed, not the first line, gives the name.
    order = np.lexsort((rows["seed"].fillna(0).to_numpy(), codes))
    first = order[np.concatenate([[0], np.cumsum(runs)[:-1]])]
    means = np.bincount(codes, top1) / runs
    return Points(rows.iloc[first], cost, means, noise.sd / np.sqrt(runs), val, runs, noise.df)


def _probability_on_front(points: Points) -> Array:
    """Share of draws of all means in which each point is on the front."""
    probability = np.zeros(len(points))
    if not len(points):
        return probability
    order = np.argsort(points.cost)
    low, high = points.top1 - 8 * points.se, points.top1 + 8 * points.se
    # Eight standard errors below something cheaper is never on a front, and need not be drawn.
    hopeful = order[high[order] >= np.maximum.accumulate(low[order])]
    count = int(np.clip(_NUMBERS_DRAWN // len(hopeful), 100, 4000))
    generator = np.random.default_rng(20210313)
    scale = np.ones(count) if math.isinf(points.df) else np.sqrt(points.df / generator.chisquare(points.df, count))
    errors = generator.standard_normal((count, len(hopeful))) * points.se[hopeful] * scale[:, None]
    probability[hopeful] = sorted_front(points.cost[hopeful], points.top1[hopeful] + errors).mean(axis=0)
    return probability


def _described(points: Points, probability: Array) -> list[dict[str, Any]]:
    """The points as JSON, by rising cost."""
    names = [name for name in _SHOWN if name in points.rows]
    shapes = points.rows[names].astype(object).where(points.rows[names].notna(), None).to_dict("records")
    columns = {"n_seeds": points.runs, "top1": points.top1, "top1_se": points.se, "val_top1": points.val}
    columns |= {"cost": points.cost, "p_on_front": probability}
    entries = []
    for i in np.lexsort((points.top1, points.cost)):
        shape = {k: whole(v) if k in _COUNTS and v is not None else v for k, v in shapes[i].items()}
        # A published table names its models; ours are known by the family's arguments.
        shape["model"] = shape.get("model") or model_of_variant(points.rows["variant"].iloc[i])
        entries.append({**shape, **{name: column[i].item() for name, column in columns.items()}})
    return entries


def recommended(front: list[dict[str, Any]], top: int) -> list[dict[str, Any]]:
    """At most `top` members evenly spread in log cost, the cheapest and the most accurate among them.

    For one model, that is the most accurate one.
    """
    if len(front) <= top:
        return list(front)
    logs = np.log([member["cost"] for member in front])
    chosen: list[int] = []
    # From the dear end: a family of one is its best model.
    for target in np.linspace(logs[-1], logs[0], top):
        distance = np.abs(logs - target)
        distance[chosen] = math.inf
        chosen.append(int(len(logs) - 1 - distance[::-1].argmin()))
    return [front[i] for i in sorted(chosen)]


def _speedups(points: Points, family: str) -> list[dict[str, Any]]:
    """Cost of each model of a family over the cost of the others' front at the same top-1.

    Along the front, log cost is linear in top-1 between neighbours; beyond its ends nothing is said. The
    interval takes the noise of the model and of both neighbours through the slope (delta method).
    """
    named = (points.rows["family"] == family).to_numpy(dtype=bool)
    than, others = points.only(named), points.only(~named)
    front = others.only(pareto_mask(others.cost, others.top1))
    front = front.only(_first_of_equals(front.top1))
    order = np.argsort(front.top1)
    steps = np.searchsorted(front.top1[order], than.top1)
    entries = []
    for i in np.argsort(than.cost):
        # A model as good as the least accurate member is its neighbour's equal, not below the front.
        step = max(int(steps[i]), 1) if len(order) > 1 and than.top1[i] >= front.top1[order[0]] else 0
        if 0 < step < len(order):
            entries.append(_speedup(than, int(i), front, int(order[step - 1]), int(order[step])))
    return entries


def _first_of_equals(values: Array) -> Mask:
    mask = np.zeros(len(values), dtype=bool)
    mask[np.unique(values, return_index=True)[1]] = True
    return mask


def _speedup(than: Points, i: int, front: Points, left: int, right: int) -> dict[str, Any]:
    """One model against the segment of the front that runs from `left` to `right`."""
    row = than.rows.iloc[i]
    at = float(than.top1[i])
    slope = math.log(front.cost[right] / front.cost[left]) / float(front.top1[right] - front.top1[left])
    u = float((at - front.top1[left]) / (front.top1[right] - front.top1[left]))
    faster = math.log(than.cost[i] / front.cost[left]) - slope * (at - float(front.top1[left]))
    noise = math.hypot(than.se[i], (1 - u) * front.se[left], u * front.se[right])
    half = quantile(0.975, than.df) * slope * noise
    named = "model" in row and pd.notna(row["model"])
    model = row["model"] if named else _name(row)
    entry = {"than": model, "trial_id": row["trial_id"], "at_top1": at, "cost": float(than.cost[i])}
    return entry | {
        "times_faster": math.exp(faster),
        "ci": (math.exp(faster - half), math.exp(faster + half)),
    }


def _name(row: "pd.Series[Any]") -> str:
    """A model of ours with its resolution; one that nothing is known of is called by its trial."""
    shapeless = pd.isna(row["width"]) and pd.isna(row["depth"]) and row["variant"] == PLAIN
    if shapeless and not str(row["family"]).startswith(TIMM):
        return str(row["trial_id"])
    name = model_name(row["family"], row["width"], row["depth"], model_of_variant(row["variant"]))
    return name if pd.isna(row["resolution"]) else f"{name} {row['resolution']:g}px"

"""From the rows of a results table to the points of a front: cells with one or several costs and an accuracy."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sweep.errors import TableError
from sweep.front import MAX_COSTS, Mask
from sweep.imports import LATENCY_KIND
from sweep.noise import Array, noise_of_cells
from sweep.rules.cells import Evidence, gather, images_of, positions_of, tally
from sweep.rules.robust import SCALE, with_scale
from sweep.rules.variants import codes_of, recipe_columns

_CELL = ("family", "width", "depth", "resolution", "epochs", "recipe", "model", "variant")
_TIMED = ("train_device_hours", "peak_memory_bytes")  # with all in ms: what a device decides
_NAMED = 5  # trials that are named for each reason
ELSEWHERE = "another device"


@dataclass(frozen=True)
class Points:
    """The cells of one budget as columns, each the mean of its `runs` seeds; `rows` are the first seeds'.

    `costs` has the shape (cells, k), the others (cells,); accuracies and errors are in percent points.
    """

    rows: pd.DataFrame
    costs: Array
    top1: Array
    se: Array
    val: Array
    runs: NDArray[np.int64]
    df: float

    def __len__(self) -> int:
        return len(self.top1)

    @property
    def cost(self) -> Array:
        """The first cost."""
        first: Array = self.costs[:, 0]
        return first

    def only(self, which: Mask | NDArray[np.int64]) -> "Points":
        """The points for which `which` is true, or of these places in this order."""
        rows = self.rows.iloc[np.arange(len(self))[which]]
        costs, top1, se = self.costs[which], self.top1[which], self.se[which]
        return Points(rows, costs, top1, se, self.val[which], self.runs[which], self.df)


def as_costs(cost: str | Sequence[str] | None) -> list[str]:
    """The cost columns that are asked for; empty for the default one.

    Raises:
        TableError: one is named twice, or there are too many.
    """
    names = [] if cost is None else [cost] if isinstance(cost, str) else list(cost)
    if len(set(names)) < len(names) or len(names) > MAX_COSTS:
        raise TableError(f"cost {','.join(names)}: right would be 1 to {MAX_COSTS} different columns")
    return names


def gather_all(
    table: pd.DataFrame, costs: Sequence[str], limited: Iterable[str] = (), device: str | None = None
) -> Evidence:
    """The rows that have an accuracy and every cost; why the others do not count, each by its first reason.

    Args:
        table: with the columns that analysis reads, and an index without repetitions.
        costs: at least one, unless the default one is wanted.
        limited: other columns that are needed.
        device: as in the column `device`; capitals make no difference, nor does what only one device has in its name.

    Raises:
        TableError: no such device or cost, or no row is left.
    """
    # The best of several learning rates would look better than it is; `rules(robust=True)` is about them.
    other_rate = ~np.isclose(with_scale(table, derive=False)[SCALE], 1.0)
    here = table[~other_rate] if device is None else table[~other_rate & _on_device(table, device)]
    evidence = gather(here, costs[0] if costs else None)
    reasons = evidence.reasons
    for name in (*costs[1:], *limited):
        more = gather(here, name).reasons
        reasons = reasons.mask((reasons == "") & (more != ""), more)
    for name in (evidence.accuracy, evidence.cost, *costs[1:], *limited):
        reasons = _in_detail(reasons, name, here[name])
    if not (reasons == "").any():
        words = ", ".join(f"{n} {reason}" for reason, n in tally(reasons).items())
        raise TableError(f"no usable rows: {words}; right would be {evidence.accuracy} and every cost in one row")
    everywhere = pd.Series(ELSEWHERE, index=table.index).mask(other_rate, "at another learning rate")
    everywhere[here.index] = reasons
    return replace(evidence, rows=here[reasons == ""], reasons=everywhere)


def _in_detail(reasons: "pd.Series[str]", name: str, values: "pd.Series[float]") -> "pd.Series[str]":
    """Tell numbers that cannot be used from missing ones."""
    numbers = values.to_numpy(dtype=float, na_value=np.nan)
    missing = (reasons == f"no {name}").to_numpy()
    reasons = reasons.mask(missing & np.isinf(numbers), f"infinite {name}")
    return reasons.mask(missing & np.isfinite(numbers), f"{name} not above 0")


def _on_device(table: pd.DataFrame, device: str) -> "pd.Series[bool]":
    names = sorted({str(name) for name in table["device"].dropna().unique()}) if "device" in table else []
    wanted = device.casefold()
    found = [name for name in names if name.casefold() == wanted]
    found = found or [name for name in names if wanted and wanted in name.casefold()]
    if len({name.casefold() for name in found}) != 1:
        right = ", ".join(found or names) or "no device, for the table names none"
        raise TableError(
            f"device {device!r}: {'names several' if found else 'not in the table'}; right would be {right}"
        )
    return table["device"].isin(found)


def devices_of(rows: pd.DataFrame) -> list[str]:
    """The devices that rows name."""
    return sorted({str(name) for name in rows["device"].dropna().unique()}) if "device" in rows else []


def mixes_devices(rows: pd.DataFrame, costs: Iterable[str]) -> str | None:
    """What to say of costs that are measured on several devices; None where they are not."""
    timed = [name for name in costs if name.endswith("_ms") or name in _TIMED]
    devices = devices_of(rows)
    if not timed or len(devices) < 2:
        return None
    return f"{' and '.join(timed)} of {len(devices)} devices together ({', '.join(devices)}); --device keeps one"


def notes_of(rows: pd.DataFrame, costs: Sequence[str]) -> list[str]:
    """What a reader of these costs has to know."""
    notes = [mixes_devices(rows, costs)]
    if "infer_latency_ms" in costs and LATENCY_KIND in rows and rows[LATENCY_KIND].notna().any():
        notes.append(f"infer_latency_ms is {rows[LATENCY_KIND].dropna().iloc[0]}, in batches; not one image's latency")
    return [note for note in notes if note]


def named(reasons: "pd.Series[str]", ids: "pd.Series[str]") -> dict[str, list[str]]:
    """The first few trials of each reason; those without an id cannot be named."""
    kept = ids[(reasons != "") & ids.notna()].astype(str)
    return {str(name): list(part[:_NAMED]) for name, part in kept.groupby(reasons[kept.index])}


def points_of(
    evidence: Evidence, rows: pd.DataFrame, noise_sd: float | None, costs: Sequence[str] | None = None
) -> Points:
    """Average the seeds of each cell. Rows without a seed are no replicates: each is a point.

    Of one cell are rows whose family, arguments, resolution, epochs and recipe with all its values are the same.
    `costs` are the columns that are paid; by default that of the evidence.
    """
    paid = rows[list(costs or [evidence.cost])].to_numpy(dtype=float)
    if rows.empty:
        nothing = np.zeros(0)
        return Points(rows, paid, nothing, nothing, nothing, np.zeros(0, dtype=np.int64), math.inf)
    alone = np.where(rows["seed"].isna(), np.arange(len(rows)), -1)
    keys = [name for name in _CELL if name in rows]
    codes = codes_of(rows.assign(alone=alone), [*keys, *recipe_columns(rows), "alone"])
    top1 = rows[evidence.accuracy].to_numpy(dtype=float)
    noise = noise_of_cells(top1, codes, images_of(rows, evidence.accuracy), noise_sd, positions_of(rows))
    runs = np.bincount(codes)
    means = np.column_stack([np.bincount(codes, column) / runs for column in paid.T])
    val = np.asarray(rows["val_top1"].astype(float).groupby(codes).mean(), dtype=float)
    # The first seed, not the first line, gives the name.
    order = np.lexsort((rows["seed"].fillna(0).to_numpy(), codes))
    first = order[np.concatenate([[0], np.cumsum(runs)[:-1]])]
    return Points(
        rows.iloc[first], means, np.bincount(codes, top1) / runs, noise.sd / np.sqrt(runs), val, runs, noise.df
    )


def over(points: Points, names: Sequence[str], limits: Mapping[str, float]) -> Array:
    """For each point the first column, by its number in `names`, in which it costs more than its limit; else -1."""
    found = np.full(len(points), -1)
    for number, name in reversed(list(enumerate(names))):
        found[points.costs[:, number] > limits.get(name, math.inf)] = number
    return found

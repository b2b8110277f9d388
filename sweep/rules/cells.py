"""From the rows of a results table to cells: what counts as evidence, and what rules are made of."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sweep.errors import TableError
from sweep.noise import Array, Estimate, Noise, noise_of_cells
from sweep.rules.variants import PLAIN, codes_of, model_of_variant, variants_of

Key = tuple[float, float, float]  # depth, width, resolution
Weights = dict[Key, float]
AXES = ("depth", "width", "resolution")

_DEFAULT_COSTS = ("train_step_ms", "infer_latency_ms", "macs_per_image")
# Numeric, but no cost of a model: left out of what an error message proposes.
_NO_COST = {
    "width",
    "depth",
    "resolution",
    "epochs",
    "seed",
    "attempts",
    "epochs_done",
    "val_loss",
    "micro_batch",
    "ranks",
    "skipped_images",
}
_NO_COST |= {
    "batch_size",
    "minival_images",
    "val_images",
    "minival_top1",
    "val_top1",
    "val_top5",
    "train_top1",
}
_TEXT = ("sweep", "trial_id", "family", "recipe", "dataset", "protocol", "source", "status")
_NUMBERS = (*AXES, "epochs", "seed", "minival_top1", "val_top1", "train_top1", "minival_images", "val_images")


@dataclass(frozen=True)
class Evidence:
    """The rows that count, why the others do not, and the two columns that are compared."""

    rows: pd.DataFrame
    reasons: "pd.Series[str]"  # for every row of the table, by its index; empty where the row counts
    accuracy: str
    cost: str

    def excluded(self) -> dict[str, int]:
        """How many rows do not count, by reason."""
        return tally(self.reasons)


@dataclass(frozen=True)
class Cell:
    """Mean of the seeds of one cell. `sd` is the noise of one run; `runs` holds top-1 by known seed."""

    depth: float
    width: float
    resolution: float
    cost: float
    top1: float
    n: int
    sd: float
    images: float
    runs: dict[int, float]

    @property
    def key(self) -> Key:
        """What the cell is called within its study."""
        return self.depth, self.width, self.resolution

    @property
    def log_cost(self) -> float:
        """log2 of the cost: one unit is one doubling."""
        return math.log2(self.cost)

    @property
    def se(self) -> float:
        """Standard error of the mean, points."""
        return self.sd / math.sqrt(self.n)

    def json(self) -> dict[str, Any]:
        """What a reader needs to find the cell and to draw it."""
        return {
            **dict(zip(AXES, self.key, strict=True)),
            "cost": self.cost,
            "top1": self.top1,
            "top1_se": self.se,
        }


@dataclass(frozen=True)
class Study:
    """The cells of one family at one budget, with the degrees of freedom of their noise.

    `variant` holds the family's other arguments: models that differ in them are studies of their own.
    """

    family: str | None
    budget: int | None
    cells: dict[Key, Cell]
    df: float
    variant: str = PLAIN

    @property
    def named(self) -> dict[str, Any]:
        """Which study it is, for the entries made of it."""
        return {"family": self.family, "model": model_of_variant(self.variant), "budget": self.budget}

    def estimate(self, weights: Mapping[Key, float]) -> Estimate:
        """Value = sum of w x mean, with SE^2 = sum of w^2 s^2 / n."""
        value = sum(w * self.cells[key].top1 for key, w in weights.items())
        variance = sum((w * self.cells[key].se) ** 2 for key, w in weights.items())
        return Estimate(value, math.sqrt(variance), self.df)

    def resolutions(self) -> list[float]:
        """Resolutions that have any evidence, ascending."""
        return sorted({cell.resolution for cell in self.cells.values()})

    @cached_property
    def _lines(self) -> dict[tuple[str, Key], list[Cell]]:
        """Cells by axis and by their place on the other two, ascending along the axis."""
        lines: dict[tuple[str, Key], list[Cell]] = defaultdict(list)
        for cell in sorted(self.cells.values(), key=lambda cell: cell.key):
            for axis in AXES:
                lines[axis, _place(cell, axis)].append(cell)
        return lines

    def arm(self, base: Cell, axis: str) -> list[Cell]:
        """Cells larger than `base` along one axis and equal to it on the others, ascending."""
        start = getattr(base, axis)
        return [cell for cell in self._lines.get((axis, _place(base, axis)), ()) if getattr(cell, axis) > start]


def _place(cell: Cell, axis: str) -> Key:
    """Where a cell is on the other axes than this one."""
    depth, width, resolution = (0.0 if name == axis else value for name, value in zip(AXES, cell.key, strict=True))
    return depth, width, resolution


def with_columns(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns that analysis reads; those that a foreign file lacks are empty.

    Added is `variant`, what tells two models of one family, depth and width apart.
    """
    lacking = {name: None for name in _TEXT if name not in table} | {n: np.nan for n in _NUMBERS if n not in table}
    return table.assign(**lacking, variant=variants_of(table))


def refuse_mixtures(table: pd.DataFrame, names: Iterable[str] = ("source", "protocol", "dataset")) -> None:
    """Refuse rows that must not be compared with each other; a column's empty rows say nothing."""
    for name in names:
        values = sorted({str(value) for value in table[name].dropna().unique()})
        if len(values) > 1:
            raise TableError(f"the table mixes {name} {', '.join(values)}; keep the rows of one {name}")


def sweep_name(table: pd.DataFrame) -> str | None:
    """Name of the sweep; several are joined by +."""
    names = [str(name) for name in table["sweep"].dropna().unique()]
    return "+".join(names) or None


def gather(table: pd.DataFrame, cost: str | None) -> Evidence:
    """Choose accuracy and cost, and keep the rows of status `ok` (or none) with both finite, cost above 0.

    Raises:
        TableError: no such cost column, or no row is left.
    """
    status = table["status"].fillna("ok").astype(str)
    fine = table[status == "ok"]
    if fine.empty:
        raise TableError(f"no usable rows: {_words(status) or 'the table is empty'}; right would be status ok")
    accuracy = _accuracy_column(fine)
    cost = _cost_column(fine, cost)
    reasons = status.mask(status == "ok", "")
    reasons = reasons.mask((reasons == "") & ~_finite(table[accuracy]), f"no {accuracy}")
    reasons = reasons.mask((reasons == "") & ~(_finite(table[cost]) & (table[cost] > 0)), f"no {cost}")
    ids = table["trial_id"].where(reasons == "")
    reasons = reasons.mask(ids.notna() & ids.duplicated(), "duplicate trial_id")
    if not (reasons == "").any():
        raise TableError(f"no usable rows: {_words(reasons)}; right would be both {accuracy} and {cost}")
    return Evidence(table[reasons == ""], reasons, accuracy, cost)


def tally(reasons: "pd.Series[str]") -> dict[str, int]:
    """How often each reason occurs; empty ones are not reasons."""
    return {str(name): int(n) for name, n in reasons[reasons != ""].value_counts().sort_index().items()}


def _words(reasons: "pd.Series[str]") -> str:
    return ", ".join(f"{n} {name}" for name, n in tally(reasons).items())


def _finite(column: "pd.Series[Any]") -> "pd.Series[bool]":
    return pd.Series(np.isfinite(column.to_numpy(dtype=float, na_value=np.nan)), index=column.index)


def _accuracy_column(rows: pd.DataFrame) -> str:
    """Selection uses minival; the validation set only where nothing else is there."""
    for name in ("minival_top1", "val_top1"):
        if _finite(rows[name]).any():
            return name
    raise TableError("no usable rows: neither minival_top1 nor val_top1 has a value in any row with status ok")


def _cost_column(rows: pd.DataFrame, asked: str | None) -> str:
    right = [name for name in map(str, rows.columns) if _is_cost(rows, name)]
    if asked is None:
        default = [name for name in _DEFAULT_COSTS if name in right]
        if default:
            return default[0]
        raise TableError(f"none of {', '.join(_DEFAULT_COSTS)} has a value; name a cost: {_listed(right)}")
    if asked not in rows:
        raise TableError(f"cost {asked!r}: no such column; right would be {_listed(right)}")
    if not pd.api.types.is_numeric_dtype(rows[asked]) or pd.api.types.is_bool_dtype(rows[asked]):
        raise TableError(f"cost {asked!r}: not a numeric column; right would be {_listed(right)}")
    if not _finite(rows[asked]).any():
        raise TableError(f"cost {asked!r}: has no values here; right would be {_listed(right)}")
    return asked


def _is_cost(rows: pd.DataFrame, name: str) -> bool:
    numeric = pd.api.types.is_numeric_dtype(rows[name]) and not pd.api.types.is_bool_dtype(rows[name])
    setting = name in _NO_COST or name.startswith(("recipe_", "model_"))
    return numeric and not setting and bool(_finite(rows[name]).any())


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none: no numeric column has values"


def images_of(rows: pd.DataFrame, accuracy: str) -> Array:
    """Held-out images behind each row's accuracy; NaN for published rows, whose 0.10 covers everything."""
    name = "val_images" if accuracy == "val_top1" else "minival_images"
    images = rows[name].to_numpy(dtype=float, na_value=np.nan)
    return np.where((rows["source"] == "published").to_numpy(dtype=bool, na_value=False), np.nan, images)


def positions_of(rows: pd.DataFrame) -> Array:
    """Where each row lies: log2 of depth, width and resolution, then 0 or 1 for each kind of model but the first.

    Where a row has no depth or width, multiply-adds take the place of the two.
    """
    shaped = rows[["depth", "width"]].notna().to_numpy().all()
    names = list(AXES) if shaped or "macs_per_image" not in rows else ["macs_per_image", "resolution"]
    axes = np.log2(rows[names].to_numpy(dtype=float, na_value=np.nan))
    kinds = pd.get_dummies(pd.Series(codes_of(rows, ["family", "variant"])), dtype=float).to_numpy()[:, 1:]
    return np.column_stack([axes, kinds])


def studies_of(
    evidence: Evidence, accuracy: str, noise_sd: float | None
) -> tuple[list[Study], dict[int | None, Noise]]:
    """One study per budget, family and variant; the noise is pooled over all cells of a budget."""
    rows = evidence.rows[_finite(evidence.rows[accuracy])]
    studies: list[Study] = []
    noises: dict[int | None, Noise] = {}
    for budget, part in rows.groupby("epochs", dropna=False):
        name = whole_or_none(budget)
        values = part[accuracy].to_numpy(dtype=float)
        codes = codes_of(part, ["family", "variant", *AXES])
        noises[name] = noise_of_cells(values, codes, images_of(part, accuracy), noise_sd, positions_of(part))
        cells = _cells(part, evidence, accuracy, codes, noises[name].sd)
        for kind in sorted({kind for kind, _ in cells}, key=lambda kind: (kind[0] or "", kind[1])):
            own = {cell.key: cell for owner, cell in cells if owner == kind}
            studies.append(Study(kind[0], name, own, noises[name].df, kind[1]))
    return studies, noises


def _cells(
    part: pd.DataFrame, evidence: Evidence, accuracy: str, codes: Any, sds: Array
) -> list[tuple[tuple[str | None, str], Cell]]:
    """Family, variant and cell for each group of `codes`, in the order of the codes."""
    top1 = part[accuracy].to_numpy(dtype=float)
    cost = part[evidence.cost].to_numpy(dtype=float)
    images = images_of(part, accuracy)
    axes = part[list(AXES)].to_numpy(dtype=float)
    families, variants, seeds = part["family"].tolist(), part["variant"].tolist(), part["seed"].tolist()
    cells = []
    for code, members in enumerate(np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])):
        first = members[0]
        runs = {int(seeds[i]): float(top1[i]) for i in members if not pd.isna(seeds[i])}
        depth, width, resolution = axes[first]
        numbers = (float(cost[members].mean()), float(top1[members].mean()), len(members), float(sds[code]))
        cell = Cell(whole(depth), float(width), whole(resolution), *numbers, float(images[members].mean()), runs)
        cells.append(((None if pd.isna(families[first]) else str(families[first]), variants[first]), cell))
    return cells


def whole(value: float) -> float:
    """An int where the number is one (depths, sizes), else the number."""
    return int(value) if float(value).is_integer() else float(value)


def whole_or_none(value: Any) -> int | None:
    """A budget as int; None where the table says nothing."""
    return None if pd.isna(value) else int(value)


def plain(value: Any) -> Any:
    """Only what JSON knows: NumPy numbers as Python's, NaN and infinities as None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

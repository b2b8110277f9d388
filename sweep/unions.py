"""Several sweeps as one table, where they agree in data, protocol and recipe; else, in what they differ.

A value of the recipe may follow from the cell: two sweeps of other cells may have other values and one recipe. So a
value is compared with what the named recipe gives each cell, and where that is not known over the cells that both have.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from sweep.errors import TableError
from sweep.rules.robust import RATES
from sweep.rules.variants import plain_value, variants_of
from workers.recipe import Cell
from workers.recipes import RECIPES

_SHARED = ("dataset", "data_identity", "minival_images", "val_images", "protocol", "source", "recipe")
_RECIPE = "recipe_"
_CELL = ("family", "variant", "depth", "width", "resolution", "epochs")
_TRIAL = ("family", "depth", "width", "resolution", "epochs", "seed")
_MOST_NAMED = 8

Named = tuple[str, pd.DataFrame]  # a table with what it is called


def union(tables: Sequence[Named], *, rates_may_differ: bool = False) -> pd.DataFrame:
    """The rows of all tables, a trial that several have once: its good row, if there is one.

    Args:
        tables: each with its name.
        rates_may_differ: also takes sweeps that differ in the learning rate alone.

    Raises:
        TableError: two of them must not be compared; a line for each column in which they differ.
    """
    first, *others = tables
    for other in others:
        found = differences(first, other, rates_may_differ=rates_may_differ)
        if found:
            more = [f"and in {len(found) - _MOST_NAMED} columns more"] if len(found) > _MOST_NAMED else []
            raise TableError("\n".join([*found[:_MOST_NAMED], *more]))
    rows = pd.concat([_without_empty(table) for _, table in tables], ignore_index=True)
    names = dict.fromkeys(name for _, table in tables for name in table.columns)
    return once(rows.reindex(columns=list(names)))


def union_of_planned(planned: Sequence[pd.DataFrame | None], tables: Sequence[Named]) -> pd.DataFrame | None:
    """The planned trials of all sweeps; a table without a plan stands for its own. None where none has one."""
    known = [plan for plan in planned if plan is not None]
    if not known:
        return None
    names = list(dict.fromkeys(name for plan in known for name in plan.columns))
    own = [
        table.reindex(columns=names) if plan is None else plan
        for plan, (_, table) in zip(planned, tables, strict=True)
    ]  # fmt: skip
    return once(pd.concat([_without_empty(plan) for plan in own], ignore_index=True).reindex(columns=names))


def once(rows: pd.DataFrame) -> pd.DataFrame:
    """Every trial once, a row of status ok before one of a failure; rows without an id all stay."""
    good = rows["status"].fillna("ok").eq("ok") if "status" in rows else pd.Series(True, index=rows.index)
    ordered = rows.assign(_bad=~good).sort_values("_bad", kind="stable").drop(columns="_bad")
    again = ordered["trial_id"].notna() & ordered["trial_id"].duplicated()
    return ordered[~again].sort_index().reset_index(drop=True)


def _without_empty(table: pd.DataFrame) -> pd.DataFrame:
    """Without columns that say nothing: pandas would let their type decide that of the whole."""
    return table.dropna(axis="columns", how="all")


def differences(a: Named, b: Named, *, rates_may_differ: bool = False) -> list[str]:
    """In what two tables differ that must not be compared, a line each: the column, and what it holds in both."""
    one, two = (table.assign(variant=variants_of(table)) for _, table in (a, b))
    found = [(name, *both) for name in _SHARED if (both := _unequal(_values(one, name), _values(two, name)))]
    recipes = dict.fromkeys(str(n) for table in (one, two) for n in table.columns if str(n).startswith(_RECIPE))
    compared = [name for name in recipes if not (rates_may_differ and name in RATES)]
    found += [(name, *both) for name in compared if (both := _unequal_recipe(one, two, name))]
    lines = [f"{a[0]} and {b[0]} differ in {n}: {_listed(x)} in {a[0]}, {_listed(y)} in {b[0]}" for n, x, y in found]
    if found and all(name in RATES for name, *_ in found):
        lines.append("--robust compares learning rates")
    return lines + _same_id(a, b)


def _same_id(a: Named, b: Named) -> list[str]:
    """Whether one id is of two different trials, as in tables that number their rows."""
    names = [name for name in _TRIAL if name in a[1] and name in b[1]]
    both = a[1][["trial_id", *names]].merge(b[1][["trial_id", *names]], on="trial_id", suffixes=(" a", " b"))
    for name in names:
        x, y = both[f"{name} a"], both[f"{name} b"]
        other = both[(x != y) & ~(x.isna() & y.isna()) & both["trial_id"].notna()]
        if len(other):
            row = other.iloc[0]
            words = f"{_listed({_key(row[f'{name} a'])})} in {a[0]}, {_listed({_key(row[f'{name} b'])})} in {b[0]}"
            return [f"{a[0]} and {b[0]} differ in {name} of trial {row['trial_id']}: {words}"]
    return []


Values = set[Any]


def _unequal(x: Values, y: Values) -> tuple[Values, Values] | None:
    """Both sets where they differ; a table that says nothing differs from none."""
    return (x, y) if x and y and x != y else None


def _values(table: pd.DataFrame, name: str) -> Values:
    return {_key(value) for value in table[name].dropna().unique()} if name in table else set()


def _key(value: Any) -> Any:
    """A value to compare and to print: numbers as numbers, everything else as text."""
    value = plain_value(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _unequal_recipe(a: pd.DataFrame, b: pd.DataFrame, name: str) -> tuple[Values, Values] | None:
    """What a recipe's value is in both tables, where it does not come from one recipe."""
    if not all(_has_recipe(table) for table in (a, b)):
        return None
    pairs = [_by_cell(table, name) for table in (a, b)]
    follows = [_follows_the_recipe(table, name) for table in (a, b)]
    values = [set(found.values()) for found in pairs]
    if all(follows):
        return None
    if len(values[0]) == len(values[1]) == 1 or follows[0] != follows[1]:
        return (values[0], values[1]) if values[0] != values[1] else None
    shared = pairs[0].keys() & pairs[1].keys()
    if any(pairs[0][cell] != pairs[1][cell] for cell in shared) or not (shared or values[0] & values[1]):
        return values[0], values[1]
    return None


def _has_recipe(table: pd.DataFrame) -> bool:
    return any(str(name).startswith(_RECIPE) and table[name].notna().any() for name in table.columns)


def _by_cell(table: pd.DataFrame, name: str) -> dict[tuple[Any, ...], Any]:
    """The value of each cell; a cell that has several is of no use here and `rules` refuses it."""
    column = table[name] if name in table else pd.Series(None, index=table.index, dtype=object)
    cells = table[list(_CELL)].drop_duplicates()
    found = column.loc[cells.index]
    return {tuple(map(_key, cell)): _key(v) for cell, v in zip(cells.itertuples(index=False), found, strict=True)}


def _follows_the_recipe(table: pd.DataFrame, name: str) -> bool:
    """Whether every row has the value that the recipe of its name gives its cell."""
    field, columns = name.removeprefix(_RECIPE), ["recipe", "resolution", "epochs", "width", "depth"]
    if name not in table:
        return False
    for recipe, *cell, value in table[[*columns, name]].drop_duplicates().itertuples(index=False):
        named = _recipe_of(str(recipe), *(None if pd.isna(v) else v for v in cell))
        if named is None or not hasattr(named, field) or _key(getattr(named, field)) != _key(value):
            return False
    return True


@lru_cache(maxsize=4096)
def _recipe_of(name: str, resolution: int, epochs: int, width: float | None, depth: int | None) -> Any:
    if name not in RECIPES or resolution is None or epochs is None:
        return None
    return RECIPES[name](Cell(resolution, epochs, width, depth))


def _listed(values: Values) -> str:
    shown = sorted("nothing" if value is None else str(value) for value in values)
    return ", ".join(shown[:3]) + (", …" if len(shown) > 3 else "")

"""What tells two models or two recipes apart beside family, depth, width and resolution.

Two rows are runs of one cell only if nothing of this differs: a switch of the model, or any value of the recipe.
"""

import json
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd

from sweep.errors import TableError
from sweep.naming import MODEL_COLUMN, missing

PLAIN = "{}"  # the variant of a model without other arguments
_RECIPE_COLUMN = "recipe_"
_MOST_NAMED = 3


def variants_of(table: pd.DataFrame) -> "pd.Series[str]":
    """The other arguments of each row's model as JSON text, from the `model_` columns; equal texts, equal models."""
    names = [str(name) for name in table.columns if str(name).startswith(MODEL_COLUMN)]
    if not names or table.empty:
        return pd.Series(PLAIN, index=table.index, dtype="str")
    codes = codes_of(table, names)
    first = np.unique(codes, return_index=True)[1]
    kinds = cast(pd.DataFrame, table[names].iloc[first])
    texts = [_text(record) for record in kinds.to_dict("records")]
    return pd.Series(np.array(texts, dtype=object)[codes], index=table.index, dtype="str")


def model_of_variant(variant: str) -> dict[str, Any]:
    """The arguments behind a variant's text."""
    return dict(json.loads(variant))


def codes_of(rows: pd.DataFrame, names: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """A number for each row, 0 to k - 1: equal where all the named columns are equal, an empty one to an empty one."""
    columns = rows[list(names)].reset_index(drop=True)  # an index may repeat
    # Sorted, so that the rows' order makes no difference; values of several types have no order but as text.
    texts = {name: columns[name].map(repr) for name in names if columns[name].dtype == object}
    return np.asarray(columns.assign(**texts).groupby(list(names), dropna=False).ngroup(), dtype=np.int64)


def recipe_columns(rows: pd.DataFrame) -> list[str]:
    """The values of the recipe that are not the same in all rows."""
    names = [str(name) for name in rows.columns if str(name).startswith(_RECIPE_COLUMN)]
    return [name for name in names if rows[name].nunique(dropna=False) > 1]


def refuse_two_recipes(rows: pd.DataFrame, cell: Sequence[str]) -> None:
    """Refuse rows of one cell that were trained differently: their difference is not that of two seeds.

    Raises:
        TableError: names what differs and where.
    """
    names = recipe_columns(rows)
    if not names:
        return
    cells, full = codes_of(rows, cell), codes_of(rows, [*cell, *names])
    recipes = pd.Series(full).groupby(cells).nunique().to_numpy()  # by cell, whose codes run from 0
    if recipes.max() == 1:
        return
    mixed = rows[cells == recipes.argmax()]
    differ = [f"{name} {_listed(mixed[name])}" for name in names if mixed[name].nunique(dropna=False) > 1]
    place = ", ".join(f"{name} {plain_value(mixed[name].iloc[0])}" for name in cell if name != "variant")
    words = "; ".join(differ[:_MOST_NAMED])
    raise TableError(f"the table mixes recipes in one cell ({place}): {words}; keep the rows of one recipe")


def _listed(column: "pd.Series[Any]") -> str:
    return ", ".join(sorted({str(plain_value(value)) for value in column}))


def _text(record: dict[Any, Any]) -> str:
    own = {
        str(name).removeprefix(MODEL_COLUMN): plain_value(value) for name, value in record.items() if not missing(value)
    }
    return json.dumps(own, default=str, sort_keys=True)


def plain_value(value: Any) -> Any:
    """A value as JSON and people know it; whole numbers are not told from real ones, as in the table."""
    value = value.item() if isinstance(value, np.generic) else value
    if missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return int(value) if float(value).is_integer() else value

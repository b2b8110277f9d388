"""Small parts of what people read: tables without lines, numbers with prefixes, intervals."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table


def make_table(*columns: str, left: Sequence[str] = (), title: str | None = None) -> Table:
    """An empty table without lines; the columns in `left` are text."""
    table = Table(box=None, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="bold")
    table.header_style = "dim"
    for column in columns:
        justify: Any = "left" if column in left else "right"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column not in ("why", "model"))
    return table


def quantity(value: float | None, digits: int = 3) -> str:
    """A large number with its prefix: 4.56 G."""
    if value is None:
        return "-"
    for prefix, size in (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(float(f"{value:.{digits}g}")) >= size:  # as it will be shown: 999,999 is 1 M, not 1e+03 k
            return f"{value / size:.{digits}g} {prefix}"
    return f"{value:.{digits}g}"


def epochs_in_words(budget: float | None) -> str:
    """`1 epoch`, `350 epochs`, or `no budget given`."""
    return "no budget given" if budget is None else f"{budget:.0f} epoch{'' if budget == 1 else 's'}"


def number(value: float | None, form: str = ".2f") -> str:
    """A number, or a dash for none."""
    return "-" if value is None else format(value, form)


def short_cost(value: float) -> str:
    """Four digits; a prefix only where the number would be long."""
    return f"{value:.4g}" if value < 1e4 else quantity(value, 4)


def interval(ci: Sequence[float | None] | None, form: str = "+.2f") -> str:
    """[low, high] with signs, or a dash."""
    if not ci or ci[0] is None or ci[1] is None:
        return "-"
    return f"[{ci[0]:{form}}, {ci[1]:{form}}]"

"""Scaling sweeps of image classifiers: declare a grid, run it for its full length, read what it says.

In Python, what the commands answer with:

    import sweep

    table = sweep.load("quickstart")  # a pandas DataFrame; its columns are in results/README.md
    sweep.pareto(table, cost="params")["front"]
    sweep.rules(table, planned=sweep.planned("quickstart"))["depth_vs_width"]

`sweep.pareto` and `sweep.rules` are modules too, and called they are the function of their name. Nothing heavy is
imported before the first of these is used.
"""

from typing import TYPE_CHECKING, Any

from workers import __version__

if TYPE_CHECKING:
    from sweep.api import load, planned

__all__ = ["__version__", "load", "pareto", "planned", "rules"]


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("load", "planned"):
        return getattr(importlib.import_module("sweep.api"), name)
    if name in ("pareto", "rules"):
        return importlib.import_module(f"sweep.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Columns, numbers and models in words, for axes, tables and sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from sweep.naming import kind_in_words, missing, model_in_words
from sweep.reporting.scales import short
from sweep.table import COLUMNS

MINUS = "\N{MINUS SIGN}"
_UNITS = {column.name: column.unit for column in COLUMNS}
_COSTS = {
    "train_step_ms": "training step",
    "infer_latency_ms": "inference latency",
    "macs_per_image": "multiply-adds per image",
    "params": "parameters",
    "peak_memory_bytes": "peak memory",
    "train_device_hours": "device time of the training run",
}
_ACCURACIES = {"minival_top1": "minival top-1", "val_top1": "validation top-1"}


def cost_in_words(name: str) -> str:
    """`training step`; a column that is not ours by its name."""
    return _COSTS.get(name, name)


def unit_of(name: str) -> str:
    """The unit of a column; empty where it has none or is not known."""
    return _UNITS.get(name) or ("ms" if name.endswith("_ms") else "")


def cost_axis(name: str) -> str:
    """`training step (ms), log scale`."""
    unit = unit_of(name)
    return f"{cost_in_words(name)}{f' ({unit})' if unit else ''}, log scale"


def accuracy_in_words(name: str) -> str:
    """`minival top-1`."""
    return _ACCURACIES.get(name, name)


def with_unit(value: float | None, name: str) -> str:
    """`37.1 ms`, `4.56 GMACs`."""
    return "–" if value is None else f"{short(value)} {unit_of(name)}".strip()


def budget_in_words(budget: float | None) -> str:
    """`350 epochs`, `1 epoch`."""
    return "epochs not stated" if budget is None else f"{budget:g} epoch{'' if budget == 1 else 's'}"


def signed(value: float | None, places: int = 2) -> str:
    """`+0.30`, with a real minus; a dash for none."""
    if value is None:
        return "–"
    return f"{round(value, places) + 0.0:+.{places}f}".replace("-", MINUS)


def plain_number(value: float | None, places: int = 2) -> str:
    """`0.30`, or a dash."""
    if value is None or missing(value):
        return "–"
    return f"{round(value, places) + 0.0:.{places}f}".replace("-", MINUS)  # no minus before a zero


def interval(ci: Sequence[float | None] | None, places: int = 2, *, sign: bool = True) -> str:
    """`[+0.15, +0.44]`, or a dash; an end that is open is three dots."""
    if not ci or all(end is None for end in ci):
        return "–"
    shown = [("…" if end is None else (signed if sign else plain_number)(end, places)) for end in ci]
    return f"[{shown[0]}, {shown[1]}]"


def shape_in_words(entry: Mapping[str, Any]) -> str:
    """`depth 101, width 1`."""
    return f"depth {entry['depth']:g}, width {entry['width']:g}"


def sizes_in_words(sizes: Sequence[Any]) -> str:
    """`128, 160 and 224 px`."""
    shown = [f"{size:g}" for size in sizes]
    return (f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)) + " px"


def cell_in_words(entry: Mapping[str, Any]) -> str:
    """A member of a front: `d101 w1, 128 px`."""
    name = model_in_words(entry)
    size = entry.get("resolution")
    return name if size is None or missing(size) else f"{name}, {size:g} px"


def heading_of(entry: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> str:
    """The budget, with the family before it where there are several: `resnet_rs se=off, 350 epochs`."""
    kind = kind_in_words(entry, entries)
    return ", ".join(filter(None, (kind, budget_in_words(entry["budget"]))))


def counted(number: int, word: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"

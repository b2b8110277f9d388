"""FLOPs are not latency: how each cost ranks models, what equal multiply-adds hide, and where a power law breaks."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from sweep.console import epochs_in_words, interval, make_table, number, quantity

Value = dict[str, Any]
_COSTS = {
    "macs_per_image": "MACs",
    "params": "parameters",
    "infer_latency_ms": "latency",
    "train_step_ms": "step time",
}


def flops_tables(console: Console, value: Value) -> None:
    """Kendall's tau of each cost with accuracy, then spread and power law of each budget."""
    entries = value["flops_not_latency"]
    if not entries:
        return
    accuracy = value["accuracy_column"]
    console.print("\n[bold]FLOPs are not latency[/bold]")
    columns = ("epochs", f"tau with {accuracy}", "all cells", "95 % interval", "equal MACs", "95 %")
    table = make_table(*columns, left=(columns[1],))
    for entry in entries:
        _rank_rows(table, entry, accuracy)
    if table.row_count:
        console.print(table)
        console.print(
            "tau: Kendall's rank correlation; equal MACs: within half a doubling; spread: standard deviation of the "
            "accuracies there, without noise",
            style="dim",
        )
    for entry in entries:
        console.print(f"{epochs_in_words(entry['budget'])}:")
        for words in (_spread_in_words(entry["equal_macs"]), *_law_in_words(entry["power_law"])):
            console.print(f"  {words}", markup=False)


def _rank_rows(table: Any, entry: Value, accuracy: str) -> None:
    by_place = {(tau["a"], tau["at"]): tau for tau in entry["rank_correlation"] if tau["b"] == accuracy}
    budget = number(entry["budget"], ".0f")
    for cost, words in _COSTS.items():
        if (cost, "all") in by_place:
            both = [by_place.get((cost, at), {}) for at in ("all", "equal_macs")]
            taus = [part for tau in both for part in (number(tau.get("kendall_tau")), interval(tau.get("ci")))]
            table.add_row(budget, words, *taus)
            budget = ""


def _spread_in_words(bins: Sequence[Value]) -> str:
    """The bin of nearly equal multiply-adds whose cells differ most."""
    if not bins:
        return "largest spread at equal MACs: - (no 3 cells have nearly equal MACs)"
    most = max(bins, key=lambda one: one["spread_points"])
    spread = f"{number(most['spread_points'])} points {interval(most['ci'], '.2f')}"
    return f"largest spread at equal MACs: {spread}, {most['cells']} cells from {quantity(most['macs_from'])}"


def _law_in_words(law: Value) -> list[str]:
    """`no break shown`, or where it breaks, then the exponents."""
    if law["exponent"] is None:
        return [f"power law: {law['verdict']}: {law['reason']}"]
    found = law["break"]
    p = f"(p = {law['break_p']:.2g})"
    if found is None:
        exponent = f"{law['exponent']:.3f} {interval(law['ci'], '.3f')}"
        return [f"power law: {law['verdict']} {p}; exponent {exponent}"]
    below = f"{found['exponent_below']:.3f} {interval(found['exponent_below_ci'], '.3f')}"
    place = f"{quantity(found['macs'])} MACs {_between(found['ci'])}"
    return [
        f"power law: breaks at {place} {p}",
        f"  exponent {below} below, {found['exponent_above']:.3f} above",
    ]


def _between(ci: Sequence[float | None]) -> str:
    """An interval of multiply-adds; an end that the cells do not bound is a dash."""
    return f"[{quantity(ci[0])}, {quantity(ci[1])}]"

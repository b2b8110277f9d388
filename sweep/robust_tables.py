"""Whether each depth-or-width verdict holds at other learning rates, as a table."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from sweep.console import make_table, number

Value = dict[str, Any]
_HOLDS = {True: "yes", False: "no", None: "not shown"}
_NEEDED = (
    "no runs at other learning rates: right would be the same cells at half and at twice the rate of the recipe, "
    "each with 2 seeds or more"
)
_JUDGED = {
    "other seeds": "best rate: chosen on each cell's first seed, judged on its other seeds",
    "same seed": (
        "warning: same seed: the best rate was chosen and judged on the same runs, so that luck in the choice counts "
        "for merit; 2 seeds or more for each cell and rate would settle it"
    ),
}


def robust_table(console: Console, value: Value) -> None:
    """The `robust` entries, where they were asked for."""
    entries = value.get("robust")
    if not entries:
        return
    title = "[bold]Does it hold at other learning rates?[/bold]"
    if not any(entry["at"] for entry in entries):
        console.print(f"\n{title}\n{_NEEDED}")
        return
    table = make_table(
        "epochs", "px", "verdict", "holds", "at other rates", "at the best rate",
        left=("verdict", "holds", "at other rates", "at the best rate"), title=f"\n{title}",
    )  # fmt: skip
    table.columns[4].no_wrap = False
    reasons = list(dict.fromkeys(entry["holds_reason"] for entry in entries if entry["holds_reason"]))
    for entry in entries:
        why = f" {reasons.index(entry['holds_reason']) + 1}" if entry["holds_reason"] else ""
        table.add_row(
            number(entry["budget"], ".0f"), number(entry["resolution"], ".0f"), entry["verdict"],
            _HOLDS[entry["holds"]] + why, _at_rates(entry["at"]), entry["best_rate"]["verdict"],
        )  # fmt: skip
    console.print(table)
    for place, reason in enumerate(reasons, start=1):
        console.print(f"{place}: {escape(reason)}", style="dim")
    for judged in dict.fromkeys(entry["best_rate"]["judged_on"] for entry in entries):
        console.print(_JUDGED[judged], style="yellow" if judged == "same seed" else "dim")


def _at_rates(rates: list[Value]) -> str:
    """`depth at 0.5x, 2x; undetermined at 4x`."""
    by_verdict: dict[str, list[str]] = {}
    for rate in rates:
        by_verdict.setdefault(rate["verdict"], []).append(f"{rate['lr_scale']:g}x")
    return "; ".join(f"{verdict} at {', '.join(scales)}" for verdict, scales in by_verdict.items())

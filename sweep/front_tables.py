"""The front of each budget as a table of at most 80 columns, with what was left out and the speed-ups."""

import textwrap
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from sweep.console import epochs_in_words, make_table, number, short_cost
from sweep.naming import model_in_words, model_name

Value = dict[str, Any]
_TIES_SHOWN = 5


def front_tables(console: Console, value: Value) -> None:
    """The front of every budget; recommended members are marked."""
    for front in value.get("fronts", [value]):
        _front_table(console, front)


def _front_table(console: Console, front: Value) -> None:
    budget = epochs_in_words(front["budget"])
    members, costs = front["front"], front.get("costs") or [front["cost"]]
    beside = front["accuracy_column"] != "val_top1" and any(m.get("val_top1") is not None for m in members)
    names = [_heading(name) if len(costs) > 1 else name for name in costs]
    columns = (
        "",
        "model",
        "px",
        "top-1 %",
        "se",
        *(["val %"] if beside else []),
        *names,
        "P" if len(costs) > 1 else "P(on front)",
        "group",
    )
    table = make_table(*columns, left=("", "model"))
    chosen = {member["trial_id"] for member in front["recommended"]}
    for member in members:
        own = member.get("costs") or {front["cost"]: member["cost"]}
        table.add_row(
            "*" if member["trial_id"] in chosen else "", _model_name(member), number(member["resolution"], ".0f"),
            number(member["top1"]), number(member["top1_se"]), *([number(member.get("val_top1"))] if beside else []),
            *(short_cost(own[name]) for name in costs), number(member["p_on_front"]), str(member.get("group", "-")),
        )  # fmt: skip
    console.print(f"\n[bold]{front['sweep'] or 'table'}, {budget}[/bold]: front of {front['considered']} cells")
    console.print(table)
    _front_notes(console, front, beside)
    _front_speedups(console, front)


def _heading(name: str) -> str:
    """A column's name on several lines, so that three of them fit."""
    return "\n".join(textwrap.wrap(name.replace("_", "_ "), 9)).replace("_ ", "_")


def _front_notes(console: Console, front: Value, beside: bool) -> None:
    """What the columns are, what was left out and which trials, and the cells that noise does not tell apart."""
    val = ", val % val_top1, only reported" if beside else ""
    console.print(
        f"top-1 is {front['accuracy_column']}{val}; * recommended; P: chance to be on the front; "
        "one group: top-1 within one standard error",
        style="dim",
    )
    for note in front.get("notes", []):
        console.print(f"note: {note}", markup=False)
    for tie in front.get("ties", [])[:_TIES_SHOWN]:
        words = f"{_model_name(tie)}, {number(tie['resolution'], '.0f')} px" if tie["resolution"] else _model_name(tie)
        console.print(f"group {tie['group']} too: {words}, {number(tie['top1'])} %", style="dim", markup=False)
    if (more := len(front.get("ties", [])) - _TIES_SHOWN) > 0:
        console.print(f"and {more} more that are tied; --format json has all", style="dim")
    for reason, count in front["excluded"].items():
        ids = front.get("excluded_trials", {}).get(reason, [])
        shown = f" ({', '.join(ids)}{', …' if count > len(ids) else ''})" if ids else ""
        console.print(f"left out: {count} {reason}{shown}", style="dim", markup=False)


def _front_speedups(console: Console, front: Value) -> None:
    for speedup in front["speedups"]:
        times = f"{number(speedup['times_faster'])} {_times(speedup['ci'])}"
        console.print(f"{times} x faster than {speedup['than']} at {number(speedup['at_top1'])} %", markup=False)
    overall = front.get("overall_speedup")
    if not overall:
        return
    if overall["times_faster"] is None:
        console.print(f"no figure over the whole range: {overall['reason']}")
        return
    span = f"{number(overall['from_top1'])} to {number(overall['to_top1'])} %"
    times = f"{number(overall['times_faster'])} {_times(overall['ci'])}"
    console.print(f"overall {times} x faster than {overall['than']}, {span}", markup=False)


def _times(ci: Sequence[float | None] | None) -> str:
    return f"[{number(ci[0])}, {number(ci[1])}]" if ci else ""


def _model_name(member: Value) -> str:
    if isinstance(member["model"], str) or member["depth"] is None or member["width"] is None:
        return model_in_words(member)
    own = model_name("", member["width"], member["depth"], {})
    switches = model_in_words(member).removeprefix(own)
    return f"depth {member['depth']:.0f}, width {member['width']:g}{switches and ','}{switches}"

"""Results as people, programs or spreadsheets want them: tables of at most 80 columns, JSON, CSV. On stdout."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console

from sweep.console import make_table, number, quantity
from sweep.front_tables import front_tables
from sweep.naming import model_in_words
from sweep.rules_tables import rules_tables
from workers.files import plain

__all__ = ["explanation", "front_tables", "plan_table", "quantity", "rules_tables", "show", "status_table"]

Value = dict[str, Any]


def show(value: Value, output_format: str, render: Callable[[Console, Value], None], rows: Sequence[Value]) -> None:
    """Print a result.

    Args:
        value: the whole result, as JSON prints it.
        output_format: table, json or csv.
        render: draws it for people.
        rows: its main list, as CSV prints it.
    """
    if output_format == "json":
        sys.stdout.write(json.dumps(plain(value), indent=1, allow_nan=False) + "\n")
    elif output_format == "csv":
        _write_csv(rows)
    else:
        render(Console(highlight=False), value)


def _write_csv(rows: Sequence[Value]) -> None:
    """Plain values only: lists and objects in a row are left to JSON, but for a model's arguments and its costs."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _flat(row: Value) -> Value:
    values: Value = {key: value for key, value in row.items() if not isinstance(value, list | dict)}
    costs, model = row.get("costs"), row.get("model")
    values |= costs if isinstance(costs, dict) and len(costs) > 1 else {}
    return values | ({f"model_{name}": value for name, value in model.items()} if isinstance(model, dict) else {})


def plan_table(console: Console, value: Value) -> None:
    """Every trial of a plan, then the totals."""
    by_shape = _all_by_shape(value["trials"])
    names = ("depth", "width") if by_shape else ("model",)
    rates = ["lr x"] if any(trial["lr_scale"] != 1 for trial in value["trials"]) else []
    columns = ("trial", *names, "px", "epochs", *rates, "params", "MACs", "FLOPs", "hours", "status")
    table = make_table(*columns, left=("model", "status"))
    why = _numbered(trial for trial in value["trials"] if trial["reason"])
    for trial in value["trials"]:
        shape = (str(trial["depth"]), f"{trial['width']:g}") if by_shape else (model_in_words(trial),)
        table.add_row(
            trial["trial_id"], *shape, str(trial["resolution"]),
            str(trial["epochs"]), *(f"{trial['lr_scale']:g}" for _ in rates),
            quantity(trial["params"]), quantity(trial["macs_per_image"]),
            quantity(trial["train_flops"]), number(trial["predicted_device_hours"], ".3g"),
            f"{trial['status']} {why[_short_reason(trial)]}" if trial["reason"] else trial["status"],
        )  # fmt: skip
    console.print(table)
    for reason, place in why.items():
        console.print(f"{place}: {reason}", style="dim", markup=False)
    console.print(_plan_totals(value["sweep"], value["totals"]))


def explanation(console: Console, value: Value) -> None:
    """What changed a trial's id."""
    name, other = value["trial_id"], value["compared_with"]
    if value["planned"] and value["has_row"]:
        console.print(f"{name} is planned and has its row: nothing that makes its id has changed", markup=False)
        return
    here = "is planned and has no row" if value["planned"] else "has a row and is no longer planned"
    there = "row" if value["planned"] else "planned trial"
    if other is None:
        console.print(f"{name} {here}; there is no {there} to compare it with", markup=False)
        return
    console.print(f"{name} {here}; the {there} most like it is {other}:", markup=False)
    for change in value["changes"]:
        console.print(
            f"  {change['field']}: {_said(change['was'])} in the row, {_said(change['is'])} in the plan", markup=False
        )


def _said(value: Any) -> str:
    return "its default" if value is None else json.dumps(value)


def _numbered(trials: Iterable[Value]) -> dict[str, int]:
    """Why trials are not run: each reason with the number that the table has for it."""
    return {reason: number for number, reason in enumerate(dict.fromkeys(map(_short_reason, trials)), start=1)}


def _short_reason(trial: Value) -> str:
    """Without what differs from trial to trial: the value that is outside of a limit, the words of a failure."""
    reason = str(trial["reason"])
    if trial["status"] != "excluded":
        return reason.partition(":")[0]
    rule, outside, bounds = reason.partition(" outside ")
    return rule.rpartition(" ")[0] + outside + bounds if outside else reason


def _all_by_shape(trials: Sequence[Value]) -> bool:
    """Whether depth and width tell the models apart."""
    same = all(trial["model"] == trials[0]["model"] for trial in trials)
    return same and all(trial["depth"] is not None and trial["width"] is not None for trial in trials)


def _plan_totals(sweep: str, totals: Value) -> str:
    hours = totals["predicted_device_hours"]
    counts = ", ".join(f"{totals[name]} {name}" for name in ("finished", "planned", "failed", "excluded"))
    predicted = "device-hours not predicted: no shape measured yet" if hours is None else f"{hours:.3g} device-hours"
    return f"{sweep}: {totals['trials']} trials: {counts}\nin all {quantity(totals['train_flops'])}FLOPs; {predicted}"


def status_table(console: Console, value: Value) -> None:
    """Trials by budget and status, then the failures."""
    names = list(dict.fromkeys(name for budget in value["budgets"] for name in budget["by_status"]))
    table = make_table("epochs", "planned", *names, "not run yet")
    for budget in value["budgets"]:
        counts = [str(budget["by_status"].get(name, 0)) for name in names]
        table.add_row(number(budget["budget"], "d"), str(budget["planned"]), *counts, str(budget["not_run"]))
    done = f"{value['ok']} of {value['planned']} trials done"
    console.print(f"{value['sweep']}: {done}, in {value['path']}", markup=False, soft_wrap=True)
    console.print(table)
    if value["no_longer_planned"]:
        console.print(f"besides: trials that space.yaml no longer plans, {value['no_longer_planned']}")
    for failure in value["failures"]:
        console.print(f"{failure['trial_id']} {failure['status']}: {failure['error']}", markup=False)
    if value["failures"]:
        kinds = ",".join(sorted({failure["status"] for failure in value["failures"]}))
        console.print(f"run them again: sweep run SPACE --retry {kinds}")

"""Results as people, programs or spreadsheets want them: tables of at most 80 columns, JSON, CSV. On stdout."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from sweep.naming import kind_in_words, model_in_words, model_name
from workers.files import plain

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
    """Plain values only: lists and objects inside a row are left to JSON, but for the model's arguments."""
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def _flat(row: Value) -> Value:
    values: Value = {key: value for key, value in row.items() if not isinstance(value, list | dict)}
    model = row.get("model")
    return values | ({f"model_{name}": value for name, value in model.items()} if isinstance(model, dict) else {})


def _table(*columns: str, left: Sequence[str] = (), title: str | None = None) -> Table:
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


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _cost(value: float) -> str:
    """Four digits; a prefix only where the number would be long."""
    return f"{value:.4g}" if value < 1e4 else quantity(value, 4)


def _interval(ci: Sequence[float | None] | None) -> str:
    if not ci or ci[0] is None or ci[1] is None:
        return "-"
    return f"[{ci[0]:+.2f}, {ci[1]:+.2f}]"


def plan_table(console: Console, value: Value) -> None:
    """Every trial of a plan, then the totals."""
    by_shape = _all_by_shape(value["trials"])
    names = ("depth", "width") if by_shape else ("model",)
    columns = ("trial", *names, "px", "epochs", "params", "MACs", "FLOPs", "hours", "status")
    table = _table(*columns, left=("model", "status"))
    why = _numbered(trial for trial in value["trials"] if trial["reason"])
    for trial in value["trials"]:
        shape = (str(trial["depth"]), f"{trial['width']:g}") if by_shape else (model_in_words(trial),)
        table.add_row(
            trial["trial_id"], *shape, str(trial["resolution"]),
            str(trial["epochs"]), quantity(trial["params"]), quantity(trial["macs_per_image"]),
            quantity(trial["train_flops"]), _number(trial["predicted_device_hours"], ".3g"),
            f"{trial['status']} {why[_short_reason(trial)]}" if trial["reason"] else trial["status"],
        )  # fmt: skip
    console.print(table)
    for reason, number in why.items():
        console.print(f"{number}: {reason}", style="dim", markup=False)
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
    table = _table("epochs", "planned", *names, "not run yet")
    for budget in value["budgets"]:
        counts = [str(budget["by_status"].get(name, 0)) for name in names]
        table.add_row(_number(budget["budget"], "d"), str(budget["planned"]), *counts, str(budget["not_run"]))
    done = f"{value['ok']} of {value['planned']} trials done"
    console.print(f"{value['sweep']}: {done}, in {value['path']}", markup=False, soft_wrap=True)
    console.print(table)
    for failure in value["failures"]:
        console.print(f"{failure['trial_id']} {failure['status']}: {failure['error']}", markup=False)
    if value["failures"]:
        kinds = ",".join(sorted({failure["status"] for failure in value["failures"]}))
        console.print(f"run them again: sweep run SPACE --retry {kinds}")


def front_tables(console: Console, value: Value) -> None:
    """The front of every budget; recommended members are marked."""
    for front in value.get("fronts", [value]):
        _front_table(console, front)


def _front_table(console: Console, front: Value) -> None:
    budget = epochs_in_words(front["budget"])
    left_out = ", ".join(f"{count} {reason}" for reason, count in front["excluded"].items())
    columns = ("", "model", "px", "top-1 %", "se", front["cost"], "P(on front)")
    table = _table(*columns, left=("", "model"))
    chosen = {member["trial_id"] for member in front["recommended"]}
    for member in front["front"]:
        table.add_row(
            "*" if member["trial_id"] in chosen else "", _model_name(member), _number(member["resolution"], ".0f"),
            _number(member["top1"]), _number(member["top1_se"]), _cost(member["cost"]),
            _number(member["p_on_front"]),
        )  # fmt: skip
    console.print(f"\n[bold]{front['sweep'] or 'table'}, {budget}[/bold]: front of {front['considered']} cells")
    console.print(table)
    notes = f"top-1 is {front['accuracy_column']}; * recommended" + (f"; left out: {left_out}" if left_out else "")
    console.print(notes, style="dim")
    for speedup in front["speedups"]:
        times = _number(speedup["times_faster"])
        console.print(f"{times} x faster than {speedup['than']} at {_number(speedup['at_top1'])} %")


def _model_name(member: Value) -> str:
    if isinstance(member["model"], str) or member["depth"] is None or member["width"] is None:
        return model_in_words(member)
    own = model_name("", member["width"], member["depth"], {})
    switches = model_in_words(member).removeprefix(own)
    return f"depth {member['depth']:.0f}, width {member['width']:g}{switches and ','}{switches}"


def rules_tables(console: Console, value: Value) -> None:
    """Verdicts first, then what they rest on."""
    console.print(
        f"[bold]{value['sweep'] or 'table'}[/bold]: accuracy {value['accuracy_column']}, cost {value['cost']}"
    )
    console.print(f"noise: {_number(value['noise_sd'])} points, root mean square")
    for source in value["noise_source"].split("; "):
        console.print(f"  {source}")
    verdicts = value["depth_vs_width_by_budget"]
    for kind in [v for i, v in enumerate(verdicts) if not any(_same_kind(v, other) for other in verdicts[:i])]:
        own = {name: _of_kind(entries, kind) for name, entries in value.items()}
        words = kind_in_words(kind, verdicts)
        if words and _has_no_numbers(own):
            reasons = "; ".join(dict.fromkeys(entry["reason"] for entry in own["depth_vs_width"] if entry["reason"]))
            console.print(f"\n[bold]{words}[/bold]: undetermined ({reasons}); trained: {_covered(own)}")
            continue
        if words:
            console.print(f"\n[bold]{words}[/bold]", style="underline")
        _rules_of_one_kind(console, own)
    for entry in value["left_aside"]:
        family = entry["family"] or "a family without a name"
        console.print(f"left aside: {entry['rows']} rows of {family}, which has {entry['reason']}", style="dim")


# What each kind of rule would give.
_NUMBERS = (
    ("depth_vs_width", "gain_points"),
    ("resolution_steps", "points_per_doubling"),
    ("resolution_exponent", "gamma"),
    ("transfer", "kendall_tau"),
)


def _has_no_numbers(value: Value) -> bool:
    """Whether there is nothing to compare: a cell or two that were trained for a comparison with other variants."""
    return not value["regime"] and all(entry[name] is None for rules, name in _NUMBERS for entry in value[rules])


def _same_kind(entry: Value, other: Value) -> bool:
    return bool(entry["family"] == other["family"] and entry["model"] == other["model"])


def _of_kind(entries: Any, kind: Value) -> Any:
    """Those entries of a list that are about one family and variant."""
    own = isinstance(entries, list) and all("model" in entry for entry in entries)
    return [entry for entry in entries if _same_kind(entry, kind)] if own else entries


def _rules_of_one_kind(console: Console, value: Value) -> None:
    _verdicts(console, value)
    _steps(console, value)
    _exponents(console, value)
    _regimes(console, value)
    _transfers(console, value)
    _coverage(console, value)


def _verdicts(console: Console, value: Value) -> None:
    table = _table(
        "epochs",
        "px",
        "verdict",
        "depth - width",
        "95 % interval",
        "why",
        left=("verdict", "why"),
        title="\nDepth or width",
    )
    by_budget = {verdict["budget"]: verdict["verdict"] for verdict in value["depth_vs_width_by_budget"]}
    last: Any = ()
    for entry in value["depth_vs_width"]:
        budget = entry["budget"]
        if budget != last:
            table.add_row(_number(budget, ".0f"), "all", f"[bold]{by_budget[budget]}[/bold]")
            last = budget
        table.add_row(
            "", _number(entry["resolution"], ".0f"), entry["verdict"], _number(entry["gain_points"], "+.2f"),
            _interval(entry["ci"]), entry.get("reason") or entry.get("flag") or "",
        )  # fmt: skip
    console.print(table)


def _steps(console: Console, value: Value) -> None:
    """Steps in resolution, counted by verdict: the list itself is in the JSON."""
    table = _table(
        "epochs", "from", "to", "raise", "prefer depth", "prefer width", "undetermined", title="\nRaise the resolution?"
    )
    groups: dict[tuple[Any, ...], dict[str, int]] = {}
    for step in value["resolution_steps"]:
        counts = groups.setdefault((step["budget"], step["from"], step["to"]), {})
        counts[step["verdict"]] = counts.get(step["verdict"], 0) + 1
    for (budget, low, high), counts in groups.items():
        verdicts = [str(counts.get(name, 0)) for name in ("raise", "prefer depth", "prefer width", "undetermined")]
        table.add_row(_number(budget, ".0f"), f"{low:.0f}", f"{high:.0f}", *verdicts)
    if groups:
        console.print(table)
        console.print("number of (depth, width) bases with each verdict", style="dim")


def _exponents(console: Console, value: Value) -> None:
    console.print("\n[bold]Resolution exponent[/bold] (resolution grows as cost to this power)")
    for entry in value["resolution_exponent"]:
        gamma = f"{entry['gamma']:.3f} {_interval(entry['ci'])}, " if entry["gamma"] is not None else ""
        against = f"compound rule {_number(entry['compound_rule_gamma'], '.3f')}"
        console.print(f"{epochs_in_words(entry['budget'])}: {gamma}{against}: {entry['verdict']}")
        if entry.get("reason"):
            console.print(f"  {entry['reason']}")


def _regimes(console: Console, value: Value) -> None:
    """Larger cells that fit the training set better and the held-out images worse."""
    larger = value["regime"]
    if larger:
        count = sum(entry["overfits"] is True for entry in larger)
        console.print(f"\n[bold]Overfitting[/bold] {count} of {len(larger)} larger cells")


def _transfers(console: Console, value: Value) -> None:
    table = _table(
        "from",
        "to",
        "rank correlation",
        "95 % interval",
        "regret, points",
        "flips",
        title="\nDoes a short budget tell?",
    )
    for entry in value["transfer"]:
        table.add_row(
            _number(entry["from"], ".0f"), _number(entry["to"], ".0f"), _number(entry["kendall_tau"]),
            _interval(entry["ci"]), _number(entry["regret_points"]), str(len(entry["flips"])),
        )  # fmt: skip
    if value["transfer"]:
        console.print(table)


def _coverage(console: Console, value: Value) -> None:
    console.print("\n[bold]Coverage[/bold] " + _covered(value))


def _covered(value: Value) -> str:
    parts = []
    for entry in value["coverage"]:
        missing = ", ".join(f"{count} {status}" for status, count in entry["missing_by_status"].items())
        budget = epochs_in_words(entry["budget"])
        parts.append(f"{budget}: {entry['ok']} of {entry['planned']}" + (f" ({missing})" if missing else ""))
    return "; ".join(parts)

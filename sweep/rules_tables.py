"""The rules as tables of at most 80 columns: verdicts first, then what they rest on."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from sweep.console import epochs_in_words, interval, make_table, number
from sweep.flops_tables import flops_tables
from sweep.grounds import explain_star, explain_star_without_counts, marked
from sweep.naming import kind_in_words
from sweep.robust_tables import robust_table

Value = dict[str, Any]
_STEPS = ("raise", "prefer depth", "prefer width", "undetermined")
# What each kind of rule would give.
_NUMBERS = (
    ("depth_vs_width", "gain_points"),
    ("resolution_steps", "points_per_doubling"),
    ("resolution_exponent", "gamma"),
    ("transfer", "kendall_tau"),
)


def rules_tables(console: Console, value: Value) -> None:
    """Verdicts first, then what they rest on, for each family and variant in turn."""
    sweep = escape(value["sweep"] or "table")
    console.print(f"[bold]{sweep}[/bold]: accuracy {value['accuracy_column']}, cost {escape(value['cost'])}")
    console.print(f"noise: {number(value['noise_sd'])} points, root mean square")
    for source in value["noise_source"].split("; "):
        console.print(f"  {source}")
    verdicts = value["depth_vs_width_by_budget"]
    for kind in [v for i, v in enumerate(verdicts) if not any(_same_kind(v, other) for other in verdicts[:i])]:
        own = {name: _of_kind(entries, kind) for name, entries in value.items()}
        words = escape(kind_in_words(kind, verdicts))
        if words and _has_no_numbers(own):
            reasons = "; ".join(dict.fromkeys(entry["reason"] for entry in own["depth_vs_width"] if entry["reason"]))
            console.print(f"\n[bold]{words}[/bold]: undetermined ({escape(reasons)}); trained: {_covered(own)}")
            continue
        if words:
            console.print(f"\n[bold]{words}[/bold]", style="underline")
        _rules_of_one_kind(console, own)
    for entry in value["left_aside"]:
        family = escape(entry["family"] or "a family without a name")
        reason = escape(entry["reason"])
        console.print(f"left aside: {entry['rows']} rows of {family}, which has {reason}", style="dim")


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
    robust_table(console, value)
    _steps(console, value)
    _exponents(console, value)
    _regimes(console, value)
    _transfers(console, value)
    flops_tables(console, value)
    _coverage(console, value)


def _verdicts(console: Console, value: Value) -> None:
    columns = ("epochs", "px", "verdict", "depth - width", "95 % interval", "why")
    table = make_table(*columns, left=("verdict", "why"), title="\nDepth or width")
    by_budget = {verdict["budget"]: verdict for verdict in value["depth_vs_width_by_budget"]}
    last: Any = ()
    for entry in value["depth_vs_width"]:
        budget = entry["budget"]
        if budget != last:
            whole = marked(by_budget[budget]["verdict"], by_budget[budget])
            table.add_row(number(budget, ".0f"), "all", f"[bold]{whole}[/bold]")
            last = budget
        table.add_row(
            "", number(entry["resolution"], ".0f"), marked(entry["verdict"], entry),
            number(entry["gain_points"], "+.2f"), interval(entry["ci"]),
            escape(entry.get("reason") or entry.get("flag") or ""),
        )  # fmt: skip
    console.print(table)
    explain_star(console, value["depth_vs_width_by_budget"])


def _steps(console: Console, value: Value) -> None:
    """Steps in resolution, counted by verdict: the list itself is in the JSON."""
    table = make_table("epochs", "from", "to", *_STEPS, title="\nRaise the resolution?")
    groups: dict[tuple[Any, ...], list[Value]] = {}
    for step in value["resolution_steps"]:
        groups.setdefault((step["budget"], step["from"], step["to"]), []).append(step)
    for (budget, low, high), steps in groups.items():
        table.add_row(number(budget, ".0f"), f"{low:.0f}", f"{high:.0f}", *(_tally(steps, name) for name in _STEPS))
    if groups:
        console.print(table)
        console.print("number of (depth, width) bases with each verdict", style="dim")
        explain_star_without_counts(console, value["resolution_steps"])


def _tally(steps: list[Value], verdict: str) -> str:
    """How many steps have a verdict; with a star where one of them rests on trials missing not at random."""
    own = [step for step in steps if step["verdict"] == verdict]
    return str(len(own)) + ("*" if any(step["missing_not_at_random"] for step in own) else "")


def _exponents(console: Console, value: Value) -> None:
    console.print("\n[bold]Resolution exponent[/bold] (resolution grows as cost to this power)")
    for entry in value["resolution_exponent"]:
        gamma = f"{entry['gamma']:.3f} {interval(entry['ci'], '+.3f')}, " if entry["gamma"] is not None else ""
        against = f"compound rule {number(entry['compound_rule_gamma'], '.3f')}"
        verdict = marked(entry["verdict"], entry)
        console.print(f"{epochs_in_words(entry['budget'])}: {gamma}{against}: {verdict}", markup=False)
        for words in (entry["reason"], entry["flag"]):
            if words:
                console.print(f"  {words}", markup=False)
    explain_star(console, value["resolution_exponent"])


def _regimes(console: Console, value: Value) -> None:
    """Larger cells that fit the training set better and the held-out images worse."""
    larger = value["regime"]
    if larger:
        overfits = [entry for entry in larger if entry["overfits"] is True]
        star = "*" if any(entry["missing_not_at_random"] for entry in overfits) else ""
        console.print(f"\n[bold]Overfitting[/bold] {len(overfits)}{star} of {len(larger)} larger cells")
        explain_star_without_counts(console, overfits)


def _transfers(console: Console, value: Value) -> None:
    if not value["transfer"]:
        return
    columns = ("from", "to", "rank correlation", "95 % interval", "regret, points", "95 %", "flips")
    table = make_table(*columns, title="\nDoes a short budget tell?")
    for entry in value["transfer"]:
        table.add_row(
            number(entry["from"], ".0f"), number(entry["to"], ".0f"), marked(number(entry["kendall_tau"]), entry),
            interval(entry["ci"]), number(entry["regret_points"]), interval(entry["regret_ci"], ".2f"),
            str(len(entry["flips"])),
        )  # fmt: skip
    console.print(table)
    known = [entry for entry in value["transfer"] if entry["pairs_unknown"] is not None]
    for entry in known:
        places = f"{entry['from']} to {entry['to']}: "
        console.print(
            f"{places}{entry['pairs_unknown']:.0%} of pairs too close to order".replace("%", " %"), style="dim"
        )
    explain_star(console, value["transfer"])


def _coverage(console: Console, value: Value) -> None:
    console.print("\n[bold]Coverage[/bold] " + _covered(value))


def _covered(value: Value) -> str:
    parts = []
    for entry in value["coverage"]:
        missing = ", ".join(f"{count} {status}" for status, count in entry["missing_by_status"].items())
        budget = epochs_in_words(entry["budget"])
        parts.append(f"{budget}: {entry['ok']} of {entry['planned']}" + (f" ({missing})" if missing else ""))
    return escape("; ".join(parts))

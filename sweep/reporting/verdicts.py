"""The rules in sentences: what a reader should take home, each with its interval, and what it rests on."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sweep.reporting.arms import base_steps, kind_of, of_group, with_gains
from sweep.reporting.facts import Entry, Facts
from sweep.reporting.markup import Markup, clean, element, escape, join
from sweep.reporting.scales import short
from sweep.reporting.words import (
    budget_in_words,
    cost_in_words,
    counted,
    heading_of,
    interval,
    plain_number,
    shape_in_words,
    signed,
    sizes_in_words,
)

_ADVICE = {
    "depth": "go deeper",
    "width": "go wider",
    "mixed": "it depends on the resolution",
    "undetermined": "the evidence does not tell",
}
_FEWER = {"depth": ("Deeper", "wider"), "width": ("Wider", "deeper")}
_MOST_LINES = 40
_STEP_VERDICTS = ("raise", "prefer depth", "prefer width", "undetermined")


def verdict_cards(facts: Facts) -> Markup:
    """A card for each budget: its verdict, the sentence, the gain at each resolution."""
    assert facts.rules is not None
    cards = [_card(facts, group, own) for group, own in with_gains(facts.rules)]
    if not cards:
        return element("p", "Depth or width: undetermined. ", _why_none(facts.rules))
    return element("div", *cards, class_="cards")


def _why_none(rules: Entry) -> str:
    reasons = Counter(e["reason"] for e in rules["depth_vs_width"] if e["reason"])
    words = "; ".join(f"{reason} ({n} times)" if n > 1 else reason for reason, n in reasons.most_common(3))
    return f"{words}." if words else "There is nothing to compare."


def _card(facts: Facts, group: Entry, own: Sequence[Entry]) -> Markup:
    assert facts.rules is not None
    verdict = group["verdict"]
    groups = facts.rules["depth_vs_width_by_budget"]
    lines = [
        element("li", element("b", f"{e['resolution']:g} px"), " ", chip(e["verdict"]), " ", _gain_of(e)) for e in own
    ]
    parts = [
        element("h3", heading_of(group, groups)),
        element("p", chip(verdict), " ", element("b", _ADVICE[verdict]), class_="big"),
        element("p", _sentence(facts, group, own)),
        element("ul", *lines, class_="gains"),
    ]
    if group["missing_not_at_random"]:
        parts.append(element("p", _missing(group), class_="warn"))
    return element("article", *parts, class_=f"card {verdict}")


def chip(verdict: str) -> Markup:
    """A verdict as a small label."""
    return element("span", verdict, class_=f"chip {verdict.replace(' ', '-')}")


def _gain_of(entry: Entry) -> Markup:
    if entry["gain_points"] is None:
        return escape(entry["reason"])
    value = element("span", f"{signed(entry['gain_points'])} {interval(entry['ci'])}", class_="v")
    return join(value, f" ({entry['flag']})" if entry["flag"] else None)


def _sentence(facts: Facts, group: Entry, own: Sequence[Entry]) -> str:
    """The verdict of one budget as a sentence."""
    verdict, cost = group["verdict"], f"equal cost ({cost_in_words(facts.cost)})"
    if verdict in _FEWER:
        better, worse = _FEWER[verdict]
        gains = sorted(abs(e["gain_points"]) for e in own if e["gain_points"] is not None)
        by = f"{gains[0]:.2f} to {gains[-1]:.2f}" if len(gains) > 1 else f"{gains[0]:.2f}"
        where = sizes_in_words([e["resolution"] for e in own])
        return f"{better} models are more accurate than {worse} ones of {cost} at {where}: by {by} points."
    return f"At {cost}: {group['reason']}."


def _missing(entry: Entry) -> str:
    """What is missing under a verdict, where it may have to do with what it would have shown."""
    covered = entry["coverage"]
    missing = ", ".join(f"{n} {status}" for status, n in covered["missing_by_status"].items())
    return (
        f"Rests on cells missing not at random: {covered['ok']} of {covered['planned']} trials are there ({missing}). "
        "It is about the cells that are there."
    )


def advice_list(facts: Facts) -> Markup:
    """Exponent, transfer, overfitting and power law, in sentences."""
    rules = facts.rules
    assert rules is not None
    blocks = [
        (
            "Resolution exponent",
            [_exponent_line(e, rules["resolution_exponent"]) for e in rules["resolution_exponent"]],
        ),
        (
            "Do short runs choose what long ones would?",
            [_transfer_line(e, rules["transfer"]) for e in rules["transfer"]],
        ),
        ("Overfitting", _regime_lines(rules)),
        ("FLOPs", _law_lines(rules["flops_not_latency"])),
        ("Learning rates", _robust_lines(rules.get("robust", []))),
    ]
    parts = []
    for title, lines in blocks:
        if lines:
            shown = [element("li", line) for line in lines[:_MOST_LINES]]
            if len(lines) > _MOST_LINES:
                shown.append(element("li", f"… and {len(lines) - _MOST_LINES} more, in rules.json"))
            parts += [element("h3", title), element("ul", *shown)]
    return join(*parts)


def resolution_cards(facts: Facts) -> Markup:
    """A card for each budget: what each step in resolution returns at the base shape, and how all steps divide."""
    assert facts.rules is not None
    groups, cards = facts.rules["depth_vs_width_by_budget"], []
    for group in groups:
        own = of_group(facts.rules["resolution_steps"], group)
        known = [step for step in own if step["points_per_doubling"] is not None]
        if known:
            cards.append(element("article", *_resolution_card(heading_of(group, groups), own, known), class_="card"))
    if not cards:
        return Markup("")
    return join(element("h3", "How fast to raise the resolution"), element("div", *cards[:_MOST_LINES], class_="cards"))


def _resolution_card(heading: str, own: Sequence[Entry], known: Sequence[Entry]) -> list[Markup]:
    base = base_steps(known)
    lines = [
        element("li", element("b", f"{s['from']:g} to {s['to']:g} px"), " ", chip(s["verdict"]), " ", _return_of(s))
        for s in base
    ]
    counts = Counter(step["verdict"] for step in own)
    every = ", ".join(f"{counts[name]} {name}" for name in _STEP_VERDICTS if counts[name])
    words = f"At {shape_in_words(base[0])}, in points per doubling of cost:"
    parts = [element("h3", heading), element("p", words), element("ul", *lines, class_="gains")]
    parts.append(element("p", f"Of all {counted(len(own), 'step')}: {every}.", class_="quiet"))
    if any(step["missing_not_at_random"] for step in base):
        parts.append(element("p", "Rests on cells missing not at random.", class_="warn"))
    return parts


def _return_of(step: Entry) -> Markup:
    return element("span", f"{signed(step['points_per_doubling'], 1)} {interval(step['ci'], 1)}", class_="v")


def _exponent_line(entry: Entry, entries: Sequence[Entry]) -> Markup:
    head = element("b", heading_of(entry, entries))
    if entry["gamma"] is None:
        return join(head, f": {entry['verdict']}: {entry['reason']}.")
    found = f"{plain_number(entry['gamma'], 3)} {interval(entry['ci'], 3, sign=False)}"
    rule = f"compound rule's {plain_number(entry['compound_rule_gamma'], 3)}"
    if entry["verdict"] == "undetermined":
        words = f": resolution grows as cost to the power {found}: not told from the {rule} ({entry['reason']})."
    else:
        words = f": raise the resolution {entry['verdict']} than the compound rule: as cost to the power {found}, "
        words += f"not the {rule}."
    flag = f" {entry['flag']}." if entry["flag"] else ""
    missing = " Rests on cells missing not at random." if entry["missing_not_at_random"] else ""
    return join(head, words, flag, missing)


def _transfer_line(entry: Entry, entries: Sequence[Entry]) -> Markup:
    kinds = {kind_of(other) for other in entries}
    name = f"{entry['family']}, " if len(kinds) > 1 else ""
    head = element("b", f"{name}{entry['from']:g} to {budget_in_words(entry['to'])}")
    if entry["kendall_tau"] is None:
        return join(head, f": {entry['reason'] or 'the ranks cannot be compared'}.")
    words = [f": rank correlation {plain_number(entry['kendall_tau'])} {interval(entry['ci'])}"]
    words.append(
        f"choosing early costs {plain_number(entry['regret_points'])} points {interval(entry['regret_ci'], sign=False)}"
    )
    flips = [flip["resolution"] for flip in entry["flips"]]
    words.append(
        f"the depth-or-width verdict flips at {sizes_in_words(flips)}" if flips else "no depth-or-width verdict flips"
    )
    return join(head, "; ".join(words), ".")


def _regime_lines(rules: Entry) -> list[Markup]:
    groups = rules["depth_vs_width_by_budget"]
    lines = []
    for group in groups:
        if own := of_group(rules["regime"], group):
            yes, no = (sum(e["overfits"] is answer for e in own) for answer in (True, False))
            words = f": of {counted(len(own), 'larger cell')}, {yes} overfit, {no} do not"
            words += f", of {len(own) - yes - no} it is not known." if yes + no < len(own) else "."
            lines.append(join(element("b", heading_of(group, groups)), words))
    if not rules["regime"]:
        lines.append(join("No train accuracy in the table, so nothing to say."))
    return lines


def _law_lines(laws: Sequence[Entry]) -> list[Markup]:
    lines = []
    for entry in laws:
        law, head = entry["power_law"], element("b", heading_of(entry, laws))
        if law["exponent"] is None:
            lines.append(join(head, f": no power law to fit ({law['reason']})."))
            continue
        found = f": error falls as multiply-adds to the power of minus {plain_number(law['exponent'], 3)} "
        found += interval(law["ci"], 3, sign=False)
        lines.append(join(head, found, _break_words(law)))
    return lines


def _break_words(law: Entry) -> str:
    if not (fold := law["break"]):
        return f"; {law['verdict']}."
    ends = " to ".join("…" if end is None else short(end) for end in fold["ci"])
    below, above = plain_number(fold["exponent_below"], 3), plain_number(fold["exponent_above"], 3)
    return f"; the law breaks at {short(fold['macs'])} [{ends}] multiply-adds: {below} below, {above} above."


def _robust_lines(entries: Sequence[Entry]) -> list[Markup]:
    told = {True: "holds", False: "does not hold", None: "is not known to hold"}
    lines = []
    for entry in entries:
        head = element("b", f"{heading_of(entry, entries)}, {entry['resolution']:g} px")
        lines.append(join(head, f": the verdict {told[entry.get('holds')]} at other learning rates."))
    return lines


def caveats(facts: Facts) -> list[str]:
    """What a reader has to know before believing: source, notes, noise, rows left aside."""
    found = [*_origin(facts.table)]
    found += list(dict.fromkeys(note for front in facts.fronts for note in front["notes"]))
    found += _excluded(facts)
    if facts.rules:
        found += [
            f"Left aside: {counted(e['rows'], 'row')} of {e['family'] or 'an unnamed family'}, which has {e['reason']}"
            for e in facts.rules["left_aside"]
        ]
        silent = [g for g in facts.rules["depth_vs_width_by_budget"] if g["missing_not_at_random"]]
        if silent:
            found.append(f"{counted(len(silent), 'verdict')} on depth or width rest on cells missing not at random")
    if facts.note:
        found.append(f"No rules: {facts.note}")
    return [clean(text, 500) for text in found]


def _excluded(facts: Facts) -> list[str]:
    """Rows that are no evidence, and why; budgets of which the same is true together."""
    budgets: dict[str, list[str]] = {}
    for front in facts.fronts:
        if front["excluded"]:
            words = ", ".join(f"{n} {reason}" for reason, n in front["excluded"].items())
            budgets.setdefault(words, []).append(budget_in_words(front["budget"]))
    return [f"Rows that are no evidence: {words} (at {', '.join(own)})" for words, own in budgets.items()]


def _origin(table: Any) -> list[str]:
    """Rows that are not measured here are no evidence of this machine's own."""
    found = []
    for source, n in table["source"].dropna().value_counts().items():
        if source == "published":
            found.append(f"{counted(int(n), 'row')} published by others: read from print, not measured here")
        elif source == "simulated":
            found.append(
                f"{counted(int(n), 'row')} simulated: no model was trained, so this is no evidence for any rule"
            )
    return found

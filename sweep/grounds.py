"""What a printed verdict rests on: coverage beside it, and a star where trials are missing not at random."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

from sweep.console import epochs_in_words

Value = dict[str, Any]
STAR = "*"
_MISSING = "on cells missing not at random"


def marked(words: str, entry: Value) -> str:
    """A verdict with a star where trials are missing not at random, else with how many of the planned there are."""
    if entry["missing_not_at_random"]:
        return words + STAR
    coverage = entry["coverage"]
    return f"{words} {coverage['ok']}/{coverage['planned']}" if coverage["missing_by_status"] else words


def explain_star(console: Console, entries: Iterable[Value]) -> None:
    """Below a list of verdicts: how many trials are missing behind its stars, why, and at which budget."""
    by_budget = {_budget_of(entry): _telling(entry) for entry in entries if entry["missing_not_at_random"]}
    different = len({tuple(counts.items()) for counts in by_budget.values()}) > 1
    words = [(f"{budget}: " if different else "") + _counted(counts) for budget, counts in by_budget.items()]
    if words:
        console.print(f"{STAR} rests {_MISSING}: {escape('; '.join(dict.fromkeys(words)))}", style="dim")


def explain_star_without_counts(console: Console, entries: Iterable[Value]) -> None:
    """The same for verdicts that share cells: the reasons alone, since the counts would not add up."""
    reasons = {status for entry in entries if entry["missing_not_at_random"] for status in _telling(entry)}
    if reasons:
        console.print(f"{STAR} one or more rest {_MISSING}: {escape(', '.join(sorted(reasons)))}", style="dim")


def _budget_of(entry: Value) -> str:
    if "from" in entry:
        return f"{entry['from']} to {entry['to']} epochs"
    return epochs_in_words(entry["budget"])


def _telling(entry: Value) -> dict[str, int]:
    """The missing trials by status, without the statuses that have nothing to do with the result."""
    from sweep.rules.coverage import UNRELATED  # needs pandas, which printing other things does not

    return {name: n for name, n in entry["coverage"]["missing_by_status"].items() if name not in UNRELATED}


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items())

"""Why a trial has the id that it has: what differs between a planned trial and the row that a person has in mind."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sweep.errors import SpaceError
from sweep.trials import identity
from workers.contract import TrialConfig

Identity = Mapping[str, Any]  # every field behind an id, by its dotted name


def explain(trial_id: str, planned: Sequence[TrialConfig], rows: Mapping[str, str]) -> dict[str, Any]:
    """What is known of a trial, and of the one on the other side that is most like it.

    Args:
        trial_id: of a planned trial or of a row; its first letters will do.
        planned: the trials of the space as it is now.
        rows: the `identity` of every row, by trial id.

    Returns:
        {"trial_id", "planned", "has_row", "compared_with", "changes": [{"field", "was", "is"}]}: from the row's value
        to the plan's. `compared_with` is None where there is nothing to compare with.

    Raises:
        SpaceError: no such trial, or several.
    """
    plan = {config.trial_id: _flat(identity(config)) for config in planned}
    table = {row: _flat(json.loads(text)) for row, text in rows.items()}
    found = _find(trial_id, sorted(plan.keys() | table.keys()))
    both = found in plan and found in table
    mine, others = (plan[found], table) if found in plan else (table[found], plan)
    other = None if both else _most_alike(mine, others)
    was, now = (others[other], mine) if found in plan and other else (mine, others[other] if other else mine)
    changes = [
        {"field": name, "was": was.get(name), "is": now.get(name)}
        for name in sorted(was.keys() | now.keys())
        if was.get(name) != now.get(name)
    ]
    return {
        "trial_id": found,
        "planned": found in plan,
        "has_row": found in table,
        "compared_with": other,
        "changes": changes,
    }


def _find(trial_id: str, known: Sequence[str]) -> str:
    fitting = [name for name in known if name.startswith(trial_id)]
    if len(fitting) != 1:
        what = "several trials have ids that begin so" if fitting else "no planned trial and no row has this id"
        raise SpaceError(f"--explain {trial_id}: {what}; `sweep plan` and the column trial_id list them")
    return fitting[0]


def _most_alike(mine: Identity, others: Mapping[str, Identity]) -> str | None:
    """The one with the fewest different fields; none where nothing is alike."""

    def differing(name: str) -> int:
        other = others[name]
        return sum(mine.get(field) != other.get(field) for field in mine.keys() | other.keys())

    return min(others, key=differing, default=None)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, `recipe.learning_rate`."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {name: item for key, inner in value.items() for name, item in _flat(inner, _dotted(prefix, key)).items()}


def _dotted(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key

"""How far a sweep is, by its table and its plan."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Value = dict[str, Any]


COLUMNS = ["trial_id", "epochs", "status", "error"]  # of the table, that it is told by


def status_of(path: Path, records: Sequence[Value], planned: Sequence[Value] | None) -> Value:
    """How far a sweep is, JSON-ready: {"sweep","path","planned","ok","budgets":[...],"failures":[...]}.

    Args:
        path: the sweep's folder, or a table that is one file.
        records: the rows with `COLUMNS`.
        planned: the planned trials with `trial_id` and `epochs`; None where only the rows tell of any.
    """
    rows = [_stated(row, str(index)) for index, row in enumerate(records)]
    states = {row["trial_id"]: row for row in rows}
    cells = rows if planned is None else planned
    ids = [(str(cell["trial_id"]), cell["epochs"]) for cell in cells]
    numbers = sorted({epochs for _, epochs in ids}, key=lambda epochs: epochs or 0)
    budgets = [_budget_status(budget, ids, states) for budget in numbers]
    good = sum(budget["by_status"].get("ok", 0) for budget in budgets)
    failures = [
        {name: row[name] for name in ("trial_id", "status", "error")}
        for row in states.values()
        if row["status"] not in ("ok", "excluded")
    ]
    return {
        "sweep": path.name if path.is_dir() else path.stem, "path": str(path), "planned": len(ids), "ok": good,
        "budgets": budgets, "failures": failures,
        "no_longer_planned": len(states.keys() - {trial_id for trial_id, _ in ids}),
    }  # fmt: skip


def _stated(row: Value, number: str) -> Value:
    """A row with words for what a file from elsewhere leaves out; analysis too takes rows without status for good."""
    known = {name: value for name, value in row.items() if value is not None and value == value}
    epochs = int(known["epochs"]) if "epochs" in known else None
    return {"trial_id": number, "status": "ok", "error": None, **known, "epochs": epochs}


def _budget_status(budget: Any, ids: Sequence[tuple[str, Any]], states: Mapping[str, Value]) -> Value:
    members = [trial_id for trial_id, epochs in ids if epochs == budget]
    by_status: dict[str, int] = {}
    for trial_id in members:
        if trial_id in states:
            status = str(states[trial_id]["status"])
            by_status[status] = by_status.get(status, 0) + 1
    return {
        "budget": budget,
        "planned": len(members),
        "by_status": by_status,
        "not_run": len(members) - sum(by_status.values()),
    }

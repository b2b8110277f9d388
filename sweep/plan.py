"""Pure: what is to be done, what is finished, what is left out and why, and in which order.

Running a sweep reconciles: the trials of the space, minus the rows of the table.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sweep.cost import predicted_seconds, train_flops
from sweep.naming import value_in_words
from sweep.space import SweepSpec
from workers.contract import TrialConfig, TrialStatus

if TYPE_CHECKING:
    from workers.costs import Costs

EXCLUDED = "excluded"  # a row's status beside those of TrialStatus


class PlanStatus(StrEnum):
    """What a plan says of a trial."""

    PLANNED = "planned"
    FINISHED = "finished"
    FAILED = "failed"
    EXCLUDED = EXCLUDED


@dataclass(frozen=True)
class RowState:
    """What the table says of a trial that has a row."""

    status: str
    error: str | None = None


@dataclass(frozen=True)
class PlannedTrial:
    """A trial, whether it is to be run, and why not."""

    config: TrialConfig
    status: PlanStatus
    reason: str | None = None


@dataclass(frozen=True)
class Plan:
    """Every trial of a space in the file's order, and every row that the table had, by trial id."""

    sweep: str
    trials: tuple[PlannedTrial, ...]
    rows: Mapping[str, RowState]

    def with_status(self, status: PlanStatus) -> list[PlannedTrial]:
        """The trials of one status, in the file's order."""
        return [trial for trial in self.trials if trial.status is status]

    @property
    def to_run(self) -> list[TrialConfig]:
        """The trials that are to be run, in the file's order."""
        return [trial.config for trial in self.with_status(PlanStatus.PLANNED)]

    @property
    def exclusions_without_row(self) -> list[PlannedTrial]:
        """The excluded trials of which the table does not say so yet, or for another reason."""
        excluded = self.with_status(PlanStatus.EXCLUDED)
        return [trial for trial in excluded if self.rows.get(trial.config.trial_id) != RowState(EXCLUDED, trial.reason)]


def make_plan(
    spec: SweepSpec,
    trials: Sequence[TrialConfig],
    rows: Mapping[str, RowState],
    costs: Callable[[TrialConfig], "Costs"],
    retry: Collection[TrialStatus] = (),
) -> Plan:
    """Sort a space's trials into finished, failed, excluded and planned.

    Args:
        spec: the search space, for its limits and exclusions.
        trials: all trials of it.
        rows: what the table has, by trial id.
        costs: counts a trial's costs; asked only where the space has limits and the trial is not finished.
        retry: failures of these kinds are planned again.
    """
    sorted_trials = tuple(_sort(spec, trial, rows.get(trial.trial_id), costs, retry) for trial in trials)
    return Plan(spec.sweep, sorted_trials, rows)


def _sort(
    spec: SweepSpec,
    trial: TrialConfig,
    row: RowState | None,
    costs: Callable[[TrialConfig], "Costs"],
    retry: Collection[TrialStatus],
) -> PlannedTrial:
    if row and row.status == TrialStatus.OK:
        return PlannedTrial(trial, PlanStatus.FINISHED)
    if reason := exclusion(spec, trial, costs):
        return PlannedTrial(trial, PlanStatus.EXCLUDED, reason)
    if row and row.status not in (EXCLUDED, *retry):
        return PlannedTrial(trial, PlanStatus.FAILED, f"{row.status}: {row.error}")
    return PlannedTrial(trial, PlanStatus.PLANNED)


def exclusion(spec: SweepSpec, trial: TrialConfig, costs: Callable[[TrialConfig], "Costs"]) -> str | None:
    """Why the space leaves a trial out, or None."""
    own = {"resolution": trial.resolution, "epochs": trial.epochs, "lr_scale": trial.recipe.lr_scale}
    has = {**trial.arguments, **own}
    for rule in spec.exclude:
        given = rule.values
        if given and all(name in has and has[name] == value for name, value in given.items()):
            return "exclude: " + ", ".join(f"{name} {value_in_words(value)}" for name, value in given.items())
    for name, bounds in spec.limits.model_dump(exclude_none=True).items():
        value = getattr(costs(trial), name)
        if not bounds[0] <= value <= bounds[1]:
            return f"limits: {name} {value:.4g} outside [{bounds[0]:g}, {bounds[1]:g}]"
    return None


def longest_first(
    trials: Sequence[TrialConfig],
    costs: Callable[[TrialConfig], "Costs"],
    train_step_ms: Callable[[TrialConfig], float | None],
) -> list[TrialConfig]:
    """Most expensive first, so that no long trial starts last on an otherwise idle machine.

    By predicted time where every shape is measured, else by multiply-adds x epochs.
    """
    steps = [train_step_ms(trial) for trial in trials]
    if all(step is not None for step in steps):
        keys = [trial.epochs * (step or 0.0) for trial, step in zip(trials, steps, strict=True)]
    else:
        keys = [float(trial.epochs * costs(trial).macs_per_image) for trial in trials]
    order = sorted(range(len(trials)), key=lambda index: -keys[index])
    return [trials[index] for index in order]


def plan_json(
    plan: Plan,
    costs: Callable[[TrialConfig], "Costs"],
    train_step_ms: Callable[[TrialConfig], float | None],
) -> dict[str, Any]:
    """The plan as one JSON object: {"sweep", "trials": [...], "totals": {...}}."""
    trials = [_trial_json(trial, costs(trial.config), train_step_ms(trial.config)) for trial in plan.trials]
    return {"sweep": plan.sweep, "trials": trials, "totals": _totals(trials)}


def _trial_json(trial: PlannedTrial, costs: "Costs", step_ms: float | None) -> dict[str, Any]:
    config = trial.config
    seconds = None if step_ms is None else predicted_seconds(config, step_ms)
    return {
        "trial_id": config.trial_id,
        "family": config.family,
        "width": config.width,
        "depth": config.depth,
        "model": config.model,
        "resolution": config.resolution,
        "epochs": config.epochs,
        "seed": config.seed,
        "recipe": config.recipe.name,
        "lr_scale": config.recipe.lr_scale,
        "macs_per_image": costs.macs_per_image,
        "params": costs.params,
        "train_flops": train_flops(config, costs.macs_per_image),
        "predicted_device_hours": None if seconds is None else seconds / 3600,
        "status": trial.status.value,
        "reason": trial.reason,
    }


def _totals(trials: list[dict[str, Any]]) -> dict[str, Any]:
    counts = {status.value: sum(t["status"] == status for t in trials) for status in PlanStatus}
    runnable = [t for t in trials if t["status"] != PlanStatus.EXCLUDED]
    return {
        "trials": len(trials),
        **counts,
        "train_flops": _sum(runnable, "train_flops"),
        "predicted_device_hours": _sum(runnable, "predicted_device_hours"),
    }


def _sum(trials: list[dict[str, Any]], key: str) -> float | None:
    """The sum, or None as soon as one value is not known: a partial sum would pass for the whole."""
    values = [trial[key] for trial in trials]
    return None if None in values else sum(values)

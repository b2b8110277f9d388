"""From a search space to the explicit, ordered list of trials, each with an id that its content gives it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sweep.data_paths import DataPaths
from sweep.space import CellSpec, Resources, SweepSpec
from workers.contract import DataConfig, Execution, TrialConfig
from workers.datasets import SPLIT_RULE, find_dataset, training_images
from workers.families import Family, find_family, resolve_arguments
from workers.recipe import Cell, Recipe
from workers.recipes import resolve

# Raised whenever the code changes what a trial's numbers come out as, so that old and new results never mix.
OUTCOME_VERSION = 2
ID_LENGTH = 12


def trials_of(spec: SweepSpec, paths: DataPaths | None = None) -> list[TrialConfig]:
    """Every cell with every seed, in the file's order.

    Args:
        spec: the search space.
        paths: where the data lie on this machine; not part of the ids.
    """
    family = find_family(spec.family, tuple(spec.plugins))
    data, execution = _data(spec, paths or DataPaths()), _execution(spec)
    cells = spec.all_cells()
    return [_trial(spec, family, data, execution, cell, seed) for cell in cells for seed in spec.seeds]


def trial_id(config: TrialConfig) -> str:
    """Hash of the fields that change the outcome; the same on every machine.

    In: the cell, the model's arguments, its family's version, seed, resolved recipe, data set with its version, split,
    class count and what is done to its images, precision, protocol, CPU threads and OUTCOME_VERSION. Out: the sweep's
    name, paths, the machine, and how the trial is executed.
    """
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def identity(config: TrialConfig) -> dict[str, Any]:
    """The fields behind the id, each named on purpose: a new field changes no id until it is added here."""
    data = config.data
    return {
        "family": config.family,
        "family_version": find_family(config.family, config.plugins).version,
        "model": _numbers_as_floats(config.arguments),
        "resolution": config.resolution,
        "epochs": config.epochs,
        "seed": config.seed,
        "recipe": _numbers_as_floats(_spelt_out(config.recipe)),
        "data": [data.name, data.version, data.classes, float(data.minival)],
        "images": [data.cache_side, data.unreadable],
        "split_rule": SPLIT_RULE,
        "precision": config.precision,
        "protocol": config.protocol,
        "threads": config.threads,
        "outcome_version": OUTCOME_VERSION,
    }


def _spelt_out(recipe: Recipe) -> dict[str, Any]:
    """The recipe's values but those that every recipe has by default, so that a new field changes no id."""
    values = ((field.name, getattr(recipe, field.name), field.default) for field in dataclasses.fields(recipe))
    return {name: value for name, value, default in values if value != default}


def _numbers_as_floats(values: Mapping[str, Any]) -> dict[str, Any]:
    """1 and 1.0 mean the same in a YAML file, so they must hash alike."""
    return {
        key: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for key, value in values.items()
    }


def _data(spec: SweepSpec, paths: DataPaths) -> DataConfig:
    given = spec.data
    facts = find_dataset(given.name, tuple(spec.plugins))
    minival = facts.minival if given.minival is None else given.minival
    classes = given.classes or facts.classes
    assert classes is not None, "the space was validated"
    return DataConfig(
        name=given.name,
        version=given.version or facts.version,
        classes=classes,
        train_images=training_images(facts, minival),
        minival=minival,
        root=paths.root,
        cache=paths.cache,
        cache_side=given.cache_side,
        unreadable=given.unreadable,
        download=given.download,
    )


def _execution(spec: SweepSpec) -> Execution:
    resources, checkpoints = spec.resources, spec.checkpoints
    quota = checkpoints.quota_gb
    return Execution(
        ranks=resources.devices,
        micro_batch=resources.micro_batch,
        compile=resources.compile,
        loader_workers=_loader_workers(resources),
        checkpoint_every_s=60 * checkpoints.every_minutes,
        checkpoint_quota_bytes=None if quota is None else round(1e9 * quota),
        keep_weights=checkpoints.keep_weights,
        hung_after_s=60 * spec.hung_after_minutes,
    )


def _loader_workers(resources: Resources) -> int:
    """Decoding processes: one for each core that the trial holds; none where one core has to train as well."""
    if resources.loader_workers is not None:
        return resources.loader_workers
    return 0 if resources.kind == "cpu" and resources.cpu == 1 else resources.cpu


def _trial(
    spec: SweepSpec, family: Family, data: DataConfig, execution: Execution, cell: CellSpec, seed: int
) -> TrialConfig:
    arguments = resolve_arguments(family, {**spec.model, **cell.arguments})
    scale = {name: arguments.pop(name) for name in ("width", "depth") if name in arguments}
    overrides = {**spec.recipe.overrides, **cell.overrides}
    on_cpu = spec.resources.kind == "cpu"
    config = TrialConfig(
        trial_id="",
        family=spec.family,
        resolution=cell.resolution,
        epochs=cell.epochs,
        seed=seed,
        recipe=resolve(spec.recipe.name, Cell(cell.resolution, cell.epochs, **scale), overrides),
        data=data,
        **scale,
        model=arguments,
        plugins=tuple(spec.plugins),
        device=spec.resources.kind,
        precision=spec.resources.precision or ("float32" if on_cpu else "bfloat16"),
        threads=spec.resources.cpu if on_cpu else None,
        execution=execution,
    )
    return dataclasses.replace(config, trial_id=trial_id(config))

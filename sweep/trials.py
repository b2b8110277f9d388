"""From a search space to the explicit, ordered list of trials, each with an id that its content gives it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sweep.space import CellSpec, SweepSpec
from workers.contract import DataConfig, TrialConfig
from workers.datasets import DATASETS, SPLIT_RULE, training_images
from workers.recipe import Cell, resolve

# Raised whenever the code changes what a trial's numbers come out as, so that old and new results never mix.
OUTCOME_VERSION = 1
ID_LENGTH = 12


def trials_of(spec: SweepSpec, root: str | None = None) -> list[TrialConfig]:
    """Every cell with every seed, in the file's order.

    Args:
        spec: the search space.
        root: the data set's folder on this machine, if it has one; not part of the ids.
    """
    data = _data(spec, root)
    return [_trial(spec, data, cell, seed) for cell in spec.all_cells() for seed in spec.seeds]


def trial_id(config: TrialConfig) -> str:
    """Hash of the fields that change the outcome; the same on every machine.

    In: the cell, seed, resolved recipe, data set with its version, split and class count, precision, protocol, CPU
    threads and OUTCOME_VERSION. Out: the sweep's name, paths, the machine.
    """
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def identity(config: TrialConfig) -> dict[str, Any]:
    """The fields behind the id, each named on purpose: a new field changes no id until it is added here."""
    return {
        "family": config.family,
        "width": float(config.width),
        "depth": config.depth,
        "resolution": config.resolution,
        "epochs": config.epochs,
        "seed": config.seed,
        "recipe": _numbers_as_floats(dataclasses.asdict(config.recipe)),
        "data": [config.data.name, config.data.version, config.data.classes, float(config.data.minival)],
        "split_rule": SPLIT_RULE,
        "precision": config.precision,
        "protocol": config.protocol,
        "threads": config.threads,
        "outcome_version": OUTCOME_VERSION,
    }


def label(trial: Mapping[str, Any]) -> str:
    """A short name for people from a trial's fields or its row: `d50 w0.5 32px 3ep`, with a seed above 0."""
    seed = f" s{trial['seed']}" if trial["seed"] else ""
    return f"d{trial['depth']} w{trial['width']:g} {trial['resolution']}px {trial['epochs']}ep{seed}"


def _numbers_as_floats(values: dict[str, Any]) -> dict[str, Any]:
    """1 and 1.0 mean the same in a YAML file, so they must hash alike."""
    return {
        key: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for key, value in values.items()
    }


def _data(spec: SweepSpec, root: str | None) -> DataConfig:
    facts = DATASETS[spec.data.name]
    minival = facts.minival if spec.data.minival is None else spec.data.minival
    classes = spec.data.classes or facts.classes
    assert classes is not None, "the space was validated"
    version = spec.data.version or facts.version
    return DataConfig(spec.data.name, version, classes, training_images(facts, minival), minival, root)


def _trial(spec: SweepSpec, data: DataConfig, cell: CellSpec, seed: int) -> TrialConfig:
    gpu = spec.resources.gpu > 0
    config = TrialConfig(
        trial_id="",
        family=spec.family,
        width=cell.width,
        depth=cell.depth,
        resolution=cell.resolution,
        epochs=cell.epochs,
        seed=seed,
        recipe=resolve(spec.recipe.name, Cell(*cell.key), spec.recipe.overrides),
        data=data,
        device="cuda" if gpu else "cpu",
        precision=spec.resources.precision or ("bfloat16" if gpu else "float32"),
        threads=None if gpu else spec.resources.cpu,
    )
    return dataclasses.replace(config, trial_id=trial_id(config))

"""What trials cost: counted on the meta device, measured per shape, predicted from both."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.errors import TableError
from sweep.parts import read_part
from sweep.table import write_records
from workers.contract import TrialConfig
from workers.environment import versions

if TYPE_CHECKING:
    from workers.costs import Costs
    from workers.profiling import Measurement

FORWARD_AND_BACKWARD = 3  # the backward pass costs two forward ones
FLOPS_PER_MAC = 2


def count(config: TrialConfig) -> "Costs":
    """Parameters and multiply-adds per image of a trial's model; needs torch, which takes seconds to import."""
    from workers.costs import count_costs

    return count_costs(config.family, config.arguments, config.resolution, config.data.classes, config.plugins)


def train_flops(config: TrialConfig, macs_per_image: int) -> float | None:
    """3 x 2 x MACs x training images x epochs, or None where the number of images is not known."""
    if config.data.train_images is None:
        return None
    return float(FORWARD_AND_BACKWARD * FLOPS_PER_MAC * macs_per_image * config.data.train_images * config.epochs)


def predicted_seconds(config: TrialConfig, train_step_ms: float) -> float | None:
    """Time of a whole trial from its shape's measured step: training, and the evaluation after every epoch.

    An evaluated image costs a third of a trained one, its forward pass; two subsets of minival's size are evaluated.
    """
    images = config.data.train_images
    if images is None:
        return None
    minival = images * config.data.minival / (1 - config.data.minival)
    per_epoch = images + 2 * minival / FORWARD_AND_BACKWARD
    return config.epochs * per_epoch * train_step_ms / 1000 / config.recipe.batch_size


def shape_id(config: TrialConfig) -> str:
    """Key of a measurement: the shape and what its step consists of; device and versions stand inside the file."""
    recipe, execution = config.recipe, config.execution
    parts: list[Any] = [config.family, sorted(config.arguments.items()), config.data.classes]
    parts += [config.resolution, recipe.test_resolution or config.resolution]
    parts += [recipe.batch_size, recipe.bn_batch, recipe.optimizer, recipe.loss]
    parts += [recipe.ema_decay > 0, recipe.stochastic_depth > 0, recipe.mixup_alpha > 0, recipe.cutmix_alpha > 0]
    parts += [execution.ranks, execution.micro_batch, execution.compile]
    parts += [config.device, config.precision, config.threads]
    if config.device == "cuda" and execution.compile == "auto" and _compiled_by_itself(config):
        parts.append("compiled")
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _compiled_by_itself(config: TrialConfig) -> bool:
    """Whether a long run on a GPU compiles the model, which short ones of the same shape do not."""
    from workers.learner import compiles

    return compiles(config, config.device, config.data.train_images)


def write_measurement(path: Path, config: TrialConfig, rounds: "Sequence[Measurement]") -> None:
    """Keep the fastest of a shape's rounds, how far the others were from it, and what it was made with."""
    steps = [measured.train_step_ms for measured in rounds]
    fastest = dataclasses.asdict(rounds[steps.index(min(steps))])
    shape = {"family": config.family, "resolution": config.resolution, "precision": config.precision}
    row = {**shape, **config.arguments, **fastest, "train_step_spread": max(steps) / min(steps) - 1}
    write_records(path, [{**row, "batch_size": config.recipe.batch_size, "versions": versions()}])


def read_measurement(path: Path) -> "dict[str, Any] | None":
    """A shape's measured columns, or None where there are none, whole, that these versions made."""
    try:
        row: dict[str, Any] = read_part(path).to_pylist()[0]
        measured = {name: row[name] for name in MEASURED}
    except (TableError, LookupError):
        return None
    return measured if row.get("versions") == versions() else None


MEASURED = (
    "train_step_ms",
    "train_step_spread",
    "infer_latency_ms",
    "infer_latency_p10_ms",
    "infer_latency_p90_ms",
    "peak_memory_bytes",
)

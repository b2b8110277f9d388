"""What crosses the process boundary: frozen dataclasses, each with an exact JSON form.

TrialConfig goes into a trial; EpochMetrics come out while it runs; TrialResult comes out at the end, failed or not.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from workers.files import seal, unseal
from workers.recipe import Recipe
from workers.typed import from_plain

ModelValue = bool | int | float | str  # of an argument of a model family


class TrialStatus(StrEnum):
    """How a trial ended."""

    OK = "ok"
    OOM = "oom"  # the device or the host had too little memory
    DIVERGED = "diverged"  # the loss became NaN or infinite
    HUNG = "hung"  # no step came to its end for `Execution.hung_after_s`
    DATA_ERROR = "data_error"  # the data set is missing, unreadable or not what was asked for
    INVALID = "invalid"  # the configuration cannot be trained
    CRASHED = "crashed"  # any other exception, or the process died
    PREEMPTED = "preempted"  # ended from outside: its node or its controller is gone, or it was told to stop


class TrialError(Exception):
    """A failure inside a trial whose kind is known."""

    status = TrialStatus.CRASHED


class DataError(TrialError):
    """The data set is missing, unreadable or not what was asked for; the message names the file."""

    status = TrialStatus.DATA_ERROR


class DivergedError(TrialError):
    """The loss became NaN or infinite."""

    status = TrialStatus.DIVERGED


class InvalidConfigError(TrialError):
    """The trial's configuration is wrong; the message names the field."""

    status = TrialStatus.INVALID


@dataclass(frozen=True)
class DataConfig:
    """A data set: `name` and `version` say what it is, the fields from `root` on how this machine reads it.

    `minival` is the share of the training images held out for selection.
    """

    name: str
    version: str
    classes: int
    train_images: int | None  # None where it cannot be known without looking; then train_flops is not known either
    minival: float
    root: str | None = None
    cache: str | None = None  # folder of decoded images shared by the machine's trials; None decodes in each trial
    cache_side: int | None = None  # shorter side of the cached images, px; changes the pixels. None: as they are
    unreadable: str = "raise"  # or "skip": leave such images out and count them
    download: bool = False  # whether the data set's own library may fetch it
    expected: str | None = None  # identity of the images that the sweep's earlier trials had; None: any


@dataclass(frozen=True)
class Execution:
    """How a trial is run. Changes no outcome beyond the order of floating-point sums, so it is not part of the id."""

    ranks: int = 1  # processes that share every batch, one device each
    micro_batch: int | None = None  # images per forward pass and rank; None: picked from predicted memory
    compile: str = "auto"  # on, off, or auto: where the predicted run is long enough to repay it
    loader_workers: int | None = None  # decoding processes; None: as many as the machine has cores
    checkpoint_every_s: float = 600.0  # within an epoch; there is one at every epoch's end anyway
    checkpoint_quota_bytes: int | None = None  # of one trial's checkpoints; None: no limit
    keep_weights: bool = False  # leave the evaluation weights in the work folder, for `sweep export`
    hung_after_s: float = 1800.0  # without a finished step


# The least that a number may be in a configuration that somebody wrote by hand.
LEAST: Mapping[str, int] = {
    "resolution": 1, "epochs": 1, "seed": 0, "threads": 1, "data.classes": 2, "data.train_images": 1,
    "data.cache_side": 1, "execution.ranks": 1, "execution.micro_batch": 1, "execution.loader_workers": 0,
    "execution.checkpoint_every_s": 0, "execution.checkpoint_quota_bytes": 1, "execution.hung_after_s": 0,
}  # fmt: skip


@dataclass(frozen=True)
class TrialConfig:
    """Everything that one trial needs; the same configuration gives the same outcome on the same kind of device."""

    trial_id: str
    family: str
    resolution: int
    epochs: int
    seed: int
    recipe: Recipe
    data: DataConfig
    width: float | None = None  # where the family has this axis
    depth: int | None = None  # where the family has this axis
    model: dict[str, ModelValue] = field(default_factory=dict)  # the family's other arguments, defaults filled in
    plugins: tuple[str, ...] = ()  # Python files that declare more families and data sets
    device: str = "cpu"  # cpu, cuda or xla
    precision: str = "float32"  # float32, bfloat16 or float16 (autocast)
    threads: int | None = 1  # on CPU, where the sum's order depends on it; None on other devices
    protocol: str = "independent"
    execution: Execution = Execution()

    @property
    def arguments(self) -> dict[str, ModelValue]:
        """Everything that the family builds the model from, width and depth included where it has them."""
        scaled = {"width": self.width, "depth": self.depth}
        return {**{name: value for name, value in scaled.items() if value is not None}, **self.model}

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `to_json` wrote.

        Raises:
            InvalidConfigError: not JSON, or a field is missing, unknown, of another type or out of its range.
        """
        try:
            config = from_plain(cls, json.loads(text))
            config._check_ranges()
        except (ValueError, RecursionError) as error:
            raise InvalidConfigError(f"not a trial configuration: {error}") from error
        return config

    def _check_ranges(self) -> None:
        for place, least in LEAST.items():
            value: Any = self
            for name in place.split("."):
                value = getattr(value, name)
            if value is not None and not value >= least:
                raise ValueError(f"{place}: must be at least {least}, not {value}")

    def to_json(self) -> str:
        """The configuration as JSON, fields in the order of their declaration."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


@dataclass(frozen=True)
class EpochMetrics:
    """One finished epoch: accuracies in percent, `train_loss` in nats with label smoothing."""

    epoch: int  # 1-based
    train_loss: float
    train_top1: float  # fixed clean subset of the training set, evaluation weights
    minival_top1: float
    learning_rate: float  # of the epoch's last step
    train_seconds: float
    seconds: float  # with evaluation
    finished_at: float  # Unix time, seconds; fixed once measured, so that logging twice changes nothing


@dataclass(frozen=True)
class TrialResult:
    """The end of a trial. Accuracies are in percent and None where they were not measured, never 0."""

    trial_id: str
    status: TrialStatus
    attempts: int
    started_at: str
    finished_at: str
    error: str | None = None
    history: tuple[EpochMetrics, ...] = ()
    val_top1: float | None = None
    val_top5: float | None = None
    val_loss: float | None = None
    minival_images: int | None = None
    val_images: int | None = None
    train_images_per_s: float | None = None
    train_device_hours: float | None = None
    device: str | None = None
    precision: str | None = None  # that the device computed in: float16 where bfloat16 was asked for and is missing
    micro_batch: int | None = None
    skipped_images: int | None = None  # unreadable ones that were left out
    data_identity: str | None = None  # hash of all images' names, labels and, where known, sizes
    notes: tuple[str, ...] = ()  # what happened on the way, in any attempt: damaged checkpoints
    versions: str | None = None
    host: str | None = None
    token: str | None = None  # of the attempt, where a controller gave one
    epochs_repeated: float = 0.0  # trained again after attempts that ended early
    lost_device_hours: float = 0.0  # that such attempts held their devices since their last checkpoint

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `to_json` wrote.

        Raises:
            ValueError: the text is torn, changed or not a result.
        """
        try:
            raw = unseal(json.loads(text))
            raw["status"] = TrialStatus(raw["status"])
            raw["history"] = tuple(EpochMetrics(**epoch) for epoch in raw["history"])
            raw["notes"] = tuple(raw.get("notes", ()))
            return cls(**raw)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a trial result: {error}") from error

    def to_json(self) -> str:
        """The result as JSON, with a hash of itself."""
        return json.dumps(seal(dataclasses.asdict(self)), indent=1) + "\n"

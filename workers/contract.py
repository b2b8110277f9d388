"""What crosses the process boundary: frozen dataclasses, each with an exact JSON form.

TrialConfig goes into a trial; EpochMetrics come out while it runs; TrialResult comes out at the end, failed or not.
"""

import dataclasses
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from workers.recipe import Recipe


class TrialStatus(StrEnum):
    """How a trial ended."""

    OK = "ok"
    OOM = "oom"  # the device or the host had too little memory
    DIVERGED = "diverged"  # the loss became NaN or infinite
    DATA_ERROR = "data_error"  # the data set is missing, unreadable or not what was asked for
    INVALID = "invalid"  # the configuration cannot be trained
    CRASHED = "crashed"  # any other exception, or the process died


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
    """A data set: `name` and `version` say what it is, `root` where it lies on this machine.

    `minival` is the share of the training images held out for selection.
    """

    name: str
    version: str
    classes: int
    train_images: int | None  # None where it cannot be known without looking; then train_flops is not known either
    minival: float
    root: str | None = None


@dataclass(frozen=True)
class TrialConfig:
    """Everything that one trial needs; the same configuration gives the same outcome on the same kind of device."""

    trial_id: str
    family: str
    width: float
    depth: int
    resolution: int
    epochs: int
    seed: int
    recipe: Recipe
    data: DataConfig
    device: str = "cpu"  # cpu or cuda
    precision: str = "float32"  # float32 or bfloat16 (autocast)
    threads: int | None = 1  # on CPU, where the sum's order depends on it; None on other devices
    protocol: str = "independent"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `to_json` wrote.

        Raises:
            InvalidConfigError: not JSON, or fields are missing or unknown.
        """
        try:
            raw = json.loads(text)
            raw["recipe"] = Recipe(**raw["recipe"])
            raw["data"] = DataConfig(**raw["data"])
            return cls(**raw)
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidConfigError(f"not a trial configuration: {error}") from error

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
    micro_batch: int | None = None
    versions: str | None = None
    host: str | None = None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse what `to_json` wrote.

        Raises:
            ValueError: the text is torn or not a result.
        """
        try:
            raw = json.loads(text)
            raw["status"] = TrialStatus(raw["status"])
            raw["history"] = tuple(EpochMetrics(**epoch) for epoch in raw["history"])
            return cls(**raw)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a trial result: {error}") from error

    def to_json(self) -> str:
        """The result as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

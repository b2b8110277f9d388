"""Training recipes: pure functions from a cell to a complete, frozen set of values.

Sources: RS = "Revisiting ResNets" (arXiv 2103.07579) with the code that its authors released (TPU) or with TF Model
Garden (TFM). A value marked MEM is recalled from the paper's appendix and could not be checked against it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# What each number may be, as a test that NaN fails, and in words.
LIMITS: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("batch_size", "bn_batch", "learning_rate"), lambda value: 0 < value < math.inf, "above 0 and finite"),
    (("crop_min_area", "eval_crop"), lambda value: 0 < value <= 1, "in (0, 1]"),
    (
        ("momentum", "label_smoothing", "ema_decay", "dropout", "stochastic_depth"),
        lambda value: 0 <= value < 1,
        "in [0, 1)",
    ),
    (("horizontal_flip",), lambda value: 0 <= value <= 1, "in [0, 1]"),
    (
        ("warmup_epochs", "weight_decay", "randaugment_layers", "randaugment_magnitude"),
        lambda value: 0 <= value < math.inf,
        "at least 0 and finite",
    ),
)


@dataclass(frozen=True)
class Recipe:
    """Every value that training depends on, resolved for one cell."""

    name: str
    batch_size: int  # images per optimiser step
    bn_batch: int  # images that share BatchNorm statistics; divides batch_size
    learning_rate: float  # peak, for this batch size
    warmup_epochs: float  # linear from 0
    weight_decay: float  # not on norms and biases
    momentum: float = 0.9
    nesterov: bool = True  # TPU release
    label_smoothing: float = 0.0
    ema_decay: float = 0.0  # 0: off
    dropout: float = 0.0  # before the head
    stochastic_depth: float = 0.0  # nominal rate; a stage's own follows from it
    randaugment_layers: int = 0
    randaugment_magnitude: int = 0
    crop_min_area: float = 1.0  # of the random resized crop; 1: no random crop
    horizontal_flip: float = 0.0  # probability
    eval_crop: float = 1.0  # side of the centre crop over the side of the resized image

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with."""
        for names, allowed, words in LIMITS:
            for name in names:
                if not allowed(getattr(self, name)):
                    raise ValueError(f"{name} {getattr(self, name)} is not {words}")
        if self.batch_size % self.bn_batch:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of bn_batch {self.bn_batch}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")

    @property
    def augments(self) -> bool:
        """Whether a training image differs from epoch to epoch."""
        return self.crop_min_area < 1 or self.horizontal_flip > 0 or self.randaugment_layers > 0


@dataclass(frozen=True)
class Cell:
    """What a recipe may depend on."""

    width: float
    depth: int
    resolution: int
    epochs: int


def small(cell: Cell) -> Recipe:
    """For data sets of a thousand images: no regularisation, short warm-up; ours, not a paper's."""
    return Recipe(
        name="small",
        batch_size=32,
        bn_batch=32,
        learning_rate=0.1,
        warmup_epochs=0.1 * cell.epochs,
        weight_decay=4e-5,
        label_smoothing=0.1,
    )


FULL_LENGTH_EPOCHS = 350  # RS trains with its full regularisation only at this length


def resnet_rs(cell: Cell) -> Recipe:
    """RS section 4 and appendix; budgets below 350 epochs use flips and crops only (RS appendix E)."""
    batch_size = 4096
    plain = Recipe(
        name="resnet_rs",
        batch_size=batch_size,
        bn_batch=64,  # ours: the released code normalises over each core's share, whose size is not stated
        learning_rate=0.1 * batch_size / 256,
        warmup_epochs=5,
        weight_decay=4e-5,
        ema_decay=0.9999,
        crop_min_area=0.08,
        horizontal_flip=0.5,
        eval_crop=0.875,
    )
    if cell.epochs < FULL_LENGTH_EPOCHS:
        return plain
    return dataclasses.replace(
        plain,
        label_smoothing=0.1,
        dropout=_dropout(cell.width),
        stochastic_depth=0.2 if cell.resolution >= 224 and cell.width > 0.25 else 0.0,  # MEM
        randaugment_layers=2,
        randaugment_magnitude=_randaugment_magnitude(cell),
    )


def _dropout(width: float) -> float:
    """Dropout by width multiplier (RS table 12; the values are MEM); widths between take the next lower one's."""
    by_width = {2.0: 0.75, 1.5: 0.6, 1.0: 0.25, 0.5: 0.1}
    return next((rate for bound, rate in by_width.items() if width >= bound), 0.0)


def _randaugment_magnitude(cell: Cell) -> int:
    """RandAugment magnitude on a scale of 10, by width and resolution (MEM)."""
    if cell.width <= 0.5 or cell.resolution <= 160:
        return 10
    return 15 if cell.resolution <= 320 else 20


RECIPES: Mapping[str, Callable[[Cell], Recipe]] = {"small": small, "resnet_rs": resnet_rs}
OVERRIDABLE = tuple(f.name for f in dataclasses.fields(Recipe) if f.name != "name")


def resolve(name: str, cell: Cell, overrides: Mapping[str, Any]) -> Recipe:
    """The named recipe for a cell, with some of its values replaced.

    Raises:
        ValueError: unknown recipe or field, or a value that cannot be trained with.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; known: {', '.join(RECIPES)}")
    unknown = sorted(set(overrides) - set(OVERRIDABLE))
    if unknown:
        raise ValueError(f"unknown recipe field {unknown[0]!r}; known: {', '.join(OVERRIDABLE)}")
    checked = {field: _typed(field, value) for field, value in overrides.items()}
    return dataclasses.replace(RECIPES[name](cell), **checked)


def _typed(field: str, value: Any) -> Any:
    """An override as its field's type; whole numbers pass for real ones, nothing else is converted."""
    wanted = Recipe.__annotations__[field]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"{field} must be {wanted.__name__}, not {value!r}")
    return value

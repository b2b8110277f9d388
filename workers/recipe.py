"""What a training recipe is: its fields, which values they may have, and what it may depend on.

The named recipes, and where their numbers come from, are in `workers.recipes`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workers.typed import short

# What each number may be, as a test that NaN fails, and in words. Most bounds above are far beyond what anybody trains
# with: they are there for slips of the pen.
LIMITS: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("batch_size", "bn_batch"), lambda value: 0 < value <= 1_000_000, "above 0 and at most 1000000"),
    (("learning_rate",), lambda value: 0 < value <= 1e6, "above 0 and at most 1000000"),
    (("repeated_augmentation",), lambda value: 1 <= value <= 100, "in [1, 100]"),
    (("crop_min_area", "eval_crop"), lambda value: 0 < value <= 1, "in (0, 1]"),
    (
        ("momentum", "label_smoothing", "ema_decay", "dropout", "stochastic_depth", "bce_threshold"),
        lambda value: 0 <= value < 1,
        "in [0, 1)",
    ),
    (("horizontal_flip",), lambda value: 0 <= value <= 1, "in [0, 1]"),
    (("weight_decay", "mixup_alpha", "cutmix_alpha"), lambda value: 0 <= value <= 1000, "in [0, 1000]"),
    (("warmup_epochs",), lambda value: 0 <= value <= 100_000, "in [0, 100000]"),
    # timm's RandAugment has 15 operations. Its scale ends at 10 only where nothing else is said (`workers.augment`).
    (("randaugment_layers",), lambda value: 0 <= value <= 15, "in [0, 15]"),
    (("randaugment_magnitude", "randaugment_std"), lambda value: 0 <= value <= 30, "in [0, 30]"),
    (("lr_scale",), lambda value: 0 < value <= 1000, "above 0 and at most 1000"),
    (("test_resolution",), lambda value: 0 <= value <= 4096, "in [0, 4096]"),
)
# What each word may be.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("sgd", "lamb"),
    "schedule": ("cosine", "step"),
    "loss": ("cross_entropy", "bce"),
}


@dataclass(frozen=True)
class Recipe:
    """Every value that training depends on, resolved for one cell."""

    name: str
    batch_size: int  # images per optimiser step
    bn_batch: int  # images that share BatchNorm statistics and are mixed with each other; divides batch_size
    learning_rate: float  # peak, for this batch size
    warmup_epochs: float  # linear from 0
    weight_decay: float
    optimizer: str = "sgd"  # sgd or lamb
    schedule: str = "cosine"  # to 0; or step: x 0.1 after 1/3, 2/3 and 8/9 of the epochs
    momentum: float = 0.9  # sgd
    nesterov: bool = True  # sgd
    decay_biases: bool = False  # weight decay on biases too; never on norms
    loss: str = "cross_entropy"  # or bce: binary cross-entropy, every class on its own
    bce_threshold: float = 0.0  # bce: a target above it counts as 1, else 0; 0: targets as they are
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0  # 0: off. With both, one or the other by the toss of a coin
    cutmix_alpha: float = 0.0  # 0: off
    ema_decay: float = 0.0  # 0: off
    dropout: float = 0.0  # before the head
    stochastic_depth: float = 0.0  # nominal rate; a stage's or block's own follows from it
    randaugment_layers: int = 0
    randaugment_magnitude: float = 0.0
    randaugment_std: float = 0.0  # of the magnitude, drawn anew for each operation
    randaugment_increasing: bool = False  # operations whose effect grows with the magnitude, as in timm's `inc1`
    repeated_augmentation: int = 1  # copies of each image in a batch, each augmented on its own
    crop_min_area: float = 1.0  # of the random resized crop; 1: no random crop
    horizontal_flip: float = 0.0  # probability
    eval_crop: float = 1.0  # side of the centre crop over the side of the resized image
    test_resolution: int = 0  # of evaluation; 0: that of training
    lr_scale: float = 1.0  # times the learning rate; an axis, for studies of whether a verdict hangs on the rate

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with, in one line that begins with the field's name."""
        for field, known in CHOICES.items():
            if getattr(self, field) not in known:
                raise ValueError(f"{field} {getattr(self, field)!r} is not one of: {', '.join(known)}")
        for names, allowed, words in LIMITS:
            for name in names:
                if not allowed(getattr(self, name)):
                    raise ValueError(f"{name} {short(getattr(self, name))} is not {words}")
        self._check_together()

    def _check_together(self) -> None:
        """Refuse values that contradict each other."""
        if self.batch_size % self.bn_batch:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of bn_batch {self.bn_batch}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        if self.bce_threshold and self.loss != "bce":
            raise ValueError(f"bce_threshold {self.bce_threshold} needs loss bce; with {self.loss} it is 0")
        if self.bce_threshold >= 1 - self.label_smoothing:
            raise ValueError(
                f"bce_threshold {self.bce_threshold} is not below 1 - label_smoothing "
                f"({1 - self.label_smoothing:g}): no class would count"
            )
        if self.mixes and self.bn_batch < 2:
            raise ValueError("bn_batch 1 leaves no image to mix with; Mixup and CutMix need 2 or more")
        if self.randaugment_layers and not self.randaugment_magnitude:
            raise ValueError(
                f"randaugment_layers {self.randaugment_layers} needs a randaugment_magnitude above 0; "
                "without RandAugment both are 0"
            )
        if self.repeated_augmentation > 1 and not self.augments:
            raise ValueError(
                f"repeated_augmentation {self.repeated_augmentation} repeats equal images: nothing augments them; "
                "right would be 1, or a crop, a flip or RandAugment"
            )

    def check_budget(self, epochs: int) -> None:
        """Refuse a warm-up that takes the whole budget, so that nothing of the schedule is left.

        The named recipes' own warm-up takes half of a budget at most.

        Raises:
            ValueError: one line that begins with the field's name.
        """
        if self.warmup_epochs and self.warmup_epochs >= epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs:g} leaves nothing of {epochs} epochs; right would be less than that"
            )

    @property
    def peak_rate(self) -> float:
        """The learning rate where the warm-up ends."""
        return self.learning_rate * self.lr_scale

    @property
    def augments(self) -> bool:
        """Whether a training image differs from epoch to epoch."""
        return self.crop_min_area < 1 or self.horizontal_flip > 0 or self.randaugment_layers > 0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other, by Mixup or CutMix."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


@dataclass(frozen=True)
class Cell:
    """What a recipe may depend on.

    A family without a width multiplier counts as width 1.0 wherever regularisation grows with width.
    """

    resolution: int  # px
    epochs: int
    width: float | None = None
    depth: int | None = None


OVERRIDABLE = tuple(f.name for f in dataclasses.fields(Recipe) if f.name != "name")

"""The named recipes: pure functions from a cell to a complete, frozen recipe, every number with its source beside it.

Sources: RS = "Revisiting ResNets" (arXiv 2103.07579); TPU = the code and configs that its authors released,
models/official/resnet in tensorflow/tpu; TFM = TF Model Garden; RSB = "ResNet strikes back" (arXiv 2110.00476);
MMP = the configs that open-mmlab/mmpretrain made from RSB's table 2; BOCB = arXiv 2410.06373, which reprints A2 and
A3; timm = its code.

Marks: V = checked in the public source named; IMG = read from the paper's own table; INF = inferred; MEM = recalled
from the paper's appendix and not checked against it; NF = not found; "ours" = a choice of this project.

`docs/recipes.md` shows these declarations as tables (`workers.recipe_reference` makes them).
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from workers.recipe import OVERRIDABLE, Cell, Recipe
from workers.typed import WORDS, short


@dataclass(frozen=True)
class Value:
    """One field of a recipe: a constant, or a function of the cell whose docstring says the rule in a line."""

    of: Any
    source: str

    def at(self, cell: Cell) -> Any:
        """The value for a cell."""
        return self.of(cell) if callable(self.of) else self.of


@dataclass(frozen=True)
class NamedRecipe:
    """Every value of a recipe as it follows from a cell; fields that are not named are off."""

    name: str
    about: str  # in one line
    values: Mapping[str, Value]

    def __call__(self, cell: Cell) -> Recipe:
        """The recipe of a cell."""
        return Recipe(name=self.name, **{field: value.at(cell) for field, value in self.values.items()})


# --- small ----------------------------------------------------------------------------------------------------------


def _tenth(cell: Cell) -> float:
    """A tenth of the budget."""
    return 0.1 * cell.epochs


_SMALL = {
    "batch_size": Value(32, "ours"),
    "bn_batch": Value(32, "ours"),
    "optimizer": Value("sgd", "ours"),
    "learning_rate": Value(0.1, "ours"),
    "schedule": Value("cosine", "ours"),
    "warmup_epochs": Value(_tenth, "ours"),
    "momentum": Value(0.9, "ours"),
    "nesterov": Value(True, "ours"),
    "weight_decay": Value(4e-5, "ours"),
    "decay_biases": Value(False, "ours"),
    "loss": Value("cross_entropy", "ours"),
    "label_smoothing": Value(0.1, "ours"),
    "eval_crop": Value(1.0, "ours: the whole image"),
}


# --- ResNet-RS ------------------------------------------------------------------------------------------------------

FULL_LENGTH_EPOCHS = 350  # RS trains with its full regularisation only at this length


def _from_full_length(value: float) -> Callable[[Cell], float]:
    def at(cell: Cell) -> float:
        return value if cell.epochs >= FULL_LENGTH_EPOCHS else type(value)(0)

    at.__doc__ = f"{value:g} from {FULL_LENGTH_EPOCHS} epochs on, else 0."
    return at


def _warmup(cell: Cell) -> float:
    """5, at most half of the budget."""
    return min(5.0, cell.epochs / 2)


def _width(cell: Cell) -> float:
    """The width multiplier; families without one count as 1.0."""
    return 1.0 if cell.width is None else cell.width


def _dropout(cell: Cell) -> float:
    """From 350 epochs on 0.75, 0.6, 0.25, 0.1 from width 2, 1.5, 1, 0.5 on; narrower or shorter: 0."""
    if cell.epochs < FULL_LENGTH_EPOCHS:
        return 0.0
    by_width = {2.0: 0.75, 1.5: 0.6, 1.0: 0.25, 0.5: 0.1}
    return next((rate for bound, rate in by_width.items() if _width(cell) >= bound), 0.0)


def _stochastic_depth(cell: Cell) -> float:
    """From 350 epochs on 0.2 where resolution >= 224 and width > 0.25; else 0."""
    full = cell.epochs >= FULL_LENGTH_EPOCHS and cell.resolution >= 224 and _width(cell) > 0.25
    return 0.2 if full else 0.0


def _magnitude(cell: Cell) -> float:
    """From 350 epochs on 10 for width <= 0.5 or resolution <= 160, else 15 up to 320 px, else 20; shorter: 0."""
    if cell.epochs < FULL_LENGTH_EPOCHS:
        return 0.0
    if _width(cell) <= 0.5 or cell.resolution <= 160:
        return 10.0
    return 15.0 if cell.resolution <= 320 else 20.0


_SHORT = "off in shorter runs: RS appendix E [V]"

_RESNET_RS = {
    "batch_size": Value(4096, "TPU configs, TFM [V]"),
    "bn_batch": Value(64, "ours: the released code normalises over each core's share, whose size is not stated [NF]"),
    "optimizer": Value("sgd", "TPU [V]"),
    "learning_rate": Value(0.1 * 4096 / 256, "0.1 x batch / 256: TPU configs, TFM [V]"),
    "schedule": Value("cosine", "RS section 4, TFM [V] (the TPU code still has the step schedule)"),
    "warmup_epochs": Value(_warmup, "5: TFM [V]; the rule for budgets below 10 epochs: ours"),
    "momentum": Value(0.9, "TPU configs, TFM [V]"),
    "nesterov": Value(True, "TPU code [V] (TFM does not set it)"),
    "weight_decay": Value(4e-5, "TPU configs, TFM; in 10 and 100 epochs too: RS appendix E [V]"),
    "decay_biases": Value(True, "the TPU code excludes BatchNorm only [V]"),
    "loss": Value("cross_entropy", "TPU code [V]"),
    "label_smoothing": Value(_from_full_length(0.1), f"0.1: TPU configs [V]; {_SHORT}"),
    "ema_decay": Value(0.9999, "TPU configs [V]; in short runs as well [INF: not among what RS appendix E leaves out]"),
    "dropout": Value(_dropout, f"by width: RS table 12 [V], its values [MEM]; {_SHORT}"),
    "stochastic_depth": Value(_stochastic_depth, f"RS appendix [MEM]; {_SHORT}"),
    "randaugment_layers": Value(_from_full_length(2), f"TPU configs [V]; {_SHORT}"),
    "randaugment_magnitude": Value(_magnitude, f"RS appendix [MEM]; {_SHORT}"),
    "crop_min_area": Value(0.08, "TPU code [V]"),
    "horizontal_flip": Value(0.5, "TPU code [V]"),
    "eval_crop": Value(0.875, "TPU code, TFM [V]"),
}

# (depth, resolution): RandAugment magnitude, dropout, stochastic depth of the 11 released models, RS table 8 in
# content (TPU configs [V]). They are not what the scaling study's rule gives: see docs/recipes.md.
RELEASED: Mapping[tuple[int, int], tuple[float, float, float]] = {
    (50, 160): (10.0, 0.25, 0.0),
    (101, 160): (10.0, 0.25, 0.0),
    (101, 192): (15.0, 0.25, 0.0),
    (152, 192): (15.0, 0.25, 0.0),
    (152, 224): (15.0, 0.25, 0.0),
    (152, 256): (15.0, 0.25, 0.0),
    (200, 256): (15.0, 0.25, 0.1),
    (270, 256): (15.0, 0.25, 0.1),
    (350, 256): (15.0, 0.25, 0.1),
    (350, 320): (15.0, 0.4, 0.1),
    (420, 320): (15.0, 0.4, 0.1),
}


def released_overrides(depth: int, resolution: int) -> dict[str, float]:
    """What to put over `resnet_rs` to train one of the 11 released models as it was released."""
    names = ("randaugment_magnitude", "dropout", "stochastic_depth")
    return dict(zip(names, RELEASED[depth, resolution], strict=True))


# --- the ablation's baseline ----------------------------------------------------------------------------------------


def _step_warmup(cell: Cell) -> float:
    """5, at most a sixth of the budget (half of the time at the peak)."""
    return min(5.0, cell.epochs / 6)


_RESNET_2015 = {
    "batch_size": Value(1024, "TPU default config [V]; that of RS table 1 is [NF]"),
    "bn_batch": Value(64, "ours, as in resnet_rs"),
    "optimizer": Value("sgd", "TPU code [V]"),
    "learning_rate": Value(0.1 * 1024 / 256, "0.1 x batch / 256: TPU default config [V]"),
    "schedule": Value("step", "after 30, 60 and 80 of 90 epochs: TPU code [V]; the same shares of other budgets: ours"),
    "warmup_epochs": Value(_step_warmup, "5: TPU code [V]; the rule for budgets below 30 epochs: ours"),
    "momentum": Value(0.9, "TPU default config [V]"),
    "nesterov": Value(True, "TPU code [V]"),
    "weight_decay": Value(1e-4, "TPU default config [V]"),
    "decay_biases": Value(True, "the TPU code excludes BatchNorm only [V]"),
    "loss": Value("cross_entropy", "TPU code [V]"),
    "crop_min_area": Value(0.08, "TPU code [V]"),
    "horizontal_flip": Value(0.5, "TPU code [V]"),
    "eval_crop": Value(0.875, "TPU code [V]"),
}


# --- ResNet strikes back --------------------------------------------------------------------------------------------


def _a3_test_resolution(cell: Cell) -> int:
    """160 -> 224, 192 -> 256, 224 -> 288, 256 -> 320, 320 -> 380; else the smaller of 1.4 x and + 64 px."""
    published = {160: 224, 192: 256, 224: 288, 256: 320, 320: 380}
    return published.get(cell.resolution, round(min(1.4 * cell.resolution, cell.resolution + 64)))


_RSB = {
    "batch_size": Value(2048, "MMP, BOCB [V]"),
    "bn_batch": Value(64, "smallest share of a GPU in RSB table 3: 2048 over 32 GPUs [INF]"),
    "optimizer": Value("lamb", "RSB table 6 [IMG], MMP [V]; timm's Lamb with its own defaults"),
    "schedule": Value("cosine", "MMP, BOCB [V]"),
    "warmup_epochs": Value(_warmup, "5: MMP, BOCB [V]; the rule for budgets below 10 epochs: ours"),
    "decay_biases": Value(False, "MMP [V]; timm leaves out biases and norms"),
    "loss": Value("bce", "RSB table 6 [IMG], MMP [V]"),
    "cutmix_alpha": Value(1.0, "MMP, BOCB [V]"),
    "randaugment_layers": Value(2, "timm's default for `rand-m7-mstd0.5-inc1` [V]"),
    "randaugment_std": Value(0.5, "MMP, BOCB [V]"),
    "randaugment_increasing": Value(True, "MMP's `timm_increasing` [V]"),
    "crop_min_area": Value(0.08, "random resized crop: BOCB [V]; its smallest area: timm's default [V]"),
    "horizontal_flip": Value(0.5, "BOCB, MMP [V]"),
    "eval_crop": Value(0.95, "RSB table 9 [IMG]"),
}
_THRESHOLD_A2 = "published commands for A2, such as Alibaba-MIIL/ML_Decoder's [V]"
_THRESHOLD_INF = "[NF]; A2's [INF]"

_RSB_A1 = {
    **_RSB,
    "learning_rate": Value(5e-3, "MMP [V]"),
    "weight_decay": Value(0.01, "MMP [V]"),
    "bce_threshold": Value(0.2, _THRESHOLD_INF),
    "label_smoothing": Value(0.1, "MMP [V], RSB ablation [IMG]"),
    "mixup_alpha": Value(0.2, "MMP [V]"),
    "stochastic_depth": Value(0.05, "RSB ablation [IMG], MMP [V]"),
    "randaugment_magnitude": Value(7.0, "MMP [V]"),
    "repeated_augmentation": Value(3, "MMP [V]; 3 as in A2"),
}
_RSB_A2 = {
    **_RSB,
    "learning_rate": Value(5e-3, "RSB table 6 [IMG], MMP, BOCB [V]"),
    "weight_decay": Value(0.02, "RSB table 6 [IMG], MMP, BOCB [V]"),
    "bce_threshold": Value(0.2, _THRESHOLD_A2),
    "mixup_alpha": Value(0.1, "MMP, BOCB [V]"),
    "stochastic_depth": Value(0.05, "RSB ablation [IMG], MMP [V]"),
    "randaugment_magnitude": Value(7.0, "MMP, BOCB [V]"),
    "repeated_augmentation": Value(3, "MMP; 3: ML_Decoder's command for A2 [V]"),
}
_RSB_A3 = {
    **_RSB,
    "learning_rate": Value(8e-3, "MMP, BOCB [V]"),
    "weight_decay": Value(0.02, "MMP, BOCB [V]"),
    "bce_threshold": Value(0.2, _THRESHOLD_INF),
    "mixup_alpha": Value(0.1, "MMP, BOCB [V]"),
    "randaugment_magnitude": Value(6.0, "MMP, BOCB [V]"),
    "test_resolution": Value(_a3_test_resolution, "RSB table 3 [IMG]; the rule for other sizes: ours"),
}

_ALL = (
    NamedRecipe("small", "For data sets of a thousand images: no regularisation but label smoothing.", _SMALL),
    NamedRecipe("resnet_rs", "The scaling study of RS: regularisation grows with scale.", _RESNET_RS),
    NamedRecipe("resnet_2015", "The baseline of RS's ablation, made for 90 epochs.", _RESNET_2015),
    NamedRecipe("rsb_a1", "Procedure A1 of RSB, made for 600 epochs at 224 px.", _RSB_A1),
    NamedRecipe("rsb_a2", "Procedure A2 of RSB, made for 300 epochs at 224 px.", _RSB_A2),
    NamedRecipe("rsb_a3", "Procedure A3 of RSB, made for 100 epochs at 160 px, tested at 224 px.", _RSB_A3),
)
RECIPES: Mapping[str, NamedRecipe] = {recipe.name: recipe for recipe in _ALL}


def resolve(name: str, cell: Cell, overrides: Mapping[str, Any]) -> Recipe:
    """The named recipe for a cell, with some of its values replaced.

    Values that are not replaced stay as they are: another batch size does not change the learning rate.

    Raises:
        ValueError: unknown recipe or field, or a value that cannot be trained with or has no effect; one line.
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {short(name)}; known: {', '.join(RECIPES)}")
    unknown = sorted(set(overrides) - set(OVERRIDABLE))
    if unknown:
        raise ValueError(f"unknown recipe field {unknown[0]!r}; known: {', '.join(OVERRIDABLE)}")
    checked = {field: _typed(field, value) for field, value in overrides.items()}
    recipe = dataclasses.replace(RECIPES[name](cell), **checked)
    recipe.check_budget(cell.epochs)
    for field in ("randaugment_magnitude", "randaugment_std"):
        if checked.get(field) and not recipe.randaugment_layers:
            raise ValueError(
                f"{field} {checked[field]:g} has no effect: randaugment_layers is 0 at {cell.epochs} epochs; "
                "set that too, or leave this out"
            )
    return recipe


def _typed(field: str, value: Any) -> Any:
    """An override as its field's type; whole numbers pass for real ones, nothing else is converted."""
    wanted = Recipe.__annotations__[field]
    if wanted is float and type(value) is int and abs(value) < sys.float_info.max:
        return float(value)
    if type(value) is not wanted:
        raise ValueError(f"{field} must be {WORDS[wanted]}, not {short(value)}")
    return value

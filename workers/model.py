"""Builds the models through timm; the same code on any device, the meta device included.

Sources: RS = "Revisiting ResNets" (arXiv 2103.07579) with its authors' released code, models/official/resnet of
tensorflow/tpu; EN = the released code of EfficientNet (arXiv 1905.11946), models/official/efficientnet there.
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, cast

import timm
import torch
from timm.layers import DropPath, SEModule, lecun_normal_
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from workers.families import find_family, resolve_arguments
from workers.recipe import Recipe
from workers.resnet_rs import stage_channels, stem_channels
from workers.xla import move_towards

BN_EPS = 1e-5  # RS, released code
BN_MOMENTUM = 0.1  # torch's convention; the released code's default 0.9 in TensorFlow's
# With a weight average the released code keeps no running BatchNorm average (momentum 0.0 in TensorFlow's
# convention, 1.0 in torch's): the average over weights averages the batch statistics as well.
BN_MOMENTUM_WITH_EMA = 1.0
HEAD_INIT_STD = 0.01  # RS, released code
SE_RATIO = 0.25  # RS, released code: of the block's output channels, rounded down
# EN: 0.99 in TensorFlow's convention, with a weight average too (which averages the running statistics once more).
EFFICIENTNET_BN_MOMENTUM = 0.01


def build_model(
    family: str,
    arguments: Mapping[str, Any],
    resolution: int,
    classes: int,
    recipe: Recipe | None = None,
    plugins: Sequence[str] = (),
) -> nn.Module:
    """The model of a shape.

    Args:
        family: see `workers.families.find_family`.
        arguments: of the family; those left out take their defaults.
        resolution: side of the square images, px; only some `timm:` models and plug-ins depend on it.
        classes: outputs.
        recipe: sets dropout and stochastic depth, and for `resnet_rs` BatchNorm's momentum; without it, no dropout
            and no stochastic depth.
        plugins: paths of Python files that declare families.

    Returns:
        A module from images (N, 3, H, W) to logits (N, classes).

    Raises:
        ValueError: no such family, argument or shape, or the architecture has no stochastic depth; one line.
    """
    found = find_family(family, plugins)
    return found.build(resolve_arguments(found, arguments), resolution, classes, recipe)


def build_resnet_rs(
    width: float,
    blocks: tuple[int, int, int, int],
    classes: int,
    recipe: Recipe | None = None,
    *,
    se: bool = True,
    resnet_d: bool = True,
    stem_pool: str = "conv",
) -> nn.Module:
    """ResNet-RS and, with its switches off, the ResNet of 2015 with stride in the 3x3 convolution.

    Args:
        width: multiplier on the channels of every stage and of the stem.
        blocks: bottlenecks per stage.
        classes: outputs.
        recipe: sets dropout, stochastic depth and BatchNorm's momentum; without it, none of the first two.
        se: squeeze-and-excitation in every bottleneck.
        resnet_d: a stem of three 3x3 convolutions instead of one 7x7, and shortcuts that average over 2x2 before
            their 1x1 convolution instead of striding in it.
        stem_pool: "conv", a 3x3 convolution of stride 2, or "max", 3x3 max-pooling.

    Returns:
        A module from images (N, 3, H, W) to logits (N, classes).

    Source: RS section 4 and its released code, which has the same three switches.
    """
    stem = stem_channels(width)
    squeeze = partial(SEModule, rd_ratio=SE_RATIO, rd_divisor=1)
    model = ResNet(
        Bottleneck,
        blocks,
        num_classes=classes,
        channels=stage_channels(width),
        stem_type="deep",
        stem_width=stem,
        replace_stem_pool=stem_pool == "conv",
        avg_down=resnet_d,
        block_args={"attn_layer": squeeze} if se else {},
        drop_rate=recipe.dropout if recipe else 0.0,
    )
    if not resnet_d:  # timm's own plain stem has 64 channels at any width
        model.conv1 = nn.Conv2d(3, 2 * stem, kernel_size=7, stride=2, padding=3, bias=False)
    _init_resnet_rs(model)
    _set_batch_norm(model, BN_MOMENTUM_WITH_EMA if recipe and recipe.ema_decay else BN_MOMENTUM)
    if recipe and recipe.stochastic_depth:
        _set_stochastic_depth(model, recipe.stochastic_depth)
    return cast(nn.Module, model)


def _init_resnet_rs(model: nn.Module) -> None:
    """As the released code: TensorFlow's `variance_scaling_initializer` for convolutions, a head near zero, no biases.

    That initializer is a truncated normal of variance 1 / fan-in; timm's own is a normal of variance 2 / fan-out. The
    last BatchNorm of each block starts at zero as well, which timm has done already.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            lecun_normal_(module.weight)
            if module.bias is not None:  # in squeeze-and-excitation
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=HEAD_INIT_STD)
            nn.init.zeros_(module.bias)


def _set_batch_norm(model: nn.Module, momentum: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = BN_EPS, momentum


def _set_stochastic_depth(model: nn.Module, rate: float) -> None:
    """The rate of a whole stage is rate x i / 5 for c2 to c5 (RS, released code; timm's own grows by block)."""
    for stage in range(2, 6):
        for block in model.get_submodule(f"layer{stage - 1}").children():
            block.drop_path = DropPath(rate * stage / 5)


def build_efficientnet(variant: str, classes: int, recipe: Recipe | None = None) -> nn.Module:
    """EfficientNet as its authors released it, which is what RS compares with.

    timm's `tf_efficientnet_*`: TensorFlow's "same" padding, BatchNorm with eps 1e-3, initialisation and stochastic
    depth (growing by block) as in EN. "ResNet strikes back" trains torch's ones: `timm:efficientnet_b0` and so on.

    Args:
        variant: b0 to b7.
        classes: outputs.
        recipe: sets dropout and stochastic depth; without it, none.
    """
    name, options = efficientnet_entry(variant)
    return _create(name, classes, options, *_rates(recipe))


def efficientnet_entry(variant: str) -> tuple[str, dict[str, Any]]:
    """Name of a variant in timm and the arguments that it takes beyond the defaults."""
    return f"tf_efficientnet_{variant}", {"bn_momentum": EFFICIENTNET_BN_MOMENTUM}


def build_timm(architecture: str, resolution: int, classes: int, recipe: Recipe | None = None) -> nn.Module:
    """One of timm's own architectures, never with weights from anywhere; BatchNorm and initialisation are timm's.

    Args:
        architecture: one of `timm.list_models()`.
        resolution: side of the images, px; models that are built for one size are built for this one.
        classes: outputs.
        recipe: sets dropout and stochastic depth (which grows by block), without it none, and the side of the images
            that the model is evaluated on.

    Raises:
        ValueError: timm has no such architecture, or it cannot be built like this.
    """
    tested = recipe.test_resolution if recipe else 0
    if tested not in (0, resolution):
        check_timm(architecture, resolution, tested, *_rates(recipe))
    return _create(architecture, classes, timm_options(architecture, resolution, tested), *_rates(recipe))


def timm_options(architecture: str, resolution: int, test_resolution: int = 0) -> dict[str, Any]:
    """What an architecture has to be told in order to read images of these sides, px; 0: the first one only."""
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"; close to it: {', '.join(close)}" if close else ""
        raise ValueError(f"family 'timm:{architecture}': timm has no architecture {architecture!r}{hint}")
    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.fixed_input_size:
        return {}
    options: dict[str, Any] = {}
    if tuple(config.input_size[1:]) != (resolution, resolution):
        options["img_size"] = resolution
    if test_resolution not in (0, resolution):
        options["dynamic_img_size"] = True  # position embeddings are interpolated then
    return options


def _rates(recipe: Recipe | None) -> tuple[float, float]:
    """Dropout and stochastic depth."""
    return (recipe.dropout, recipe.stochastic_depth) if recipe else (0.0, 0.0)


class _UnknownRateError(ValueError):
    """An architecture has no dropout or no stochastic depth."""


def _create(
    architecture: str, classes: int, options: Mapping[str, Any], dropout: float, stochastic_depth: float
) -> nn.Module:
    regularisation = {"drop_rate": dropout, "drop_path_rate": stochastic_depth}
    # Zero is every model's default, and some do not know the argument.
    given = {name: rate for name, rate in regularisation.items() if rate} | dict(options)
    try:
        model = timm.create_model(architecture, pretrained=False, num_classes=classes, **given)
    except TypeError as error:
        for argument, field in (("drop_path_rate", "stochastic_depth"), ("drop_rate", "dropout")):
            if f"'{argument}'" in str(error):
                told = f"{field} {regularisation[argument]:g}: timm's {architecture} has none; right would be 0"
                raise _UnknownRateError(told) from error
        raise
    return cast(nn.Module, model)


@cache
def check_timm(
    architecture: str, resolution: int, test_resolution: int, dropout: float, stochastic_depth: float
) -> None:
    """Refuse an architecture that timm has not, that cannot read images of these sides, px, or that lacks a rate.

    It is run on the meta device: training on the one, then evaluation on the other where it is not 0.

    Raises:
        ValueError: one line, beginning with "family" or the name of the argument.
    """
    options = timm_options(architecture, resolution, test_resolution)
    sides = {"resolution": resolution} | ({"test_resolution": test_resolution} if test_resolution else {})
    field = list(sides)[-1]
    try:
        with torch.device("meta"):
            model = _create(architecture, 10, options, dropout, stochastic_depth)
            for field, side in sides.items():
                logits = model.train(field == "resolution")(torch.empty(2, 3, side, side))
    except _UnknownRateError:
        raise
    except Exception as error:  # each architecture has its own way to say it
        told = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{field} {sides[field]} does not suit timm's {architecture}: {told}") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, 10):
        raise ValueError(f"family 'timm:{architecture}' is no classifier: it does not give one number a class")


class WeightAverage:
    """Exponential moving average of all parameters and buffers, with TensorFlow's ramp.

    The decay at step t is min(decay, (1 + t) / (10 + t)), as `num_updates` does in the released code.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._live = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        self.tensors = [tensor.detach().clone() for tensor in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the model's present values."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        move_towards(self.tensors, self._live, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's values and the averaged ones, in place; twice restores both."""
        for live, mean in zip(self._live, self.tensors, strict=True):
            kept = live.clone()
            live.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, object]:
        """State for a checkpoint."""
        return {"steps": self.steps, "mean": self.tensors}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore what `state_dict` gave."""
        steps, mean = state["steps"], state["mean"]
        if not isinstance(steps, int) or not isinstance(mean, list):
            raise TypeError("not the state of a weight average")
        self.steps = steps
        torch._foreach_copy_(self.tensors, mean)

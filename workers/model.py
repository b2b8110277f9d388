"""Builds the models through timm; the same code on any device, the meta device included."""

from functools import partial
from typing import cast

import torch
from timm.layers import DropPath, SEModule
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from workers.families import BLOCKS, stage_channels, stem_channels
from workers.recipe import Recipe

BN_EPS = 1e-5  # RS, released code
BN_MOMENTUM = 0.1  # torch's convention; the released code's default 0.9 in TensorFlow's
# With a weight average the released code keeps no running BatchNorm average (momentum 0.0 in TensorFlow's
# convention, 1.0 in torch's): the average over weights averages the batch statistics as well.
BN_MOMENTUM_WITH_EMA = 1.0
HEAD_INIT_STD = 0.01  # RS, released code


def build_resnet_rs(
    width: float, blocks: tuple[int, int, int, int], classes: int, recipe: Recipe | None = None
) -> nn.Module:
    """ResNet-RS: ResNet-D stem and shortcuts, no max-pool, squeeze-and-excitation in every bottleneck.

    Args:
        width: multiplier on the channels of every stage and of the stem.
        blocks: bottlenecks per stage.
        classes: outputs.
        recipe: sets dropout, stochastic depth and BatchNorm's momentum; without it, none of the first two.

    Returns:
        A module from images (N, 3, H, W) to logits (N, classes).

    Source: RS section 4 and the authors' released code.
    """
    model = ResNet(
        Bottleneck,
        blocks,
        num_classes=classes,
        channels=stage_channels(width),
        stem_type="deep",
        stem_width=stem_channels(width),
        replace_stem_pool=True,
        avg_down=True,
        block_args={"attn_layer": partial(SEModule, rd_ratio=0.25, rd_divisor=1)},
        drop_rate=recipe.dropout if recipe else 0.0,
    )
    nn.init.normal_(model.fc.weight, std=HEAD_INIT_STD)
    nn.init.zeros_(model.fc.bias)  # as a dense layer of TensorFlow starts
    _set_batch_norm(model, BN_MOMENTUM_WITH_EMA if recipe and recipe.ema_decay else BN_MOMENTUM)
    if recipe and recipe.stochastic_depth:
        _set_stochastic_depth(model, recipe.stochastic_depth)
    return cast(nn.Module, model)


def build_model(family: str, width: float, depth: int, classes: int, recipe: Recipe | None = None) -> nn.Module:
    """The model of a shape; see the builder of its family."""
    if family != "resnet_rs":
        raise ValueError(f"unknown family {family!r}")
    return build_resnet_rs(width, BLOCKS[depth], classes, recipe)


def _set_batch_norm(model: nn.Module, momentum: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = BN_EPS, momentum


def _set_stochastic_depth(model: nn.Module, rate: float) -> None:
    """The rate of a whole stage is rate x i / 5 for c2 to c5 (RS, released code; timm's own grows by block)."""
    for stage in range(2, 6):
        for block in model.get_submodule(f"layer{stage - 1}").children():
            block.drop_path = DropPath(rate * stage / 5)


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
        torch._foreach_lerp_(self.tensors, self._live, 1 - decay)

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

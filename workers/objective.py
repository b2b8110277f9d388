"""What training minimises: the loss, and images and targets mixed by Mixup or CutMix.

Images are mixed within each BatchNorm group, the group's first with its last and so on, as timm does within a batch.
How a group is mixed follows from (seed, step, group) alone, so splitting a batch changes nothing. The host draws the
numbers and sends them to the device; nothing comes back, and all shapes are fixed: XLA compiles once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from workers.recipe import Recipe
from workers.stochastic import seed_of

SWITCH = 0.5  # share of groups with CutMix where a recipe has both: timm's default, RSB's
_STREAM = 1  # sets these draws apart from the masks, whose key is (seed, step, group)


@dataclass(frozen=True)
class Mix:
    """How one group is mixed.

    Args:
        kept: share of an image's own class in its target; the rest is its partner's. With Mixup of its pixels too.
        box: with CutMix, the part of the image that the partner fills: rows from, to, columns from, to (px, the ends
            excluded).
    """

    kept: float
    box: tuple[int, int, int, int] | None = None


def draw_mix(recipe: Recipe, seed: int, step: int, group: int, height: int, width: int) -> Mix:
    """How a group is mixed; timm's rules with probability 1 and, for CutMix, `kept` as the box comes out.

    Args:
        recipe: gives the parameters of the beta distributions, of which at least one is above 0.
        seed: of the trial.
        step: of the optimiser, 0-based in the trial.
        group: of the step's whole batch, 0-based.
        height: of the images, px.
        width: of the images, px.
    """
    generator = np.random.default_rng(seed_of(seed, step, group, _STREAM))
    cutmix = recipe.cutmix_alpha > 0
    if cutmix and recipe.mixup_alpha > 0:
        cutmix = generator.random() < SWITCH
    alpha = recipe.cutmix_alpha if cutmix else recipe.mixup_alpha
    kept = float(generator.beta(alpha, alpha))
    return _cut(generator, kept, height, width) if cutmix else Mix(kept)


def _cut(generator: np.random.Generator, kept: float, height: int, width: int) -> Mix:
    """A box of share 1 - kept about a point of the image; what the image's edge cuts off counts as kept."""
    side = sqrt(1 - kept)
    high, wide = int(height * side), int(width * side)
    row, column = int(generator.integers(height)), int(generator.integers(width))
    top, bottom = max(row - high // 2, 0), min(row + (high + 1) // 2, height)
    left, right = max(column - wide // 2, 0), min(column + (wide + 1) // 2, width)
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))


class Objective:
    """The loss of a recipe and the images and targets that it is taken over.

    Args:
        recipe: gives loss, label smoothing and mixing.
        classes: outputs of the model.
    """

    def __init__(self, recipe: Recipe, classes: int) -> None:
        self.recipe, self.classes = recipe, classes

    def mix(
        self, images: torch.Tensor, labels: torch.Tensor, seed: int, step: int, first_group: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images to train on, and their targets.

        Args:
            images: (N, 3, H, W) on the device, of a floating type; N is a multiple of the recipe's `bn_batch`.
            labels: classes (N,), int64, on the same device.
            seed: of the trial.
            step: of the optimiser, 0-based in the trial.
            first_group: place of the first `bn_batch` images among the groups of the step's whole batch.

        Returns:
            Images in the shape and memory format given, and for `loss` either the labels as they are or float32
            targets (N, classes). What was given is left unchanged.
        """
        if not self.recipe.mixes:
            return images, labels if self.recipe.loss == "cross_entropy" else self._smooth(labels)
        height, width = images.shape[-2:]
        groups = range(first_group, first_group + len(images) // self.recipe.bn_batch)
        mixes = [draw_mix(self.recipe, seed, step, group, height, width) for group in groups]
        numbers = _send(mixes, images.device)
        return self._mix_images(images, numbers), self._mix_targets(self._smooth(labels), numbers)

    def loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss of some images, a float32 scalar; that of a batch is the mean over its equal parts.

        Binary cross-entropy is the mean over images and classes, timm's default (`sum_classes=False`).

        Args:
            logits: (N, classes), of any floating type.
            targets: what `mix` gave.
        """
        logits = logits.float()
        if self.recipe.loss == "bce":
            if self.recipe.bce_threshold:
                targets = (targets > self.recipe.bce_threshold).float()
            return binary_cross_entropy_with_logits(logits, targets)
        smoothing = self.recipe.label_smoothing if targets.ndim == 1 else 0.0  # the others are smooth already
        return cross_entropy(logits, targets, label_smoothing=smoothing)

    def _smooth(self, labels: torch.Tensor) -> torch.Tensor:
        """One-hot targets (N, classes) with the label smoothing shared between all classes."""
        off = self.recipe.label_smoothing / self.classes
        targets = torch.full((len(labels), self.classes), off, device=labels.device)
        return targets.scatter_(1, labels.view(-1, 1), 1 - self.recipe.label_smoothing + off)

    @staticmethod
    def _mix_images(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        # (groups, 1, 1, 1, 1) each, against images (groups, bn_batch, 3, H, W).
        top, bottom, left, right, own, other = numbers[:, :6, None, None, None, None].unbind(1)
        rows = torch.arange(images.shape[-2], device=images.device)[:, None]
        columns = torch.arange(images.shape[-1], device=images.device)
        # A mask of comparisons and not slices: with slices XLA would compile a program for every box.
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        grouped = images.reshape(len(numbers), -1, *images.shape[1:])
        laid_out = torch.zeros_like(grouped[:, :1])  # weights laid out as images are multiplied twice as fast on a CPU
        mixed = grouped.flip(1).mul_(laid_out + other.masked_fill(inside, 1.0).to(images.dtype))
        mixed += grouped * (laid_out + own.masked_fill(inside, 0.0).to(images.dtype))
        return mixed.flatten(0, 1)

    def _mix_targets(self, targets: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        own, other = numbers[:, 6:, None, None].unbind(1)
        grouped = targets.reshape(len(numbers), -1, self.classes)
        mixed: torch.Tensor = grouped * own + grouped.flip(1) * other
        return mixed.flatten(0, 1)


def _send(mixes: Sequence[Mix], device: torch.device) -> torch.Tensor:
    """The numbers of each group, float32 (groups, 8): the box, the weights of the pixels outside of it, of the targets.

    Inside of the box the weights are 0 and 1. Mixup has an empty box.
    """
    rows = [
        [*(mix.box or (0, 0, 0, 0)), *((1.0, 0.0) if mix.box else (mix.kept, 1 - mix.kept)), mix.kept, 1 - mix.kept]
        for mix in mixes
    ]
    numbers = torch.tensor(rows, dtype=torch.float32)
    if device.type == "cuda":  # from pageable memory the host would wait for the copy
        numbers = numbers.pin_memory()
    return numbers.to(device, non_blocking=True)

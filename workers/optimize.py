"""How weights move: which parameters decay, the optimiser, and the learning rate of each step."""

import math
from collections.abc import Collection
from fnmatch import fnmatch
from typing import Any

import torch
from timm.optim import Lamb
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from workers.recipe import Recipe

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
# The step schedule divides the rate by 10 after these shares of all steps: 30, 60 and 80 of 90 epochs.
MILESTONES = ((1, 3), (2, 3), (8, 9))


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Rate of an optimiser step: linear warm-up from 0 to the peak, then the recipe's schedule.

    Step s of S, W of them warm-up (W need not be whole):

    - while s + 1 < W: peak x (s + 1) / W;
    - cosine: peak x (1 + cos(pi (s - W) / (S - W))) / 2, so it begins at the peak where the warm-up ends and would
      reach 0 one step after the last;
    - step: peak / 10 for every share of `MILESTONES` that s / S has reached, in the warm-up too.

    Args:
        recipe: gives peak, warm-up and schedule.
        step: 0-based in the whole trial.
        steps_per_epoch: optimiser steps of an epoch.
        epochs: of the whole trial.
    """
    steps, warmup = epochs * steps_per_epoch, recipe.warmup_epochs * steps_per_epoch
    rises = step + 1 < warmup
    risen = recipe.peak_rate * (step + 1) / warmup if rises else recipe.peak_rate
    if recipe.schedule == "step":
        passed: int = sum(step * whole >= part * steps for part, whole in MILESTONES)
        return risen / float(10**passed)
    if rises:
        return risen
    done = (step - warmup) / max(steps - warmup, 1)
    return risen * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Every parameter once: those with weight decay, those without. A group that would be empty is left out.

    Without decay: norms, biases (unless `decay_biases`, and then those of linear layers and convolutions only), other
    parameters of one dimension such as layer scales, and what the model itself names in `no_weight_decay()`, as timm's
    class tokens and position embeddings.
    """
    named = getattr(model, "no_weight_decay", None)
    spared: Collection[str] = named() if callable(named) else ()
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            if id(parameter) not in seen:  # two layers may share one
                seen.add(id(parameter))
                exempt = any(fnmatch(name, pattern) for pattern in spared)
                groups[not exempt and _decays(module, name, parameter, recipe)].append(parameter)
    rates = {True: recipe.weight_decay, False: 0.0}
    return [{"params": groups[decays], "weight_decay": rates[decays]} for decays in (True, False) if groups[decays]]


def _decays(module: nn.Module, name: str, parameter: nn.Parameter, recipe: Recipe) -> bool:
    if isinstance(module, NORMS):
        return False
    if name.rpartition(".")[2] == "bias":
        return recipe.decay_biases and isinstance(module, nn.Linear | _ConvNd)
    return parameter.ndim > 1


def make_optimizer(model: nn.Module, recipe: Recipe, fused: bool = True) -> torch.optim.Optimizer:
    """The recipe's optimiser.

    Set `group["lr"]` of its groups to a plain number before each step: no optimiser here reads it back from a device.

    `sgd` is torch's, with weight decay as the L2 term that the papers' code adds to the loss. `lamb` is timm's Lamb
    with its own defaults: betas 0.9 and 0.999, the whole gradient clipped to a norm of 1.0, and no layer-wise rate for
    parameters without decay.

    Args:
        model: already on its device.
        recipe: gives optimiser, weight decay and momentum.
        fused: one kernel for the whole step of SGD, on CPU and CUDA; not on XLA, which fuses whole graphs itself.
    """
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "lamb":
        lamb: torch.optim.Optimizer = Lamb(groups, lr=recipe.peak_rate)
        return lamb
    return torch.optim.SGD(
        groups,
        lr=recipe.peak_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=fused or None,
    )

"""What a shape costs, found without running it: everything here happens on the meta device and allocates nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from workers.families import find_family, resolve_arguments
from workers.live_bytes import peak_of_pass
from workers.model import build_model, build_resnet_rs
from workers.recipe import Recipe
from workers.resnet_rs import BLOCKS

_Arguments = tuple[tuple[str, Any], ...]  # of a family, so that a cache can remember them
FLOAT32 = 4  # bytes; parameters, gradients and optimiser state are kept in it, whatever autocast computes in
STATES = {"sgd": 1, "lamb": 2}  # tensors of the parameters' size that an optimiser keeps


@dataclass(frozen=True)
class Costs:
    """Trainable parameters, and forward multiply-adds of one image.

    Multiply-adds are those of convolutions, linear layers and other matrix products, attention's two included. Biases,
    norms, activations and pooling are not counted. The papers' "FLOPs" are twice this number.
    """

    params: int
    macs_per_image: int


def count_costs(
    family: str, arguments: Mapping[str, Any], resolution: int, classes: int, plugins: Sequence[str] = ()
) -> Costs:
    """Costs of a shape; each one is counted once per process.

    Raises:
        ValueError: the family, an argument or the shape is not known, or the model cannot be run on the meta device.
    """
    found = find_family(family, plugins)
    resolved = resolve_arguments(found, arguments)
    if family == "resnet_rs":
        return _count_resnet_rs(tuple(resolved.items()), resolution, classes)
    return _count_whole(family, tuple(resolved.items()), resolution, classes, tuple(plugins))


@cache
def _count_resnet_rs(arguments: _Arguments, resolution: int, classes: int) -> Costs:
    """A stage's blocks are alike from the second on: two blocks a stage are counted and the second ones multiplied.

    The tests prove this equal to counting the whole model.
    """
    shape = dict(arguments)
    repeats = {f"layer{stage}.1.": blocks - 1 for stage, blocks in enumerate(BLOCKS[shape.pop("depth")], start=1)}
    total = [0, 0]
    for name, params, macs in _costs_by_module(tuple(shape.items()), resolution, classes):
        times = next((count for prefix, count in repeats.items() if name.startswith(prefix)), 1)
        total[0] += times * params
        total[1] += times * macs
    return Costs(*total)


@cache
def _costs_by_module(arguments: _Arguments, resolution: int, classes: int) -> tuple[tuple[str, int, int], ...]:
    shape = dict(arguments)
    with torch.device("meta"):
        model = build_resnet_rs(shape.pop("width"), (2, 2, 2, 2), classes, **shape)
    return count_modules(model, resolution)


def count_modules(model: nn.Module, resolution: int) -> tuple[tuple[str, int, int], ...]:
    """(name, own parameters, multiply-adds for one image) of every module of a model on the meta device that has any.

    Modules without parts are there even when they have neither.
    """
    macs: dict[nn.Module, int] = {}
    own = {name: sum(p.numel() for p in part.parameters(recurse=False)) for name, part in model.named_modules()}
    parts = [(name, part) for name, part in model.named_modules() if own[name] or not list(part.children())]
    hooks = [part.register_forward_hook(_record_macs(macs)) for _, part in parts]
    with torch.no_grad():
        model.eval()(torch.empty(1, 3, resolution, resolution, device="meta"))
    for hook in hooks:
        hook.remove()
    return tuple((name, own[name], macs.get(part, 0)) for name, part in parts)


def _record_macs(
    macs: dict[nn.Module, int],
) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    """A hook that adds outputs x weights per output; biases, norms and activations are not multiply-adds."""

    def record(module: nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            macs[module] = macs.get(module, 0) + output.numel() * module.weight[0].numel()

    return record


@cache
def _count_whole(family: str, arguments: _Arguments, resolution: int, classes: int, plugins: tuple[str, ...]) -> Costs:
    model = _on_meta(family, arguments, resolution, classes, None, plugins).eval()
    with _one_line(family), torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits = model(torch.empty(1, 3, resolution, resolution, device="meta"))
    shape = tuple(getattr(logits, "shape", ()))
    if shape != (1, classes):
        raise ValueError(
            f"family {family!r}: the model gives {shape} for one image, not one number a class, (1, {classes})"
        )
    params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Costs(params, counter.get_total_flops() // 2)


def predict_memory(
    family: str,
    arguments: Mapping[str, Any],
    resolution: int,
    classes: int,
    recipe: Recipe,
    micro_batch: int,
    precision: str,
    plugins: Sequence[str] = (),
) -> int:
    """Peak bytes of tensors in a training step of one device.

    Parameters, optimiser state and weight average, and with them the largest of what is alive at any operation of a
    micro-batch's forward and backward pass (images, activations, gradients) or of the optimiser's step. Scratch
    memory inside an operation is left out: cuDNN's, and on a CPU oneDNN's, which is large for depthwise convolutions.

    Args:
        family: as for `workers.model.build_model`, like the next three and `plugins`.
        arguments: of the family.
        resolution: side of the images, px.
        classes: outputs.
        recipe: says what the optimiser and the weight average keep, and how large the whole batch is.
        micro_batch: images in one forward pass.
        precision: float32, bfloat16 or float16, of autocast.
        plugins: paths of Python files.

    Raises:
        ValueError: as `count_costs`.
    """
    resolved = resolve_arguments(find_family(family, plugins), arguments)
    shape = (family, tuple(resolved.items()), resolution, classes)
    return _predict_memory(*shape, recipe, micro_batch, precision, tuple(plugins))


@cache
def _predict_memory(
    family: str,
    arguments: _Arguments,
    resolution: int,
    classes: int,
    recipe: Recipe,
    micro_batch: int,
    precision: str,
    plugins: tuple[str, ...],
) -> int:
    model = _on_meta(family, arguments, resolution, classes, recipe, plugins).train()
    weights = FLOAT32 * sum(parameter.numel() for parameter in model.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    states = 0 if recipe.optimizer == "sgd" and not recipe.momentum else STATES.get(recipe.optimizer, 2)
    kept = (1 + states) * weights + buffers + (weights + buffers if recipe.ema_decay else 0)
    accumulates = recipe.batch_size > micro_batch
    with _one_line(family):
        peak = peak_of_pass(model, (micro_batch, 3, resolution, resolution), precision, accumulates)
    return kept + max(peak, weights)


def _on_meta(
    family: str,
    arguments: _Arguments,
    resolution: int,
    classes: int,
    recipe: Recipe | None,
    plugins: tuple[str, ...],
) -> nn.Module:
    with _one_line(family), torch.device("meta"):
        return build_model(family, dict(arguments), resolution, classes, recipe, plugins)


@contextmanager
def _one_line(family: str) -> Iterator[None]:
    """Turn whatever a timm model or a plug-in raises into a ValueError of one line."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(
            f"family {family!r}: the model does not run on torch's meta device, where costs are counted: {told}"
        ) from error

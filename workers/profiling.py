"""What a shape costs: parameters and multiply-adds counted on the meta device, time and memory measured."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from workers.contract import TrialConfig
from workers.data import Batch
from workers.device import Device
from workers.families import BLOCKS
from workers.model import WeightAverage, build_model, build_resnet_rs
from workers.recipe import Recipe
from workers.train import make_optimizer


@dataclass(frozen=True)
class Costs:
    """Trainable parameters, and forward multiply-adds of one image in convolutions and linear layers."""

    params: int
    macs_per_image: int


@cache
def count_costs(family: str, width: float, depth: int, resolution: int, classes: int) -> Costs:
    """Costs of a shape, counted on the meta device: nothing is allocated.

    A stage's blocks are alike from the second on, so a model with two blocks a stage is counted and its second ones
    multiplied; the tests prove this equal to counting the whole model.
    """
    if family != "resnet_rs":
        raise ValueError(f"unknown family {family!r}")
    repeats = {f"layer{stage}.1.": blocks - 1 for stage, blocks in enumerate(BLOCKS[depth], start=1)}
    modules = _costs_by_module(width, resolution, classes)
    total = [0, 0]
    for name, params, macs in modules:
        times = next((count for prefix, count in repeats.items() if name.startswith(prefix)), 1)
        total[0] += times * params
        total[1] += times * macs
    return Costs(*total)


@cache
def _costs_by_module(width: float, resolution: int, classes: int) -> tuple[tuple[str, int, int], ...]:
    with torch.device("meta"):
        model = build_resnet_rs(width, (2, 2, 2, 2), classes)
    return count_modules(model, resolution)


def count_modules(model: nn.Module, resolution: int) -> tuple[tuple[str, int, int], ...]:
    """(name, own parameters, multiply-adds for one image) of every leaf module of a model on the meta device."""
    macs: dict[nn.Module, int] = {}
    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    hooks = [module.register_forward_hook(_record_macs(macs)) for _, module in leaves]
    with torch.no_grad():
        model.eval()(torch.empty(1, 3, resolution, resolution, device="meta"))
    for hook in hooks:
        hook.remove()
    return tuple((name, sum(p.numel() for p in module.parameters()), macs.get(module, 0)) for name, module in leaves)


def _record_macs(
    macs: dict[nn.Module, int],
) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    """A hook that adds outputs x weights per output; biases, norms and activations are not multiply-adds."""

    def record(module: nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            macs[module] = macs.get(module, 0) + output.numel() * module.weight[0].numel()

    return record


@dataclass(frozen=True)
class Measurement:
    """A shape measured alone on a device; times in milliseconds, memory in bytes."""

    train_step_ms: float  # median, of one batch
    infer_latency_p10_ms: float
    infer_latency_ms: float  # median, of one image
    infer_latency_p90_ms: float
    peak_memory_bytes: int
    device: str


def measure_trial_shape(config: TrialConfig) -> Measurement:
    """Measure the shape of a trial on the device that it asks for."""
    device = Device(config.device, config.precision, config.threads)
    shape = (config.family, config.width, config.depth, config.resolution)
    return measure_shape(*shape, config.data.classes, config.recipe, device)


WARMUP_STEPS, TRAIN_STEPS = 2, 5
WARMUP_PASSES, PASSES = 3, 20


def measure_shape(
    family: str, width: float, depth: int, resolution: int, classes: int, recipe: Recipe, device: Device
) -> Measurement:
    """Time training steps and single-image forward passes of a shape on random images.

    Peak memory is that of tensors, from the allocator, during a training step: model, optimiser state, gradients,
    activations and the batch.
    """
    torch.manual_seed(0)
    model = build_model(family, width, depth, classes, recipe)
    model = model.to(device.torch).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, recipe)
    average = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay else None
    step = _training_step(model, optimizer, average, recipe, _random_batch(recipe, resolution, classes, device), device)
    _timed(step, WARMUP_STEPS, device)
    peak = _peak_memory(step, _bytes_kept(model, optimizer, average), device)
    step_ms = statistics.median(_timed(step, TRAIN_STEPS, device))
    model.eval()
    image = torch.rand(1, 3, resolution, resolution, device=device.torch)

    @torch.no_grad()
    def infer() -> None:
        with device.autocast():
            model(image)

    _timed(infer, WARMUP_PASSES, device)
    deciles = statistics.quantiles(_timed(infer, PASSES, device), n=10)
    return Measurement(step_ms, deciles[0], deciles[4], deciles[8], peak, device.name)


def _random_batch(recipe: Recipe, resolution: int, classes: int, device: Device) -> Batch:
    """One BatchNorm group of normalised images and labels."""
    images = torch.rand(recipe.bn_batch, 3, resolution, resolution, device=device.torch)
    labels = torch.randint(classes, (recipe.bn_batch,), device=device.torch)
    return images.contiguous(memory_format=torch.channels_last), labels


def _training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    recipe: Recipe,
    batch: Batch,
    device: Device,
) -> Callable[[], None]:
    """A whole optimiser step, as the trainer does it, on the same images again and again."""
    groups = recipe.batch_size // recipe.bn_batch

    def step() -> None:
        for _ in range(groups):
            with device.autocast():
                loss = cross_entropy(model(batch[0]), batch[1]) / groups
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average:
            average.update()

    return step


def _timed(work: Callable[[], None], repeats: int, device: Device) -> list[float]:
    """Milliseconds of each repeat."""
    times = []
    for _ in range(repeats):
        device.wait()
        started = time.perf_counter()
        work()
        device.wait()
        times.append(1000 * (time.perf_counter() - started))
    return times


def _peak_memory(work: Callable[[], None], kept: int, device: Device) -> int:
    """Peak bytes of tensors while `work` runs, the `kept` ones included that were there before."""
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()
    # The profiler's own log lines are not for people; it reads this when it starts for the first time.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as profiler:
        work()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    # Only the raw events have every allocation with its time; the public list folds them into operators.
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return kept + max(accumulate(changes), default=0)


def _bytes_kept(model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None) -> int:
    """Bytes of parameters, buffers, optimiser state and weight average: what lives on between steps."""
    tensors = [*model.parameters(), *model.buffers(), *(average.tensors if average else [])]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

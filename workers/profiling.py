"""Measures what a shape costs in time and memory, alone on a device, with the steps that the trainer does."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile

from workers import xla
from workers.contract import TrialConfig
from workers.device import Device
from workers.learner import Learner
from workers.ranks import Ranks


@dataclass(frozen=True)
class Measurement:
    """A shape measured alone on a device; times in milliseconds, memory in bytes."""

    train_step_ms: float  # median, of one batch
    infer_latency_p10_ms: float
    infer_latency_ms: float  # median, of one image
    infer_latency_p90_ms: float
    peak_memory_bytes: int | None  # None where the device's runtime does not tell
    device: str


WARMUP_STEPS, TRAIN_STEPS = 2, 5
WARMUP_PASSES, PASSES = 3, 20


def measure_trial_shape(config: TrialConfig) -> Measurement:
    """Time training steps and single-image forward passes of a trial's shape on random images.

    A trial of several devices is measured on one of them, which does its share of the batch: the exchange of gradients
    is not in the figure. Peak memory is that of tensors, from the allocator, during a training step: model, optimiser
    state, gradients, activations and the batch.
    """
    device = Device(config.device, config.precision, config.threads)
    learner = Learner(config, device, Ranks(), config.data.train_images)
    step = _training_step(learner, config)
    _timed(step, WARMUP_STEPS, device)
    peak = _peak_memory(step, _bytes_kept(learner), device)
    step_ms = statistics.median(_timed(step, TRAIN_STEPS, device))
    deciles = statistics.quantiles(_timed_inference(learner, config, device), n=10)
    return Measurement(step_ms, deciles[0], deciles[4], deciles[8], peak, device.name)


def _training_step(learner: Learner, config: TrialConfig) -> Callable[[], None]:
    """A whole optimiser step on the same images again and again; a rate of 0 keeps the loss finite."""
    images = config.recipe.batch_size // config.execution.ranks
    pixels = torch.randint(256, (images, 3, config.resolution, config.resolution), dtype=torch.uint8)
    labels = torch.randint(config.data.classes, (images,))

    def prepare(part: torch.Tensor) -> torch.Tensor:
        moved = part.to(learner.device.torch, non_blocking=True, memory_format=torch.channels_last)
        return moved.float() / 255

    return lambda: (learner.step(0, 0.0, pixels, labels, prepare), None)[1]


def _timed_inference(learner: Learner, config: TrialConfig, device: Device) -> list[float]:
    learner.model.eval()
    side = config.recipe.test_resolution or config.resolution
    image = torch.rand(1, 3, side, side, device=device.torch)

    @torch.no_grad()
    def infer() -> object:
        with device.autocast():
            return learner.model(image)

    _timed(infer, WARMUP_PASSES, device)
    return _timed(infer, PASSES, device)


def _timed(work: Callable[[], object], repeats: int, device: Device) -> list[float]:
    """Milliseconds of each repeat."""
    times = []
    for _ in range(repeats):
        device.wait()
        started = time.perf_counter()
        made = work()  # held until the device is done: XLA computes nothing that nobody holds
        device.wait()
        del made
        times.append(1000 * (time.perf_counter() - started))
    return times


def _peak_memory(work: Callable[[], object], kept: int, device: Device) -> int | None:
    """Peak bytes of tensors while `work` runs, the `kept` ones included that were there before."""
    if device.kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()
    if device.kind == "xla":
        return xla.peak_bytes(device.torch)
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


def _bytes_kept(learner: Learner) -> int:
    """Bytes of parameters, buffers, optimiser state and weight average: what lives on between steps."""
    model, average = learner.model, learner.average
    tensors = [*model.parameters(), *model.buffers(), *(average.tensors if average else [])]
    for state in learner.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

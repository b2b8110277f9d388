"""The device behind one small interface: where to run, in which precision, how to wait and what it is called."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from workers import xla
from workers.contract import InvalidConfigError
from workers.environment import cpu_model

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = ("cpu", "cuda", "xla")


class Device:
    """A device of one kind computing in one precision.

    Args:
        kind: "cpu", "cuda" or "xla" (a TPU through torch_xla).
        precision: of matrix products and convolutions; float16 takes the place of a bfloat16 that a GPU has not got.
        threads: on CPU; None leaves them as they are.

    Raises:
        InvalidConfigError: the kind or precision is unknown, or this machine has no such device.
    """

    def __init__(self, kind: str, precision: str, threads: int | None) -> None:
        if kind not in KINDS:
            raise InvalidConfigError(f"device {kind!r} is unknown; known: {', '.join(KINDS)}")
        if precision not in DTYPES:
            raise InvalidConfigError(f"precision {precision!r} is unknown; known: {', '.join(DTYPES)}")
        self.kind = kind
        self.torch = _find(kind)
        self.precision = _supported(kind, precision)
        if threads is not None:
            torch.set_num_threads(threads)

    @property
    def name(self) -> str:
        """Model of the processor, as the machine itself calls it."""
        if self.kind == "xla":
            return f"{xla.kind()} {os.environ.get('TPU_ACCELERATOR_TYPE', 'by XLA')}"
        return torch.cuda.get_device_name() if self.kind == "cuda" else cpu_model()

    @property
    def fuses_optimizer(self) -> bool:
        """Whether torch has optimiser steps of one kernel for it; XLA fuses whole graphs itself."""
        return self.kind != "xla"

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, in the memory format that convolutions like best there."""
        if self.kind == "xla":  # chooses layouts itself
            xla.mend(model)
            return model.to(self.torch)
        return model.to(self.torch).to(memory_format=torch.channels_last)

    def compiled(self, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """The model, compiled at its first step for images of one shape."""
        if self.kind != "cuda":
            logging.getLogger("torch.utils.cpp_extension").addFilter(_no_word_of_cuda)
        return torch.compile(model, dynamic=False)

    def autocast(self) -> AbstractContextManager[object]:
        """Context in which matrix products run in the device's precision."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.kind, DTYPES[self.precision])

    def start(self, optimizer: torch.optim.Optimizer) -> None:
        """Make state that the optimiser's first step would make, where a first step like all others saves much."""
        if self.kind == "xla":
            xla.start_momentum(optimizer)

    def at_rate(self, optimizer: torch.optim.Optimizer, rate: float) -> AbstractContextManager[None]:
        """Context in which a step of the optimiser has this learning rate."""
        if self.kind == "xla":
            return xla.at_rate(optimizer, rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return nullcontext()

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps float16 gradients in range; does nothing in other precisions."""
        return torch.amp.GradScaler(self.kind, enabled=self.precision == "float16")

    def wait(self) -> None:
        """Return when all work sent to the device is done."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "xla":
            xla.wait()

    def cut(self) -> None:
        """End of a training step: XLA compiles and starts what was traced since the last cut."""
        if self.kind == "xla":
            xla.cut()

    def free_bytes(self) -> int | None:
        """Memory that a trial may take now, or None where it is not known."""
        if self.kind == "xla":
            return xla.free_bytes(self.torch)
        return torch.cuda.mem_get_info()[0] if self.kind == "cuda" else None

    def forget_failed_step(self) -> None:
        """Give memory back that a failed step held."""
        if self.kind == "cuda":
            torch.cuda.empty_cache()

    def to_host(self, state: Any) -> Any:
        """A state that torch can save; it takes tensors on CPU and GPU as they are."""
        if self.kind != "xla":
            return state
        if isinstance(state, torch.Tensor):
            return state.cpu()
        if isinstance(state, dict):
            return {key: self.to_host(value) for key, value in state.items()}
        return [self.to_host(value) for value in state] if isinstance(state, list | tuple) else state

    def from_host(self, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A model's saved state to be loaded. XLA would send equal numbers in it once, and compile a step for that."""
        if self.kind != "xla":
            return state
        return {name: xla.send(value, self.torch) for name, value in state.items()}


def _no_word_of_cuda(record: logging.LogRecord) -> bool:
    """Whether a line of torch's compiler is worth a look: without a GPU, that it finds none is not."""
    return not record.getMessage().startswith("No CUDA runtime is found")


# What tells of too little memory in a RuntimeError: torch's allocator on CPU, oneDNN where it could not allocate, XLA.
MEMORY_WORDS = ("DefaultCPUAllocator", "could not create a primitive", "RESOURCE_EXHAUSTED")


def out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had too little memory."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or any(word in str(error) for word in MEMORY_WORDS)


def _find(kind: str) -> torch.device:
    if kind == "cuda" and not torch.cuda.is_available():
        raise InvalidConfigError("device cuda: this machine has no CUDA device; use `resources: {cpu: 1}`")
    if kind != "xla":
        return torch.device(kind)
    return xla.find()


def _supported(kind: str, precision: str) -> str:
    """The precision asked for, or the one that takes its place."""
    if kind == "xla" and precision == "float16":
        raise InvalidConfigError("precision float16: an XLA device has no such autocast; use bfloat16 or float32")
    missing = kind == "cuda" and precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return "float16" if missing else precision

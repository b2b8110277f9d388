"""What has to be told differently to torch_xla, so that a training step is one graph that is compiled once.

torch_xla sends plain numbers to the device as data, and sends those of one value only once. So a number that changes
from step to step, and then equals another number of the step, makes another graph: it is compiled anew
(https://github.com/pytorch/xla/issues/3604). Numbers that change are therefore sent as tensors.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.nn.functional import avg_pool2d
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair

from workers.contract import InvalidConfigError


def find() -> torch.device:
    """This process's device: of the kind that PJRT_DEVICE names, else the TPU.

    Raises:
        InvalidConfigError: torch_xla is not installed, or finds no device. Left to itself it would take the CPU.
    """
    chosen = "PJRT_DEVICE" in os.environ
    try:
        import torch_xla

        device: torch.device = torch_xla.device()
    except ImportError as error:
        raise InvalidConfigError("device xla: torch_xla is not installed; see docs/devices.md") from error
    except (RuntimeError, OSError) as error:
        told = str(error).partition("\n")[0]
        raise InvalidConfigError(f"device xla: torch_xla finds no device here: {told}") from error
    if not chosen and kind() != "TPU":
        os.environ.pop("PJRT_DEVICE", None)
        raise InvalidConfigError("device xla: no TPU here; PJRT_DEVICE=CPU in the environment trains on the CPU by XLA")
    return device


def kind() -> str:
    """TPU, CPU or what else the runtime calls it."""
    from torch_xla import runtime

    return str(runtime.device_type())


def cut() -> None:
    """Compile what was traced since the last cut, unless it is known, and start it."""
    import torch_xla

    torch_xla.sync()


def wait() -> None:
    """Return when everything that was traced is done."""
    import torch_xla.core.xla_model as xm

    cut()
    xm.wait_device_ops()


def free_bytes(device: torch.device) -> int | None:
    """Memory left on the device; None where its runtime does not tell, as on CPU."""
    told = _memory(device)
    return told["bytes_limit"] - told["bytes_used"] if told else None


def peak_bytes(device: torch.device) -> int | None:
    """Most memory that this process held on the device so far; None where its runtime does not tell."""
    return _memory(device).get("peak_bytes_used")


def _memory(device: torch.device) -> dict[str, int]:
    import torch_xla.core.xla_model as xm

    try:
        return dict(xm.get_memory_info(device))
    except RuntimeError:
        return {}


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device; one of no dimension would pass for a plain number if it were sent as such."""
    return tensor.to(device) if tensor.ndim else tensor.view(1).to(device).view(())


@torch.no_grad()
def move_towards(tensors: list[torch.Tensor], ends: list[torch.Tensor], share: float) -> None:
    """Move tensors in place towards `ends`, by a share of the way; on any kind of device."""
    if tensors[0].device.type != "xla":
        torch._foreach_lerp_(tensors, ends, share)
        return
    sent = send(torch.tensor(share), tensors[0].device)
    for tensor, end in zip(tensors, ends, strict=True):
        tensor.lerp_(end, sent)


@contextmanager
def at_rate(optimizer: torch.optim.Optimizer, rate: float) -> Iterator[None]:
    """Let a step of the optimiser, whose update is proportional to its learning rate, have this rate.

    It takes a step of rate 1, of which the weights then go the share `rate`.
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    before = [weight.detach().clone() for weight in weights]
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    yield
    move_towards(before, weights, rate)
    with torch.no_grad():
        torch._foreach_copy_(weights, before)


def start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD the state that its first step would make, so that this step's graph is that of all others."""
    if isinstance(optimizer, torch.optim.SGD):
        for group in optimizer.param_groups:
            for weight in group["params"] if group["momentum"] else ():
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def mend(model: nn.Module) -> None:
    """Wrap the `forward` of layers that torch_xla 2.9 computes otherwise than torch does.

    An image smaller than a pooling window that may reach over its edge comes out empty, and BatchNorm's running
    variance is that of its batches, not the estimate without bias. The names in the model's state stay.
    """
    for module in model.modules():
        if isinstance(module, nn.AvgPool2d) and module.ceil_mode and module.padding in (0, (0, 0)):
            module.forward = partial(_pool, module)  # type: ignore[method-assign]
        elif isinstance(module, _BatchNorm) and module.track_running_stats and module.momentum is not None:
            module.forward = partial(_normalise, module, module.forward)  # type: ignore[method-assign]


def _normalise(
    module: _BatchNorm, forward: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor
) -> torch.Tensor:
    """As the layer's own, with n / (n - 1) of a batch's variance going into the running one."""
    if not module.training:
        return forward(features)
    assert module.running_var is not None
    assert module.momentum is not None
    running = module.running_var
    module.running_var = updated = running.clone()  # autograd keeps it and allows no further change
    normalised = forward(features)
    with torch.no_grad():
        values = features.numel() // features.shape[1]
        running.copy_(updated + (updated - (1 - module.momentum) * running) / (values - 1))
    module.running_var = running
    return normalised


def _pool(module: nn.AvgPool2d, features: torch.Tensor) -> torch.Tensor:
    """As the layer's own, whose mean is over the part of a window that lies in the image."""
    sides = features.shape[-2:]
    kernel = [min(wanted, side) for wanted, side in zip(_pair(module.kernel_size), sides, strict=True)]
    return avg_pool2d(features, kernel, module.stride, 0, True, module.count_include_pad, module.divisor_override)

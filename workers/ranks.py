"""The processes that train one trial together: each holds one device and its share of every batch's groups."""

import warnings
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import nn

from workers.contract import InvalidConfigError
from workers.device import Device
from workers.stochastic import batch_norms


class Ranks:
    """This process among the `size` that share a trial. With one, every method does nothing."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, size: int, device: Device) -> Self:
        """Meet the other processes, started by torchrun or by whoever set torch.distributed up already.

        Raises:
            InvalidConfigError: this process was not started as one of `size`.
        """
        if size == 1:
            return cls()
        if device.kind == "xla":
            raise InvalidConfigError(f"a trial of {size} devices: on XLA it has one; right would be `devices: 1`")
        if not dist.is_initialized():
            try:
                dist.init_process_group("nccl" if device.kind == "cuda" else "gloo")
            except ValueError as error:
                raise InvalidConfigError(
                    f"a trial of {size} devices: let Ray or `torchrun --nproc-per-node {size}` start it"
                ) from error
        if dist.get_world_size() != size:
            raise InvalidConfigError(f"a trial of {size} devices: {dist.get_world_size()} processes were started")
        return cls(dist.get_rank(), size)

    @staticmethod
    def met() -> bool:
        """Whether this process has joined others, who may wait for it."""
        return dist.is_available() and dist.is_initialized()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """What the first process says."""
        if self.size == 1:
            return value
        said = [value]
        dist.broadcast_object_list(said)
        return said[0]

    def least(self, value: int) -> int:
        """The smallest that any process says."""
        if self.size == 1:
            return value
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, value)
        return int(min(said))

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def parallel(self, model: nn.Module, device: Device) -> nn.Module:
        """The model as one whose gradients are averaged over the processes."""
        if self.size == 1:
            return model
        ids = [torch.cuda.current_device()] if device.kind == "cuda" else None
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            # `broadcast_buffers` has a new name in the newest torch; the oldest that is allowed knows this one alone.
            return nn.parallel.DistributedDataParallel(
                model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )


class SharedStatistics:
    """BatchNorm's running statistics as one process would have them that saw all groups in order.

    A running value after K groups is (1 - m)^K times the one before plus what the groups added. So each process adds
    its own part, weighted by the groups that come after it, and the sum is what one process computes.
    """

    def __init__(self, model: nn.Module, ranks: Ranks, groups: int) -> None:
        """Prepare for steps in which every process sees `groups` groups."""
        self._ranks, self._groups = ranks, groups
        layers = [layer for layer in batch_norms(model) if layer.track_running_stats] if ranks.size > 1 else []
        self._running: list[torch.Tensor] = []
        self._kept: list[float] = []  # share of each running value that one more group leaves
        self._counts: list[torch.Tensor] = []
        self._before: list[torch.Tensor] = []
        for layer in layers:
            buffers = dict(layer.named_buffers(recurse=False))
            self._running += [buffers["running_mean"], buffers["running_var"]]
            self._kept += [1 - (layer.momentum or 0.0)] * 2
            self._counts.append(buffers["num_batches_tracked"])

    def before_step(self) -> None:
        """Remember the values that all processes share."""
        self._before = [tensor.clone() for tensor in self._running]

    @torch.no_grad()
    def after_step(self) -> None:
        """Put the groups of all processes together."""
        if not self._running:
            return
        later = self._groups * (self._ranks.size - 1 - self._ranks.rank)
        parts = [
            ((now - kept**self._groups * before) * kept**later).flatten()
            for now, before, kept in zip(self._running, self._before, self._kept, strict=True)
        ]
        added = torch.split(self._ranks.add(torch.cat(parts)), [part.numel() for part in parts])
        for now, before, kept, part in zip(self._running, self._before, self._kept, added, strict=True):
            now.copy_(kept ** (self._groups * self._ranks.size) * before + part.view_as(now))
        for count in self._counts:
            count += self._groups * (self._ranks.size - 1)

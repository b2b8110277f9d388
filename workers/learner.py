"""A model with everything that one optimiser step needs: gradients by micro-batch, update, weight average.

A step's result depends on the batch, the seed and the step's number. How the batch is split into micro-batches, or
shared between ranks, changes only the order of floating-point sums.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from workers.contract import InvalidConfigError, TrialConfig, TrialError, TrialStatus
from workers.costs import count_costs, predict_memory
from workers.device import Device, out_of_memory
from workers.model import WeightAverage, build_model
from workers.objective import Objective
from workers.optimize import make_optimizer
from workers.ranks import Ranks, SharedStatistics
from workers.stochastic import Noise, group_batch_norm

Prepare = Callable[[torch.Tensor], torch.Tensor]  # uint8 images to normalised ones on the device

# More images than this in one pass gain no speed on any device that we know of; not measured on a GPU.
MAX_MICRO_BATCH = 512
MEMORY_SHARE = 0.9  # of the free memory that the prediction may fill


class MicroBatchError(TrialError):
    """Memory ran out in one of several processes: the others wait for it, so only a next attempt can take less.

    Attributes:
        tried: images that did not fit.
        smaller: images to try next.
    """

    status = TrialStatus.CRASHED  # which is started again; `oom` would be the end

    def __init__(self, tried: int, smaller: int) -> None:
        super().__init__(f"out of memory with micro-batch {tried}: the next attempt goes on with {smaller}")
        self.tried, self.smaller = tried, smaller


class Learner:
    """A model in training.

    Args:
        config: the trial.
        device: where it trains.
        ranks: the processes that share its batches.
        train_images: what an epoch has of them, where it is known: a long run is worth compiling for.
    """

    def __init__(self, config: TrialConfig, device: Device, ranks: Ranks, train_images: int | None = None) -> None:
        self.config, self.recipe, self.device, self.ranks = config, config.recipe, device, ranks
        torch.manual_seed(config.seed)
        model = _built(config)
        self.noise = Noise(model, config.seed, self.recipe.bn_batch)
        self.model = device.place(model)
        self.optimizer = make_optimizer(self.model, self.recipe, fused=device.fuses_optimizer)
        device.start(self.optimizer)
        self.average = WeightAverage(self.model, self.recipe.ema_decay) if self.recipe.ema_decay else None
        self.objective = Objective(self.recipe, config.data.classes)
        self.scaler = device.scaler()
        self.micro_batch = ranks.least(micro_batch(config, device))
        self._places = _running_statistics(self.model)
        self._found_to_fit: int | None = None  # once memory ran out with a larger micro-batch
        if self.micro_batch > self.recipe.bn_batch:
            group_batch_norm(self.model, self.recipe.bn_batch)
        self._statistics = SharedStatistics(self.model, ranks, self._images // self.recipe.bn_batch)
        self._parallel = ranks.parallel(self.model, device)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = (
            device.compiled(self._parallel) if compiles(config, device.kind, train_images) else self._parallel
        )

    @property
    def _images(self) -> int:
        """This rank's images of a batch."""
        return self.recipe.batch_size // self.ranks.size

    def step(
        self, number: int, rate: float, images: torch.Tensor, labels: torch.Tensor, prepare: Prepare
    ) -> torch.Tensor:
        """One optimiser step.

        Args:
            number: of the step in the whole trial, 0-based.
            rate: its learning rate.
            images: this rank's share of the batch, uint8 (N, 3, H, W).
            labels: classes (N,).
            prepare: brings images to the device.

        Returns:
            The batch's mean loss as a scalar on the device: reading it would make the host wait.
        """
        self._statistics.before_step()
        loss = self._gradients(number, images, labels, prepare)
        with self.device.at_rate(self.optimizer, rate):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._statistics.after_step()
        if self.average:
            self.average.update()
        self.device.cut()
        return self.ranks.add(loss)

    def _gradients(self, number: int, images: torch.Tensor, labels: torch.Tensor, prepare: Prepare) -> torch.Tensor:
        """Gradients of the batch; with too little memory once more from the same state, in smaller parts."""
        while True:
            buffers = self._halvable_state()
            try:
                return self._accumulate(number, images, labels, prepare)
            except Exception as error:
                if self.micro_batch <= self.recipe.bn_batch or not out_of_memory(error):
                    raise
                smaller = _next_smaller(self.micro_batch, self.recipe.bn_batch)
                if buffers is None:
                    raise MicroBatchError(self.micro_batch, smaller) from error
            # Outside of the handler: the exception's frames held what did not fit.
            self.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                for running, before in zip(self._running(), buffers, strict=True):
                    running.copy_(before)
            self.micro_batch = self._found_to_fit = smaller
            self.device.forget_failed_step()

    def _halvable_state(self) -> list[torch.Tensor] | None:
        """What a forward pass changes; None where the step cannot be done again in smaller parts."""
        # Other ranks would wait for this one's gradients: there a failed step ends the attempt.
        if self.micro_batch <= self.recipe.bn_batch or self.ranks.size > 1:
            return None
        return [buffer.clone() for buffer in self._running()]

    def _running(self) -> list[torch.Tensor]:
        return [getattr(module, name) for module, name in self._places]

    def _accumulate(self, number: int, images: torch.Tensor, labels: torch.Tensor, prepare: Prepare) -> torch.Tensor:
        parts = list(zip(torch.split(images, self.micro_batch), torch.split(labels, self.micro_batch), strict=True))
        first = self.ranks.rank * len(images) // self.recipe.bn_batch
        losses = []
        for index, (part, targets) in enumerate(parts):
            group = first + index * self.micro_batch // self.recipe.bn_batch
            with self._last_exchanges_gradients(index == len(parts) - 1):
                losses.append(self._backward(number, group, prepare(part), targets) / len(parts))
        return torch.stack(losses).sum() / self.ranks.size if len(losses) > 1 or self.ranks.size > 1 else losses[0]

    def _backward(self, number: int, group: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradients of one micro-batch, added up; its mean loss."""
        groups = len(images) // self.recipe.bn_batch
        self.noise.begin(number, group, groups, self.device.torch)
        targets = labels.to(self.device.torch, non_blocking=True)
        images, targets = self.objective.mix(images, targets, self.config.seed, number, group)
        with self.device.autocast():
            logits = self._forward(images)
        loss = self.objective.loss(logits.float(), targets)
        share = len(images) / self._images
        self.scaler.scale(loss * share if share < 1 else loss).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _last_exchanges_gradients(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients of all micro-batches but the last stay with their rank."""
        if isinstance(self._parallel, nn.parallel.DistributedDataParallel) and not last:
            no_sync: AbstractContextManager[Any] = self._parallel.no_sync()
            return no_sync
        return nullcontext()

    def state(self) -> dict[str, Any]:
        """All that training goes on from. No generator's state: every draw follows from seed, step and group."""
        average = self.average.state_dict() if self.average else None
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
            "scaler": self.scaler.state_dict(),
            "found_to_fit": self._found_to_fit,
        }
        return dict(self.device.to_host(state))

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, on any kind of device."""
        self.model.load_state_dict(self.device.from_host(state["model"]))
        _load_optimizer(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.device.cut()
        if state["found_to_fit"]:
            self.lower(state["found_to_fit"])

    def lower(self, fits: int) -> None:
        """Take no larger micro-batches than what an earlier attempt found to fit."""
        if fits < self.micro_batch and self._images % fits == 0:
            self.micro_batch = self._found_to_fit = fits


def _built(config: TrialConfig) -> nn.Module:
    shape = (config.family, config.arguments, config.resolution, config.data.classes)
    try:
        return build_model(*shape, config.recipe, config.plugins)
    except ValueError as error:  # the recipe asks for what this architecture has not got
        raise InvalidConfigError(str(error)) from error


def _running_statistics(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Modules and names of the buffers that belong to a model's state, which the random masks do not."""
    kept = model.state_dict().keys()
    paths = (path.rpartition(".") for path, _ in model.named_buffers() if path in kept)
    return [(model.get_submodule(parent), name) for parent, _, name in paths]


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state that another kind of device may have written, with other kernels and memory formats."""
    groups = [
        saved | {name: own[name] for name in ("fused", "foreach") if name in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})
    for weight, held in optimizer.state.items():
        for name, value in held.items():
            # Fused kernels take numbers in the order of memory: it has to be that of the weight.
            if isinstance(value, torch.Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                held[name] = torch.empty_like(weight, requires_grad=False).copy_(value)


def micro_batch(config: TrialConfig, device: Device) -> int:
    """Images per forward pass and rank: as the trial asks, else the most that is predicted to fit.

    Raises:
        InvalidConfigError: the batch cannot be shared between the ranks, or split as asked.
    """
    recipe, ranks = config.recipe, config.execution.ranks
    groups, rest = divmod(recipe.batch_size // recipe.bn_batch, ranks)
    if rest:
        raise InvalidConfigError(
            f"batch_size {recipe.batch_size} is {recipe.batch_size // recipe.bn_batch} groups of bn_batch "
            f"{recipe.bn_batch}: not a multiple of the {ranks} devices"
        )
    sizes = [recipe.bn_batch * count for count in range(1, groups + 1) if groups % count == 0]
    if (asked := config.execution.micro_batch) is not None:
        if asked not in sizes:
            raise InvalidConfigError(f"micro_batch {asked} does not fit the batch; one of {_join(sizes)}")
        return asked
    return _most_that_fits(config, device, [size for size in sizes if size <= MAX_MICRO_BATCH] or sizes[:1])


def _most_that_fits(config: TrialConfig, device: Device, sizes: Sequence[int]) -> int:
    free = device.free_bytes()
    if free is None:  # on a CPU one group after the other is as fast, and the cache likes it
        return sizes[0]
    shape = (config.family, config.arguments, config.resolution, config.data.classes)

    def fits(size: int) -> bool:
        needed = predict_memory(*shape, config.recipe, size, device.precision, config.plugins)
        return needed <= MEMORY_SHARE * free

    return next((size for size in reversed(sizes) if fits(size)), sizes[0])


def _next_smaller(size: int, bn_batch: int) -> int:
    """Half, or the next smaller number of groups that divides the present one."""
    groups = size // bn_batch
    return bn_batch * next(count for count in range(groups // 2, 0, -1) if groups % count == 0)


def halvings(config: TrialConfig) -> int:
    """How often a trial's micro-batch can be made smaller, whichever it begins with."""
    recipe, count = config.recipe, 0
    size = recipe.batch_size // config.execution.ranks
    while size > recipe.bn_batch:
        size, count = _next_smaller(size, recipe.bn_batch), count + 1
    return count


# Rules of thumb, not measured here: what a GPU sustains in training, the share that compiled code saves, and the time
# that compiling takes per layer.
SUSTAINED_FLOPS = 1e14
SAVED = 0.15
COMPILE_S = 20.0


def compiles(config: TrialConfig, kind: str, train_images: int | None) -> bool:
    """Whether the model is compiled: as the trial asks, else on a GPU where the predicted run repays it twice.

    Never by itself on a CPU: compiled code need not give the same bits on the next machine. XLA compiles anyway.

    Args:
        config: the trial.
        kind: cpu, cuda or xla.
        train_images: of an epoch; None where it is not known, and then nothing can be predicted.
    """
    if kind == "xla":
        return False
    if config.execution.compile != "auto":
        return config.execution.compile == "on"
    if kind != "cuda" or train_images is None:
        return False
    shape = (config.family, config.arguments, config.resolution, config.data.classes)
    macs = count_costs(*shape, config.plugins).macs_per_image
    seconds = 3 * 2 * macs * train_images * config.epochs / SUSTAINED_FLOPS / config.execution.ranks
    return seconds * SAVED > 2 * COMPILE_S


def _join(sizes: Sequence[int]) -> str:
    return ", ".join(map(str, sizes))

"""Trains one model by its recipe: steps, schedule, evaluation, and the state that a checkpoint holds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from workers.contract import DivergedError, TrialConfig
from workers.data import Batch, Loader, Normalize, Subset
from workers.device import Device
from workers.model import WeightAverage, build_model
from workers.recipe import Recipe


def learning_rate(step: int, steps: int, warmup_steps: float, peak: float) -> float:
    """Linear warm-up from 0, then a cosine to 0 (RS section 4).

    Args:
        step: optimiser step, 0-based.
        steps: of the whole trial.
        warmup_steps: of them, with rising rate; need not be whole.
        peak: the highest rate.
    """
    if step + 1 < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights with decay; norms and biases, which have one dimension, without."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD with momentum as the recipe says; one fused kernel instead of a loop over parameters."""
    return torch.optim.SGD(
        parameter_groups(model, recipe.weight_decay),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        fused=True,
    )


@dataclass(frozen=True)
class Score:
    """Accuracy on one part of the data: percent, percent, nats, images."""

    top1: float
    top5: float
    loss: float
    images: int


class Trainer:
    """A model in training; `state` after an epoch, loaded elsewhere, goes on to the same weights bit for bit on CPU."""

    def __init__(self, config: TrialConfig, loader: Loader, device: Device) -> None:
        self.config, self.recipe, self.loader, self.device = config, config.recipe, loader, device
        torch.manual_seed(config.seed)
        model = build_model(config.family, config.width, config.depth, config.data.classes, config.recipe)
        self.model = model.to(device.torch).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(self.model, self.recipe)
        self.average = WeightAverage(self.model, self.recipe.ema_decay) if self.recipe.ema_decay else None
        self.normalize = Normalize(loader.splits, device.torch)

    def train_epoch(self, epoch: int) -> float:
        """Train one epoch (1-based) and return its mean loss in nats.

        All randomness of an epoch follows from seed and epoch, so a resumed run needs no generator's state.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        torch.manual_seed(self.config.seed * 1_000_003 + epoch)
        self.model.train()
        first = (epoch - 1) * self.loader.steps_per_epoch
        losses = [
            self._step(first + offset, images, labels)
            for offset, (images, labels) in enumerate(self.loader.train(epoch))
        ]
        # Read once per epoch: asking every step would make the host wait for the device.
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise DivergedError(f"the training loss became {mean} in epoch {epoch}")
        return mean

    def rate_at(self, step: int) -> float:
        """Learning rate of an optimiser step."""
        per_epoch = self.loader.steps_per_epoch
        warmup = self.recipe.warmup_epochs * per_epoch
        return learning_rate(step, self.config.epochs * per_epoch, warmup, self.recipe.learning_rate)

    def _step(self, step: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate_at(step)
        loss = self._accumulate_gradients(self.normalize(images), labels.to(self.device.torch))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()
        return loss

    def _accumulate_gradients(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Gradients of the batch's mean loss, one BatchNorm group after the other."""
        groups = list(
            zip(torch.split(images, self.recipe.bn_batch), torch.split(labels, self.recipe.bn_batch), strict=True)
        )
        total = torch.zeros((), device=images.device)
        for part, targets in groups:
            with self.device.autocast():
                loss = cross_entropy(self.model(part), targets, label_smoothing=self.recipe.label_smoothing)
                loss = loss / len(groups)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    @torch.no_grad()
    def evaluate(self, *subsets: Subset) -> list[Score]:
        """Scores on parts of the data in evaluation mode, with the averaged weights where there are any."""
        if self.average:
            self.average.swap()
        self.model.eval()
        try:
            return [self._score(self.loader.evaluate(subset)) for subset in subsets]
        finally:
            if self.average:
                self.average.swap()

    def _score(self, batches: Iterator[Batch]) -> Score:
        sums = torch.zeros(3, dtype=torch.float64, device=self.device.torch)
        count = 0
        for images, labels in batches:
            targets = labels.to(self.device.torch)
            with self.device.autocast():
                logits = self.model(self.normalize(images)).float()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
            loss = cross_entropy(logits, targets, reduction="sum")
            sums += torch.stack([best[:, 0].sum(), best.sum(), loss])
            count += len(labels)
        top1, top5, loss_sum = (sums / max(count, 1)).tolist()
        return Score(100 * top1, 100 * top5, loss_sum, count)

    def state(self) -> dict[str, Any]:
        """All that training goes on from."""
        average = self.average.state_dict() if self.average else None
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": average,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])

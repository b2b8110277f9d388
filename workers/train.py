"""Trains one model by its recipe: the steps of an epoch, evaluation, and the state that a checkpoint holds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from workers.contract import TrialConfig
from workers.data import Batch, Loader, Normalize, Splits, Subset
from workers.device import Device
from workers.learner import Learner
from workers.optimize import learning_rate
from workers.ranks import Ranks


@dataclass(frozen=True)
class Score:
    """Accuracy on one part of the data: percent, percent, nats, images."""

    top1: float
    top5: float
    loss: float
    images: int


class Trainer:
    """A learner with its data; `state` after any step, loaded elsewhere, goes on to the same weights.

    On a CPU with the same number of threads they are the same bit for bit.

    Args:
        config: the trial.
        splits: its data.
        device: where it trains.
        ranks: the processes that share it.
        beat: called whenever something came to its end, so that a hung device or loader is noticed.
    """

    def __init__(
        self,
        config: TrialConfig,
        splits: Splits,
        device: Device,
        ranks: Ranks | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        ranks = ranks or Ranks()
        self.config, self.device, self.ranks, self.beat = config, device, ranks, beat
        self.loader = Loader(
            splits, config.recipe, config.resolution, config.seed,
            workers=config.execution.loader_workers, rank=ranks.rank, ranks=ranks.size, pin=device.kind == "cuda",
        )  # fmt: skip
        self.learner = Learner(config, device, ranks, len(splits.train))
        self.normalize = Normalize(splits, device.torch)
        device.cut()

    def train(self, epoch: int, first_step: int = 0) -> Iterator[torch.Tensor]:
        """Train an epoch (1-based) from a step (0-based in it) on; the loss of each step, a scalar on the device."""
        self.learner.model.train()
        begun = (epoch - 1) * self.loader.steps_per_epoch
        for offset, (images, labels) in enumerate(self.loader.train(epoch, first_step), start=first_step):
            number = begun + offset
            yield self.learner.step(number, self.rate_at(number), images, labels, self.normalize)
            self.beat()

    def rate_at(self, step: int) -> float:
        """Learning rate of an optimiser step, 0-based in the trial."""
        return learning_rate(self.config.recipe, step, self.loader.steps_per_epoch, self.config.epochs)

    @torch.no_grad()
    def evaluate(self, *subsets: Subset) -> list[Score]:
        """Scores on parts of the data in evaluation mode, with the averaged weights where there are any."""
        self._swap_average()
        self.learner.model.eval()
        try:
            return [self._score(self.loader.evaluate(subset)) for subset in subsets]
        finally:
            self._swap_average()

    def _score(self, batches: Iterator[Batch]) -> Score:
        """Sums stay on the device until the end; float32 counts images exactly up to 16 million, on a TPU too."""
        sums = torch.zeros(4, dtype=torch.float64 if self.device.kind != "xla" else torch.float32)
        sums = sums.to(self.device.torch)
        for images, labels in batches:
            sums += self._sums(images, labels.to(self.device.torch, non_blocking=True))
            self.device.cut()
            self.beat()
        top1, top5, loss, count = self.ranks.add(sums).tolist()
        scored = max(count, 1)
        return Score(100 * top1 / scored, 100 * top5 / scored, loss / scored, int(count))

    def _sums(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Hits among the first and the first five, loss, images."""
        with self.device.autocast():
            logits = self.learner.model(self.normalize(images)).float()
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
        loss = cross_entropy(logits, targets, reduction="sum")
        return torch.stack([best[:, 0].sum(), best.sum(), loss, loss.new_full((), len(targets))])

    @torch.no_grad()
    def evaluation_weights(self) -> dict[str, torch.Tensor]:
        """The weights that evaluation uses, on the host, by their names in the model."""
        self._swap_average()
        try:
            weights = self.learner.model.state_dict().items()
            return {name: value.cpu().clone(memory_format=torch.contiguous_format) for name, value in weights}
        finally:
            self._swap_average()

    def _swap_average(self) -> None:
        """Exchange the model's weights and the averaged ones, where there are any."""
        if self.learner.average:
            self.learner.average.swap()

    def state(self) -> dict[str, Any]:
        """All that training goes on from."""
        return self.learner.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.learner.load_state(state)

"""The training loop of one trial: epochs, checkpoints within and between them, and what is reported of them."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from workers import checkpoint
from workers.checkpoint import Mark
from workers.contract import DataError, DivergedError, EpochMetrics
from workers.train import Trainer

Report = Callable[[EpochMetrics], None]


class Loop:
    """Brings a trial to its last epoch, from wherever an earlier attempt got.

    Args:
        trainer: trains and evaluates.
        work: the trial's folder, for its checkpoints.
        report: called after every epoch whose checkpoint is safe, in each of the trial's processes.
        history: filled with every epoch: those of earlier attempts, then those trained now.
        note: called with one line for what people should know: a damaged checkpoint.
    """

    def __init__(
        self,
        trainer: Trainer,
        work: Path,
        report: Report,
        history: list[EpochMetrics],
        note: Callable[[str], None],
    ) -> None:
        self.trainer, self.history = trainer, history
        self._work, self._report, self._note = work, report, note
        self._losses: list[torch.Tensor] = []  # of the present epoch's steps
        self._seconds = 0.0  # spent on them in earlier attempts
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Train.

        Raises:
            DivergedError: the loss became NaN or infinite; `history` holds the epochs before.
        """
        self._resume()
        for epoch in range(len(self.history) + 1, self.trainer.config.epochs + 1):
            self.history.append(self._epoch(epoch))
            self._losses, self._seconds = [], 0.0
            self._save()
            self._report(self.history[-1])

    def _epoch(self, epoch: int) -> EpochMetrics:
        started = time.perf_counter()
        for loss in self.trainer.train(epoch, len(self._losses)):
            self._losses.append(loss)
            if time.monotonic() - self._saved_at >= self.trainer.config.execution.checkpoint_every_s:
                self._mean_loss(epoch)  # a state with NaN in it would be of no use
                self._save(self._seconds + time.perf_counter() - started)
        mean = self._mean_loss(epoch)
        train_seconds = self._seconds + time.perf_counter() - started
        evaluated = time.perf_counter()
        splits = self.trainer.loader.splits
        clean, minival = self.trainer.evaluate(splits.train_clean, splits.minival)
        return EpochMetrics(
            epoch=epoch,
            train_loss=mean,
            train_top1=clean.top1,
            minival_top1=minival.top1,
            learning_rate=self.trainer.rate_at(epoch * self.trainer.loader.steps_per_epoch - 1),
            train_seconds=train_seconds,
            seconds=train_seconds + time.perf_counter() - evaluated,
            finished_at=time.time(),
        )

    def _mean_loss(self, epoch: int) -> float:
        """Mean of the epoch's losses so far. Not asked for at every step: the host would wait for the device."""
        mean = float(self._stacked_losses().mean())
        if not math.isfinite(mean):
            raise DivergedError(f"the training loss became {mean} in epoch {epoch}")
        return mean

    def _stacked_losses(self) -> torch.Tensor:
        """All of the epoch so far; by the host where XLA would compile a program for each number of them."""
        return torch.stack(self.trainer.device.to_host(self._losses))

    def _resume(self) -> None:
        """Load the newest checkpoint; all ranks the same one."""
        state = checkpoint.load_latest(self._work, self._note)
        if state and state.get("trial_id") != self.trainer.config.trial_id:
            state = None
        mark = (len(state["history"]), len(state["losses"])) if state else None
        if self.trainer.ranks.agree(mark) != mark:
            raise DataError(
                f"{self._work}: the trial's processes see different checkpoints; put it where all can read it"
            )
        if state:
            self.trainer.load_state(state["trainer"])
            self.history += [EpochMetrics(**epoch) for epoch in state["history"]]
            self._losses = [loss.to(self.trainer.device.torch) for loss in state["losses"]]
            self._seconds = state["seconds"]

    def _save(self, seconds: float = 0.0) -> None:
        """Write a checkpoint; `seconds` were spent on the present epoch's steps."""
        if self.trainer.ranks.first:
            state = {
                "trial_id": self.trainer.config.trial_id,
                "trainer": self.trainer.state(),
                "history": [dataclasses.asdict(done) for done in self.history],
                "losses": self._stacked_losses().cpu() if self._losses else torch.empty(0),
                "seconds": seconds,
            }
            quota = self.trainer.config.execution.checkpoint_quota_bytes
            checkpoint.save(self._work, Mark(len(self.history), len(self._losses)), state, quota)
        self._saved_at = time.monotonic()

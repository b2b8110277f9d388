"""The training loop of one trial: epochs, checkpoints within and between them, and what is reported of them."""

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch

from workers import checkpoint
from workers.checkpoint import Mark
from workers.contract import DataError, DivergedError, EpochMetrics
from workers.splits import other_images
from workers.tether import StoppedError
from workers.train import Trainer

Report = Callable[[EpochMetrics], None]


class Attempt(Protocol):
    """The attempt at a trial that a loop is part of."""

    work: Path  # for its checkpoints
    history: list[EpochMetrics]  # of all epochs: those of earlier attempts, then those trained now

    def note(self, text: str) -> None:
        """Keep one line that people should know."""

    def resumed(self, epochs: float) -> None:
        """A checkpoint gave this much."""

    def at(self, epochs: float) -> None:
        """Training has come this far."""

    def saving(self) -> AbstractContextManager[Any]:
        """While a checkpoint is written."""

    def saved(self, epochs: float) -> None:
        """A checkpoint holds everything up to here."""


class Loop:
    """Brings a trial to its last epoch, from wherever an earlier attempt got.

    Args:
        trainer: trains and evaluates; where it has to stop, its `beat` raises StoppedError.
        attempt: hears how far training is.
        report: called after every epoch, in each of the trial's processes.
    """

    def __init__(self, trainer: Trainer, attempt: Attempt, report: Report) -> None:
        self.trainer, self.history = trainer, attempt.history
        self._attempt, self._work, self._report = attempt, attempt.work, report
        self._losses: list[torch.Tensor] = []  # of the present epoch's steps
        self._seconds = 0.0  # spent on them in earlier attempts
        self._began = self._saved_at = time.monotonic()
        self._saved: Mark | None = None  # by this attempt

    def run(self) -> None:
        """Train.

        Raises:
            DivergedError: the loss became NaN or infinite; `history` holds the epochs before.
            StoppedError: told to stop; a checkpoint holds every finished step.
        """
        self._resume()
        try:
            for epoch in range(len(self.history) + 1, self.trainer.config.epochs + 1):
                self.history.append(self._epoch(epoch))
                self._losses, self._seconds = [], 0.0
                self._save()
                self._report(self.history[-1])
        except StoppedError:
            if self._losses and self._mark() != self._saved:  # its place is not to be empty, were this one cut short
                self._save_within(len(self.history) + 1)
            raise

    def _epoch(self, epoch: int) -> EpochMetrics:
        self._began = time.monotonic()
        steps = self.trainer.loader.steps_per_epoch
        for loss in self.trainer.train(epoch, len(self._losses)):
            self._losses.append(loss)
            self._attempt.at(epoch - 1 + len(self._losses) / steps)
            if time.monotonic() - self._saved_at >= self.trainer.config.execution.checkpoint_every_s:
                self._save_within(epoch)
        mean = self._mean_loss(epoch)
        train_seconds = self._spent()
        evaluated = time.monotonic()
        splits = self.trainer.loader.splits
        clean, minival = self.trainer.evaluate(splits.train_clean, splits.minival)
        if not math.isfinite(minival.loss):  # the last step's weights met no training loss; they are not worth keeping
            raise DivergedError(f"the minival loss is {minival.loss} after epoch {epoch}")
        return EpochMetrics(
            epoch=epoch,
            train_loss=mean,
            train_top1=clean.top1,
            minival_top1=minival.top1,
            learning_rate=self.trainer.rate_at(epoch * steps - 1),
            train_seconds=train_seconds,
            seconds=train_seconds + time.monotonic() - evaluated,
            finished_at=time.time(),
        )

    def _spent(self) -> float:
        """Seconds spent on the present epoch's steps, in all attempts."""
        return self._seconds + time.monotonic() - self._began

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
        state = checkpoint.load_latest(self._work, self._attempt.note, drop_damaged=self.trainer.ranks.first)
        if state and state.get("trial_id") != self.trainer.config.trial_id:
            state = None
        mark = (len(state["history"]), len(state["losses"])) if state else None
        if self.trainer.ranks.agree(mark) != mark:
            raise DataError(
                f"{self._work}: the trial's processes see different checkpoints; put it where all can read it"
            )
        self._check_data(state)
        if state:
            self.trainer.load_state(state["trainer"])
            self.history += [EpochMetrics(**epoch) for epoch in state["history"]]
            self._losses = [loss.to(self.trainer.device.torch) for loss in state["losses"]]
            self._seconds = state["seconds"]
        self._attempt.resumed(self._done())

    def _check_data(self, state: dict[str, Any] | None) -> None:
        """Refuse to go on with other images than those of the epochs before, or of the trial's other processes."""
        data, identity = self.trainer.config.data, self.trainer.loader.splits.identity
        if state and state.get("data", identity) != identity:  # a checkpoint of an older version does not say
            raise DataError(other_images(data))
        if self.trainer.ranks.agree(identity) != identity:
            raise DataError(f"{data.root or data.name}: the trial's processes see different images in it")

    def _done(self) -> float:
        """Epochs, with the part of the present one that is done."""
        return len(self.history) + len(self._losses) / self.trainer.loader.steps_per_epoch

    def _mark(self) -> Mark:
        return Mark(len(self.history), len(self._losses))

    def _save_within(self, epoch: int) -> None:
        """Write a checkpoint of an epoch that is under way."""
        self._mean_loss(epoch)  # a state with NaN in it would be of no use
        self._save(self._spent())

    def _save(self, seconds: float = 0.0) -> None:
        """Write a checkpoint; `seconds` were spent on the present epoch's steps."""
        self._saved_at = time.monotonic()
        if not self.trainer.ranks.first:
            return
        try:
            with self._attempt.saving():
                quota = self.trainer.config.execution.checkpoint_quota_bytes
                checkpoint.save(self._work, self._mark(), self._state(seconds), quota)
        except OSError as error:  # a full disk costs safety, not the trial
            self._attempt.note(f"a checkpoint could not be written ({error.strerror or error}); training went on")
        else:
            self._saved = self._mark()
            self._attempt.saved(self._done())

    def _state(self, seconds: float) -> dict[str, Any]:
        """What `_resume` goes on from."""
        return {
            "trial_id": self.trainer.config.trial_id,
            "data": self.trainer.loader.splits.identity,
            "trainer": self.trainer.state(),
            "history": [dataclasses.asdict(done) for done in self.history],
            "losses": self._stacked_losses().cpu() if self._losses else torch.empty(0),
            "seconds": seconds,
        }

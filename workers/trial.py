"""Runs one trial to its end, resuming from its last checkpoint: `python -m workers.trial --config FILE --work DIR`.

The work folder belongs to one process at a time (an flock on `lock`); its `result.json` appears last and whole.
"""

import argparse
import dataclasses
import datetime
import fcntl
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from workers import checkpoint
from workers.contract import (
    DivergedError,
    EpochMetrics,
    InvalidConfigError,
    TrialConfig,
    TrialError,
    TrialResult,
    TrialStatus,
)
from workers.data import Loader, load_splits
from workers.device import Device
from workers.environment import versions
from workers.families import check_shape
from workers.files import write_bytes, write_json
from workers.train import Score, Trainer

Report = Callable[[EpochMetrics], None]
RESULT, ATTEMPTS, LOCK = "result.json", "attempts.json", "lock"


def run_trial(config: TrialConfig, work: Path, report: Report = lambda _: None) -> TrialResult:
    """Train, evaluate and write `result.json`; a failure of the trial is a result too.

    Args:
        config: what to train.
        work: the trial's own folder: checkpoints while it runs, `result.json` at the end.
        report: called after every epoch whose checkpoint is safe.

    Returns:
        The result, taken from the folder if an earlier attempt got that far.
    """
    with _owned(work):
        finished = read_result(work)
        if finished and finished.status is TrialStatus.OK and finished.trial_id == config.trial_id:
            return finished
        (work / RESULT).unlink(missing_ok=True)
        attempts, started_at = _begin_attempt(work)
        outcome = _train_or_explain(config, work, report)
        result = TrialResult(
            config.trial_id, attempts=attempts, started_at=started_at, finished_at=_now(), host=platform.node(),
            versions=versions(), **outcome,
        )  # fmt: skip
        write_bytes(work / RESULT, result.to_json().encode())
        if result.status is TrialStatus.OK:
            checkpoint.clear(work)
        return result


def read_result(work: Path) -> TrialResult | None:
    """The result in a work folder, or None where there is none or it is damaged (then the trial runs again)."""
    try:
        return TrialResult.from_json((work / RESULT).read_text())
    except (OSError, ValueError):
        return None


def _train_or_explain(config: TrialConfig, work: Path, report: Report) -> dict[str, Any]:
    """The outcome's fields; failures of known kinds come back as their status and one line."""
    history: list[EpochMetrics] = []
    try:
        return _train(config, work, report, history)
    except TrialError as error:
        status, message = error.status, str(error)
    except Exception as error:  # a row must come of every failure
        status, message = TrialStatus.OOM if _out_of_memory(error) else TrialStatus.CRASHED, _one_line(error)
    return {"status": status, "error": message, "history": tuple(history)}


def _out_of_memory(error: Exception) -> bool:
    """Whether a device or the host had too little memory; torch's allocator on CPU tells by its message alone."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error)


def _train(config: TrialConfig, work: Path, report: Report, history: list[EpochMetrics]) -> dict[str, Any]:
    _check(config)
    device = Device(config.device, config.precision, config.threads)
    splits = load_splits(config.data)
    trainer = Trainer(config, Loader(splits, config.recipe, config.resolution, config.seed), device)
    _train_epochs(trainer, work, report, history)
    started = time.perf_counter()
    (val,) = trainer.evaluate(splits.val)
    val_seconds = time.perf_counter() - started
    if not math.isfinite(val.loss):  # the last step's weights never meet a training loss
        raise DivergedError(f"the validation loss is {val.loss} after the last epoch")
    return _outcome(trainer, history, val, val_seconds)


def _check(config: TrialConfig) -> None:
    """Refuse what cannot be trained."""
    try:
        check_shape(config.family, config.width, config.depth, config.resolution)
    except ValueError as error:
        raise InvalidConfigError(str(error)) from error
    if config.epochs < 1:
        raise InvalidConfigError(f"epochs {config.epochs} is below 1")
    if not 0 < config.data.minival < 1:
        raise InvalidConfigError(f"minival {config.data.minival} is not in (0, 1)")


def _train_epochs(trainer: Trainer, work: Path, report: Report, history: list[EpochMetrics]) -> None:
    """Fill `history` with every epoch: those of earlier attempts from the checkpoint, then those trained now."""
    state = checkpoint.load_latest(work)
    if state and state.get("trial_id") == trainer.config.trial_id:
        trainer.load_state(state["trainer"])
        history += [EpochMetrics(**epoch) for epoch in state["history"]]
    for epoch in range(len(history) + 1, trainer.config.epochs + 1):
        history.append(_one_epoch(trainer, epoch))
        kept = [dataclasses.asdict(done) for done in history]
        state = {"trial_id": trainer.config.trial_id, "trainer": trainer.state(), "history": kept}
        checkpoint.save(work, epoch, state)
        report(history[-1])


def _one_epoch(trainer: Trainer, epoch: int) -> EpochMetrics:
    started = time.perf_counter()
    loss = trainer.train_epoch(epoch)
    train_seconds = time.perf_counter() - started
    splits = trainer.loader.splits
    clean, minival = trainer.evaluate(splits.train_clean, splits.minival)
    return EpochMetrics(
        epoch=epoch,
        train_loss=loss,
        train_top1=clean.top1,
        minival_top1=minival.top1,
        learning_rate=trainer.rate_at(epoch * trainer.loader.steps_per_epoch - 1),
        train_seconds=train_seconds,
        seconds=time.perf_counter() - started,
        finished_at=time.time(),
    )


def _outcome(trainer: Trainer, history: list[EpochMetrics], val: Score, val_seconds: float) -> dict[str, Any]:
    images = len(history) * trainer.loader.steps_per_epoch * trainer.recipe.batch_size
    return {
        "status": TrialStatus.OK,
        "history": tuple(history),
        "val_top1": val.top1,
        "val_top5": val.top5,
        "val_loss": val.loss,
        "minival_images": len(trainer.loader.splits.minival),
        "val_images": val.images,
        "train_images_per_s": images / sum(epoch.train_seconds for epoch in history),
        "train_device_hours": (sum(epoch.seconds for epoch in history) + val_seconds) / 3600,
        "device": trainer.device.name,
        "micro_batch": trainer.recipe.bn_batch,
    }


@contextmanager
def _owned(work: Path) -> Iterator[None]:
    """Hold the work folder alone: a process that outlived its controller may still be training in it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _begin_attempt(work: Path) -> tuple[int, str]:
    """Count this attempt; the number of attempts so far and when the first one started."""
    try:
        record = json.loads((work / ATTEMPTS).read_text())
        attempts, started_at = int(record["attempts"]) + 1, str(record["started_at"])
    except (OSError, ValueError, KeyError, TypeError):
        attempts, started_at = 1, _now()
    write_json(work / ATTEMPTS, {"attempts": attempts, "started_at": started_at})
    return attempts, started_at


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main(arguments: list[str] | None = None) -> int:
    """Run the trial of a file that `sweep plan --dump` wrote; 0 when it ended ok, 1 when it failed, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="python -m workers.trial", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="a trial's JSON, from `sweep plan --dump`")
    parser.add_argument("--work", type=Path, required=True, help="its folder: checkpoints, then result.json")
    options = parser.parse_args(arguments)
    try:
        config = TrialConfig.from_json(options.config.read_text())
        options.work.mkdir(parents=True, exist_ok=True)
    except (OSError, UnicodeDecodeError, InvalidConfigError) as error:
        sys.stderr.write(f"{options.config}: {error}\n")
        return 2
    result = run_trial(config, options.work, _print_epoch)
    if result.status is not TrialStatus.OK:
        sys.stderr.write(f"{config.trial_id}: {result.status}: {result.error}\n")
        return 1
    sys.stdout.write(f"{config.trial_id}: val top-1 {result.val_top1:.2f} %, {options.work / RESULT}\n")
    return 0


def _print_epoch(epoch: EpochMetrics) -> None:
    sys.stdout.write(
        f"epoch {epoch.epoch}: loss {epoch.train_loss:.4f}, train {epoch.train_top1:.2f} %, "
        f"minival {epoch.minival_top1:.2f} %, {epoch.seconds:.1f} s\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())

"""Runs one trial to its end, resuming from its last checkpoint: `python -m workers.trial --config FILE --work DIR`.

The work folder belongs to one process at a time (an flock on `lock`); its `result.json` appears last and whole.
A trial of several devices runs in as many processes, started by torchrun; the first of them owns the folder.
"""

import argparse
import fcntl
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from workers import checkpoint
from workers.attempt import Attempt, RankError, stopped
from workers.contract import (
    DivergedError,
    EpochMetrics,
    InvalidConfigError,
    TrialConfig,
    TrialError,
    TrialResult,
    TrialStatus,
)
from workers.data import load_splits
from workers.device import Device, out_of_memory
from workers.export import save_weights
from workers.families import check_cell, check_precision, check_recipe, find_family
from workers.files import DISK_FAULTS
from workers.learner import MicroBatchError
from workers.loop import Loop, Report
from workers.ranks import Ranks
from workers.tether import SUPERSEDED, Lease, StoppedError, Tether, is_current
from workers.train import Score, Trainer
from workers.work_folder import HELD, LOCK, RESULT, WEIGHTS, read_result

# A process that lost its lease ends after a step and a save. A trial is run again FRUITLESS = 20 times without getting
# any further (`sweep.failures`): that is 40 minutes, and after 30 the holder's own watchdog has ended it.
HELD_S = 120.0
LOCK_POLL_S = 0.1


def run_trial(
    config: TrialConfig,
    work: Path,
    report: Report = lambda _: None,
    end_when_hung: bool = False,
    lease: Lease | None = None,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> TrialResult:
    """Train, evaluate and write `result.json`; a failure of the trial is a result too.

    Args:
        config: what to train.
        work: the trial's own folder: checkpoints while it runs, `result.json` at the end.
        report: called after every epoch; in each of the processes that share a trial.
        end_when_hung: end this process when no step is finished for `execution.hung_after_s`, with a result, or when it
            has to stop and does not come to the end of a step: a call that never returns cannot be interrupted from
            within.
        lease: the right to train it, where a controller gave one.
        told_to_stop: asked after every step; true saves a checkpoint and ends the attempt.

    Returns:
        The result, taken from the folder if an earlier attempt got that far. One with the status `preempted` is
        written nowhere: the trial goes on from its checkpoint when it is run again.

    Raises:
        RankError: this process failed, and others share the trial; whoever started them has to end them, since they
            wait for it. The result lies in the folder.
    """
    leads = _leads(config)
    attempt = Attempt(config, work, leads, lease)
    try:
        with _owned(work, Tether(work, lease, 0, told_to_stop, end_when_hung, signs=False)) if leads else nullcontext():
            return _continue(attempt, report, told_to_stop, end_when_hung)
    except StoppedError as error:
        return attempt.end(stopped(str(error)))


def _continue(attempt: Attempt, report: Report, told_to_stop: Callable[[], bool], end_when_hung: bool) -> TrialResult:
    """Go on from what the work folder holds; see `run_trial`."""
    finished = read_result(attempt.work)
    if finished and finished.status is TrialStatus.OK and finished.trial_id == attempt.config.trial_id:
        if attempt.leads:  # an attempt may have died between its result and this
            checkpoint.clear(attempt.work)
        return finished
    if not is_current(attempt.work, attempt.lease):
        raise StoppedError(SUPERSEDED)
    if attempt.leads:
        attempt.begin()
    with attempt.tied(told_to_stop, end_when_hung), attempt.watched(end_when_hung):
        outcome = _train_or_explain(attempt, report)
    return attempt.end(outcome)


def _train_or_explain(attempt: Attempt, report: Report) -> dict[str, Any]:
    """The fields of a result, good or bad."""
    try:
        return _train(attempt, report)
    except StoppedError as error:
        return stopped(str(error))
    except MicroBatchError as error:
        attempt.does_not_fit(error.tried, error.smaller)
        status, message = error.status, str(error)
    except TrialError as error:
        status, message = error.status, str(error)
    except Exception as error:  # a row must come of every failure
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            return stopped(_one_line(error))
        status, message = TrialStatus.OOM if out_of_memory(error) else TrialStatus.CRASHED, _one_line(error)
    return {"status": status, "error": message}


def _train(attempt: Attempt, report: Report) -> dict[str, Any]:
    config = attempt.config
    _check(config)
    device = Device(config.device, config.precision, config.threads)
    ranks = Ranks.join(config.execution.ranks, device)
    splits = load_splits(config.data, config.plugins, attempt.beat)
    trainer = Trainer(config, splits, device, ranks, attempt.beat)
    if (fits := attempt.found_to_fit()) is not None:
        trainer.learner.lower(fits)
    with closing(trainer.loader):
        Loop(trainer, attempt, report).run()
        started = time.perf_counter()
        (val,) = trainer.evaluate(splits.val)
        val_seconds = time.perf_counter() - started
    if not math.isfinite(val.loss):  # the last step's weights never meet a training loss
        raise DivergedError(f"the validation loss is {val.loss} after the last epoch")
    if config.execution.keep_weights and attempt.leads:
        with attempt.saving():
            save_weights(attempt.work / WEIGHTS, trainer.evaluation_weights())
    return _outcome(trainer, attempt.history, val, val_seconds)


def _check(config: TrialConfig) -> None:
    """Refuse what cannot be trained."""
    if config.epochs < 1:
        raise InvalidConfigError(f"epochs {config.epochs} is below 1")
    try:
        family = find_family(config.family, config.plugins)
        check_cell(family, config.arguments, config.resolution)
        check_recipe(family, config.arguments, config.resolution, config.recipe)
        check_precision(config.device, config.precision, config.resolution)
        config.recipe.check_budget(config.epochs)
    except ValueError as error:
        raise InvalidConfigError(str(error)) from error
    if not 0 < config.data.minival < 1:
        raise InvalidConfigError(f"minival {config.data.minival} is not in (0, 1)")


def _outcome(trainer: Trainer, history: list[EpochMetrics], val: Score, val_seconds: float) -> dict[str, Any]:
    config, splits = trainer.config, trainer.loader.splits
    images = len(history) * trainer.loader.steps_per_epoch * config.recipe.batch_size
    device_seconds = config.execution.ranks * (sum(epoch.seconds for epoch in history) + val_seconds)
    return {
        "status": TrialStatus.OK,
        "val_top1": val.top1,
        "val_top5": val.top5,
        "val_loss": val.loss,
        "minival_images": len(splits.minival),
        "val_images": val.images,
        "train_images_per_s": images / sum(epoch.train_seconds for epoch in history),
        "train_device_hours": device_seconds / 3600,
        "device": trainer.device.name,
        "precision": trainer.device.precision,
        "micro_batch": trainer.learner.micro_batch,
        "skipped_images": splits.skipped,
        "data_identity": splits.identity,
    }


def _leads(config: TrialConfig) -> bool:
    """Whether this process is the only one of its trial, or the first."""
    return config.execution.ranks == 1 or os.environ.get("RANK", "0") == "0"


@contextmanager
def _owned(work: Path, tether: Tether) -> Iterator[None]:
    """Hold the work folder alone: a process that outlived its controller may still be training in it.

    Raises:
        StoppedError: another process holds it for too long, or this one had to stop meanwhile.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / LOCK).open("w") as file:
        if not _locked(file):
            with tether:
                _wait_for(file, tether)
        yield


def _wait_for(file: TextIO, tether: Tether) -> None:
    deadline = time.monotonic() + HELD_S
    while not _locked(file):
        if reason := tether.must_stop:
            raise StoppedError(reason)
        if time.monotonic() > deadline:
            raise StoppedError(HELD)
        time.sleep(LOCK_POLL_S)


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main(arguments: list[str] | None = None) -> int:
    """Run the trial of a file that `sweep plan --dump` wrote; 0: ok, 1: failed, 2: bad input, 130: told to stop."""
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
    told_to_stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told_to_stop.set())
    say = _print_epoch if _leads(config) else lambda _: None
    try:
        result = run_trial(config, options.work, say, end_when_hung=True, told_to_stop=told_to_stop.is_set)
    except RankError as error:
        sys.stderr.write(f"{config.trial_id}: {error}\n")
        return 1
    if not _leads(config):
        return 0
    if result.status is TrialStatus.PREEMPTED:
        sys.stderr.write(f"{config.trial_id}: {result.error}; the same command goes on from its checkpoint\n")
        return 130
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

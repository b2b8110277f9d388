"""Runs one trial to its end, resuming from its last checkpoint: `python -m workers.trial --config FILE --work DIR`.

The work folder belongs to one process at a time (an flock on `lock`); its `result.json` appears last and whole.
A trial of several devices runs in as many processes, started by torchrun; the first of them owns the folder.
"""

import argparse
import datetime
import faulthandler
import fcntl
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from workers.data import load_splits
from workers.device import Device, out_of_memory
from workers.environment import versions
from workers.export import save_weights
from workers.families import check_cell, find_family
from workers.files import write_bytes, write_json
from workers.loop import Loop, Report
from workers.ranks import Ranks
from workers.train import Score, Trainer
from workers.watchdog import Watchdog

# Below it a network of stride 32 has features of one pixel before its last stage, where oneDNN with AMX leaves part of
# the weights' gradient uninitialised (seen in 24 of 60 passes).
MIN_BFLOAT16_RESOLUTION = 32
RESULT, ATTEMPTS, LOCK, WEIGHTS, STACKS = "result.json", "attempts.json", "lock", "weights.safetensors", "hung.txt"


def run_trial(
    config: TrialConfig, work: Path, report: Report = lambda _: None, end_when_hung: bool = False
) -> TrialResult:
    """Train, evaluate and write `result.json`; a failure of the trial is a result too.

    Args:
        config: what to train.
        work: the trial's own folder: checkpoints while it runs, `result.json` at the end.
        report: called after every epoch whose checkpoint is safe; in each of the processes that share a trial.
        end_when_hung: end this process, with a result, when no step is finished for `execution.hung_after_s`: a call
            that never returns cannot be interrupted from within.

    Returns:
        The result, taken from the folder if an earlier attempt got that far.

    Raises:
        RankError: this process failed, and others share the trial; whoever started them has to end them, since they
            wait for it. The result lies in the folder.
    """
    leads = _leads(config)
    with _owned(work) if leads else nullcontext():
        finished = read_result(work)
        if finished and finished.status is TrialStatus.OK and finished.trial_id == config.trial_id:
            return finished
        attempt = _Attempt(config, work, leads)
        if leads:
            attempt.begin()
        with attempt.watched(end_when_hung) as beat:
            outcome = _train_or_explain(attempt, report, beat)
        return attempt.end(outcome)


class RankError(Exception):
    """One of the processes that share a trial failed."""


@dataclass
class _Attempt:
    """One process's attempt at a trial, and the epochs that are known of it."""

    config: TrialConfig
    work: Path
    leads: bool  # writes files
    number: int = 1
    started_at: str = ""
    notes: list[str] = field(default_factory=list)  # of all attempts
    history: list[EpochMetrics] = field(default_factory=list)

    def begin(self) -> None:
        """Count this attempt and forget the last one's failure."""
        (self.work / RESULT).unlink(missing_ok=True)
        self._read_record()
        self.number += 1
        self._write_record()

    def _read_record(self) -> None:
        """What earlier attempts left, or the first process of this one."""
        try:
            record = json.loads((self.work / ATTEMPTS).read_text())
            earlier = int(record["attempts"]), str(record["started_at"]), [str(note) for note in record["notes"]]
        except (OSError, ValueError, KeyError, TypeError):
            earlier = 0, _now(), []
        self.number, self.started_at, self.notes = earlier

    def note(self, text: str) -> None:
        """Keep what people should know of this attempt, whatever becomes of it."""
        self.notes.append(text)
        if self.leads:
            self._write_record()

    def _write_record(self) -> None:
        record = {"attempts": self.number, "started_at": self.started_at, "notes": self.notes}
        write_json(self.work / ATTEMPTS, record)

    def end(self, outcome: dict[str, Any]) -> TrialResult:
        """The result, written where this process is the one that writes, or the first to fail.

        Raises:
            RankError: the trial has failed and other processes share it, which have to be ended.
        """
        if not self.leads:
            self._read_record()
        result = TrialResult(
            self.config.trial_id, attempts=self.number, started_at=self.started_at, finished_at=_now(),
            host=platform.node(), versions=versions(), history=tuple(self.history), notes=tuple(self.notes), **outcome,
        )  # fmt: skip
        shared = Ranks.met()
        if result.status is not TrialStatus.OK:
            if not (shared and failed_for_good(self.work)):  # the first one to fail says why
                write_bytes(self.work / RESULT, result.to_json().encode())
            if shared:
                raise RankError(f"{result.status}: {result.error}")
        elif self.leads:
            write_bytes(self.work / RESULT, result.to_json().encode())
            checkpoint.clear(self.work)
        return result

    @contextmanager
    def watched(self, end_when_hung: bool) -> Iterator[Callable[[], None]]:
        """Watch for steps that never end; gives what is to be called at the end of each."""
        if not end_when_hung:
            yield lambda: None
            return
        with Watchdog(self.config.execution.hung_after_s, self._hung) as watchdog:
            yield watchdog.beat

    def _hung(self, silent_s: float) -> None:
        """Leave a result and where each thread stood, then end the process."""
        with (self.work / STACKS).open("w") as file:
            faulthandler.dump_traceback(file)
        error = f"no step came to its end for {silent_s:.0f} s; {STACKS} in the work folder says where it stood"
        with suppress(RankError):
            self.end({"status": TrialStatus.HUNG, "error": error})
        os._exit(1)


def read_result(work: Path) -> TrialResult | None:
    """The result that a work folder holds, or None where there is none or it is damaged."""
    try:
        return TrialResult.from_json((work / RESULT).read_text())
    except (OSError, ValueError):
        return None


def failed_for_good(work: Path) -> bool:
    """Whether a work folder holds a failure that another attempt would only repeat."""
    result = read_result(work)
    return result is not None and result.status not in (TrialStatus.OK, TrialStatus.CRASHED)


def _train_or_explain(attempt: _Attempt, report: Report, beat: Callable[[], None]) -> dict[str, Any]:
    """The fields of a result, good or bad."""
    try:
        return _train(attempt, report, beat)
    except TrialError as error:
        status, message = error.status, str(error)
    except Exception as error:  # a row must come of every failure
        status, message = TrialStatus.OOM if out_of_memory(error) else TrialStatus.CRASHED, _one_line(error)
    return {"status": status, "error": message}


def _train(attempt: _Attempt, report: Report, beat: Callable[[], None]) -> dict[str, Any]:
    config = attempt.config
    _check(config)
    device = Device(config.device, config.precision, config.threads)
    ranks = Ranks.join(config.execution.ranks, device)
    splits = load_splits(config.data, config.plugins, beat)
    trainer = Trainer(config, splits, device, ranks, beat)
    with closing(trainer.loader):
        Loop(trainer, attempt.work, report, attempt.history, attempt.note).run()
        started = time.perf_counter()
        (val,) = trainer.evaluate(splits.val)
        val_seconds = time.perf_counter() - started
    if not math.isfinite(val.loss):  # the last step's weights never meet a training loss
        raise DivergedError(f"the validation loss is {val.loss} after the last epoch")
    if config.execution.keep_weights and attempt.leads:
        save_weights(attempt.work / WEIGHTS, trainer.evaluation_weights())
    return _outcome(trainer, attempt.history, val, val_seconds)


def _check(config: TrialConfig) -> None:
    """Refuse what cannot be trained."""
    try:
        check_cell(find_family(config.family, config.plugins), config.arguments, config.resolution)
    except ValueError as error:
        raise InvalidConfigError(str(error)) from error
    if config.device == "cpu" and config.precision == "bfloat16" and config.resolution < MIN_BFLOAT16_RESOLUTION:
        raise InvalidConfigError(
            f"precision bfloat16 on a CPU needs a resolution of at least {MIN_BFLOAT16_RESOLUTION}, not "
            f"{config.resolution}: oneDNN's gradient of a strided convolution over one pixel can be NaN; use float32"
        )
    if config.epochs < 1:
        raise InvalidConfigError(f"epochs {config.epochs} is below 1")
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
    }


def _leads(config: TrialConfig) -> bool:
    """Whether this process is the only one of its trial, or the first."""
    return config.execution.ranks == 1 or os.environ.get("RANK", "0") == "0"


@contextmanager
def _owned(work: Path) -> Iterator[None]:
    """Hold the work folder alone: a process that outlived its controller may still be training in it."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
    try:
        result = run_trial(config, options.work, _print_epoch if _leads(config) else lambda _: None, end_when_hung=True)
    except RankError as error:
        sys.stderr.write(f"{config.trial_id}: {error}\n")
        return 1
    if not _leads(config):
        return 0
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

"""What the controller adds to a trial: ours against bare Ray Tune and Optuna, side by side in one run.

    python benchmarks/controller.py [--trials 1000] [--many 10000] [--rounds 3] [--slots 2]

Trials that do nothing run on two slots; ours write a row and a learning curve each. The rounds are interleaved; the
figures are medians over them. Afterwards the finished sweep is asked whether anything is left to do, and `sweep status`
is timed while it runs.
"""

import argparse
import contextlib
import logging
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweep.controller import Controller
from sweep.cost import count
from sweep.layout import SweepFolder
from sweep.ledger import Ledger, Mark, current_address
from sweep.ownership import owned
from sweep.plan import make_plan
from sweep.progress import PlainProgress
from sweep.ray_executor import RayExecutor
from sweep.rows import keep_planned, read_states, refresh_index
from sweep.space import SweepSpec, dump_space
from sweep.tracking import NullTracker
from sweep.trials import trials_of
from workers.contract import EpochMetrics, TrialConfig, TrialResult, TrialStatus
from workers.files import write_bytes
from workers.work_folder import RESULT

TUNE_DEFAULTS = ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_GLOBAL_CHECKPOINT_S", "RAY_AIR_NEW_OUTPUT")


def space(trials: int) -> SweepSpec:
    """A grid of one small shape with many seeds."""
    return SweepSpec.model_validate(
        {
            "sweep": "load",
            "data": {"name": "digits"},
            "recipe": "small",
            "axes": {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [1]},
            "seeds": list(range(trials)),
        }
    )


def nothing(config: TrialConfig, work: Path, report: Any, end_when_hung: bool, lease: Any) -> None:
    """A trial of no work: its result, as `run_trial` leaves it."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    epoch = EpochMetrics(1, 1.0, 50.0, 50.0, 0.1, 1.0, 1.0, time.time())
    report(epoch)
    result = TrialResult(
        config.trial_id, TrialStatus.OK, 1, now, now, history=(epoch,), val_top1=50.0, token=lease.token
    )
    write_bytes(work / RESULT, result.to_json().encode())


class Quiet(PlainProgress):
    """Shows nothing."""

    def _line(self, text: str) -> None:
        pass


class Unmeasured(RayExecutor):
    """Measures no shapes: that is not what is timed here."""

    def measure(self, config: TrialConfig) -> Any:
        """Nothing."""
        raise RuntimeError("not measured")


def ours(trials: int, slots: int, executor: RayExecutor, results: Path) -> float:
    """Seconds for all trials, on a running Ray."""
    from rich.console import Console

    spec = space(trials)
    folder = SweepFolder(results / spec.sweep)
    started = time.perf_counter()
    with owned(folder) as owner:
        folder.keep_space(dump_space(spec, "benchmark"))
        plan = make_plan(spec, trials_of(spec), read_states(folder), count)
        keep_planned(folder, [trial.config for trial in plan.trials])
        Controller(folder, owner, executor, NullTracker(), Quiet(Console(stderr=True))).run(plan)
        refresh_index(folder)
    seconds = time.perf_counter() - started
    states = read_states(folder)
    assert len(states) == trials
    assert all(state.status == "ok" for state in states.values())
    return seconds


def tune_run(trials: int, slots: int, reuse: bool) -> float:
    """Seconds for as many trials of bare Ray Tune with its defaults, and its own files."""
    from ray import tune

    def trainable(parameters: dict[str, Any]) -> None:
        tune.report({"loss": 1.0})

    with tempfile.TemporaryDirectory() as storage:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"seed": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(reuse_actors=reuse, max_concurrent_trials=slots),
            run_config=tune.RunConfig(storage_path=storage, verbose=0),
        )
        started = time.perf_counter()
        with contextlib.redirect_stdout(None):
            tuner.fit()
        return time.perf_counter() - started


def _optuna_worker(storage: str, trials: int) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.GridSampler({"seed": list(range(trials))}, seed=0)
    study = optuna.load_study(study_name="load", storage=storage, sampler=sampler)
    study.optimize(lambda trial: float(trial.suggest_int("seed", 0, trials - 1)))


def optuna_run(trials: int, slots: int) -> float:
    """Seconds for as many trials of Optuna's GridSampler, in processes that share an SQLite file."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite:///{folder}/optuna.db"
        optuna.create_study(study_name="load", storage=storage)
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=_optuna_worker, args=(storage, trials)) for _ in range(slots)]
        started = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return time.perf_counter() - started


class Watch:
    """Times `sweep status` while a sweep runs."""

    def __init__(self, results: Path) -> None:
        self._command = [sys.executable, "-m", "sweep", "status", "load", "--results", str(results)]
        self.seconds: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(10):
            started = time.perf_counter()
            done = subprocess.run(self._command, capture_output=True, check=False)
            if done.returncode == 0:
                self.seconds.append(time.perf_counter() - started)


def tune_defaults(run: Callable[[], float]) -> float:
    """Run without the settings of Tune that our executor makes."""
    held = {name: os.environ.pop(name, None) for name in TUNE_DEFAULTS}
    try:
        return run()
    finally:
        os.environ.update({name: value for name, value in held.items() if value is not None})


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):8.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=100, help="trials of Tune with its defaults")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=2)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    slots, few, slow = options.slots, options.trials, options.slow
    base = Path(tempfile.mkdtemp(prefix="sweep-load-"))
    per_trial: dict[str, list[float]] = {}

    def note(name: str, seconds: float, trials: int) -> None:
        per_trial.setdefault(name, []).append(1000 * seconds / trials)
        print(f"{name}: {1000 * seconds / trials:.1f} ms a trial", file=sys.stderr, flush=True)

    try:
        with Unmeasured(cpus=1, gpus=0, max_concurrent=slots, trial=nothing) as executor:
            executor.start()
            for number in range(options.rounds):
                note(f"sweep, {few}", ours(few, slots, executor, base / str(number)), few)
                note(f"Tune, reuse_actors, {few}", tune_defaults(lambda: tune_run(few, slots, reuse=True)), few)
                note(f"Tune, defaults, {slow}", tune_defaults(lambda: tune_run(slow, slots, reuse=False)), slow)
                note(f"Optuna grid, {few}", optuna_run(few, slots), few)
            if options.many:
                with Watch(base / "many") as watch:
                    note(f"sweep, {options.many}", ours(options.many, slots, executor, base / "many"), options.many)
        print("ms a trial, median (range):")
        for name, values in per_trial.items():
            print(f"  {name:<28}{spread(values)}")
        print(f"controller's memory at its most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
        if options.many:
            print(f"`sweep status` meanwhile, s: {spread(watch.seconds)}")
            finished(base, options.many)
    finally:
        shutil.rmtree(base)


def finished(base: Path, trials: int) -> None:
    """How long `sweep run` takes where nothing is left to do, once MLflow has all of it."""
    database = base / "mlflow.db"
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{database}"
    folder = SweepFolder(base / "many" / "load")
    write_bytes(folder.reported, b"{}")
    database.touch()
    for trial_id in read_states(folder):
        Ledger(folder).mark(trial_id, Mark(current_address(), "of a run", "of the sweep", TrialStatus.OK))
    space_file = base / "load.yaml"
    space_file.write_text(dump_space(space(trials), "benchmark"))
    times = []
    for _ in range(4):  # the first reads the learning curves that no run of its own has seen
        started = time.perf_counter()
        command = [sys.executable, "-m", "sweep", "run", str(space_file), "--results", str(base / "many")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert f"nothing to do, {trials} finished" in done.stderr, done.stderr
        times.append(time.perf_counter() - started)
    print(f"`sweep run` with all {trials} finished, s: {times[0]:.1f}, then {spread(times[1:])}")


if __name__ == "__main__":
    main()

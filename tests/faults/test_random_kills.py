"""A sweep on Ray whose controller is killed again and again, at random moments, loses nothing and leaves nobody behind.

The number of kills is SWEEP_KILLS, where they fall follows from SWEEP_KILLS_SEED; both are printed.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from faultcheck import Truth
from faultlib import HERE

SPACE = """sweep: tiny
plugins: [plugin.py]
data: {name: slow_forty}
family: line
recipe: {name: small, batch_size: 16, bn_batch: 16}
axes: {width: [1, 2], resolution: [8], epochs: [1, 2]}
seeds: [0, 1, 2, 3, 4, 5]
resources: {cpu: 1, loader_workers: 0}
"""
TRIALS = 24
PAUSE_S = 0.03  # per image: a trial takes 2 to 4 s
MARK = "SWEEP_KILLED_RUN"  # in the environment of a controller, and of every process that it starts
LEFT_S = 30.0  # in which every process of a killed controller has to be gone
# They train nothing and hold nothing; for a minute they try to tell the cluster that is gone that it is gone (Ray 2.60,
# `publish_error_to_driver`).
RAYS_OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
PATIENCE_S = 300.0


class Run:
    """One `sweep run`, in a process group of its own, and whatever it starts."""

    def __init__(self, place, number):
        self.mark = f"{MARK}={os.getpid()}-{number}"
        environment = os.environ | {
            "PYTHONPATH": str(HERE.parents[1]),
            "MLFLOW_TRACKING_URI": place.database,
            "PAUSE_S": str(PAUSE_S),
            MARK: self.mark.partition("=")[2],
        }
        with (place.folder / "stderr").open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sweep", "run", "space.yaml", "--max-concurrent", "2"],
                cwd=place.folder, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, process_group=0,
            )  # fmt: skip
        self._folders = set()
        self._killed_at = 0.0

    def kill(self):
        """End the controller without warning, nobody else."""
        self._folders = {name for process in self.processes() for name in _ray_folders(process)}
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._killed_at = time.monotonic()

    @property
    def overdue(self):
        """Whether all that it started has to be gone."""
        return self._killed_at > 0 and time.monotonic() > self._killed_at + LEFT_S

    def processes(self):
        """Everything that was started by this run and lives: folders in /proc."""
        return [process for process in Path("/proc").glob("[0-9]*") if self.mark in _strings(process / "environ")]

    def left(self):
        """Command lines of what still runs and should not."""
        commands = [" ".join(_strings(process / "cmdline")).strip() for process in self.processes()]
        return [command[:200] for command in commands if command and command not in RAYS_OWN]

    def end(self):
        """End everything."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)
        self.process.wait()
        for folder in self._folders:  # a process that is killed cannot clean up
            shutil.rmtree(folder, ignore_errors=True)


def _strings(path):
    try:
        return path.read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended, or is somebody else's
        return []


def _ray_folders(process):
    return re.findall(r"/tmp/sweep-ray-\w+", " ".join(_strings(process / "cmdline")))


def steps(place):
    """How often the sweep moved: measurements, rows, and checkpoints."""
    return sum(1 for name in ("shapes/*", "trials/*", "work/*/checkpoint-*.json") for _ in place.sweep.glob(name))


def wait_for_a_moment(run, place, rng):
    """Anywhere in the start of a run, or after it got somewhere."""
    if rng.random() < 0.5:
        run_s = rng.uniform(0, 8)
    else:
        before, wanted = steps(place), rng.randrange(1, 5)
        deadline = time.monotonic() + PATIENCE_S
        while abs(steps(place) - before) < wanted and run.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        run_s = rng.uniform(0, 0.5)
    with suppress(subprocess.TimeoutExpired):
        run.process.wait(run_s)


@pytest.fixture
def runs():
    started = []
    yield started
    for run in started:
        run.end()


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_ends_with_the_same_table(workshop, runs):
    kills, seed = int(os.environ.get("SWEEP_KILLS", "20")), int(os.environ.get("SWEEP_KILLS_SEED", "0"))
    sys.stdout.write(f"{kills} kills, seed {seed}\n")
    alone = workshop.place(SPACE)
    assert workshop.run(alone).code == 0
    truth = Truth.of(alone)
    assert len(truth.rows) == TRIALS
    rng, place, struck, left = random.Random(seed), workshop.place(SPACE), 0, {}
    for number in range(kills):
        if len(list((place.sweep / "trials").glob("*.parquet"))) == TRIALS:  # the next sweep, then
            assert _ends_as(truth, place, runs) == []
            place = workshop.place(SPACE)
        runs.append(run := Run(place, number))
        wait_for_a_moment(run, place, rng)
        struck += run.process.poll() is None
        run.kill()
        look_for_what_is_left(runs, left)
    assert _ends_as(truth, place, runs) == []
    while not runs[kills - 1].overdue and runs[kills - 1].left():
        time.sleep(0.2)
    look_for_what_is_left(runs, left)
    assert not any(left.values()), left
    assert struck > kills / 2


def look_for_what_is_left(runs, left):
    """Note, once for each run that was killed long enough ago, which of its processes live."""
    for run in runs:
        if run.overdue and run.mark not in left:
            left[run.mark] = run.left()


def _ends_as(truth, place, runs):
    """What is wrong once nobody kills the run any more."""
    found = []
    for word in (None, "nothing to do"):
        runs.append(run := Run(place, len(runs)))
        code, said = run.process.wait(PATIENCE_S), (place.folder / "stderr").read_text()
        if code or (word and word not in said):
            found.append(f"ended with {code}: {said[-600:]!r}")
    return found + truth.broken(place)

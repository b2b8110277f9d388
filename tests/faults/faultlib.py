"""Runs a tiny sweep that is struck at a chosen system call, and says what is true of the folder that it leaves.

The strike comes from `faults.c`, the runs from `zygote.py`.
"""

import dataclasses
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
SWEEP = "tiny"
PLUGIN = '''"""A linear layer on coarse pixels, and forty images of two kinds; those of `slow_forty` take their time."""

import os
import random
import time

from PIL import Image
from torch import nn

from workers.datasets import DatasetFacts
from workers.families import Argument, Family


def build(arguments, resolution, classes, recipe):
    side = 2 * int(arguments["width"])
    return nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten(), nn.Linear(3 * side * side, classes))


class Images:
    in_memory = True
    mean, std = (0.5,) * 3, (0.25,) * 3

    def __init__(self, split, count):
        self.names = [f"{split}/{index}" for index in range(count)]
        self.labels = [index % 2 for index in range(count)]

    def load(self, index):
        noise = random.Random(self.names[index]).randbytes(64)
        bright = 90 * self.labels[index]
        image = Image.frombytes("L", (8, 8), bytes(bright + value // 2 for value in noise))
        return image.convert("RGB")


class SlowImages(Images):
    in_memory = False

    def load(self, index):
        time.sleep(float(os.environ.get("PAUSE_S", "0")))
        return super().load(index)


def open_with(kind):
    return lambda config: (kind("train", 40), kind("val", 20))


FAMILIES = [Family("line", {"width": Argument(float, "half the pixels of a side")}, build, min_resolution=8)]
FACTS = {"version": "1", "classes": 2, "images": 40, "minival": 0.2, "needs_root": False}
DATASETS = {
    "forty": DatasetFacts(**FACTS, open=open_with(Images)),
    "slow_forty": DatasetFacts(**FACTS, open=open_with(SlowImages)),
}
'''
SPACE = f"""sweep: {SWEEP}
plugins: [plugin.py]
data: {{name: forty}}
family: line
recipe: {{name: small, batch_size: 16, bn_batch: 16}}
axes: {{width: [1, 2, 4], resolution: [8], epochs: [2]}}
exclude: [{{width: 4}}]
resources: {{cpu: 1}}
"""
_EPOCH_END = re.compile(r"/work/(\w+)/.*\.checkpoint-(\d+)-0000000\.pt\.")


class Kind(IntEnum):
    """What is done to the n-th operation; as in faults.c."""

    COUNT = 0  # nothing
    KILL = 1  # the process is killed before it
    TORN = 2  # of the next write half is written, then the process is killed
    FAIL = 3  # it fails, and half of what was to be written is
    CLOCK = 4  # the clock jumps


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a run, and at which operation on the results (from 1)."""

    kind: Kind = Kind.COUNT
    at: int = 0
    error: int = 0
    lasting: bool = False  # until there is room again (`Place.make_room`)
    shift_s: float = 0.0


UNTROUBLED = Fault()


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int  # below 0: minus the signal that ended it; minus SIGALRM: it hung
    stderr: str
    operations: list[tuple[str, str]]  # on files below the results folder: what, and on which

    @property
    def traceback(self) -> bool:
        """Whether a person saw the inside of the program."""
        return "Traceback" in self.stderr


@dataclass
class Place:
    """A folder with a search space, its results and its own MLflow database."""

    folder: Path
    runs: list[Done] = field(default_factory=list)

    @classmethod
    def make(cls, folder: Path, database: Path, space: str = SPACE) -> "Place":
        """A new one; `database` is one without runs."""
        folder.mkdir(parents=True)
        (folder / "plugin.py").write_text(PLUGIN)
        (folder / "space.yaml").write_text(space)
        shutil.copy(database, folder / "mlflow.db")
        return cls(folder)

    @property
    def results(self) -> Path:
        """All sweeps; what happens below it can be struck."""
        return self.folder / "results"

    @property
    def sweep(self) -> Path:
        """The sweep's folder."""
        return self.results / SWEEP

    @property
    def database(self) -> str:
        """MLflow's address."""
        return f"sqlite:///{self.folder}/mlflow.db"

    def make_room(self) -> None:
        """End a lasting failure."""
        Path(f"{self.results}.ok").touch()

    def remove(self) -> None:
        """Take it away."""
        shutil.rmtree(self.folder)

    def rows(self) -> pd.DataFrame:
        """The table, by trial, with all its columns."""
        return _all_of(self.sweep / "trials", ["trial_id"])

    def curves(self) -> pd.DataFrame:
        """All learning curves."""
        return _all_of(self.sweep / "epochs", ["trial_id", "epoch"])

    def tracked(self) -> list[tuple[str, str, str]]:
        """Runs in MLflow: trial id (or `parent`), MLflow's status, the row's status."""
        query = """
            select coalesce(trial.value, 'parent'), runs.status, coalesce(ended.value, '') from runs
            left join tags trial on trial.run_uuid = runs.run_uuid and trial.key = 'trial_id'
            left join tags ended on ended.run_uuid = runs.run_uuid and ended.key = 'status'
            where runs.lifecycle_stage = 'active'
        """
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            return sorted(database.execute(query).fetchall())

    def repeated(self) -> int:
        """Epochs whose end was saved by more than one run: what the first one trained of them was lost."""
        ends = [{end for _, path in run.operations if (end := _EPOCH_END.search(path))} for run in self.runs]
        times = Counter(end for run in ends for end in {match.groups() for match in run})
        return sum(count - 1 for count in times.values())


def _all_of(folder: Path, order: list[str]) -> pd.DataFrame:
    parts = [pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
    return pd.concat(parts).sort_values(order).reset_index(drop=True) if parts else pd.DataFrame({"trial_id": []})


class Zygote:
    """A process that runs `sweep` commands, each in a fork of itself, one at a time; used as a context."""

    def __init__(self, shim: Path) -> None:
        environment = os.environ | {
            "LD_PRELOAD": str(shim),
            "PYTHONPATH": str(HERE.parents[1]),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "JE_ARROW_MALLOC_CONF": "background_thread:false",  # it starts a thread, which a fork would lose
            "MPLBACKEND": "agg",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "zygote.py")], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1,
        )  # fmt: skip
        assert self._answer() == "ready"

    def __enter__(self) -> "Zygote":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _answer(self) -> str:
        return self._process.stdout.readline().strip()

    def run(self, place: Place, fault: Fault = UNTROUBLED, file_limit: int = 0, limit_s: float = 60.0) -> Done:
        """Run the place's sweep with a fault.

        Args:
            place: where.
            fault: what goes wrong.
            file_limit: size that no file may exceed (bytes); 0: any size.
            limit_s: a run that takes longer hangs, and is ended.
        """
        trace = place.folder / f"trace-{len(place.runs)}"
        order = {
            "arguments": ["run", "space.yaml", "--executor", "local"],
            "folder": str(place.folder),
            "environment": {"MLFLOW_TRACKING_URI": place.database},
            "root": str(place.results),
            "trace": str(trace),
            "file_limit": file_limit,
            "limit_s": limit_s,
            **dataclasses.asdict(fault),
        }
        self._process.stdin.write(f"{json.dumps(order)}\n")
        code = int(self._answer())
        lines = trace.read_text().splitlines() if trace.exists() else []
        operations = [tuple(line.split(" ", 2)[1:]) for line in lines]
        place.runs.append(Done(code, (place.folder / "stderr").read_text(), operations))
        return place.runs[-1]


def compile_shim(folder: Path) -> Path:
    """The shared library of faults.c."""
    target = folder / "faults.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(target), str(HERE / "faults.c")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def empty_database(folder: Path) -> Path:
    """An MLflow database with its tables and nothing in them: making one takes seconds."""
    target = folder / "mlflow.db"
    program = f"import mlflow; mlflow.MlflowClient('sqlite:///{target}').search_experiments()"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, cwd=folder)
    return target

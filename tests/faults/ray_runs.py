"""Sweeps on Ray that are struck while they run: a search space of paced trials, runs, and clusters of several nodes."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import pytest
from faultcheck import Truth
from faultlib import HERE, SWEEP, Place, empty_database

from workers.work_folder import in_use

# Clusters of several nodes and long waits: `make faults-long`.
LONG = pytest.mark.skipif(os.environ.get("SWEEP_FAULTS") != "long", reason="only in `make faults-long`")

PLUGIN = '''"""A small network on the digits that takes its time in training, and whatever trouble a test asks for."""

import os
import time
from pathlib import Path

import torch
from torch import nn

from workers.families import Argument, Family

TROUBLE = Path(os.environ.get("SWEEP_TROUBLE", "nowhere"))


class Paced(nn.Module):
    """Raises or swells once a file says so."""

    def __init__(self, width, side, classes):
        super().__init__()
        self.width = int(width)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4 * self.width, 3, 2), nn.BatchNorm2d(4 * self.width), nn.ReLU(), nn.Dropout(0.1),
            nn.Flatten(), nn.Linear(4 * self.width * side * side, classes),
        )

    def forward(self, images):
        if self.training and not images.is_meta:
            time.sleep(float(os.environ.get("SWEEP_PACE_S", "0")))
            if (TROUBLE / f"raise-{self.width}").exists():
                raise RuntimeError("the model fell over")
            if (TROUBLE / f"swell-{self.width}").exists():
                self.swell()
        return self.layers(images)

    def swell(self):
        """Take 6 GiB, slowly."""
        held = []
        for _ in range(24):
            held.append(torch.ones(2**26))
            time.sleep(0.05)


def build(arguments, resolution, classes, recipe):
    return Paced(arguments["width"], (resolution - 3) // 2 + 1, classes)


FAMILIES = [Family("paced", {"width": Argument(float, "channels / 4")}, build, min_resolution=8)]
'''
SPACE = f"""sweep: {SWEEP}
plugins: [plugin.py]
data: {{name: digits}}
family: paced
recipe: {{name: small, batch_size: 32, bn_batch: 32}}
axes: {{width: [1, 2, 3, 4], resolution: [16], epochs: [4]}}
resources: {{cpu: 1, loader_workers: 0}}
"""
PACE_S = 0.06  # of a training step: a trial takes 6 s
MARK = "SWEEP_STRUCK_RUN"  # in the environment of a run, and of every process that it starts
PATIENCE_S = 300.0  # for something that has to come
# They train nothing and hold nothing; for a minute they try to tell the cluster that is gone that it is gone (Ray 2.60,
# `publish_error_to_driver`).
RAYS_OWN = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
_numbers = itertools.count(1)


def until(met, what):
    """Wait for something that has to come; what `met` found."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := met()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


class Marked:
    """A process in a group of its own, and whatever it starts."""

    def __init__(self, command, folder, **environment):
        self.mark = f"{MARK}={os.getpid()}-{next(_numbers)}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        settings = {"PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1", MARK: self.mark.partition("=")[2]}
        settings |= {"RAY_AUTH_MODE": "disabled"}  # of clusters that a test starts; a sweep's own is closed
        number = self.mark.rpartition("-")[2]
        self.stdout, self.stderr = folder / f"stdout-{number}", folder / f"stderr-{number}"
        with self.stdout.open("w") as stdout, self.stderr.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=folder, env={**kept, **settings, **environment},
                stdout=stdout, stderr=stderr, process_group=0,
            )  # fmt: skip
        self._folders = set()

    def all(self):
        """Everything that lives and was started by it, by command line."""
        found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if self.mark in strings(path / "environ")]
        commands = {pid: " ".join(strings(Path(f"/proc/{pid}/cmdline"))).strip() for pid in found}
        self._folders |= {name for text in commands.values() for name in re.findall(r"/tmp/sweep-ray-\w+", text)}
        return {pid: text for pid, text in commands.items() if text and text not in RAYS_OWN}

    def named(self, name):
        """Those processes whose command line holds a name."""
        return [pid for pid, text in self.all().items() if name in text]

    def send(self, number):
        """A signal to the first process alone."""
        self.process.send_signal(number)

    def all_gone(self, limit_s=10.0):
        """Nothing of it lives, at least not for long: Ray's processes notice one by one that they are alone."""
        deadline = time.monotonic() + limit_s
        while left := self.all():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)

    def end(self):
        """End everything that is left."""
        for pid in [*self.all(), *self.all()]:  # a second look: one may have started another meanwhile
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for folder in self._folders:  # who is killed cannot clean up
            shutil.rmtree(folder, ignore_errors=True)


class Run(Marked):
    """A `sweep run`."""

    def __init__(self, place, *options, pace_s=PACE_S, **environment):
        trouble = trouble_of(place)
        settings = {"MLFLOW_TRACKING_URI": place.database, "SWEEP_PACE_S": str(pace_s), "SWEEP_TROUBLE": str(trouble)}
        super().__init__(["sweep", "run", "space.yaml", *options], place.folder, **settings, **environment)
        self.place = place

    def ended(self):
        """Exit code, and what it said; all in words of our own."""
        code = self.process.wait(PATIENCE_S)
        said = self.stderr.read_text()
        assert "Traceback" not in said, said
        assert self.stdout.read_text() == ""
        return code, said

    def training(self, epochs):
        """Wait until a trial that trains has come so far; its work folder."""

        def far():
            assert self.process.poll() is None, self.stderr.read_text()
            far_enough = [work for work in works(self.place) if seen(work, "epochs") >= epochs and in_use(work)]
            return far_enough and far_enough[0]

        return until(far, f"epoch {epochs}")


def trouble_of(place):
    """The folder by which a place's trials are told to make trouble."""
    return place.folder / "trouble"


class Paced:
    """Places whose trials are paced, and what a run that nothing struck leaves of them."""

    def __init__(self, folder):
        self._folder, self._numbers = folder, itertools.count(1)
        empty_database(folder)

    def place(self):
        """A new one."""
        place = Place.make(self._folder / f"place-{next(self._numbers)}", self._folder / "mlflow.db", SPACE)
        (place.folder / "plugin.py").write_text(PLUGIN)
        trouble_of(place).mkdir()
        return place

    @cached_property
    def truth(self):
        """Made when it is asked for first."""
        place = self.place()
        assert Run(place, "--executor", "local", pace_s=0.0).ended()[0] == 0
        return Truth.of(place)


def works(place):
    """The work folders."""
    return sorted((place.sweep / "work").glob("*"))


def seen(work, field):
    """What the last sign of life says."""
    try:
        return json.loads((work / "alive.json").read_text())[field]
    except (OSError, ValueError):
        return 0


class Cluster:
    """Ray nodes on this machine: a head that trains nothing, and others that come and go."""

    def __init__(self, folder):
        self._folder = folder
        # Ray's sockets lie in it, whose names have room for 107 characters.
        self._sockets = tempfile.mkdtemp(prefix="sweep-faults-", dir="/tmp")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.nodes = []

    def start(self, *options, **environment):
        """Another node."""
        settings = {"RAY_health_check_period_ms": "500", "RAY_health_check_failure_threshold": "4"}
        settings["SWEEP_PACE_S"] = str(PACE_S)  # workers have their node's environment, not the controller's
        common = ["--block", "--disable-usage-stats", "--node-ip-address", "127.0.0.1"]
        command = ["ray.scripts.scripts", "start", *common, *options]
        node = Marked(command, self._folder, **settings, **environment)
        self.nodes.append(node)
        return node

    def head(self, **environment):
        """The first node."""
        port = self.address.rpartition(":")[2]
        options = ["--head", "--port", port, "--num-cpus", "0", "--temp-dir", self._sockets]
        self.start(*options, "--include-dashboard", "false", **environment)
        until(self._answers, "the cluster")

    def node(self, cpus=1, **environment):
        """One that trains."""
        return self.start("--address", self.address, "--num-cpus", str(cpus), **environment)

    def node_of(self, pid):
        """On which node a process runs."""
        return next(node for node in self.nodes if pid in node.all())

    def _answers(self):
        with suppress(OSError), socket.create_connection(("127.0.0.1", int(self.address.rpartition(":")[2])), 1):
            return True
        return False

    def end(self):
        """End all nodes."""
        for node in self.nodes:
            node.end()
        shutil.rmtree(self._sockets, ignore_errors=True)


def strings(path):
    """A file of /proc."""
    try:
        return path.read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended, or is somebody else's
        return []

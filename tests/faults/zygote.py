"""One process that has imported everything and forks for each run of `sweep`: a run costs no imports.

Reads one JSON object per line on stdin, `faultlib.Order`'s fields, and answers each with the exit code. It imports, and
runs nothing itself, so that no thread, lock or state of an earlier run is there when the next one starts.
"""

import ctypes
import gc
import importlib
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

# What a run imports by and by.
MODULES = (
    "matplotlib.pyplot",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.tracking.client",
    "pandas",
    "pyarrow.parquet",
    "rich.live",
    "scipy.stats",
    "sqlalchemy.dialects.sqlite",
    "sweep.cli",
    "sweep.commands",
    "sweep.controller",
    "sweep.display",
    "sweep.local_executor",
    "sweep.plots",
    "sweep.progress",
    "sweep.report",
    "sweep.rules",
    "sweep.space",
    "sweep.tracking",
    "timm.data",
    "timm.optim",
    "torch.profiler",
    "torch.utils.flop_counter",
    "workers.costs",
    "workers.profiling",
    "workers.trial",
)


def main() -> None:
    """Import, then serve."""
    for name in MODULES:
        importlib.import_module(name)
    _draw_once()
    assert len(os.listdir("/proc/self/task")) == 1, "an import started a thread, which a fork would lose"  # noqa: PTH208
    gc.freeze()  # what is here is shared with every run
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(order)
        sys.stdout.write(f"{_wait(child, order['limit_s'])}\n")
        sys.stdout.flush()
    os._exit(0)  # taking all those modules down takes longer than a run


def _draw_once() -> None:
    """Finding the fonts takes longer than drawing with them."""
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(layout="constrained")
    axes.set_title("$1$")
    figure.savefig(io.BytesIO())
    pyplot.close(figure)


def _run(order: dict) -> None:
    """Be one `sweep` command; never returns."""
    os.setsid()
    os.chdir(order["folder"])
    os.environ |= order["environment"]
    for stream, name in ((0, os.devnull), (1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), stream)
    if order["file_limit"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails with EFBIG instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_limit"],) * 2)
    shim = ctypes.CDLL(None)
    shim.faults_arm(
        order["root"].encode(), order["kind"], ctypes.c_long(order["at"]), order["error"], order["lasting"],
        ctypes.c_double(order["shift_s"]), 0, order["trace"].encode(),
    )  # fmt: skip
    os._exit(_command(order["arguments"]))


def _command(arguments: list[str]) -> int:
    """Its exit code; what the interpreter would print is printed."""
    from sweep.cli import main

    sys.argv = ["sweep", *arguments]
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _wait(child: int, limit_s: float) -> int:
    """The exit code, or minus the signal that ended the child; minus SIGALRM where it took too long."""
    deadline = time.monotonic() + limit_s
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGALRM
        time.sleep(0.005)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()

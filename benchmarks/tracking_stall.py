"""How long the tracker keeps the controller: the time that `epoch()` takes in its thread, by MLflow's state.

    python benchmarks/tracking_stall.py [--reports 10000] [--trials 16] [--pause-ms 1]

Reports of epochs come from one thread, as in a controller, `--pause-ms` apart, to a tracker whose MLflow is a real
server on SQLite: healthy, slow (200 ms an answer), or dead (connections are cut). Printed for each: the 50th and 99th
percentile and the maximum in milliseconds, and how long closing took.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/faults"))
from mlflow_server import Proxy, mlflow_server

from sweep.layout import SweepFolder
from sweep.ledger import Ledger
from sweep.space import SweepSpec
from sweep.tracking import MlflowTracker
from sweep.trials import trials_of
from workers.contract import EpochMetrics, TrialConfig

STATES = ("healthy", "slow", "dead")


def configs(trials: int) -> list[TrialConfig]:
    """So many trials of a space on the digits."""
    axes = {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [100]}
    space = {"sweep": "a", "data": {"name": "digits"}, "recipe": "small", "axes": axes, "seeds": list(range(trials))}
    return list(trials_of(SweepSpec.model_validate(space)))


def stalls(tracker: MlflowTracker, trials: list[TrialConfig], reports: int, pause_s: float) -> list[float]:
    """Seconds that each report took."""
    for config in trials:
        tracker.trial_started(config)
    taken = []
    for number in range(reports):
        epoch = EpochMetrics(number // len(trials) + 1, 1.0, 50.0, 40.0, 0.1, 1.0, 1.0, time.time())
        before = time.perf_counter()
        tracker.epoch(trials[number % len(trials)], epoch)
        taken.append(time.perf_counter() - before)
        time.sleep(pause_s)
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--pause-ms", type=float, default=1.0)
    options = parser.parse_args()
    trials = configs(options.trials)
    with tempfile.TemporaryDirectory() as folder, mlflow_server(Path(folder)) as port:
        for state in STATES:
            proxy = Proxy(port)
            if state == "slow":
                proxy.delay_s = 0.2
            if state == "dead":
                proxy.strike("refuse")
            os.environ["MLFLOW_TRACKING_URI"] = proxy.address
            tracker = MlflowTracker(state, "", Ledger(SweepFolder(Path(folder) / state)))
            taken = 1000 * np.array(stalls(tracker, trials, options.reports, options.pause_ms / 1000))
            before = time.perf_counter()
            tracker.close(True)
            closing = time.perf_counter() - before
            p50, p99 = np.percentile(taken, [50, 99])
            print(f"{state:8} p50 {p50:.4f} ms  p99 {p99:.4f} ms  max {taken.max():.2f} ms  close {closing:.1f} s")
            proxy.close()


if __name__ == "__main__":
    main()

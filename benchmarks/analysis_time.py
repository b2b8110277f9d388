"""How long `sweep rules` takes on a whole study: 525 cells with 3 seeds, start of the process included.

    python benchmarks/analysis_time.py [--rounds 5]

The table is made up: 7 depths x 5 widths x 5 resolutions x 3 budgets x 3 seeds, the largest cells out of memory. Beside
the whole command stand what Python needs to import pandas and pyarrow, and the command's own processor time.
"""

import argparse
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

DEPTHS, WIDTHS, SIZES = (26, 50, 101, 200, 300, 350, 400), (0.25, 0.5, 1.0, 1.5, 2.0), (128, 160, 224, 320, 448)


def table() -> pd.DataFrame:
    """1,575 rows as `sweep run` leaves them."""
    rows = itertools.product(DEPTHS, WIDTHS, SIZES, (10, 100, 350), (0, 1, 2))
    frame = pd.DataFrame(rows, columns=["depth", "width", "resolution", "epochs", "seed"])
    d, w, r = np.log2(frame["depth"] / 101), np.log2(frame["width"]), np.log2(frame["resolution"] / 224)
    macs = 7.8e9 * frame["depth"] / 101 * frame["width"] ** 2 * (frame["resolution"] / 224) ** 2
    random = np.random.default_rng(0)
    error = np.exp(3 - 0.1 * d - 0.2 * w - 0.2 * r + 0.03 * d**2 + 0.05 * w**2 + 0.08 * r**2)
    fits = macs < macs.quantile(0.97)
    return frame.assign(
        trial_id=frame.index.map(str), sweep="study", family="resnet_rs", recipe="resnet_rs", dataset="imagenet 1",
        protocol="independent", source="measured", status=np.where(fits, "ok", "oom"), minival_images=25_623,
        minival_top1=(100 - error + random.normal(0, 0.15, len(frame))).where(fits),
        train_top1=(100 - 0.7 * error + random.normal(0, 0.1, len(frame))).where(fits),
        macs_per_image=macs, params=6e7 * frame["depth"] / 101 * frame["width"] ** 2,
        train_step_ms=macs**0.9 / 1e7, infer_latency_ms=macs**0.7 / 1e6, model_se=True,
        recipe_learning_rate=1.6, recipe_dropout=0.25 * frame["width"],
    )  # fmt: skip


def seconds(command: Sequence[str]) -> tuple[float, float]:
    """Wall-clock and processor time of a command that must succeed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print medians over interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.parquet"
        table().to_parquet(path)
        commands = {
            "sweep rules, 1,575 rows": [sys.executable, "-m", "sweep", "rules", str(path)],
            "sweep rules --format json": [sys.executable, "-m", "sweep", "rules", str(path), "--format", "json"],
            "import of pandas and pyarrow": [sys.executable, "-c", "import pandas, pyarrow.parquet"],
        }
        for command in commands.values():  # so that files are in memory
            seconds(command)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(seconds(command))
    for name, taken in times.items():
        wall, processor = (statistics.median(part) for part in zip(*taken, strict=True))
        print(f"{name:<30} {wall:5.2f} s, {processor:.2f} s of processor time (median of {rounds})")


if __name__ == "__main__":
    main()

"""A process whose memory is really too small for its micro-batch: the trial goes on with a smaller one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import resource, sys
from pathlib import Path

from digits_trials import DIGITS, Execution, digits_trial
from workers.costs import predict_memory
from workers.data import load_splits
from workers.device import Device
from workers.train import Trainer
from workers.trial import run_trial

execution = Execution(micro_batch=512, loader_workers=0)
config = digits_trial(epochs=1, width=0.25, resolution=64, batch_size=512, bn_batch=32, execution=execution)
trainer = Trainer(config, load_splits(DIGITS), Device("cpu", "float32", 1))
next(iter(trainer.loader.train(1)))  # everything that takes address space is loaded
shape = (config.family, config.arguments, config.resolution, config.data.classes, config.recipe)
used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
limit = used + int(SHARE * predict_memory(*shape, 512, "float32"))
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run_trial(config, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_goes_on_with_smaller_micro_batches(tmp_path):
    script = SCRIPT.replace("SHARE", "0.75")
    command = [sys.executable, "-c", script, str(tmp_path)]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "ok", result["error"]
    assert 32 <= result["micro_batch"] < 512

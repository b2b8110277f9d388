"""A step that never ends: the process ends itself and leaves a result that says so."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

from digits_trials import digits_trial

from workers.contract import Execution, TrialStatus
from workers.work_folder import STACKS, read_result

ROOT = Path(__file__).parents[2]
PLUGIN = '''
import time

from torch import nn
from workers.families import Family


class Stuck(nn.Module):
    """Trains for two epochs, then never again."""

    def __init__(self, classes):
        super().__init__()
        self.head, self.passes = nn.Linear(3, classes), 0

    def forward(self, images):
        self.passes += self.training
        if self.passes > 8:
            time.sleep(3600)
        return self.head(images.mean(dim=(2, 3)))


FAMILIES = [Family("stuck", {}, lambda arguments, resolution, classes, recipe: Stuck(classes))]
'''


def test_a_hung_step_ends_the_process_with_a_result_that_says_where_it_stood(tmp_path):
    plugin = tmp_path / "stuck.py"
    plugin.write_text(PLUGIN)
    config = digits_trial(
        epochs=3, batch_size=256, bn_batch=256, execution=Execution(loader_workers=0, hung_after_s=10.0)
    )
    config = dataclasses.replace(config, family="stuck", width=None, depth=None, model={}, plugins=(str(plugin),))
    file, work = tmp_path / "trial.json", tmp_path / "work"
    file.write_text(config.to_json())
    started = time.monotonic()
    command = [sys.executable, "-m", "workers.trial", "--config", str(file), "--work", str(work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert time.monotonic() - started < 60
    result = read_result(work)
    assert (done.returncode, result.status) == (1, TrialStatus.HUNG), done.stderr
    assert [epoch.epoch for epoch in result.history] == [1, 2]  # the last metrics that there were
    assert result.error.startswith("no step came to its end for ")
    assert "in forward" in (work / STACKS).read_text()
    assert list(work.glob("checkpoint-00002-*.json"))  # to go on from, once the cause is gone

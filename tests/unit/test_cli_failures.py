"""`sweep run` where trials fail, and where files are damaged: exit codes and lines, by the command itself."""

import signal
import sys

import pyarrow.parquet as pq
import pytest

from sweep.cli import main
from sweep.layout import SweepFolder
from sweep.table import read_table

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own

PLUGIN = """
from torch import nn
from workers.families import Argument, Family


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, images):
        return images * self.factor**3


def build(arguments, resolution, classes, recipe):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes), Times(arguments["times"]))


FAMILIES = [Family("mine", {"times": Argument(float, "its cube is what the logits are multiplied by")}, build)]
"""
SPACE = """\
sweep: tiny
plugins: [my_models.py]
data: {name: digits}
family: mine
recipe: {name: small, batch_size: 256, bn_batch: 256}
axes: {times: [TIMES], resolution: [16], epochs: [1]}
seeds: SEEDS
"""


@pytest.fixture
def sweep(monkeypatch, capsys, tmp_path):
    """Runs the command in this process on a space: exit code and lines on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (tmp_path / "my_models.py").write_text(PLUGIN)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def sweep(times, seeds):
        (tmp_path / "tiny.yaml").write_text(SPACE.replace("TIMES", times).replace("SEEDS", str(seeds)))
        monkeypatch.setattr(sys, "argv", ["sweep", "run", "tiny.yaml", "--executor", "local"])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        return end.value.code or 0, err.splitlines()

    yield sweep
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "results/tiny")


def test_where_all_trials_fail_alike_the_command_stops_early_with_1_and_one_line(sweep, folder):
    code, lines = sweep("1.0e+15", list(range(8)))  # its cube is infinite in 32 bits
    assert code == 1
    rows = read_table(folder.trials)
    assert rows["status"].tolist() == ["diverged"] * 5
    (error,) = set(rows["error"])
    said, _, counts = lines[-1].rpartition("; ")
    assert said == f"tiny: stopped early: the last 5 trials failed alike (diverged: {error}); 3 were not begun"
    assert counts in ("3 planned, 5 failed in results/tiny/", "5 failed, 3 planned in results/tiny/")
    assert sum("stopped early" in line for line in lines) == 1


def test_a_damaged_row_whose_result_is_there_is_written_again_and_the_command_says_so(sweep, folder):
    assert sweep("1.0", [0, 1])[0] == 0
    before = read_table(folder.trials).sort_values("trial_id").reset_index(drop=True)
    part = sorted(folder.trials.iterdir())[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:-9])
    code, lines = sweep("1.0", [0, 1])
    assert code == 0
    (said,) = [line for line in lines if "damaged" in line]
    assert said.startswith(f"results/tiny/trials/{part.name}: damaged (")
    assert said.endswith("written again from the trial's result")
    assert f"took over the finished result of {part.stem}" in lines
    after = read_table(folder.trials).sort_values("trial_id").reset_index(drop=True)
    assert after.equals(before)
    assert (folder.damaged / part.name).read_bytes() == whole[:-9]
    assert len(pq.read_table(folder.trials)) == len(before)

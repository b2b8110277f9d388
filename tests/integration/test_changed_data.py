"""Images that change under the same version: a trial refuses to begin or go on with them, and a sweep to mix them."""

import dataclasses
import shutil
import signal
import sys

import pytest
from digit_files import write_folder
from digits_trials import digits_trial

from sweep.cli import main
from sweep.table import read_table
from workers.contract import DataConfig, TrialStatus
from workers.trial import run_trial


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "data")


def trial_on(root, expected=None, epochs=2):
    data = DataConfig("folder", "folder", 3, None, 0.25, str(root), expected=expected)
    return digits_trial(epochs=epochs, data=data, batch_size=16, bn_batch=16)


def replace_an_image(root):
    shutil.copyfile(root / "train" / "two" / "01.png", root / "train" / "one" / "01.png")


def break_off(_):
    raise RuntimeError("broken off")


def test_a_trial_is_not_resumed_on_other_images(root, tmp_path):
    work = tmp_path / "work"
    assert run_trial(trial_on(root), work, break_off).status is TrialStatus.CRASHED
    whole = (root / "train" / "one" / "01.png").read_bytes()
    replace_an_image(root)
    refused = run_trial(trial_on(root), work)
    assert refused.status is TrialStatus.DATA_ERROR
    assert refused.error.startswith("data.root: the images are not those that training began with under version")
    (root / "train" / "one" / "01.png").write_bytes(whole)
    resumed = run_trial(trial_on(root), work)
    assert (resumed.status, len(resumed.history)) == (TrialStatus.OK, 2)


def test_a_trial_refuses_other_images_than_those_of_the_sweeps_earlier_trials(root, tmp_path):
    first = run_trial(trial_on(root, epochs=1), tmp_path / "first")
    assert first.data_identity
    again = dataclasses.replace(trial_on(root, first.data_identity, epochs=1), seed=1)
    second = run_trial(again, tmp_path / "second")
    assert (second.status, second.data_identity) == (TrialStatus.OK, first.data_identity)
    replace_an_image(root)
    refused = run_trial(again, tmp_path / "third")
    assert (refused.status, refused.history) == (TrialStatus.DATA_ERROR, ())
    assert "name a new data.version" in refused.error


SPACE = """
sweep: a
data: {{name: folder, root: {root}, classes: 3, minival: 0.25}}
recipe: {{name: small, batch_size: 16, bn_batch: 16}}
axes: {{width: [0.0625], depth: [26], resolution: [16], epochs: {epochs}}}
"""


@pytest.fixture
def run(root, tmp_path, monkeypatch, capsys):
    """Runs the sweep for some budgets in this process: exit code, rows by budget, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    on_sigterm = signal.getsignal(signal.SIGTERM)

    def run(epochs, *options):
        (tmp_path / "a.yaml").write_text(SPACE.format(root=root, epochs=epochs))
        monkeypatch.setattr(sys, "argv", ["sweep", "run", "a.yaml", "--executor", "local", *options])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return code, read_table(tmp_path / "results/a/trials").set_index("epochs"), capsys.readouterr().err

    yield run
    signal.signal(signal.SIGTERM, on_sigterm)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own
def test_a_sweep_whose_images_changed_goes_on_only_with_the_old_ones(root, run):
    code, rows, err = run([1])
    assert (code, rows["status"][1]) == (0, "ok"), err
    whole = (root / "train" / "one" / "01.png").read_bytes()
    replace_an_image(root)
    code, rows, err = run([1, 2])
    assert (code, rows["status"].to_dict()) == (1, {1: "ok", 2: "data_error"}), err
    assert "the images are not those that training began with under version 'folder'" in rows["error"][2]
    (root / "train" / "one" / "01.png").write_bytes(whole)
    code, rows, err = run([1, 2], "--retry", "data_error")
    assert (code, rows["status"].to_dict()) == (0, {1: "ok", 2: "ok"}), err
    assert rows["data_identity"].nunique() == 1

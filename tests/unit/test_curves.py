"""Learning curves that were lost or damaged are noticed by the next run, and written again from the trials' results."""

import pytest

from sweep.curves import mark_curves, mend_curves
from sweep.layout import SweepFolder
from sweep.rows import cell_columns, commit, read_history, result_columns
from sweep.space import SweepSpec
from sweep.trials import trials_of
from workers.contract import EpochMetrics, TrialResult, TrialStatus

SPACE = {
    "sweep": "a",
    "data": {"name": "digits"},
    "recipe": "small",
    "axes": {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [2]},
}
(TRIAL,) = trials_of(SweepSpec.model_validate(SPACE))
HISTORY = tuple(EpochMetrics(epoch, 1.0 / epoch, 50.0, 40.0, 0.1, 1.0, 2.0, 3.0) for epoch in (1, 2))


@pytest.fixture
def folder(tmp_path):
    made = SweepFolder(tmp_path / "a")
    when = "2026-01-01T00:00:00+00:00"
    result = TrialResult(TRIAL.trial_id, TrialStatus.OK, 1, when, when, history=HISTORY)
    commit(made, {**cell_columns("a", TRIAL), **result_columns(result)}, HISTORY)
    work = made.work(TRIAL.trial_id)
    work.mkdir(parents=True)
    (work / "result.json").write_text(result.to_json())
    return made


def damage(path, how):
    if how == "deleted":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[:40] = bytes(byte ^ 1 for byte in data[:40])
        path.write_bytes(data if how == "changed" else data[:100])


@pytest.mark.parametrize("how", ["deleted", "cut", "changed"])
@pytest.mark.parametrize("read_before", [True, False])
def test_a_curve_that_is_not_whole_is_written_again_and_that_is_said(folder, how, read_before):
    if read_before:
        assert mend_curves(folder, pytest.fail) == []
    damage(folder.epochs(TRIAL.trial_id), how)
    said = []
    assert mend_curves(folder, said.append) == []
    (line,) = said
    assert line.startswith(f"{folder.epochs(TRIAL.trial_id)}: {'missing' if how == 'deleted' else 'damaged'}")
    assert line.endswith("written again from the trial's result")
    assert read_history(folder, TRIAL.trial_id) == HISTORY
    assert mend_curves(folder, pytest.fail) == []


def test_a_curve_that_is_lost_for_good_is_said_again_and_again_with_the_way_out(folder):
    (folder.work(TRIAL.trial_id) / "result.json").unlink()
    damage(folder.epochs(TRIAL.trial_id), "cut")
    for _ in range(2):
        said = []
        assert mend_curves(folder, said.append) == [f"{TRIAL.trial_id}.parquet"]
        assert "`sweep run` trains it again" in said[0]
        mark_curves(folder, [f"{TRIAL.trial_id}.parquet"])


def test_a_whole_curve_is_read_once(folder, monkeypatch):
    assert mend_curves(folder, pytest.fail) == []
    monkeypatch.setattr("sweep.curves.read_part", pytest.fail)
    assert mend_curves(folder, pytest.fail) == []


def test_a_lost_curve_is_read_from_the_result(folder):
    folder.epochs(TRIAL.trial_id).unlink()
    assert read_history(folder, TRIAL.trial_id) == HISTORY

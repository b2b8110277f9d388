"""The controller's laws, whatever dies in between, with an executor that trains nothing."""

import pytest
from controller_fakes import Executor, Killed, Tracker, ids, result_of, rows, run, space, untracked

from sweep import cost
from sweep.controller import ROUNDS
from sweep.errors import ResourcesError
from sweep.layout import SweepFolder
from sweep.trials import trials_of
from workers.contract import TrialStatus
from workers.files import write_bytes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    return SweepFolder(tmp_path / "a")


def test_every_trial_gets_its_row_and_the_tracker_hears_all(folder):
    executor, tracker, progress = run(folder)
    assert sorted(executor.ran) == sorted(ids())
    assert rows(folder).keys() == set(ids())
    for config in trials_of(space()):
        row = rows(folder)[config.trial_id]
        assert (row["status"], row["sweep"], row["epochs_done"]) == ("ok", "a", config.epochs)
        assert (row["train_step_ms"], row["params"]) == (100 * config.width, cost.count(config).params)
        assert tracker.rows[config.trial_id] == [row]
        epochs = [f"epoch {number}" for number in range(1, config.epochs + 1)]
        assert [event for event, trial_id in tracker.events if trial_id == config.trial_id] == ["started", *epochs]
    assert progress.events == [*(f"measuring {n}/4" for n in (1, 2, 3, 4)), "running 4", *["ended ok"] * 4]


def test_a_second_run_does_nothing(folder):
    run(folder)
    before = {path: path.read_bytes() for path in folder.trials.iterdir()}
    executor, tracker, progress = run(folder)
    assert (executor.ran, executor.measured, tracker.rows, progress.events) == ([], [], {}, [])
    assert {path: path.read_bytes() for path in folder.trials.iterdir()} == before


def test_trials_run_longest_first_and_their_work_is_in_seconds(folder):
    executor, _, progress = run(folder)
    by_id = {trial.trial_id: trial for trial in trials_of(space())}
    assert [(by_id[i].epochs, by_id[i].width) for i in executor.ran] == [(3, 0.25), (3, 0.125), (1, 0.25), (1, 0.125)]
    assert progress.work == {i: cost.predicted_seconds(by_id[i], 100 * by_id[i].width) for i in executor.ran}


def test_a_crash_between_result_and_row_loses_nothing_and_trains_nothing_twice(folder):
    first = Executor(die="before the row")
    with pytest.raises(Killed):
        run(folder, executor=first)
    assert len(first.ran) == 1
    assert rows(folder) == {}
    executor, tracker, progress = run(folder)
    assert sorted(executor.ran) == sorted(set(ids()) - set(first.ran))
    assert rows(folder).keys() == tracker.rows.keys() == set(ids())
    assert rows(folder)[first.ran[0]]["val_top1"] == 90.0
    assert progress.notes == [f"took over the finished result of {first.ran[0]}"]


def test_a_crash_between_row_and_tracker_sends_the_row_again_and_trains_nothing_twice(folder):
    first, dying = Executor(), Tracker(folder, die=True)
    with pytest.raises(Killed):
        run(folder, executor=first, tracker=dying)
    (done,) = first.ran
    assert list(rows(folder)) == [done] == untracked(folder)
    executor, tracker, _ = run(folder)
    assert done not in executor.ran
    assert tracker.rows[done] == [rows(folder)[done]]
    assert untracked(folder) == []


def test_what_the_tracker_could_not_take_it_gets_at_the_next_run_and_not_after_that(folder):
    _, deaf, _ = run(folder, tracker=Tracker(folder, works=False))
    assert len(deaf.rows) == 4
    executor, tracker, _ = run(folder)
    assert (executor.ran, tracker.rows) == ([], deaf.rows)
    assert run(folder)[1].rows == {}


def test_a_bad_or_strange_result_without_a_row_is_not_taken_over(folder):
    first, second, third, _ = trials_of(space())
    for config, text in (
        (first, result_of(first, TrialStatus.OOM).to_json()),
        (second, result_of(first).to_json()),
        (third, result_of(third).to_json()[:100]),
    ):
        write_bytes(folder.work(config.trial_id) / "result.json", text.encode())
    executor, _, progress = run(folder)
    assert sorted(executor.ran) == sorted(ids())
    assert progress.notes == []


def test_a_failure_is_a_row_and_runs_again_only_when_asked(folder):
    bad = ids()[0]
    _, tracker, _ = run(folder, executor=Executor(failing=[bad]))
    row = rows(folder)[bad]
    assert (row["status"], row["error"]) == ("oom", "too large")
    assert "val_top1" not in row
    assert tracker.rows[bad] == [row]
    assert run(folder)[0].ran == []
    assert run(folder, retry=[TrialStatus.CRASHED])[0].ran == []
    executor, tracker, _ = run(folder, retry=[TrialStatus.OOM])
    assert executor.ran == list(tracker.rows) == [bad]
    assert rows(folder)[bad]["status"] == "ok"


def test_a_retry_that_the_tracker_missed_is_not_taken_for_the_failure_that_it_has(folder):
    bad = ids()[0]
    run(folder, executor=Executor(failing=[bad]))
    run(folder, tracker=Tracker(folder, works=False), retry=[TrialStatus.OOM])
    assert untracked(folder) == [bad]


def test_excluded_cells_have_rows_with_the_reason_and_no_run(folder):
    spec = space(exclude=[{"width": 0.25, "epochs": 3}])
    executor, tracker, _ = run(folder, spec)
    (left_out,) = [t for t in trials_of(spec) if (t.width, t.epochs) == (0.25, 3)]
    row = rows(folder)[left_out.trial_id]
    assert (row["status"], row["error"]) == ("excluded", "exclude: width 0.25, epochs 3")
    assert row["macs_per_image"] == cost.count(left_out).macs_per_image
    assert left_out.trial_id not in executor.ran
    assert left_out.trial_id not in tracker.rows
    run(folder, space(exclude=[{"epochs": 3, "width": 0.25, "depth": 26}]))
    assert rows(folder)[left_out.trial_id]["error"] == "exclude: width 0.25, depth 26, epochs 3"
    assert run(folder)[0].ran == [left_out.trial_id]
    assert rows(folder)[left_out.trial_id]["status"] == "ok"


def test_a_shape_that_cannot_be_measured_does_not_stop_the_sweep(folder):
    error = RuntimeError("a traceback\n  of many lines\nout of memory at last")
    executor, _, progress = run(folder, executor=Executor(unmeasurable={0.25: error}))
    note, again = progress.notes
    assert note == again
    assert note.endswith("its shape could not be measured: out of memory at last")
    assert sorted(executor.ran) == sorted(ids())
    by_width = {row["width"]: row for row in rows(folder).values()}
    assert by_width[0.125]["train_step_ms"] == 12.5
    assert "train_step_ms" not in by_width[0.25]
    assert by_width[0.25]["status"] == "ok"


def test_where_nothing_can_be_measured_or_trained_the_sweep_stops_and_says_so(folder):
    with pytest.raises(ResourcesError, match="one trial asks"):
        run(folder, executor=Executor(unmeasurable={0.125: ResourcesError("one trial asks for gpu 1")}))
    assert rows(folder) == {}


def test_a_shape_is_measured_in_rounds_and_once_for_all_its_budgets_and_runs(folder):
    first = Executor(die="before the row")
    with pytest.raises(Killed):
        run(folder, executor=first)
    widths = [config.width for config in first.measured]
    assert sorted(widths[:2]) == [0.125, 0.25]
    assert widths == widths[:2] * ROUNDS
    assert run(folder)[0].measured == []

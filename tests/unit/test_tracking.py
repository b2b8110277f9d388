"""Against a real MLflow on SQLite."""

import dataclasses

import pytest

from sweep import tracking
from sweep.layout import SweepFolder
from sweep.ledger import Ledger, Mark
from sweep.mlflow_store import EPOCH_METRICS
from sweep.rows import cell_columns, commit, read_states, result_columns
from sweep.space import SweepSpec
from sweep.tracking import MlflowTracker, NullTracker
from sweep.trials import trials_of
from workers.contract import EpochMetrics, TrialResult, TrialStatus

# MLflow's own use of SQLAlchemy; nothing of ours is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

SPACE = {
    "sweep": "a",
    "data": {"name": "digits"},
    "recipe": "small",
    "axes": {"width": [0.125, 0.25], "depth": [26], "resolution": [16], "epochs": [2]},
}
FIRST, SECOND = trials_of(SweepSpec.model_validate(SPACE))
HISTORY = tuple(EpochMetrics(n, 2.0 / n, 50.0 + n, 40.0 + n, 0.1 / n, 1.0, 2.0, 1.7e9 + n) for n in (1, 2))
STARTED, ENDED = "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00"


def result_of(config, **changes):
    result = TrialResult(
        config.trial_id, TrialStatus.OK, 1, STARTED, ENDED, history=HISTORY, val_top1=90.5, val_loss=0.25,
        device="a cpu", train_device_hours=0.5,
    )  # fmt: skip
    return dataclasses.replace(result, **changes)


def row_of(config, **changes):
    costs = {"params": 1000, "macs_per_image": 5000, "train_step_ms": 4.5}
    row = {**cell_columns("a", config), **costs, **result_columns(result_of(config, **changes))}
    return {name: value for name, value in row.items() if value is not None}


FAILURE = {"status": TrialStatus.OOM, "error": "too large", "history": HISTORY[:1], "val_top1": None, "val_loss": None}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """Made once: MLflow takes a second to lay its tables out."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        patch.chdir(path.parent)
        tracker = MlflowTracker("unrelated", "", Ledger(SweepFolder(path.parent / "unrelated")))
        tracker.trial_started(FIRST)
        assert tracker.close(True) == []
    return path.read_bytes()


def test_mlflow_says_nothing_on_stderr(tmp_path, monkeypatch, capfd, follow):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    tracker = MlflowTracker("a", "", Ledger(SweepFolder(tmp_path / "a")))
    follow(tracker, FIRST)
    assert tracker.close(True) == []
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """The address of a store; runs of another sweep with the same trial are in it already."""
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    address = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.chdir(tmp_path)
    return address


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "a")


@pytest.fixture
def ledger(folder):
    return Ledger(folder)


@pytest.fixture
def start(store, ledger):
    return lambda: MlflowTracker("a", "the space", ledger)


def runs_of(sweep="a"):
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name(sweep)
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags.get("sweep_role") == "parent"]
    children = {run.data.tags["trial_id"]: run for run in runs if "trial_id" in run.data.tags}
    assert len(parents) + len(children) == len(runs)
    return client, parents, children


@pytest.fixture
def follow(folder):
    """Tells a tracker of a whole trial, as the controller does: the row is on disk before the tracker hears of it."""

    def follow(tracker, config, **changes):
        tracker.trial_started(config)
        for epoch in changes.get("history", HISTORY):
            tracker.epoch(config, epoch)
        end(tracker, config, **changes)

    def end(tracker, config, **changes):
        folder.row(config.trial_id).unlink(missing_ok=True)  # a good row would stay
        commit(folder, row_of(config, **changes), changes.get("history", HISTORY))
        tracker.trial_ended(config.trial_id)

    follow.end = end
    return follow


def test_one_parent_and_a_child_for_each_trial_with_all_that_is_known_of_it(start, store, ledger, tmp_path, follow):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "rules.json").write_text("{}")
    tracker = start()
    follow(tracker, FIRST)
    follow(tracker, SECOND)
    tracker.sweep_ended(tmp_path / "report")
    assert tracker.close(finished=True) == []
    client, (parent,), children = runs_of()
    assert children.keys() == {FIRST.trial_id, SECOND.trial_id}
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    assert parent.data.tags["mlflow.note.content"] == "the space"
    assert [file.path for file in client.list_artifacts(parent.info.run_id, "report")] == ["report/rules.json"]
    child = children[SECOND.trial_id]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.data.tags["sweep"] == parent.data.tags["sweep"] == "a"
    assert child.info.run_name == "d26 w0.25 16px 2ep"
    wanted = {"epochs": "2", "width": "0.25", "depth": "26", "resolution": "16", "recipe_learning_rate": "0.1"}
    assert {name: child.data.params[name] for name in wanted} == wanted
    wanted = {"val_top1": 90.5, "train_step_ms": 4.5, "minival_top1": 42.0, "params": 1000.0}
    assert {name: child.data.metrics[name] for name in wanted} == wanted
    assert child.info.end_time == 1_767_229_200_000
    for config in (FIRST, SECOND):
        run_id = children[config.trial_id].info.run_id
        assert ledger.mark_of(config.trial_id) == Mark(store, run_id, parent.info.run_id, "ok")


def curve(client, run, name):
    entries = client.get_metric_history(run.info.run_id, name)
    return [(entry.step, entry.value, entry.timestamp) for entry in entries]


def test_metrics_have_the_epoch_as_step_and_the_time_at_which_they_were_measured(start, follow):
    tracker = start()
    follow(tracker, FIRST)
    tracker.close(True)
    client, _, children = runs_of()
    for name in EPOCH_METRICS:
        wanted = [(epoch.epoch, getattr(epoch, name), 1000 * int(epoch.finished_at)) for epoch in HISTORY]
        assert curve(client, children[FIRST.trial_id], name) == wanted


def test_recording_again_changes_nothing(start, follow):
    for _ in range(2):
        tracker = start()
        follow(tracker, FIRST)
        assert tracker.close(True) == []
    client, (parent,), children = runs_of()
    (child,) = children.values()
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert len(curve(client, child, "minival_top1")) == 2
    assert len(curve(client, child, "val_top1")) == 1


def test_a_trial_whose_epochs_were_never_heard_of_is_whole_all_the_same(start, follow):
    tracker = start()
    follow.end(tracker, FIRST)
    assert tracker.close(True) == []
    client, _, children = runs_of()
    child = children[FIRST.trial_id]
    assert len(curve(client, child, "minival_top1")) == 2
    assert child.info.end_time - child.info.start_time == 3_600_000


def test_another_sweep_with_the_same_trial_has_a_run_of_its_own(start, follow):
    tracker = start()
    follow(tracker, FIRST)
    tracker.close(True)
    _, _, ours = runs_of()
    _, _, theirs = runs_of("unrelated")
    assert ours.keys() == theirs.keys() == {FIRST.trial_id}
    assert ours[FIRST.trial_id].info.run_id != theirs[FIRST.trial_id].info.run_id
    assert "val_top1" not in theirs[FIRST.trial_id].data.metrics


def test_a_failure_is_failed_with_its_reason_and_good_once_it_was_retried(start, follow):
    tracker = start()
    follow(tracker, FIRST, **FAILURE)
    tracker.close(True)
    _, _, children = runs_of()
    child = children[FIRST.trial_id]
    assert (child.info.status, child.data.tags["status"], child.data.tags["error"]) == ("FAILED", "oom", "too large")
    assert "val_top1" not in child.data.metrics
    tracker = start()
    follow(tracker, FIRST)
    assert tracker.close(True) == []
    _, _, children = runs_of()
    assert children[FIRST.trial_id].info.run_id == child.info.run_id
    assert children[FIRST.trial_id].info.status == "FINISHED"
    assert children[FIRST.trial_id].data.metrics["val_top1"] == 90.5


def test_an_interruption_leaves_no_run_that_says_it_is_running(start, follow):
    tracker = start()
    follow(tracker, FIRST)
    tracker.trial_started(SECOND)
    tracker.epoch(SECOND, HISTORY[0])
    assert tracker.close(finished=False) == []
    _, (parent,), children = runs_of()
    assert parent.info.status == "KILLED"
    assert [children[config.trial_id].info.status for config in (FIRST, SECOND)] == ["FINISHED", "KILLED"]


def test_an_interrupted_trial_goes_on_in_its_own_run(start, follow):
    tracker = start()
    tracker.trial_started(FIRST)
    tracker.epoch(FIRST, HISTORY[0])
    tracker.close(finished=False)
    tracker = start()
    tracker.trial_started(FIRST)
    tracker.epoch(FIRST, HISTORY[1])
    follow.end(tracker, FIRST)
    assert tracker.close(True) == []
    client, (parent,), children = runs_of()
    assert (parent.info.status, children[FIRST.trial_id].info.status) == ("FINISHED", "FINISHED")
    assert len(curve(client, children[FIRST.trial_id], "minival_top1")) == 2


def test_a_sweep_with_nothing_to_record_makes_no_run(start):
    assert start().close(True) == []
    from mlflow import MlflowClient

    assert MlflowClient().get_experiment_by_name("a") is None


ADDRESSES = {"no server": "http://127.0.0.1:9", "no such folder": "sqlite:////proc/nowhere/mlflow.db"}


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_a_store_that_cannot_be_reached_is_one_line_and_no_exception(address, ledger, folder, monkeypatch, follow):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setattr(tracking, "CLOSE_S", 2.0)
    tracker = MlflowTracker("a", "", ledger)
    follow(tracker, FIRST)
    (problem,) = tracker.close(True)
    assert problem.startswith("not recorded: 1 trial (")
    assert "\n" not in problem
    ours = ("AttributeError", "KeyError", "TypeError")  # would tell nobody what is wrong
    assert not any(name in problem for name in ours)
    assert ledger.missing(read_states(folder)) == [FIRST.trial_id]


def test_the_null_tracker_does_nothing(tmp_path, follow):
    tracker = NullTracker()
    follow(tracker, FIRST)
    tracker.sweep_ended(tmp_path)
    assert tracker.close(True) == []

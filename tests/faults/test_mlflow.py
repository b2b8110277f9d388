"""MLflow that is down, slow, locked or wrong: training goes on, and in the end each trial is there once and whole."""

import dataclasses
import os
import sqlite3
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from mlflow_server import Proxy, mlflow_server

from sweep import tracking
from sweep.layout import SweepFolder
from sweep.ledger import Ledger
from sweep.rows import cell_columns, commit, read_states, result_columns
from sweep.space import SweepSpec
from sweep.tracking import MlflowTracker
from sweep.trials import trials_of
from workers.contract import EpochMetrics, TrialResult, TrialStatus

# MLflow's own use of SQLAlchemy; nothing of ours is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

AXES = {"width": [0.125, 0.25], "depth": [26], "resolution": [16], "epochs": [2]}
SPACE = {"sweep": "a", "data": {"name": "digits"}, "recipe": "small", "axes": AXES}
FIRST, SECOND = trials_of(SweepSpec.model_validate(SPACE))
HISTORY = tuple(EpochMetrics(n, 2.0 / n, 50.0 + n, 40.0 + n, 0.1 / n, 1.0, 2.0, 1.7e9 + n) for n in (1, 2))
STARTED, ENDED = "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00"
DEADLINE_S = 60.0


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as port:
        yield port


@pytest.fixture
def proxy(server):
    made = Proxy(server)
    yield made
    made.close()


@pytest.fixture
def quick(monkeypatch):
    """Pauses that tests can wait for."""
    monkeypatch.setattr(tracking, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(tracking, "LONGEST_PAUSE_S", 0.2)
    monkeypatch.setattr(tracking, "CLOSING_PAUSE_S", 0.1)
    monkeypatch.setattr(tracking, "EPOCHS_EVERY_S", 0.05)
    monkeypatch.setattr(tracking, "CLOSE_S", DEADLINE_S)
    monkeypatch.setattr(tracking, "INTERRUPTED_S", DEADLINE_S)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def a(quick, tmp_path, monkeypatch):
    """A sweep with a name of its own on the server behind the proxy."""
    return Sweep(f"a-{time.monotonic_ns()}", tmp_path, monkeypatch)


class Sweep:
    """Does to a tracker what the controller does, and looks MLflow up."""

    def __init__(self, name, tmp_path, monkeypatch):
        self.name, self.folder, self.patch = name, SweepFolder(tmp_path / name), monkeypatch
        self.ledger = Ledger(self.folder)

    def track(self, address):
        self.patch.setenv("MLFLOW_TRACKING_URI", address)
        return MlflowTracker(self.name, "the space", self.ledger)

    def start(self, tracker, config, epochs=HISTORY):
        tracker.trial_started(config)
        for epoch in epochs:
            tracker.epoch(config, epoch)

    def end(self, tracker, config, status=TrialStatus.OK, history=HISTORY):
        result = TrialResult(config.trial_id, status, 1, STARTED, ENDED, history=history, val_top1=90.5)
        row = {**cell_columns(self.name, config), **result_columns(result)}
        row = {name: value for name, value in row.items() if value is not None}
        commit(self.folder, row, history)
        tracker.trial_ended(config.trial_id)

    def missing(self):
        return self.ledger.missing(read_states(self.folder))

    def recorded(self, config):
        return self.ledger.mark_of(config.trial_id) is not None

    def look(self, address):
        """The client, the parent runs, the trials' runs."""
        from mlflow import MlflowClient

        client = MlflowClient(address)
        experiment = client.get_experiment_by_name(self.name)
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        children = [run for run in runs if "trial_id" in run.data.tags]
        return client, [run for run in runs if run not in children], children

    def assert_whole(self, address, *configs, parent_status="FINISHED"):
        client, (parent,), children = self.look(address)
        assert parent.info.status == parent_status
        assert sorted(run.data.tags["trial_id"] for run in children) == sorted(c.trial_id for c in configs)
        for run in children:
            assert run.info.status == "FINISHED"
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.data.params["epochs"] == "2"
            assert run.data.metrics["val_top1"] == 90.5
            curve = client.get_metric_history(run.info.run_id, "minival_top1")
            assert [(m.step, m.value) for m in curve] == [(e.epoch, e.minival_top1) for e in HISTORY]
            assert self.ledger.mark_of(run.data.tags["trial_id"]).run_id == run.info.run_id
        assert self.missing() == []
        assert self.ledger.is_open() == (parent_status != "FINISHED")  # the next `sweep run` finishes it then


def direct(server):
    return f"http://127.0.0.1:{server}"


FAULTS = ["refuse", "hang", 500, 429]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_from_the_start_ends_with_everything_recorded(a, proxy, server, fault):
    if fault == "hang":
        a.patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    proxy.strike(fault)
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST)
    a.end(tracker, FIRST)
    until(lambda: proxy.struck)
    proxy.heal()
    a.start(tracker, SECOND)
    a.end(tracker, SECOND)
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST, SECOND)


@pytest.mark.parametrize("fault", ["refuse", 500])
def test_an_outage_in_the_middle_ends_by_itself(a, proxy, server, fault):
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST, HISTORY[:1])
    until(lambda: proxy.requests["log-batch"])
    proxy.strike(fault)
    tracker.epoch(FIRST, HISTORY[1])
    a.end(tracker, FIRST)
    until(lambda: proxy.struck >= 2)
    proxy.heal()
    until(lambda: a.recorded(FIRST))  # before anything else is reported
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST)


PATHS = ["experiments/create", "runs/create", "runs/search", "runs/log-batch", "runs/update"]


@pytest.mark.parametrize("path", PATHS)
def test_answers_that_are_lost_after_the_server_obeyed_make_nothing_double(a, proxy, server, path):
    proxy.strike("drop", on=path, strikes=2)
    tracker = a.track(proxy.address)
    for config in (FIRST, SECOND):
        a.start(tracker, config)
        a.end(tracker, config)
    assert tracker.close(True) == []
    assert proxy.struck
    a.assert_whole(direct(server), FIRST, SECOND)


@pytest.mark.parametrize("ended", [False, True], ids=["at the close", "at the trial's end"])
def test_a_run_that_is_made_after_the_client_gave_up_is_found_and_deleted(a, proxy, server, monkeypatch, ended):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST)
    until(lambda: proxy.requests["create"] >= 2)
    until(lambda: proxy.requests["log-batch"])
    proxy.strike("late", on="runs/create", strikes=1)
    a.start(tracker, SECOND)
    if not ended:
        a.end(tracker, SECOND)
        until(lambda: a.recorded(SECOND))
    until(lambda: proxy.landed)
    until(lambda: len(a.look(direct(server))[2]) == 3)  # two of them of one trial
    a.end(tracker, FIRST)
    if ended:
        a.end(tracker, SECOND)
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST, SECOND)


@pytest.mark.parametrize("fault", ["refuse", "hang"])
def test_a_server_that_is_dead_at_the_end_is_not_waited_for_and_the_next_run_sends_the_rest(a, proxy, server, fault):
    a.patch.setattr(tracking, "CLOSE_S", 2.0)
    a.patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "45")
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST)
    a.end(tracker, FIRST)
    until(lambda: a.recorded(FIRST))
    proxy.strike(fault)
    a.end(tracker, SECOND)
    before = time.monotonic()
    (problem,) = tracker.close(True)
    assert time.monotonic() - before < 30  # the server lets each call wait longer than that
    assert problem.startswith("not recorded: 1 trial and the runs' end (")
    assert a.missing() == [SECOND.trial_id]
    assert a.ledger.is_open()
    proxy.heal()
    a.patch.setattr(tracking, "CLOSE_S", DEADLINE_S)
    tracker = a.track(proxy.address)
    a.end(tracker, SECOND)
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST, SECOND)


def test_runs_that_a_killed_controller_left_running_are_ended_by_the_next(a, proxy, server, monkeypatch):
    monkeypatch.setattr(tracking, "INTERRUPTED_S", 1.0)
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST)
    a.start(tracker, SECOND)
    until(lambda: len(a.look(direct(server))[2]) == 2)
    until(lambda: proxy.requests["log-batch"] >= 2)
    proxy.strike("refuse")
    (problem,) = tracker.close(finished=False)
    assert problem.startswith("not recorded: the runs' end (")
    _, parents, children = a.look(direct(server))
    assert {run.info.status for run in (*parents, *children)} == {"RUNNING"}
    proxy.heal()
    a.end(SimpleNamespace(trial_ended=lambda *_: None), FIRST)  # its row was written, MLflow heard nothing of it
    tracker = a.track(proxy.address)
    assert tracker.close(finished=False) == []
    _, (parent,), children = a.look(direct(server))
    assert parent.info.status == "KILLED"
    statuses = {run.data.tags["trial_id"]: run.info.status for run in children}
    assert statuses == {FIRST.trial_id: "FINISHED", SECOND.trial_id: "KILLED"}
    tracker = a.track(proxy.address)
    a.start(tracker, SECOND)
    a.end(tracker, SECOND)
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST, SECOND)


def test_of_several_parents_and_runs_of_a_trial_one_is_kept(a, proxy, server):
    from mlflow import MlflowClient

    client = MlflowClient(direct(server))
    experiment = client.create_experiment(a.name)
    for index in range(2):
        tags = {"sweep": a.name, "sweep_role": "parent"}
        parent = client.create_run(experiment, 1000 + index, tags).info.run_id
        tags = {"sweep": a.name, "trial_id": FIRST.trial_id, "mlflow.parentRunId": parent}
        client.create_run(experiment, 2000 - index, tags)
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST)
    a.end(tracker, FIRST)
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST)


def test_epochs_of_an_attempt_whose_work_was_lost_are_not_among_the_trials(a, proxy, server):
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST, [dataclasses.replace(HISTORY[0], finished_at=1.6e9, minival_top1=1.0)])
    until(lambda: proxy.requests["log-batch"])
    tracker.close(False)
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST)
    a.end(tracker, FIRST)
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST)


def test_a_run_with_another_value_of_a_parameter_is_replaced_and_holds_no_other_up(a, proxy, server):
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST)
    until(lambda: proxy.requests["log-batch"])
    client, _, (run,) = a.look(direct(server))
    client.log_param(run.info.run_id, "epochs", "99")
    a.end(tracker, FIRST)
    a.end(tracker, SECOND)
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST, SECOND)


def test_a_database_that_was_deleted_is_filled_again_without_being_asked(a, proxy, server):
    tracker = a.track(proxy.address)
    a.end(tracker, FIRST)
    assert tracker.close(True) == []
    client, parents, children = a.look(direct(server))
    for run in (*parents, *children):
        client.delete_run(run.info.run_id)
    tracker = a.track(proxy.address)
    a.end(tracker, SECOND)
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST, SECOND)


def test_a_slow_server_is_waited_for_a_bounded_time_and_shows_nothing_as_running(a, proxy, server):
    a.patch.setattr(tracking, "CLOSE_S", 4.0)
    proxy.delay_s = 0.2
    tracker = a.track(proxy.address)
    a.start(tracker, FIRST)
    until(lambda: proxy.requests["log-batch"])
    for _ in range(2):
        a.end(tracker, FIRST)
    many = [dataclasses.replace(SECOND, trial_id=f"{SECOND.trial_id[:-3]}{n:03}") for n in range(30)]
    for config in many:
        a.end(tracker, config)
    (problem,) = tracker.close(True)
    assert problem.startswith("not recorded: ")
    left = a.missing()
    assert left
    _, (parent,), children = a.look(direct(server))
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    proxy.heal()
    tracker = a.track(proxy.address)
    for config in many:
        if config.trial_id in left:
            a.end(tracker, config)
    assert tracker.close(True, patient=True) == []
    a.assert_whole(direct(server), FIRST, *many)


@pytest.fixture
def database(a, tmp_path):
    address = f"sqlite:///{tmp_path}/mlflow.db"
    a.patch.chdir(tmp_path)
    tracker = a.track(address)
    a.end(tracker, FIRST)
    assert tracker.close(True) == []
    return address


def test_a_locked_database_is_an_outage_like_any_other(a, database):
    lock = sqlite3.connect(database.removeprefix("sqlite:///"))
    lock.execute("BEGIN EXCLUSIVE")
    a.patch.setattr(tracking, "CLOSE_S", 1.0)
    tracker = a.track(database)
    a.end(tracker, SECOND)
    (problem,) = tracker.close(True)
    assert problem.startswith("not recorded: 1 trial")
    assert a.missing() == [SECOND.trial_id]
    tracker = a.track(database)
    a.end(tracker, SECOND)
    lock.rollback()
    lock.close()
    a.patch.setattr(tracking, "CLOSE_S", DEADLINE_S)
    assert tracker.close(True) == []
    a.assert_whole(database, FIRST, SECOND)


def test_another_address_or_a_deleted_file_has_nothing_and_gets_everything(a, database, proxy, server, tmp_path):
    assert a.missing() == []
    a.patch.setenv("MLFLOW_TRACKING_URI", proxy.address)
    assert a.missing() == [FIRST.trial_id]
    a.patch.setenv("MLFLOW_TRACKING_URI", database)
    (tmp_path / "mlflow.db").rename(tmp_path / "gone.db")
    assert a.missing() == [FIRST.trial_id]
    tracker = a.track(proxy.address)
    a.end(tracker, FIRST)
    assert tracker.close(True) == []
    a.assert_whole(direct(server), FIRST)


def test_a_password_in_the_address_is_in_no_file_and_no_message(a, proxy, capfd):
    a.patch.setattr(tracking, "CLOSE_S", 1.0)
    with_password = proxy.address.replace("://", "://someone:s3cr%40t@")
    tracker = a.track(with_password)
    a.end(tracker, FIRST)
    assert tracker.close(True) == []
    proxy.strike("refuse")
    tracker = a.track(with_password)
    a.end(tracker, SECOND)
    (problem,) = tracker.close(True)
    texts = [problem, *capfd.readouterr()]
    texts += [path.read_text(errors="replace") for path in a.folder.path.rglob("*") if path.is_file()]
    assert not [text for text in texts if "s3cr" in text]
    a.patch.setenv("MLFLOW_TRACKING_URI", proxy.address)
    assert a.missing() == [SECOND.trial_id]  # the same server, whoever asks


TINY = """
sweep: {name}
data: {{name: digits}}
recipe: {{name: small, batch_size: 256, bn_batch: 128}}
axes: {{width: [0.125], depth: [26], resolution: [16], epochs: [1, 2, 6]}}
"""


def test_a_sweep_goes_through_an_outage_and_mlflow_has_all_of_it(a, proxy, server, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY.format(name=a.name))
    command = [sys.executable, "-m", "sweep", "run", "tiny.yaml", "--executor", "local"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": proxy.address}
    running = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: proxy.requests["log-batch"] or running.poll() is not None)
    proxy.strike("refuse")
    until(lambda: list(tmp_path.glob("results/*/trials/*.parquet")) or running.poll() is not None)
    until(lambda: proxy.struck or running.poll() is not None)
    proxy.heal()
    out, err = running.communicate(timeout=DEADLINE_S)
    assert (running.returncode, out) == (0, ""), err
    assert "MLflow" not in err
    client, (parent,), children = a.look(direct(server))
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    curves = {r.data.params["epochs"]: client.get_metric_history(r.info.run_id, "train_loss") for r in children}
    assert {epochs: len(curve) for epochs, curve in curves.items()} == {"1": 1, "2": 2, "6": 6}

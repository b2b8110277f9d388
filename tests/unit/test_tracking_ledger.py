"""What MLflow has: marks that count, addresses without secrets, and an agenda that an outage does not fill."""

import json

import pytest

from sweep import agenda
from sweep.agenda import Agenda
from sweep.layout import SweepFolder
from sweep.ledger import Ledger, Mark, address_of, current_address, masked
from sweep.plan import EXCLUDED, RowState
from workers.contract import EpochMetrics

SERVER = "http://mlflow.example:5000"
STATES = {"one": RowState("ok", None), "two": RowState("oom", "too large"), "out": RowState(EXCLUDED, "too dear")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER)
    return SweepFolder(tmp_path / "a")


@pytest.fixture
def ledger(folder):
    made = Ledger(folder)
    for trial_id, status in (("one", "ok"), ("two", "oom")):
        made.mark(trial_id, Mark(SERVER, f"run of {trial_id}", "parent", status))
    return made


def test_marked_rows_are_not_missing_and_excluded_cells_never_are(ledger, folder):
    assert ledger.missing(STATES) == []
    assert Ledger(SweepFolder(folder.path / "other")).missing(STATES) == ["one", "two"]


def test_a_mark_for_another_address_or_status_does_not_count(ledger, monkeypatch):
    assert ledger.missing({**STATES, "two": RowState("ok", None)}) == ["two"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other.example")
    assert ledger.missing(STATES) == ["one", "two"]


@pytest.mark.parametrize("damage", ["", "{", "[]", "null", '{"run_id": "x"}', "\x00\x00", "another"])
def test_a_damaged_mark_is_the_same_as_none(ledger, folder, damage):
    path = folder.tracked("one")
    if damage == "another":  # JSON, but not what was written
        damage = json.dumps(json.loads(path.read_text()) | {"status": "oom"})
    path.write_text(damage)
    assert ledger.mark_of("one") is None
    assert ledger.missing(STATES) == ["one"]


def test_trials_recorded_under_another_parent_are_known(ledger, folder):
    folder.trials.mkdir()
    folder.row("one").touch()
    assert ledger.strangers(SERVER, "parent") == []
    assert ledger.strangers(SERVER, "a new one") == ["one"]  # the other's row is gone
    assert ledger.strangers("elsewhere", "a new one") == []


def test_whether_runs_may_be_running_is_remembered_beside_the_marks(ledger, folder):
    assert not ledger.is_open()
    ledger.opened()
    assert Ledger(folder).is_open()
    ledger.closed()
    ledger.closed()
    assert not ledger.is_open()


ADDRESSES = {
    "http://user:pw@host:5000/path?token=1": "http://host:5000/path",
    "postgresql://user:p@w/x@host/db?sslmode=require": "postgresql://host/db",
    "mysql+pymysql://host/db": "mysql+pymysql://host/db",
    "sqlite:////tmp/mlflow.db": "sqlite:////tmp/mlflow.db",
    "databricks": "databricks",
}


@pytest.mark.parametrize(("uri", "address"), ADDRESSES.items(), ids=ADDRESSES)
def test_an_address_has_neither_user_nor_password_nor_options(uri, address):
    assert address_of(uri) == address


def test_a_relative_file_is_another_one_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert current_address() == address_of("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"


TEXTS = {
    "address": "no answer from {uri}",
    "password alone": "user someone, password hunter2@x refused",
    "quoted": "password hunter2%40x",
    "another address": "at postgresql://someone:hunter2%40x@host:1/db: refused",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_messages_have_no_password(text, monkeypatch):
    uri = "postgresql://someone:hunter2%40x@host/db?sslpassword=other3"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    shown = masked(text.format(uri=uri))
    assert "hunter2" not in shown
    assert "other3" not in shown
    assert "***" in shown


def test_messages_without_an_address_stay_as_they_are(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert masked("database is locked (http://host:5000/x)") == "database is locked (http://host:5000/x)"


def test_an_outage_piles_up_ids_and_a_bounded_number_of_epochs(monkeypatch):
    monkeypatch.setattr(agenda, "HELD_EPOCHS", 100)
    due = Agenda(0.0)
    for trial in range(30):
        due.add("started", str(trial), "name")
        for epoch in range(1, 51):
            due.add("epoch", str(trial), EpochMetrics(epoch, 1.0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0))
            assert sum(map(len, due._epochs.values())) <= 100
        if trial < 20:
            due.add("ended", str(trial), None)
            assert str(trial) not in due._epochs
    assert due.missing() == ["20 trials"]


def test_what_people_look_at_comes_before_a_backlog_and_each_job_comes_once(tmp_path):
    due = Agenda(0.0)
    due.add("artifacts", "", tmp_path)
    due.add("ended", "old", None)
    due.add("started", "new", "its name")
    due.add("epoch", "new", "an epoch")
    jobs = []
    while job := due.next(1e12, hurry=False):
        jobs.append(job)
        due.done(job[0], job[1])
    assert [kind for kind, *_ in jobs] == ["started", "epoch", "ended", "artifacts"]
    assert not due.pending()
    assert due.wait_s(0.0) is None


def test_a_refused_trial_is_missing_until_it_is_reported_again():
    due = Agenda(0.0)
    due.add("ended", "one", None)
    due.refuse("one")
    assert (due.pending(), due.missing()) == (False, ["1 trial"])
    due.add("ended", "one", None)
    due.done("ended", "one")
    assert due.missing() == []

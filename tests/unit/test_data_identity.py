"""A sweep's trials are all trained on the same images, wherever they run."""

import dataclasses

import pytest

from sweep.data_identity import accept, expected, expecting
from sweep.errors import RefusedError
from sweep.layout import SweepFolder
from sweep.rows import cell_columns, commit, read_row, result_columns
from sweep.space import SweepSpec
from sweep.trials import trials_of
from workers.contract import TrialResult, TrialStatus
from workers.files import read_sealed

SPACE = {
    "sweep": "a",
    "data": {"name": "digits"},
    "recipe": "small",
    "axes": {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [1, 2]},
}
TRIALS = trials_of(SweepSpec.model_validate(SPACE))
NAME, VERSION = "digits", "sklearn-1797"


def result_of(config, identity, status=TrialStatus.OK):
    when = "2026-01-01T00:00:00+00:00"
    return TrialResult(config.trial_id, status, 1, when, when, val_top1=90.0, data_identity=identity, host="here")


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "a")


def test_the_first_finished_trial_says_which_images_the_others_have_to_find(folder):
    first, second = TRIALS
    assert expected(folder, NAME, VERSION) is None
    assert accept(folder, first, result_of(first, "one")) == result_of(first, "one")
    assert expected(folder, NAME, VERSION) == "one"
    assert expected(folder, NAME, "another version") is None
    told = expecting(folder, TRIALS)
    assert [config.data.expected for config in told] == ["one", "one"]
    assert [config.trial_id for config in told] == [config.trial_id for config in TRIALS]
    assert accept(folder, second, result_of(second, "one")).status is TrialStatus.OK
    assert read_sealed(folder.data) == {f"{NAME} {VERSION}": "one"}


def test_a_result_of_other_images_becomes_a_failure_that_says_where_and_what_to_do(folder):
    first, second = TRIALS
    accept(folder, first, result_of(first, "one"))
    left = folder.work(second.trial_id) / "result.json"
    left.parent.mkdir(parents=True)
    left.write_text(result_of(second, "two").to_json())
    refused = accept(folder, second, result_of(second, "two"))
    assert (refused.status, refused.val_top1, refused.data_identity) == (TrialStatus.DATA_ERROR, None, "two")
    assert "digits: the images on here are not those" in refused.error
    assert "name a new data.version" in refused.error
    assert "\n" not in refused.error
    assert not left.exists()  # or the next attempt would take it for its own
    assert expected(folder, NAME, VERSION) == "one"


def test_a_disk_without_room_costs_no_result_and_the_next_one_says_it(folder, monkeypatch):
    first, second = TRIALS

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("sweep.data_identity.write_json", fail)
        assert accept(folder, first, result_of(first, "one")) == result_of(first, "one")
    assert expected(folder, NAME, VERSION) is None
    accept(folder, second, result_of(second, "one"))
    assert expected(folder, NAME, VERSION) == "one"


def test_another_version_may_have_other_images(folder):
    first, second = TRIALS
    accept(folder, first, result_of(first, "one"))
    other = dataclasses.replace(second, data=dataclasses.replace(second.data, version="2"))
    assert accept(folder, other, result_of(other, "two")).status is TrialStatus.OK
    assert (expected(folder, NAME, VERSION), expected(folder, NAME, "2")) == ("one", "two")


@pytest.mark.parametrize(("identity", "status"), [(None, TrialStatus.OK), ("two", TrialStatus.DIVERGED)])
def test_a_result_that_does_not_tell_and_a_failure_stay_as_they_are(folder, identity, status):
    first, second = TRIALS
    unsaid = result_of(first, identity, status)
    assert accept(folder, first, unsaid) == unsaid
    assert not folder.data.exists()
    accept(folder, first, result_of(first, "one"))
    assert accept(folder, second, result_of(second, identity, status)).status is status


def test_the_identity_is_in_the_row(folder):
    (first, _) = TRIALS
    row = {"sweep": "a", **result_columns(result_of(first, "one"))}
    commit(folder, row, ())
    assert read_row(folder.row(first.trial_id))["data_identity"] == "one"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"digits 1": "one"}'])
def test_a_damaged_file_is_refused_by_name(folder, text):
    folder.path.mkdir()
    folder.data.write_text(text)
    with pytest.raises(RefusedError, match=r"data\.json: damaged .*move it away") as told:
        expecting(folder, TRIALS)
    assert "\n" not in str(told.value)


def test_without_the_file_the_rows_say_which_images_they_were_and_the_next_trial_writes_it_again(folder):
    first, second = TRIALS
    result = accept(folder, first, result_of(first, "one"))
    commit(folder, {**cell_columns("a", first), **result_columns(result)}, ())
    folder.data.unlink()
    assert [config.data.expected for config in expecting(folder, TRIALS)] == ["one", "one"]
    assert accept(folder, second, result_of(second, "two")).status is TrialStatus.DATA_ERROR
    assert read_sealed(folder.data) == {f"{NAME} {VERSION}": "one"}

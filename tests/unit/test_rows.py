import dataclasses

import pandas as pd
import pytest

from sweep.errors import DamagedTableError
from sweep.layout import SweepFolder
from sweep.naming import model_of
from sweep.parts import read_part
from sweep.plan import EXCLUDED, RowState
from sweep.rows import (
    cell_columns,
    commit,
    cost_columns,
    excluded_row,
    keep_planned,
    read_history,
    read_row,
    read_states,
    refresh_index,
    result_columns,
    set_aside,
)
from sweep.space import SweepSpec
from sweep.table import read_table
from sweep.trials import trials_of
from workers.contract import EpochMetrics, TrialResult, TrialStatus
from workers.costs import Costs
from workers.files import write_bytes

SPACE = {
    "sweep": "a",
    "data": {"name": "digits"},
    "recipe": "small",
    "axes": {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [2]},
}
(CONFIG,) = trials_of(SweepSpec.model_validate(SPACE))
HISTORY = tuple(EpochMetrics(n, 2.0 / n, 50.5 + n, 40.25 + n, 0.1, 1.5, 2.0, 1.7e9 + n) for n in (1, 2))
OK = TrialResult(
    CONFIG.trial_id, TrialStatus.OK, 2, "2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00", history=HISTORY,
    val_top1=90.5, val_top5=99.0, val_loss=0.5, minival_images=360, val_images=359, train_images_per_s=100.0,
    train_device_hours=0.5, device="a cpu", micro_batch=32, versions="v", host="h",
)  # fmt: skip
FAILED = TrialResult(CONFIG.trial_id, TrialStatus.OOM, 1, OK.started_at, OK.finished_at, error="too large")
MEASURED = {"train_step_ms": 4.5, "infer_latency_ms": 1.0, "peak_memory_bytes": 1_000_000}


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path / "a")


def row_of(result, measured=MEASURED):
    return {
        **cell_columns("a", CONFIG),
        **cost_columns(CONFIG, Costs(1000, 5000), measured),
        **result_columns(result),
    }


def test_a_good_row_says_what_it_was_what_it_cost_and_what_came_out(folder):
    commit(folder, row_of(OK), HISTORY)
    (row,) = read_table(folder.trials).to_dict("records")
    wanted = {
        "sweep": "a", "trial_id": CONFIG.trial_id, "width": 0.125, "depth": 26, "resolution": 16, "epochs": 2,
        "seed": 0, "recipe": "small", "recipe_learning_rate": 0.1, "recipe_nesterov": True, "recipe_warmup_epochs": 0.2,
        "dataset": "digits sklearn-1797", "protocol": "independent", "source": "measured", "status": "ok",
        "attempts": 2, "epochs_done": 2, "minival_top1": 42.25, "train_top1": 52.5, "val_top1": 90.5, "val_loss": 0.5,
        "params": 1000, "macs_per_image": 5000, "train_flops": 6 * 5000 * 1078 * 2, "train_step_ms": 4.5,
        "batch_size": 32, "micro_batch": 32, "device": "a cpu", "precision": "float32", "host": "h", "ranks": 1,
        "model_se": True, "model_stem_pool": "conv",
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted
    assert pd.isna(row["error"])


def test_the_precision_is_that_which_the_device_had_and_skipped_images_are_counted(folder):
    commit(folder, row_of(dataclasses.replace(OK, precision="float16", skipped_images=3)), HISTORY)
    row = read_row(folder.row(CONFIG.trial_id))
    assert (row["precision"], row["skipped_images"]) == ("float16", 3)


def test_planned_trials_read_back_with_their_arguments(folder):
    space = {**SPACE, "family": "efficientnet", "axes": {"variant": ["b0"], "resolution": [16, 32], "epochs": [2]}}
    for trials in ([CONFIG], trials_of(SweepSpec.model_validate(space))):
        keep_planned(folder, trials)
        rows = read_part(folder.planned).to_pylist()
        assert [row["trial_id"] for row in rows] == [trial.trial_id for trial in trials]
        assert [model_of(row) for row in rows] == [trial.model for trial in trials]
        assert [row["depth"] for row in rows] == [trial.depth for trial in trials]
    folder.planned.write_bytes(b"PAR1")
    with pytest.raises(DamagedTableError, match=r"planned.parquet: damaged .*`sweep run` makes it again"):
        read_part(folder.planned)


def test_every_value_of_the_recipe_is_in_the_row():
    columns = cell_columns("a", CONFIG)
    recipe = dataclasses.asdict(CONFIG.recipe)
    assert columns["recipe"] == recipe.pop("name")
    assert {name: columns[f"recipe_{name}"] for name in recipe} == recipe


def test_a_failure_is_a_row_without_numbers_that_it_has_not(folder):
    commit(folder, row_of(FAILED, None), ())
    (row,) = read_table(folder.trials).to_dict("records")
    assert (row["status"], row["error"], row["epochs_done"]) == ("oom", "too large", 0)
    assert all(pd.isna(row[name]) for name in ("val_top1", "minival_top1", "train_step_ms", "device", "micro_batch"))
    assert row["params"] == 1000
    assert read_history(folder, CONFIG.trial_id) == ()


def test_a_failure_after_some_epochs_keeps_them(folder):
    commit(folder, row_of(dataclasses.replace(FAILED, history=HISTORY[:1])), HISTORY[:1])
    row = read_row(folder.row(CONFIG.trial_id))
    assert (row["epochs_done"], row["minival_top1"]) == (1, 41.25)
    assert read_history(folder, CONFIG.trial_id) == HISTORY[:1]


def test_a_learning_curve_reads_back_exactly(folder):
    commit(folder, row_of(OK), HISTORY)
    assert read_history(folder, CONFIG.trial_id) == HISTORY
    assert all(isinstance(epoch.epoch, int) for epoch in read_history(folder, CONFIG.trial_id))


def test_a_new_attempt_without_epochs_does_not_keep_the_old_ones_curve(folder):
    commit(folder, row_of(dataclasses.replace(FAILED, history=HISTORY)), HISTORY)
    commit(folder, row_of(FAILED), ())
    assert read_row(folder.row(CONFIG.trial_id))["epochs_done"] == 0
    assert read_history(folder, CONFIG.trial_id) == ()


def test_a_good_row_is_never_replaced(folder):
    commit(folder, row_of(OK), HISTORY)
    before = {path: path.read_bytes() for path in (folder.row(CONFIG.trial_id), folder.epochs(CONFIG.trial_id))}
    for row, history in (
        (row_of(dataclasses.replace(OK, val_top1=1.0)), HISTORY[:1]),
        (row_of(FAILED), ()),
        (excluded_row("a", CONFIG, Costs(1000, 5000), "exclude: width 0.125"), ()),
    ):
        commit(folder, row, history)
        assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("status", [status for status in TrialStatus if status is not TrialStatus.OK])
def test_any_other_row_is_replaced_by_what_comes_after_it(folder, status):
    commit(folder, row_of(dataclasses.replace(FAILED, status=status, history=HISTORY[:1])), HISTORY[:1])
    commit(folder, row_of(FAILED), ())
    assert read_states(folder) == {CONFIG.trial_id: RowState("oom", "too large")}
    commit(folder, row_of(OK), HISTORY)
    assert read_states(folder) == {CONFIG.trial_id: RowState("ok")}
    assert read_history(folder, CONFIG.trial_id) == HISTORY


def test_an_excluded_row_is_replaced_once_the_trial_was_run(folder):
    commit(folder, excluded_row("a", CONFIG, Costs(1000, 5000), "exclude: width 0.125"), ())
    commit(folder, row_of(OK), HISTORY)
    assert "error" not in read_row(folder.row(CONFIG.trial_id))


def test_in_place_of_a_damaged_row_none_is_written_unasked(folder):
    write_bytes(folder.row(CONFIG.trial_id), b"PAR1")
    with pytest.raises(DamagedTableError, match="damaged"):
        commit(folder, row_of(OK), HISTORY)
    assert folder.row(CONFIG.trial_id).read_bytes() == b"PAR1"


def test_an_attempts_token_is_not_in_the_row_and_what_it_repeated_and_lost_is():
    columns = result_columns(dataclasses.replace(OK, token="secret", epochs_repeated=0.5, lost_device_hours=0.25))
    assert "secret" not in columns.values()
    assert (columns["epochs_repeated"], columns["lost_device_hours"]) == (0.5, 0.25)


def damaged_row(folder):
    """A damaged row, and what reading it says."""
    part = folder.row(CONFIG.trial_id)
    commit(folder, row_of(OK), HISTORY)
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DamagedTableError) as caught:
        read_row(part)
    return part, caught.value


def test_a_damaged_row_is_put_aside_where_its_result_is_still_there(folder):
    part, _ = damaged_row(folder)
    damage = part.read_bytes()
    write_bytes(folder.work(CONFIG.trial_id) / "result.json", OK.to_json().encode())
    told = []
    states = read_states(folder, lambda path, reason: (told.append(path), set_aside(folder, path, reason)))
    assert (states, told) == ({}, [part])
    assert list(folder.trials.iterdir()) == []  # whoever reads the folder with other tools does not find it either
    assert (folder.damaged / part.name).read_bytes() == damage
    assert read_states(folder) == {}
    commit(folder, row_of(OK), HISTORY)
    assert read_states(folder) == {CONFIG.trial_id: RowState("ok")}
    assert read_table(folder.trials)["trial_id"].tolist() == [CONFIG.trial_id]  # what was put aside is no part


RESULTS = {
    "no result": None,
    "a torn result": OK.to_json()[:50],
    "a failure": FAILED.to_json(),
    "another trial's": dataclasses.replace(OK, trial_id="another").to_json(),
}


@pytest.mark.parametrize("text", RESULTS.values(), ids=RESULTS)
def test_a_damaged_row_that_only_training_would_bring_back_stays_and_is_refused(folder, text):
    part, error = damaged_row(folder)
    damage = part.read_bytes()
    if text is not None:
        write_bytes(folder.work(CONFIG.trial_id) / "result.json", text.encode())
    with pytest.raises(DamagedTableError) as caught:
        set_aside(folder, part, error)
    assert caught.value is error
    assert part.read_bytes() == damage


def test_the_index_of_rows_changes_nothing_that_is_read(folder, monkeypatch):
    refresh_index(folder)  # where there is nothing yet
    monkeypatch.setattr("sweep.index.OUTDATED", 0)
    commit(folder, row_of(FAILED), ())
    commit(folder, {**row_of(FAILED), "trial_id": "other"}, ())
    refresh_index(folder)
    commit(folder, row_of(OK), HISTORY)
    assert read_states(folder) == {CONFIG.trial_id: RowState("ok"), "other": RowState("oom", "too large")}


def test_the_curve_is_written_before_the_row(folder, monkeypatch):
    monkeypatch.setattr("sweep.rows.write_rows", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        commit(folder, row_of(OK), HISTORY)
    assert folder.epochs(CONFIG.trial_id).exists()
    assert not folder.row(CONFIG.trial_id).exists()


def test_an_excluded_cell_has_its_costs_and_the_reason(folder):
    commit(folder, excluded_row("a", CONFIG, Costs(1000, 5000), "exclude: width 0.125"), ())
    row = read_row(folder.row(CONFIG.trial_id))
    assert (row["status"], row["error"], row["params"]) == (EXCLUDED, "exclude: width 0.125", 1000)
    assert not {"epochs_done", "val_top1", "attempts"} & row.keys()


def test_states_are_told_by_id(folder):
    assert read_states(folder) == {}
    commit(folder, row_of(OK), HISTORY)
    commit(folder, {**row_of(FAILED), "trial_id": "other"}, ())
    assert read_states(folder) == {CONFIG.trial_id: RowState("ok"), "other": RowState("oom", "too large")}


@pytest.mark.parametrize("damage", [b"", b"PAR1PAR1", None])
def test_a_damaged_row_or_curve_is_refused_by_name_with_what_to_do(folder, damage):
    commit(folder, row_of(OK), HISTORY)
    for path, read in (
        (folder.row(CONFIG.trial_id), lambda: read_states(folder)),
        (folder.row(CONFIG.trial_id), lambda: read_row(folder.row(CONFIG.trial_id))),
        (folder.epochs(CONFIG.trial_id), lambda: read_history(folder, CONFIG.trial_id)),
    ):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        with pytest.raises(DamagedTableError, match=rf"{path.name}: damaged .*move it away") as caught:
            read()
        assert caught.value.exit_code == 3
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)

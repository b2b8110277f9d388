import datetime
import math

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweep.errors import TableError
from sweep.parts import write_part
from sweep.table import COLUMNS, column_reference, read_table, write_records, write_rows

NAMES = [column.name for column in COLUMNS]
ROW = {
    "sweep": "a", "trial_id": "one", "width": 0.5, "depth": 26, "epochs": 3, "status": "ok", "val_top1": 97.5,
    "params": 191_891_656, "macs_per_image": 2**53 + 1, "recipe_nesterov": True, "recipe_batch_size": 32,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_rows(tmp_path / "one.parquet", [ROW])
    write_rows(tmp_path / "two.parquet", [{"sweep": "a", "trial_id": "two", "status": "oom", "error": "too large"}])
    return tmp_path


def test_every_column_has_a_name_of_its_own_and_a_sentence():
    assert len(set(NAMES)) == len(NAMES)
    assert all(len(column.meaning) > 5 for column in COLUMNS)
    assert column_reference().count("\n") == len(COLUMNS) + 1


def test_the_columns_of_the_design_are_declared():
    promised = """sweep trial_id family width depth resolution epochs seed recipe dataset protocol source
    status error attempts epochs_done started_at finished_at minival_top1 val_top1 val_top5 train_top1 val_loss
    params macs_per_image train_flops train_step_ms infer_latency_ms peak_memory_bytes train_images_per_s
    train_device_hours device precision micro_batch batch_size versions host"""
    assert set(promised.split()) <= set(NAMES)


def test_a_row_reads_back_with_every_declared_column_and_its_own(folder):
    table = read_table(folder)
    assert set(NAMES) <= set(table.columns)
    row = table.set_index("trial_id").loc["one"]
    assert all(row[name] == value for name, value in ROW.items() if name != "trial_id")


def test_what_is_missing_is_never_nought(folder):
    two = read_table(folder).set_index("trial_id").loc["two"]
    numbers = [column.name for column in COLUMNS if column.type != pa.string()]
    assert all(math.isnan(two[name]) for name in [*numbers, "recipe_batch_size"])
    assert all(pd.isna(two[name]) for name in NAMES if name not in (*numbers, "sweep", "status", "error", "trial_id"))
    stored = pq.read_table(folder / "two.parquet").to_pylist()[0]
    assert {name for name, value in stored.items() if value is not None} == {"sweep", "trial_id", "status", "error"}


def test_nan_stays_nan(tmp_path):
    write_rows(tmp_path / "a.parquet", [{"trial_id": "x", "val_top1": math.nan, "extra": math.nan}])
    row = read_table(tmp_path).iloc[0]
    assert math.isnan(row["val_top1"])
    assert math.isnan(row["extra"])


def test_a_file_with_some_columns_is_a_table_and_keeps_what_else_it_has(tmp_path):
    pd.DataFrame({"width": [1, 2], "tpuv3_train_step_ms": [410, 500], "note": ["a", None]}).to_parquet(
        tmp_path / "lone.parquet"
    )
    table = read_table(tmp_path / "lone.parquet")
    assert set(NAMES) <= set(table.columns)
    assert table["tpuv3_train_step_ms"].tolist() == [410, 500]
    assert table["note"].tolist()[0] == "a"
    assert table["val_top1"].isna().all()


def test_parts_that_disagree_on_whole_or_real_are_read_together(tmp_path):
    pq.write_table(pa.table({"trial_id": ["a"], "depth": [26], "x": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"trial_id": ["b"], "depth": [50.0], "x": [2.5]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"trial_id": ["c"], "depth": [None], "x": [None]}), tmp_path / "c.parquet")
    table = read_table(tmp_path)
    assert table["x"].tolist()[:2] == [1.0, 2.5]
    assert table["depth"].tolist()[:2] == [26, 50]
    assert math.isnan(table["depth"][2])
    assert math.isnan(table["x"][2])


def test_declared_columns_of_another_type_are_read_as_declared(tmp_path):
    day = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    frame = pd.DataFrame({"depth": ["26"], "trial_id": [7], "family": pd.Categorical(["x"]), "started_at": [day]})
    frame.to_parquet(tmp_path / "a.parquet")
    for path in (tmp_path / "a.parquet", tmp_path):
        table = read_table(path)
        assert table["depth"].tolist() == [26]
        assert table["trial_id"].tolist() == ["7"]
        assert table["family"][0] == "x"
        assert table["started_at"][0].startswith("2026-01-02 03:04:05")


def test_a_column_that_cannot_be_what_it_is_declared_as_is_refused_by_name(tmp_path):
    pd.DataFrame({"depth": ["deep"]}).to_parquet(tmp_path / "a.parquet")
    for path in (tmp_path / "a.parquet", tmp_path):
        with pytest.raises(TableError, match=rf"{path.name}: column depth is \w+; right would be int64"):
            read_table(path)


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": ["text"]}), tmp_path / "b.parquet")
    with pytest.raises(TableError, match="do not fit together") as caught:
        read_table(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_part_is_refused_by_name(folder):
    whole = (folder / "one.parquet").read_bytes()
    for damaged in (b"", b"PAR1", whole[: len(whole) // 2], whole[:-1], np.random.default_rng(0).bytes(500)):
        (folder / "one.parquet").write_bytes(damaged)
        with pytest.raises(TableError, match=r"one\.parquet") as caught:
            read_table(folder)
        assert "\n" not in str(caught.value)


def test_where_there_are_no_rows_the_message_says_how_to_make_them(tmp_path):
    for path in (tmp_path, tmp_path / "none", tmp_path / "none.parquet"):
        with pytest.raises(TableError, match="sweep run"):
            read_table(path)


def test_readers_see_no_temporary_file(folder):
    (folder / ".one.parquet.123.tmp").write_bytes(b"half a row")
    assert len(read_table(folder)) == 2


def test_writing_again_replaces_the_part_and_leaves_nothing_behind(folder):
    write_rows(folder / "one.parquet", [{**ROW, "val_top1": 1.0}])
    assert read_table(folder)["val_top1"].dropna().tolist() == [1.0]
    assert sorted(path.name for path in folder.iterdir()) == ["one.parquet", "two.parquet"]


def test_a_write_that_fails_leaves_the_old_part(folder):
    before = (folder / "one.parquet").read_bytes()
    with pytest.raises((pa.ArrowException, TypeError)):
        write_rows(folder / "one.parquet", [{**ROW, "val_top1": "not a number"}])
    assert (folder / "one.parquet").read_bytes() == before
    assert len(list(folder.iterdir())) == 2


def test_a_row_may_have_columns_that_another_lacks(tmp_path):
    write_rows(tmp_path / "a.parquet", [{"trial_id": "a", "x": 1}, {"trial_id": "b", "y": "text", "x": None}])
    table = read_table(tmp_path)
    assert table["x"][0] == 1.0
    assert math.isnan(table["x"][1])
    assert table["y"][1] == "text"


def test_pandas_pyarrow_and_duckdb_read_the_same(folder):
    wanted = read_table(folder).sort_values("trial_id")
    pandas = pd.read_parquet(folder).sort_values("trial_id")
    arrow = pq.read_table(folder).to_pandas().sort_values("trial_id")
    duck = duckdb.sql(f"select * from read_parquet('{folder}/*.parquet', union_by_name=true) order by trial_id").df()
    for name in ("trial_id", "status", "width", "depth", "val_top1", "params"):
        for other in (pandas, arrow, duck):
            pd.testing.assert_series_equal(
                wanted[name].reset_index(drop=True), other[name].reset_index(drop=True), check_dtype=False
            )
    assert duckdb.sql(f"select count(*), count(val_top1) from '{folder}/*.parquet'").fetchall() == [(2, 1)]
    whole = duckdb.sql(f"select macs_per_image from '{folder}/one.parquet'").fetchall()
    assert whole == [(2**53 + 1,)]


def test_records_and_parts_are_written_whole(tmp_path):
    write_records(tmp_path / "deeper/a.parquet", [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": None}])
    assert pq.read_table(tmp_path / "deeper/a.parquet").to_pylist() == [
        {"epoch": 1, "loss": 0.5},
        {"epoch": 2, "loss": None},
    ]
    write_part(tmp_path / "b.parquet", pa.table({"x": [1]}))
    assert pq.read_table(tmp_path / "b.parquet").to_pylist() == [{"x": 1}]

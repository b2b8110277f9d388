"""The index of the rows is never the truth: whatever becomes of it, the rows are those of the parts."""

import os

import pyarrow as pa
import pytest

from sweep.errors import DamagedTableError, TableError
from sweep.index import INDEX, OUTDATED, read_rows, refresh
from sweep.parts import write_part


@pytest.fixture
def parts(tmp_path):
    """Three parts and their index."""
    folder = tmp_path / "trials"
    for name in "bac":
        write(folder, name, f"first {name}")
    refresh(folder, tolerated=0)
    return folder


def write(folder, name, status, **more):
    write_part(folder / f"{name}.parquet", pa.Table.from_pylist([{"trial_id": name, "status": status, **more}]))


def rows(folder, columns=None):
    return {row.pop("trial_id"): row for row in read_rows(folder, columns).to_pylist()}


def index(folder):
    return folder.with_name(INDEX)


WHOLE = {name: {"status": f"first {name}"} for name in "abc"}


def test_the_rows_are_in_the_order_of_the_parts_names_with_their_own_columns_only(parts):
    table = read_rows(parts)
    assert table.column_names == ["trial_id", "status"]
    assert table.column("trial_id").to_pylist() == ["a", "b", "c"]


def test_the_index_is_what_is_read(parts, monkeypatch):
    monkeypatch.setattr("sweep.index.read_part", pytest.fail)
    assert rows(parts) == WHOLE


def test_only_what_is_not_in_the_index_is_read_from_its_part(parts, monkeypatch):
    from sweep.parts import read_part

    write(parts, "d", "new")
    write(parts, "b", "second b")
    (parts / "a.parquet").unlink()
    opened = []
    monkeypatch.setattr("sweep.index.read_part", lambda part: opened.append(part.stem) or read_part(part))
    assert rows(parts) == {"b": {"status": "second b"}, "c": WHOLE["c"], "d": {"status": "new"}}
    assert sorted(opened) == ["b", "d"]


@pytest.mark.parametrize("refreshed", [True, False])
def test_additions_replacements_and_deletions_are_seen(parts, refreshed):
    wanted = dict(WHOLE)
    for change in ("add", "replace", "delete"):
        if change == "add":
            write(parts, "d", "new", val_top1=1.5)
            wanted = {**{name: {**row, "val_top1": None} for name, row in wanted.items()}}
            wanted["d"] = {"status": "new", "val_top1": 1.5}
        elif change == "replace":
            write(parts, "d", "newer", val_top1=2.5)
            wanted["d"] = {"status": "newer", "val_top1": 2.5}
        else:
            (parts / "c.parquet").unlink()
            del wanted["c"]
        if refreshed:
            refresh(parts, tolerated=0)
        assert rows(parts) == wanted
        assert list(rows(parts)) == sorted(wanted)


def test_all_parts_may_go(parts):
    for part in list(parts.iterdir()):
        part.unlink()
    assert rows(parts) == {}
    refresh(parts, tolerated=0)
    assert rows(parts) == {}


def test_a_part_that_was_put_back_as_it_was_is_not_taken_for_an_older_row(parts):
    old = (parts / "a.parquet").read_bytes()
    write(parts, "a", "second a")
    refresh(parts, tolerated=0)
    (parts / "a.parquet").write_bytes(old)
    os.utime(parts / "a.parquet", ns=(1, 1))
    assert rows(parts) == WHOLE


def test_wanted_columns_are_null_where_no_part_has_them(parts):
    write(parts, "d", "new", val_top1=1.5)
    write(parts, "e", "newer")
    assert read_rows(parts, ["trial_id", "status"]).column_names == ["trial_id", "status"]
    table = read_rows(parts, ["trial_id", "nothing of the kind"])
    assert table.column_names == ["trial_id", "nothing of the kind"]
    assert set(table.column("nothing of the kind").to_pylist()) == {None}

    values = read_rows(parts, ["trial_id", "val_top1"]).to_pydict()
    assert values == {"trial_id": ["a", "b", "c", "d", "e"], "val_top1": [None, None, None, 1.5, None]}
    refresh(parts, tolerated=0)
    assert read_rows(parts, ["trial_id", "val_top1"]).to_pydict() == values


def test_parts_whose_columns_do_not_fit_together_are_refused_in_one_line_and_not_indexed(parts):
    write(parts, "d", "ok", model_x="text")
    write(parts, "e", "ok", model_x=1.0)
    with pytest.raises(TableError, match="do not fit together") as caught:
        read_rows(parts)
    assert "\n" not in str(caught.value)
    with pytest.raises(TableError, match="do not fit together"):
        refresh(parts, tolerated=0)
    assert len(read_rows(parts, ["trial_id"])) == 5


def damaged(data):
    yield from (b"", b"x", data[:10], data[:32], data[: len(data) // 2], data[:-1], data + b"x", data[1:])
    for place in range(0, len(data), 13):
        yield data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


def test_a_damaged_index_is_the_same_as_none_and_made_anew(parts):
    whole = index(parts).read_bytes()
    for data in damaged(whole):
        index(parts).write_bytes(data)
        assert rows(parts) == WHOLE
        assert index(parts).read_bytes() == data  # reading writes nothing
    refresh(parts, tolerated=0)
    assert index(parts).read_bytes() == whole


def test_a_missing_index_is_made_anew(parts):
    whole = index(parts).read_bytes()
    index(parts).unlink()
    assert rows(parts) == WHOLE
    refresh(parts)
    assert not index(parts).exists()  # three parts are read quickly enough
    refresh(parts, tolerated=2)
    assert index(parts).read_bytes() == whole


def test_the_index_of_another_folder_does_not_count(parts, tmp_path):
    other = tmp_path / "other" / "trials"
    for name in "abc":
        write(other, name, f"other {name}")
    index(other).write_bytes(index(parts).read_bytes())
    assert rows(other) == {name: {"status": f"other {name}"} for name in "abc"}


def test_the_index_is_written_anew_once_it_lacks_more_than_a_few(parts):
    before = index(parts).read_bytes()
    for number in range(OUTDATED):
        write(parts, f"n{number:03}", "new")
    refresh(parts)
    assert index(parts).read_bytes() == before
    write(parts, "one more", "new")
    refresh(parts)
    assert index(parts).read_bytes() != before
    assert len(rows(parts)) == OUTDATED + 4


def test_a_damaged_part_is_refused_or_told_of_and_never_indexed(parts):
    (parts / "b.parquet").write_bytes((parts / "b.parquet").read_bytes()[:-1])
    with pytest.raises(DamagedTableError, match=r"b\.parquet: damaged"):
        rows(parts)
    refresh(parts, tolerated=0)
    told = []
    table = read_rows(parts, None, lambda part, error: told.append((part.name, type(error))))
    assert told == [("b.parquet", DamagedTableError)]
    assert table.column("trial_id").to_pylist() == ["a", "c"]
    with pytest.raises(DamagedTableError):
        rows(parts)


def test_what_is_being_written_is_no_part(parts):
    (parts / ".d.parquet.1.tmp").write_bytes(b"half a row")
    assert rows(parts) == WHOLE

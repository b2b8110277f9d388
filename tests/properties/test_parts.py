"""A damaged part is noticed, or reads as what was written: every single byte and every length."""

import datetime
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.errors import DamagedTableError, TableError
from sweep.parts import encode, read_part, write_part
from sweep.table import write_rows

ROW = {"trial_id": "one", "status": "ok", "width": 0.5, "depth": 26, "val_top1": 97.5, "error": None}
SMALL = pa.Table.from_pylist([ROW])


def read(path, data):
    """The values in the bytes; None where damage was noticed."""
    path.write_bytes(data)
    try:
        return read_part(path).to_pylist()
    except TableError as error:
        told = str(error)
    assert told.startswith(f"{path}: ")
    assert "\n" not in told
    return None


def flips(data, step=1):
    for place in range(0, len(data), step):
        for mask in (0x01, 0xFF):
            yield place, data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]


def test_a_byte_that_turned_is_noticed_or_changes_no_value(tmp_path):
    data = encode(SMALL)
    noticed = 0
    for place, turned in flips(data):
        values = read(tmp_path / "one.parquet", turned)
        assert values in (None, [ROW]), place
        noticed += values is None
    assert noticed > len(data)  # of two flips of a byte; the rest is what Parquet leaves unused


def test_a_row_of_the_table_is_guarded_as_well(tmp_path):
    row = {**ROW, "recipe_nesterov": True, "model_stem_pool": "conv", "macs_per_image": 2**53 + 1}
    write_rows(tmp_path / "whole.parquet", [row])
    data = (tmp_path / "whole.parquet").read_bytes()
    whole = read_part(tmp_path / "whole.parquet").to_pylist()
    for place, turned in flips(data, step=61):
        assert read(tmp_path / "one.parquet", turned) in (None, whole), place


def test_a_file_that_was_cut_or_went_on_is_noticed(tmp_path):
    data = encode(SMALL)
    for length in range(len(data)):
        assert read(tmp_path / "one.parquet", data[:length]) is None, length
    assert read(tmp_path / "one.parquet", data + b"\0") is None


SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=8)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SCALARS, min_size=1, max_size=6), st.data())
def test_what_was_written_is_read_and_no_stretch_of_other_bytes_passes_for_it(tmp_path_factory, values, data):
    row = {f"column {index}": value for index, value in enumerate(values)}
    path = tmp_path_factory.mktemp("parts") / "one.parquet"
    whole = encode(pa.Table.from_pylist([row]))
    assert read(path, whole) == [row]
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.binary(min_size=1, max_size=20))
    assert read(path, whole[:place] + other + whole[place + len(other) :]) in (None, [row])


def test_types_that_json_has_no_word_for_are_guarded_too(tmp_path):
    row = {"when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), "loss": math.inf}
    write_part(tmp_path / "one.parquet", pa.Table.from_pylist([row]))
    assert read_part(tmp_path / "one.parquet").to_pylist() == [row]


def test_a_part_without_a_hash_is_read_as_it_is(tmp_path):
    pq.write_table(SMALL, tmp_path / "one.parquet")
    assert read_part(tmp_path / "one.parquet").to_pylist() == [ROW]


def test_the_values_of_another_part_under_the_same_hash_are_noticed(tmp_path):
    write_part(tmp_path / "one.parquet", SMALL)
    mark = pq.read_schema(tmp_path / "one.parquet").metadata
    other = pa.Table.from_pylist([{**ROW, "val_top1": 97.6}]).replace_schema_metadata(mark)
    pq.write_table(other, tmp_path / "one.parquet")
    message = r"its values do not fit the recorded hash\); move it away, `sweep run` makes it again"
    with pytest.raises(DamagedTableError, match=message):
        read_part(tmp_path / "one.parquet")

"""Whatever a table from elsewhere holds, a command answers or refuses it in one line, and writes nothing."""

import datetime
import json
import math
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import Answer, empty_folder, refuses_or_answers, tried
from hypothesis import given
from hypothesis import strategies as st

from sweep import untrusted
from sweep.table import COLUMNS

COMMANDS = (
    ("status",), ("pareto",), ("rules",), ("pareto", "--format", "json"), ("rules", "--format", "json"),
    ("pareto", "--format", "csv"), ("pareto", "--cost", "params"), ("rules", "--cost", "macs_per_image"),
    ("pareto", "--out", "out.yaml"), ("status", "--format", "json"), ("pareto", "--compare", "other"),
)  # fmt: skip
GRID = [
    {
        "trial_id": f"t{index}", "sweep": "a", "family": "resnet_rs", "status": "ok", "source": "measured",
        "width": width, "depth": depth, "resolution": resolution, "epochs": epochs, "seed": 0,
        "minival_top1": 60.0 + index % 17, "train_step_ms": 10.0 * width * depth * resolution**2 / 1e5,
        "params": int(1e6 * depth * width**2), "macs_per_image": int(depth * width**2 * resolution**2),
    }
    for index, (epochs, resolution, (width, depth)) in enumerate(
        (epochs, resolution, model)
        for epochs in (10, 100)
        for resolution in (128, 160)
        for model in ((1.0, 101), (1.5, 101), (2.0, 101), (1.0, 200), (1.0, 300))
    )
]  # fmt: skip
NAMES = [*GRID[0], *(column.name for column in COLUMNS), "recipe_name", "model_se", "odd name", "\x1b[2J", ""]
control = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["\x1b[2J\x1b[31mred", "[bold]x[/]", "[/]", "../../x", "a\nb", "\0", "=1+1", "ok", "oom", "published", "é" * 300]
)
number = st.floats() | st.sampled_from([0.0, -0.0, 5e-324, 1e308, -1.0, 101.0, math.nan, math.inf, 50.0, 1e-9, 1e30])
plausible = st.sampled_from([0.0, 1e-6, 1.0, 10.0, 99.9, 100.0]) | st.floats(0, 100)
whole = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 10, 101, 2**53 + 1])
KINDS = [
    (pa.float64(), number), (pa.float64(), plausible), (pa.float64(), plausible), (pa.int64(), st.integers(0, 100)),
    (pa.float32(), st.floats(width=32)), (pa.int64(), whole), (pa.string(), control),
    (pa.uint64(), st.integers(0, 2**64 - 1)), (pa.bool_(), st.booleans()), (pa.large_string(), control),
    (pa.binary(), st.binary(max_size=6)), (pa.list_(pa.int64()), st.lists(whole, max_size=2)),
    (pa.struct([("x", pa.int64())]), st.fixed_dictionaries({"x": whole})),
    (pa.decimal128(20, 2), st.decimals(-(10**9), 10**9, places=2)),
    (pa.timestamp("us"), st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1))),
    (pa.date32(), st.dates()), (pa.null(), st.none()), (pa.int8(), st.integers(-128, 127)),
    (pa.dictionary(pa.int32(), pa.string()), control), (pa.map_(pa.string(), pa.int64()), st.just([("a", 1)])),
    (pa.duration("s"), st.timedeltas(datetime.timedelta(-9), datetime.timedelta(9))), (pa.time64("us"), st.times()),
]  # fmt: skip


@st.composite
def columns(draw, rows):
    kind, values = draw(st.sampled_from(KINDS))
    return pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind)


@st.composite
def tables(draw):
    """A good table with some columns replaced, added, renamed or taken away."""
    table = pa.Table.from_pylist(GRID[: draw(st.sampled_from([0, 1, 5, len(GRID)]))])
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(NAMES) | st.text(max_size=5))
        if name in table.column_names:
            table = table.drop_columns([name])
        if draw(st.integers(0, 4)):
            table = table.append_column(name, draw(columns(len(table))))
    if draw(st.integers(0, 29)) == 29 and table.column_names:
        again = draw(st.sampled_from(table.column_names))
        table = table.append_column(again, table.column(again))
    return table


def asked(folder, file, command):
    name, *options = command
    return refuses_or_answers(folder, name, file, *options)


@tried(330)
@given(tables(), st.sampled_from(COMMANDS), st.booleans())
def test_a_table_of_any_columns(table, command, as_sweep):
    with empty_folder() as folder:
        path = folder / ("mine/trials/x.parquet" if as_sweep else "x.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        answer = asked(folder, "mine" if as_sweep else path, command)
        assert "\x1b" not in answer.out
        if answer.code == 0 and "json" in command:
            json.loads(answer.out)


@tried(150)
@given(st.data(), st.binary(max_size=8), st.sampled_from(COMMANDS))
def test_a_table_with_some_bytes_replaced(data, noise, command):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(GRID), sink, compression=data.draw(st.sampled_from(["none", "snappy"])))
    content = sink.getvalue().to_pybytes()
    near_end = st.integers(max(0, len(content) - 3000), len(content))  # where the schema and the sizes are
    first = data.draw(st.integers(0, len(content)) | near_end)
    last = data.draw(st.sampled_from([first, first + len(noise), len(content)]))
    with empty_folder() as folder:
        path = folder / "x.parquet"
        path.write_bytes(content[:first] + noise + content[last:])
        asked(folder, path, command)


class Bomb:
    """Makes a file wherever it is unpickled."""

    def __reduce__(self):
        return open, ("unpickled", "w")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_in_a_table_is_unpickled(command):
    payload = pickle.dumps(Bomb())
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": payload}
    table = pa.Table.from_pylist(GRID).append_column(
        pa.field("model_x", pa.string(), metadata=extension), pa.array(["x"] * len(GRID))
    )
    notes = {b"pandas": payload, b"ARROW:extension:name": b"arrow.py_extension_type"}
    table = table.append_column("pickled", pa.array([payload] * len(GRID)))
    with empty_folder() as folder:
        pq.write_table(table.replace_schema_metadata({**notes, b"PANDAS": payload}), folder / "x.parquet")
        asked(folder, folder / "x.parquet", command)
        assert not (folder / "unpickled").exists()


def test_a_table_may_have_so_many_rows_and_columns(monkeypatch):
    monkeypatch.setattr(untrusted, "MAX_ROWS", 5)
    with empty_folder() as folder:
        path = folder / "x.parquet"
        pq.write_table(pa.Table.from_pylist(GRID[:6]), path)
        assert "has 6 rows; a table of results has at most 5" in asked(folder, path, ("status",)).err
        pq.write_table(pa.Table.from_pylist(GRID[:5]), path)
        assert asked(folder, path, ("status",)).code == 0
        pq.write_table(pa.table({f"c{index}": [1.0] for index in range(1001)}), path)
        assert "has 1001 columns; a table of results has at most 1000" in asked(folder, path, ("status",)).err


def test_the_parts_of_a_sweep_may_have_so_many_rows_together(monkeypatch):
    monkeypatch.setattr(untrusted, "MAX_ROWS", 5)
    with empty_folder() as folder:
        (folder / "mine/trials").mkdir(parents=True)
        for index in range(2):
            pq.write_table(pa.Table.from_pylist(GRID[:3]), folder / f"mine/trials/{index}.parquet")
        assert "has 6 rows" in asked(folder, "mine", ("status",)).err


@pytest.mark.parametrize(
    ("column", "value", "right"),
    [("minival_top1", 100.5, "0 to 100"), ("train_step_ms", 0.0, "1e-09 to 1e+15"), ("params", -1, "0 to 1e+30"),
     ("width", math.inf, "1e-06 to 1e+06"), ("recipe_learning_rate", math.inf, "-1e+30 to 1e+30")],
)  # fmt: skip
def test_a_number_out_of_range_is_named(column, value, right):
    with empty_folder() as folder:
        path = folder / "x.parquet"
        pq.write_table(pa.Table.from_pylist([GRID[0] | {"recipe_learning_rate": 0.1}, GRID[1] | {column: value}]), path)
        answer = asked(folder, path, ("pareto",))
        assert answer == Answer(2, "", f"{path}: row 2: {column} is {value:g}; right would be {right}\n")


def test_what_a_terminal_would_obey_is_not_printed():
    with empty_folder() as folder:
        path = folder / "x.parquet"
        rows = [row | {"sweep": "a\x1b[2J\x9bb", "model_se": "\x07"} for row in GRID]
        pq.write_table(pa.Table.from_pylist(rows), path)
        out = asked(folder, path, ("pareto",)).out
        assert "a\ufffd[2J\ufffdb" in out
        assert "\x1b" not in out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_text_that_is_none_is_refused(command):
    broken = pa.array([b"resnet_\xff"] * len(GRID)).view(pa.string())
    table = pa.Table.from_pylist(GRID).drop_columns("family").append_column("family", broken)
    with empty_folder() as folder:
        pq.write_table(table, folder / "x.parquet")
        answer = asked(folder, folder / "x.parquet", command)
        assert answer.code == 2
        assert "column family holds bytes that are no text" in answer.err

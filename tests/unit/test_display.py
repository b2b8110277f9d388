import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sweep import cost, display
from sweep.display import quantity, show
from sweep.pareto import pareto
from sweep.plan import RowState, make_plan, plan_json
from sweep.rules import rules
from sweep.space import load_space
from sweep.status import COLUMNS as STATUS_COLUMNS
from sweep.status import status_of
from sweep.table import read_columns, read_table, write_rows
from sweep.trials import trials_of

ROOT = Path(__file__).parents[2]
STUDIES = [ROOT / "results/published/resnet_rs_fig3", ROOT / "results/published/resnet_rs_table7"]
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))


def drawn(render, value):
    console = Console(width=80, file=io.StringIO(), highlight=False)
    render(console, value)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    return lines


def table_of(study):
    return read_table(study / "trials")


def rows_of(path):
    return read_columns(path, STATUS_COLUMNS).to_pylist()


def plan_of(path):
    spec = load_space(path)
    return plan_json(make_plan(spec, trials_of(spec), {}, cost.count), cost.count, lambda trial: 1234.5)


def cost_column(study):
    return "tpuv3_train_step_ms" if study.name.endswith("table7") else None


def test_json_is_one_object_with_null_for_nan(capsys):
    value = {"a": math.nan, "b": [math.inf, 1.5, {"c": -math.inf}], "d": "NaN", "e": None}
    show(value, "json", None, [])
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.5, {"c": None}],
        "d": "NaN",
        "e": None,
    }


def test_csv_parses_back_with_every_column_of_any_row(capsys):
    rows = [
        {"name": 'with "quotes", and\na line', "x": 1.5, "list": [1, 2]},
        {"name": "plain", "x": None, "only_here": 7, "object": {"a": 1}},
    ]
    show({}, "csv", None, rows)
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert read == [
        {"name": 'with "quotes", and\na line', "x": "1.5", "only_here": ""},
        {"name": "plain", "x": "", "only_here": "7"},
    ]


def test_csv_without_rows_is_no_table(capsys):
    show({}, "csv", None, [])
    assert capsys.readouterr().out.strip() == ""


def test_models_with_long_names_are_folded_into_the_width_of_the_page(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "sweep: a\ndata: {name: digits}\nrecipe: small\nfamily: timm:efficientnetv2_rw_t\n"
        "axes: {resolution: [64], epochs: [100000]}\n"
    )
    value = plan_of(path)
    trial = value["trials"][0]
    member = {**trial, "top1": 99.5, "top1_se": 0.1, "cost": 123456.0, "p_on_front": 1.0}
    front = {
        "sweep": "a", "budget": 100_000, "cost": "train_step_ms", "accuracy_column": "minival_top1", "considered": 1,
        "excluded": {}, "front": [member], "recommended": [member], "speedups": [],
    }  # fmt: skip
    for render, shown in ((display.plan_table, value), (display.front_tables, front)):
        long = [{**t, "model": {"one_argument": "with_a_long_value", "another": 3}} for t in (trial, member)]
        lines = drawn(render, shown)
        assert "efficientnetv2_rw_t" in " ".join(lines)
        assert max(len(line.encode()) for line in lines) <= 80  # where a pager counts bytes too
        drawn(render, {**shown, "trials": long[:1], "front": long[1:]})


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (12.345, "12.3"), (999.4, "999"), (999.9, "1 k"), (1000, "1 k"), (999_999, "1 M"),
     (4.557e9, "4.56 G"), (1.92e8, "192 M"), (6e21, "6 Z"), (-2_500_000, "-2.5 M")],
)  # fmt: skip
def test_quantities_have_three_digits_and_a_prefix(value, text):
    assert quantity(value) == text


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_plan_fits_80_columns_and_has_every_trial(path):
    value = plan_of(path)
    lines = drawn(display.plan_table, value)
    shown = [line for line in lines if line.split(" ")[0] in {trial["trial_id"] for trial in value["trials"]}]
    assert len(shown) == len(value["trials"])
    assert all(line.rstrip().endswith("planned") for line in shown)
    assert f"{len(shown)} trials: 0 finished, {len(shown)} planned, 0 failed, 0 excluded" in lines[-2]
    assert "device-hours" in lines[-1]


def test_a_plan_says_why_it_leaves_trials_out(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "sweep: a\ndata: {name: digits}\nrecipe: small\n"
        "axes: {width: [0.25, 0.5, 2], depth: [26, 420], resolution: [32], epochs: [100000]}\n"
        "limits: {macs_per_image: [0, 100e6]}\nexclude: [{width: 0.5, depth: 26}]\n"
    )
    spec = load_space(path)
    trials = trials_of(spec)
    rows = {trials[0].trial_id: RowState("oom", "OutOfMemoryError: " + "no room " * 30)}
    value = plan_json(make_plan(spec, trials, rows, cost.count), cost.count, lambda trial: 1e6)
    lines = drawn(display.plan_table, value)
    ends = ["failed 1", "planned", "excluded 2", "excluded 3", "excluded 3", "excluded 3"]
    assert all(line.rstrip().endswith(end) for line, end in zip(lines[1:7], ends, strict=True)), lines
    assert lines[7:10] == [
        "1: oom", "2: exclude: width 0.5, depth 26", "3: limits: macs_per_image outside [0, 1e+08]",
    ]  # fmt: skip


def test_a_plan_without_measurements_says_so():
    spec = load_space(SPACES[0])
    value = plan_json(make_plan(spec, trials_of(spec)[:3], {}, cost.count), cost.count, lambda trial: None)
    assert "no shape measured yet" in drawn(display.plan_table, value)[-1]


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_fronts_fit_80_columns_and_have_every_member(study):
    value = pareto(table_of(study), cost=cost_column(study))
    text = "\n".join(drawn(display.front_tables, value))
    for front in value.get("fronts", [value]):
        for member in front["front"]:
            assert f"{member['top1']:.2f}" in text
    assert text.count("* ") >= len(value.get("fronts", [value]))


def test_three_costs_notes_ties_and_speedups_fit_80_columns():
    rows = table_of(STUDIES[1])
    device = ["NVIDIA A100-SXM4-80GB", "Google Cloud TPU v3"] * 9 + ["NVIDIA A100-SXM4-80GB"]
    rows = rows.assign(peak_memory_bytes=rows["params"] * 1234.0, infer_latency_ms=rows["v100_train_step_ms"] * 1e3)
    rows = rows.assign(device=device, infer_latency_kind="inverse throughput", minival_top1=rows["val_top1"])
    rows.loc[3, "infer_latency_ms"], rows.loc[4, "trial_id"] = np.nan, rows.loc[5, "trial_id"]
    costs = ["infer_latency_ms", "peak_memory_bytes", "macs_per_image"]
    value = pareto(rows, cost=costs, compare="efficientnet", noise_sd=0.3)
    lines = drawn(display.front_tables, value)
    text = " ".join(" ".join(lines).split())
    assert sum("memory_" in line.split() for line in lines) == 1  # a heading of several lines
    assert "note: infer_latency_ms and peak_memory_bytes of 2 devices together" in text
    assert "note: infer_latency_ms is inverse throughput" in text
    assert "left out: 1 duplicate trial_id (table7-" in text
    assert "x faster than efficientnet," in text
    assert "val % val_top1, only reported" in text
    assert text.count("too: ") <= 5


def test_a_front_as_csv_has_a_column_for_each_of_several_costs(capsys):
    value = pareto(table_of(STUDIES[1]), cost=["v100_train_step_ms", "params"])
    show(value, "csv", None, value["front"])
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(row["params"]) for row in read] == [member["costs"]["params"] for member in value["front"]]
    assert all(float(row["cost"]) == float(row["v100_train_step_ms"]) for row in read)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_rules_fit_80_columns(study):
    value = rules(table_of(study), cost=cost_column(study))
    text = "\n".join(drawn(display.rules_tables, value))
    for entry in value["depth_vs_width_by_budget"]:
        assert entry["verdict"] in text
    assert "Coverage" in text


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.name)
def test_status_fits_80_columns_but_for_the_path_and_counts_every_row(study):
    value = status_of(study, rows_of(study / "trials"), None)
    short = {**value, "path": "results/x"}
    assert f"{len(table_of(study))} of {len(table_of(study))} trials done" in drawn(display.status_table, short)[0]
    assert sum(budget["planned"] for budget in value["budgets"]) == value["ok"] == len(table_of(study))


ROWS = [
    {"trial_id": "a", "epochs": 1, "status": "ok"},
    {"trial_id": "b", "epochs": 3, "status": "oom", "error": "too large [/bold]"},
    {"trial_id": "c", "epochs": 3, "status": "excluded", "error": "exclude: width 1"},
    {"trial_id": "gone", "epochs": 3, "status": "ok"},
]
PLANNED = [{"trial_id": name, "epochs": epochs} for name, epochs in (("a", 1), ("b", 3), ("c", 3), ("d", 3))]


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "grid.v2"
    write_rows(folder / "trials/all.parquet", ROWS)
    return folder


def test_status_tells_planned_trials_from_rows_that_are_no_longer_planned(sweep):
    value = status_of(sweep, rows_of(sweep / "trials"), PLANNED)
    assert (value["sweep"], value["planned"], value["ok"], value["no_longer_planned"]) == ("grid.v2", 4, 1, 1)
    assert value["budgets"] == [
        {"budget": 1, "planned": 1, "by_status": {"ok": 1}, "not_run": 0},
        {"budget": 3, "planned": 3, "by_status": {"oom": 1, "excluded": 1}, "not_run": 1},
    ]
    assert value["failures"] == [{"trial_id": "b", "status": "oom", "error": "too large [/bold]"}]
    lines = drawn(display.status_table, {**value, "path": "results/grid.v2"})
    assert lines[0] == "grid.v2: 1 of 4 trials done, in results/grid.v2"
    assert "b oom: too large [/bold]" in lines
    assert "besides: trials that space.yaml no longer plans, 1" in lines
    assert lines[-1] == "run them again: sweep run SPACE --retry oom"


def test_status_before_the_first_row_and_after_a_table_without_status(sweep):
    value = status_of(sweep, [], PLANNED)
    assert (value["ok"], value["planned"], [budget["not_run"] for budget in value["budgets"]]) == (0, 4, [1, 3])
    (sweep / "lone.parquet").parent.mkdir(exist_ok=True)
    pd.DataFrame({"width": [1.0, 2.0], "val_top1": [50.0, 60.0]}).to_parquet(sweep / "lone.parquet")
    value = status_of(sweep / "lone.parquet", rows_of(sweep / "lone.parquet"), None)
    assert (value["sweep"], value["planned"], value["ok"], value["failures"]) == ("lone", 2, 2, [])
    assert value["budgets"] == [{"budget": None, "planned": 2, "by_status": {"ok": 2}, "not_run": 0}]
    drawn(display.status_table, {**value, "path": "x"})


def test_a_status_is_json(sweep, capsys):
    show(status_of(sweep, rows_of(sweep / "trials"), PLANNED), "json", None, [])
    assert json.loads(capsys.readouterr().out)["failures"][0]["error"] == "too large [/bold]"

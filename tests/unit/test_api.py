"""`import sweep` in Python: the commands' tables and answers, and nothing heavy before it is asked for."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import sweep
from sweep.errors import TableError
from sweep.table import COLUMNS, write_records, write_rows

ROOT = Path(__file__).parents[2]
FIG3 = ROOT / "results/published/resnet_rs_fig3"


def said(*arguments):
    command = [sys.executable, "-m", "sweep", *map(str, arguments), "--format", "json"]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout)


def test_a_table_is_loaded_by_name_folder_and_file():
    tables = [
        sweep.load(FIG3),
        sweep.load("published/resnet_rs_fig3", ROOT / "results"),
        sweep.load(next((FIG3 / "trials").glob("*.parquet"))),
    ]
    for table in tables:
        pd.testing.assert_frame_equal(table, tables[0])
    assert len(tables[0]) == 69
    assert {column.name for column in COLUMNS} <= set(tables[0].columns)
    assert sweep.planned(FIG3) is None
    with pytest.raises(TableError, match="no sweep 'nowhere'"):
        sweep.load("nowhere", ROOT / "results")


def test_python_and_the_commands_give_one_answer():
    table = sweep.load(FIG3)
    assert sweep.rules(table) == said("rules", FIG3)
    assert sweep.pareto(table, budget=350) == said("pareto", FIG3, "--budget", 350)


def test_modules_that_are_functions_stay_modules():
    from sweep.pareto import pareto
    from sweep.rules import rules

    assert sweep.pareto.pareto is pareto
    assert sweep.rules.rules is rules
    assert sweep.rules.cells.__name__ == "sweep.rules.cells"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sweep.nothing


def test_what_is_planned_counts_and_what_is_no_longer_planned_is_left_out(tmp_path):
    row = {"family": "f", "width": 1.0, "resolution": 32, "epochs": 3, "status": "ok", "train_step_ms": 1.0}
    rows = [{**row, "trial_id": name, "depth": 20 + n, "seed": 0, "minival_top1": 70.0} for n, name in enumerate("abc")]
    write_rows(tmp_path / "results/a/trials/all.parquet", rows)
    names = ("trial_id", "family", "width", "depth", "resolution", "epochs", "seed")
    plan = [{name: r[name] for name in names} for r in [*rows[:2], {**rows[0], "trial_id": "d", "depth": 50}]]
    write_records(tmp_path / "results/a/planned.parquet", plan)
    with pytest.warns(UserWarning, match="planned|plans") as caught:
        table = sweep.load(results=tmp_path / "results")
    assert [str(one.message).partition(":")[0] for one in caught] == [
        "1 of 3 planned trials have no row",
        "1 of 3 rows are of trials that " + str(tmp_path / "results/a/space.yaml no longer plans"),
    ]
    assert caught[0].filename == __file__
    assert list(table["trial_id"]) == ["a", "b"]
    (covered,) = sweep.rules(table, planned=sweep.planned("a", tmp_path / "results"))["coverage"]
    assert (covered["planned"], covered["ok"]) == (3, 2)


def test_importing_it_imports_nothing_heavy():
    program = "import sweep, sys; print(sorted({'pandas', 'numpy', 'pyarrow', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

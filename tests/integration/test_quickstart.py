"""The quickstart as a person meets it: run, killed without warning in the middle, run again, then read."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "search_spaces/quickstart.yaml"
SWEEP = [sys.executable, "-m", "sweep"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}


def sweep(*arguments, folder, check=True):
    done = subprocess.run(
        [*SWEEP, *map(str, arguments)], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def under_way(results):
    """Trials that have a checkpoint and no result."""
    works = (path.parent for path in (results / "work").glob("*/checkpoint-00001-*.json"))
    return [work for work in works if not (work / "result.json").exists()]


def start_and_kill(folder, results):
    """Kill the controller once a trial is done and another one has a checkpoint."""
    controller = subprocess.Popen(
        [*SWEEP, "run", str(SPACE)], cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 400
    while not (list((results / "trials").glob("*.parquet")) and under_way(results)):
        assert controller.poll() is None, "the sweep ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    controller.kill()
    controller.wait()
    return time.time()


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    results = folder / "results/quickstart"
    killed_at = start_and_kill(folder, results)
    before = contents(results / "trials")
    sweep("run", SPACE, folder=folder)
    rows = pd.read_parquet(results / "trials")
    return SimpleNamespace(folder=folder, results=results, killed_at=killed_at, before=before, rows=rows)


def test_every_planned_trial_has_one_row_and_ran_its_whole_length(quickstart):
    rows = quickstart.rows
    assert len(rows) == rows["trial_id"].nunique() == 36
    assert (rows["status"] == "ok").all()
    assert (rows["epochs_done"] == rows["epochs"]).all()
    assert (
        rows[["train_step_ms", "infer_latency_ms", "peak_memory_bytes", "params", "macs_per_image"]]
        .notna()
        .all(axis=None)
    )


def test_the_best_cell_reads_digits(quickstart):
    assert quickstart.rows["val_top1"].max() >= 96


def test_a_killed_controller_loses_nothing_and_repeats_nothing(quickstart):
    after = contents(quickstart.results / "trials")
    assert quickstart.before
    assert all(after[name] == part for name, part in quickstart.before.items())


def interrupted(quickstart):
    return quickstart.rows[quickstart.rows["attempts"] > 1]


def test_interrupted_trials_go_on_from_their_checkpoint(quickstart):
    trials = interrupted(quickstart)
    assert len(trials) >= 1
    first_epochs = [
        pd.read_parquet(quickstart.results / f"epochs/{trial_id}.parquet")["finished_at"].min()
        for trial_id in trials["trial_id"]
    ]
    assert min(first_epochs) < quickstart.killed_at


def test_interrupted_trials_equal_uninterrupted_ones_digit_for_digit(quickstart, tmp_path):
    sweep("plan", SPACE, "--dump", tmp_path / "trials", folder=tmp_path)
    for row in interrupted(quickstart).to_dict("records"):
        command = [
            sys.executable,
            "-m",
            "workers.trial",
            "--config",
            f"trials/{row['trial_id']}.json",
            "--work",
            "work",
        ]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        result = json.loads((tmp_path / "work/result.json").read_text())
        for name in ("val_top1", "val_top5", "val_loss"):
            assert result[name] == row[name]
        assert result["history"][-1]["minival_top1"] == row["minival_top1"]
        assert result["history"][-1]["train_top1"] == row["train_top1"]


def test_running_it_again_does_nothing(quickstart):
    before = contents(quickstart.results / "trials")
    program = "import sys, sweep.cli\nsys.argv = ['sweep', 'run', sys.argv[1]]\ntry:\n    sweep.cli.main()\n"
    program += (
        "except SystemExit as end:\n    assert not end.code\nassert not {'torch', 'ray', 'mlflow'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", program, str(SPACE)]
    done = subprocess.run(command, cwd=quickstart.folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stderr
    assert contents(quickstart.results / "trials") == before


def test_the_table_opens_in_pyarrow_and_duckdb(quickstart):
    parts = str(quickstart.results / "trials")
    assert pq.read_table(parts).num_rows == 36
    query = f"select count(*), max(val_top1) from '{parts}/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(36, quickstart.rows["val_top1"].max())]


def test_the_front_is_the_true_one(quickstart):
    front = json.loads(
        sweep("pareto", "quickstart", "--budget", 3, "--format", "json", folder=quickstart.folder).stdout
    )
    rows = quickstart.rows[quickstart.rows["epochs"] == 3]
    best = {
        a.trial_id
        for a in rows.itertuples()
        if not any(
            (b.train_step_ms <= a.train_step_ms and b.minival_top1 >= a.minival_top1)
            and (b.train_step_ms < a.train_step_ms or b.minival_top1 > a.minival_top1)
            for b in rows.itertuples()
        )
    }
    assert {member["trial_id"] for member in front["front"]} == best


def test_every_budget_and_resolution_has_a_verdict_or_a_reason(quickstart):
    rules = json.loads(sweep("rules", "--format", "json", folder=quickstart.folder).stdout)
    entries = rules["depth_vs_width"]
    assert {(e["budget"], e["resolution"]) for e in entries} == {(b, r) for b in (1, 3) for r in (16, 32)}
    assert all(e["verdict"] in ("depth", "width") or e["reason"] for e in entries)
    assert [(c["budget"], c["planned"], c["ok"]) for c in rules["coverage"]] == [(1, 18, 18), (3, 18, 18)]


def test_mlflow_has_the_sweep_and_each_trial_once(quickstart):
    program = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient()
experiment = client.get_experiment_by_name("quickstart")
runs = client.search_runs([experiment.experiment_id], max_results=1000)
curve = {r.info.run_id: len(client.get_metric_history(r.info.run_id, "minival_top1")) for r in runs}
print(json.dumps([
    {"tags": r.data.tags, "params": r.data.params, "metrics": r.data.metrics, "status": r.info.status,
     "epochs": curve[r.info.run_id], "run": r.info.run_id,
     "artifacts": [a.path for a in client.list_artifacts(r.info.run_id, "report")]} for r in runs]))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=quickstart.folder, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    runs = json.loads(done.stdout)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run["tags"]]
    children = [run for run in runs if run is not parent]
    assert {run["status"] for run in runs} == {"FINISHED"}
    assert sorted(run["tags"]["trial_id"] for run in children) == sorted(quickstart.rows["trial_id"])
    assert {run["tags"]["mlflow.parentRunId"] for run in children} == {parent["run"]}
    assert all(run["epochs"] == int(run["params"]["epochs"]) for run in children)
    assert {"report/pareto.json", "report/rules.json", "report/depth-width.png"} <= set(parent["artifacts"])
    by_id = {run["tags"]["trial_id"]: run for run in children}
    for row in quickstart.rows.to_dict("records"):
        metrics = by_id[row["trial_id"]]["metrics"]
        assert metrics["val_top1"] == row["val_top1"]
        assert metrics["train_step_ms"] == row["train_step_ms"]

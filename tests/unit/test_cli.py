"""The command as people and programs meet it: exit codes, one object on stdout, one line for each mistake."""

import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pandas as pd
import pytest

from sweep.layout import SweepFolder
from sweep.ledger import Ledger, Mark, current_address
from sweep.ownership import owned
from sweep.rows import cell_columns, commit
from sweep.space import dump_space, load_space
from sweep.trials import trials_of
from workers.contract import TrialConfig

ROOT = Path(__file__).parents[2]
FIG3 = ROOT / "results/published/resnet_rs_fig3"
SPACE = """\
sweep: tiny
data: {name: digits}
recipe: {name: small, batch_size: 256, bn_batch: 128}
axes: {width: [0.125], depth: [26], resolution: [16], epochs: [2, 10]}
exclude: [{epochs: 3}]
checkpoints: {keep_weights: true}
"""


@pytest.fixture
def sweep(monkeypatch, in_process, tmp_path):
    """Runs the command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return in_process


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(SPACE)
    return path


def process(*arguments, folder, **options):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    command = [sys.executable, "-m", "sweep", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def ended(running):
    out, err = running.communicate(timeout=120)
    return running.returncode, out, err


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A sweep that a person interrupted in its first trial and then ran to its end, in one process without Ray."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "tiny.yaml").write_text(SPACE)
    first = process("run", "tiny.yaml", "--executor", "local", folder=folder)
    deadline = time.monotonic() + 120
    while not list(folder.glob("results/tiny/work/*/checkpoint-*.json")):
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    interrupted = ended(first)
    left_running = statuses(folder)
    finished = ended(process("run", "tiny.yaml", "--executor", "local", folder=folder))
    return SimpleNamespace(folder=folder, interrupted=interrupted, left_running=left_running, finished=finished)


def statuses(folder):
    """Of all MLflow runs."""
    database = folder / "mlflow.db"
    if not database.exists():
        return []
    import sqlite3

    connection = sqlite3.connect(database)
    try:
        return [status for (status,) in connection.execute("select status from runs")]
    finally:
        connection.close()


def test_an_interruption_is_130_in_one_line_and_leaves_nothing_running(real):
    code, out, err = real.interrupted
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "tiny: interrupted, 2 planned; the same command goes on from there"
    assert "Traceback" not in err
    assert real.left_running
    assert "RUNNING" not in real.left_running


def test_the_same_command_goes_on_and_ends_with_the_counts_on_stderr(real):
    code, out, err = real.finished
    assert (code, out) == (0, ""), err
    assert err.splitlines()[-1] == "tiny: 2 finished in results/tiny/; see `sweep pareto` and `sweep rules`"
    assert "Traceback" not in err
    assert set(statuses(real.folder)) == {"FINISHED"}
    rows = pd.read_parquet(real.folder / "results/tiny/trials")
    assert sorted(zip(rows["epochs"], rows["epochs_done"], rows["attempts"], strict=True)) == [(2, 2, 1), (10, 10, 2)]
    assert duckdb.sql(f"select count(*) from '{real.folder}/results/tiny/trials/*.parquet'").fetchall() == [(2,)]


def results_of(real):
    return ("--results", real.folder / "results")


COMMANDS = {
    "plan": ("plan", "tiny.yaml"),
    "status": ("status", "tiny"),
    "pareto": ("pareto", "tiny"),
    "rules": ("rules", "tiny"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_exactly_one_object_on_stdout(real, sweep, space, command):
    code, out, err = sweep(*COMMANDS[command], *results_of(real), "--format", "json")
    assert (code, err) == (0, "")
    value = json.loads(out, parse_constant=pytest.fail)
    assert isinstance(value, dict)
    assert value["sweep"] == "tiny"
    assert out.count("\n}") >= 1
    assert out.endswith("}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_csv_parses_and_tables_fit_80_columns(real, sweep, space, command, monkeypatch):
    monkeypatch.chdir(real.folder)
    code, out, _ = sweep(*COMMANDS[command], "--format", "csv")
    assert code == 0
    rows = list(csv.reader(io.StringIO(out)))
    assert len(rows) >= 2
    assert {len(row) for row in rows} == {len(rows[0])}
    code, out, _ = sweep(*COMMANDS[command])
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80


def test_a_plan_knows_what_is_finished_and_what_it_will_cost(real, sweep, space):
    value = json.loads(sweep("plan", space, *results_of(real), "--format", "json")[1])
    assert [trial["status"] for trial in value["trials"]] == ["finished", "finished"]
    assert all(trial["predicted_device_hours"] > 0 for trial in value["trials"])
    assert value["totals"]["finished"] == 2


def test_a_second_run_trains_nothing(real):
    before = {path: path.read_bytes() for path in (real.folder / "results/tiny/trials").iterdir()}
    code, out, err = ended(process("run", "tiny.yaml", folder=real.folder))
    assert (code, out, err) == (0, "", "tiny: nothing to do, 2 finished in results/tiny/\n")
    assert {path: path.read_bytes() for path in (real.folder / "results/tiny/trials").iterdir()} == before


def test_without_a_name_it_is_the_newest_and_says_which(real, sweep):
    code, out, err = sweep("status", *results_of(real), "--format", "json")
    assert (code, err) == (0, f"newest sweep: {real.folder}/results/tiny\n")
    assert json.loads(out)["ok"] == 2


def test_recommended_cells_are_a_space_that_can_be_planned(real, sweep, tmp_path):
    code, _, err = sweep("pareto", "tiny", *results_of(real), "--out", tmp_path / "deeper/best.yaml")
    assert code == 0
    assert "wrote" in err
    chosen = load_space(tmp_path / "deeper/best.yaml")
    assert {cell.epochs for cell in chosen.all_cells()} == {2, 10}
    assert chosen.recipe == load_space(real.folder / "tiny.yaml").recipe
    code, out, err = sweep("plan", tmp_path / "deeper/best.yaml", "--format", "json")
    assert (code, err) == (0, "")
    assert {trial["trial_id"] for trial in json.loads(out)["trials"]} == {
        trial.trial_id for trial in trials_of(load_space(real.folder / "tiny.yaml"))
    }


def test_a_report_names_its_files_and_pictures_are_drawn_where_asked(real, sweep, tmp_path):
    code, out, _ = sweep("report", "tiny", *results_of(real))
    assert code == 0
    assert {Path(line).name for line in out.splitlines()} >= {
        "pareto.json",
        "rules.json",
        "front-2.png",
        "depth-width.png",
    }
    for command in (["pareto", "--budget", "10"], ["rules"]):
        code, _, _ = sweep(command[0], "tiny", *command[1:], *results_of(real), "--plot", tmp_path / "a.png")
        assert code == 0
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        (tmp_path / "a.png").unlink()


def test_a_finished_trial_is_exported_by_the_beginning_of_its_id(real, sweep, tmp_path):
    trial = trials_of(load_space(real.folder / "tiny.yaml"))[0]
    code, out, err = sweep("export", trial.trial_id[:6], "--sweep", "tiny", *results_of(real), "--out", tmp_path / "m")
    assert (code, out) == (0, f"{tmp_path}/m\n"), err
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"config.json", "model.safetensors"}
    described = json.loads((tmp_path / "m/config.json").read_text())
    assert described["row"]["trial_id"] == trial.trial_id
    assert described["num_classes"] == 10


def test_dumped_trials_load_and_are_those_of_the_plan(sweep, space, tmp_path):
    code, out, err = sweep("plan", space, "--dump", tmp_path / "dump", "--format", "json")
    assert code == 0
    assert "wrote 2 trials" in err
    made = {path.stem: TrialConfig.from_json(path.read_text()) for path in (tmp_path / "dump").iterdir()}
    assert all(name == config.trial_id for name, config in made.items())
    assert made == {trial.trial_id: trial for trial in trials_of(load_space(space))}
    assert made.keys() == {trial["trial_id"] for trial in json.loads(out)["trials"]}


@pytest.fixture
def failed(space, tmp_path):
    """A sweep all of whose trials failed, as its folder says."""
    spec = load_space(space)
    folder = SweepFolder(tmp_path / "results/tiny")
    folder.keep_space(dump_space(spec, "0"))
    (tmp_path / "mlflow.db").touch()  # a database that is not there has none of the rows
    for config, status in zip(trials_of(spec), ("oom", "crashed"), strict=True):
        row = {**cell_columns("tiny", config), "status": status, "error": "no [/bold] luck", "attempts": 1}
        commit(folder, row, ())
        Ledger(folder).mark(config.trial_id, Mark(current_address(), "run", "parent", status))
    return folder


def test_failed_trials_are_exit_code_1_and_the_way_to_retry_them(sweep, space, failed):
    code, out, err = sweep("run", space)
    assert (code, out) == (1, "")
    assert err == ("tiny: nothing to do, 2 failed in results/tiny/; `--retry crashed,oom` runs the failed ones again\n")
    code, out, _ = sweep("status", "tiny")
    assert code == 0
    assert "oom: no [/bold] luck" in out


def test_nothing_good_is_a_line_and_not_a_front(sweep, failed):
    for command in ("pareto", "report"):
        code, out, err = sweep(command, "tiny")
        assert (code, out) == (2, "")
        assert re.fullmatch(r"no usable rows: .+\n", err)


def test_failed_trials_that_the_space_now_excludes_become_excluded_rows(sweep, space, failed):
    space.write_text(SPACE.replace("epochs: 3", "width: 0.125"))
    code, out, err = sweep("run", space, "--executor", "local")
    assert (code, out) == (0, ""), err
    rows = pd.read_parquet(failed.trials)
    assert rows["status"].tolist() == ["excluded"] * 2
    assert rows["error"].tolist() == ["exclude: width 0.125"] * 2


def test_a_sweep_that_another_process_runs_is_refused_with_3_and_its_owner(sweep, space, failed):
    with owned(failed):
        code, out, err = sweep("run", space)
    assert (code, out) == (3, "")
    assert err == f"results/tiny: process {os.getpid()} on {os.uname().nodename} {err[err.index('(since') :]}"
    assert err.count("\n") == 1


def test_a_damaged_row_is_refused_with_3_and_its_name(sweep, space, failed):
    broken = sorted(failed.trials.iterdir())[0]
    broken.write_bytes(broken.read_bytes()[:100])
    for arguments in (("run", space), ("plan", space)):
        code, out, err = sweep(*arguments)
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert f"{broken.name}: damaged" in err
    code, _, err = sweep("pareto", "tiny")
    assert (code, err.count("\n")) == (3, 1)
    assert broken.name in err


BAD = {
    "no such space": (("plan", "none.yaml"), "none.yaml: cannot be read: No such file"),
    "a folder for a space": (("run", "."), ".: cannot be read: Is a directory"),
    "a bad space": (("run", "bad.yaml"), "bad.yaml:1: sweeep: unknown key; allowed here: sweep,"),
    "no data": (("run", "nodata.yaml"), "environment variable NOT_SET_ANYWHERE is not set; set it to"),
    "no such failure": (("run", "tiny.yaml", "--retry", "oom,bored"), "--retry: unknown failure 'bored'; known: oom, "),
    "no such sweep": (("pareto", "none"), "no sweep 'none' under results/"),
    "no sweep at all": (("rules",), "no sweep under results/ yet; `sweep run"),
    "no such budget": (("pareto", FIG3, "--budget", "7"), "budget 7: not in the table; right would be 10, 100, 350"),
    "no such cost": (("pareto", FIG3, "--cost", "euros"), "cost 'euros': no such column; right would be"),
    "no number for a cost": (("rules", FIG3, "--cost", "family"), "cost 'family': not a numeric column"),
    "no such family": (("pareto", FIG3, "--compare", "vgg"), "compare 'vgg': right would be"),
    "a damaged file": (("status", "torn.parquet"), "torn.parquet: not a readable Parquet file"),
    "text for numbers": (("rules", "text.parquet"), "text.parquet: column depth is"),
    "no space to recommend from": (("pareto", FIG3, "--out", "x.yaml"), "--out:"),
    "an output that cannot be": (("plan", "tiny.yaml", "--dump", "torn.parquet/x"), "torn.parquet/x: Not a directory"),
    "results that cannot be": (("run", "tiny.yaml", "--results", "torn.parquet"), "torn.parquet/tiny: Not a directory"),
    "a sweep that was not run": (("sync", FIG3), "only a sweep that `sweep run` made can be recorded"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_2_and_one_line_that_says_what_is_wrong(sweep, space, tmp_path, monkeypatch, mistake):
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    (tmp_path / "bad.yaml").write_text(SPACE.replace("sweep:", "sweeep:").replace("\ndata", "\nsweep: a\ndata", 1))
    (tmp_path / "nodata.yaml").write_text(SPACE.replace("name: digits", 'name: imagenet, root: "${NOT_SET_ANYWHERE}"'))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    pd.DataFrame({"depth": ["deep"], "width": ["wide"]}).to_parquet(tmp_path / "text.parquet")
    arguments, what = BAD[mistake]
    code, _, err = sweep(*arguments)
    assert code == 2
    assert what in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [("pareto", FIG3, "--noise-sd", "nan"), ("pareto", FIG3, "--noise-sd", "-1"), ("pareto", FIG3, "--max-cost", "nan"),
     ("pareto", FIG3, "--top", "0"), ("pareto", FIG3, "--format", "xml"), ("run", "tiny.yaml", "--max-concurrent", "0"),
     ("run",), ("nonsense",)],
    ids=lambda arguments: " ".join(map(str, (arguments[0], *arguments[2:]))),
)  # fmt: skip
def test_an_option_that_cannot_be_is_2_and_says_so_on_stderr(sweep, space, arguments):
    code, out, err = sweep(*arguments)
    assert (code, out) == (2, "")
    assert "Usage" in err
    assert "Traceback" not in err


def test_planning_needs_no_data(sweep, monkeypatch):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    code, out, err = sweep("plan", ROOT / "search_spaces/paper_grid.yaml", "--format", "json")
    assert (code, err) == (0, "")
    value = json.loads(out)
    assert len(value["trials"]) == value["totals"]["planned"] == 525
    assert all(trial[name] > 0 for trial in value["trials"] for name in ("params", "macs_per_image", "train_flops"))


def test_several_problems_of_a_space_are_a_line_each(sweep, tmp_path):
    (tmp_path / "bad.yaml").write_text(SPACE.replace("[26]", "[]").replace("name: digits", "name: mnist"))
    code, _, err = sweep("plan", "bad.yaml")
    assert code == 2
    places = [line.split(": ")[:2] for line in err.splitlines()]
    assert places == [["bad.yaml:2", "data.name"], ["bad.yaml:4", "axes.depth"]]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OSError(errno.EROFS, "Read-only file system", "x"),
            3,
            "x: Read-only file system; nothing is lost: once files",
        ),
        (OSError(errno.EISDIR, "Is a directory", ".x.1.tmp", None, "x"), 3, "x: Is a directory; a folder stands where"),
        (OSError(errno.EACCES, "Permission denied", "x"), 2, "x: Permission denied\n"),
    ],
)
def test_what_the_operating_system_refuses_is_one_line(sweep, space, monkeypatch, error, code, said):
    def refuse(*_):
        raise error

    monkeypatch.setattr("sweep.run_commands.plan", refuse)
    found, _, err = sweep("plan", space)
    assert (found, err.count("\n")) == (code, 1)
    assert err.startswith(said)


def test_sync_records_everything_again(real):
    done = ended(process("sync", "tiny", folder=real.folder))
    assert done[:2] == (0, ""), done[2]
    assert done[2].splitlines()[-1] == "tiny: 2 trials recorded in MLflow"
    assert set(statuses(real.folder)) == {"FINISHED"}
    assert len(statuses(real.folder)) == 3

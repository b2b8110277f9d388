"""Commands on sweeps with plug-ins or without width and depth, and `sweep export`, as people meet them."""

import json
import os

import pytest

from sweep.kept_space import sealed
from sweep.layout import SweepFolder
from sweep.ledger import Ledger, Mark, current_address
from sweep.rows import cell_columns, commit, keep_planned
from sweep.space import dump_space, load_space
from sweep.table import read_table
from sweep.trials import trials_of
from workers import plugins

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own

PLUGIN = """
from pathlib import Path
from workers.families import Argument, Family
from torch import nn

Path(__file__).with_suffix(".ran").write_text("")


def build(arguments, resolution, classes, recipe):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))


FAMILIES = [Family("mine", {"layers": Argument(int, "how many")}, build)]
"""
MINE = """\
sweep: tiny
plugins: [my_models.py]
data: {name: digits}
family: mine
recipe: small
axes: {layers: [2, 3], resolution: [16], epochs: [1]}
"""
EFFICIENTNET = """\
sweep: tiny
data: {name: digits}
family: efficientnet
recipe: small
axes: {variant: [b0, b1], resolution: [32], epochs: [1]}
"""
RESNET = """\
sweep: tiny
data: {name: digits}
recipe: small
axes: {width: [0.125], depth: [26], resolution: [16], epochs: [1, 2, 3]}
"""


@pytest.fixture
def sweep(monkeypatch, in_process, tmp_path):
    """Runs the command in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def sweep(*arguments):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
        return in_process(*arguments)

    return sweep


@pytest.fixture
def finished(tmp_path):
    """A sweep whose trials are all done, or have the given status, as its folder says."""

    def finished(text, statuses=(), name="tiny"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace("sweep: tiny", f"sweep: {name}"))
        spec = load_space(path)
        folder = SweepFolder(tmp_path / "results" / name)
        folder.keep_space(dump_space(spec, "0"))
        trials = trials_of(spec)
        keep_planned(folder, trials)
        for index, config in enumerate(trials):
            status = dict(enumerate(statuses)).get(index, "ok")
            numbers = {"minival_top1": 50.0 + index, "train_step_ms": 1.0 + index, "attempts": 1, "error": "bad luck"}
            times = dict.fromkeys(("started_at", "finished_at"), "2026-01-01T00:00:00+00:00")
            commit(folder, {**cell_columns(name, config), **numbers, **times, "status": status}, ())
            Ledger(folder).mark(config.trial_id, Mark(current_address(), "run", "parent", status))
        plugins._load.cache_clear()  # as in the next process: whoever asks for a plug-in runs it again
        return folder, trials

    return finished


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "my_models.py"
    path.write_text(PLUGIN)
    return path


READING = [["status", "tiny"], ["pareto", "tiny", "--out", "best.yaml"], ["rules", "tiny"], ["report", "tiny"]]


@pytest.mark.parametrize("arguments", READING, ids=lambda arguments: arguments[0])
@pytest.mark.parametrize("listed", [True, False])
def test_reading_a_folder_never_runs_the_plugin_that_it_names(sweep, finished, plugin, arguments, listed):
    folder, _ = finished(MINE)
    ran = plugin.with_suffix(".ran")
    ran.unlink()
    if not listed:
        folder.planned.unlink()
    code, _, err = sweep(*arguments)
    no_rules = arguments[0] == "rules"
    assert code == (2 if no_rules else 0), err
    assert ("rows with depth, width and resolution; mine has no depth" in err) == no_rules
    assert not ran.exists()


def test_syncing_a_folder_never_runs_the_plugin_that_it_names(sweep, finished, plugin):
    finished(MINE)
    plugin.with_suffix(".ran").unlink()
    code, _, err = sweep("sync", "tiny")
    assert (code, err.splitlines()[-1:]) == (0, ["tiny: 2 trials recorded in MLflow"]), err
    assert not plugin.with_suffix(".ran").exists()


def test_recommended_cells_of_a_plugins_family_are_a_space_that_can_be_planned(sweep, finished, plugin):
    _, trials = finished(MINE)
    assert sweep("pareto", "tiny", "--top", "1", "--out", "deeper/best.yaml")[0] == 0
    code, out, err = sweep("plan", "deeper/best.yaml", "--format", "json")
    assert (code, err) == (0, "")
    assert [trial["trial_id"] for trial in json.loads(out)["trials"]] == [trials[1].trial_id]
    assert json.loads(out)["trials"][0]["model"] == {"layers": 3}


def test_how_far_a_plugins_sweep_is_is_known_from_its_list_of_trials(sweep, finished, plugin):
    folder, trials = finished(MINE)
    folder.row(trials[0].trial_id).unlink()
    value = json.loads(sweep("status", "tiny", "--format", "json")[1])
    assert (value["planned"], value["ok"], value["no_longer_planned"]) == (2, 1, 0)


@pytest.mark.parametrize("command", ["plan", "pareto"])
def test_models_without_width_and_depth_are_printed_by_their_arguments(sweep, finished, command):
    finished(EFFICIENTNET)
    arguments = (command, "tiny.yaml" if command == "plan" else "tiny")
    code, out, err = sweep(*arguments)
    assert (code, err) == (0, "")
    assert " b1 " in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = sweep(*arguments, "--format", "csv")
    assert code == 0
    assert out.splitlines()[0].endswith("model_variant")
    assert out.splitlines()[-1].endswith("b1")


def test_a_report_of_such_models_is_a_front_and_a_note(sweep, finished):
    folder, _ = finished(EFFICIENTNET)
    code, out, err = sweep("report", "tiny")
    assert (code, err) == (0, "")
    names = {line.rpartition("/")[2] for line in out.splitlines()}
    figures = {f"{name}.{kind}" for name in ("coverage", "front-1") for kind in ("png", "svg")}
    assert names == {"pareto.json", "rules.json", "report.html", *figures}
    assert "efficientnet has no depth and no width" in json.loads((folder.report / "rules.json").read_text())["note"]


def test_a_plugins_family_is_trained_and_measured_like_any_other(sweep, tmp_path, plugin):
    (tmp_path / "tiny.yaml").write_text(MINE.replace("small", "{name: small, batch_size: 256, bn_batch: 256}"))
    code, out, err = sweep("run", "tiny.yaml", "--executor", "local")
    assert (code, out) == (0, ""), err
    rows = read_table(tmp_path / "results/tiny/trials").sort_values("model_layers")
    assert rows["status"].tolist() == ["ok", "ok"]
    assert rows["model_layers"].tolist() == [2, 3]
    assert rows["depth"].isna().all()
    assert (rows["params"] == 40).all()
    assert (rows["train_step_ms"] > 0).all()
    value = json.loads(sweep("status", "tiny", "--format", "json")[1])
    assert (value["planned"], value["ok"]) == (2, 2)


def export_problem(sweep, *arguments, expected=2):
    code, out, err = sweep("export", *arguments, "--sweep", "tiny")
    assert (code, out, err.count("\n")) == (expected, "", 1)
    return err


def test_what_cannot_be_exported_is_a_line_that_says_how_to_go_on(sweep, finished):
    folder, trials = finished(RESNET, ["ok", "oom"])
    first, second, third = (trial.trial_id for trial in trials)
    assert "no trial 'zz' in results/tiny/; `sweep pareto tiny" in export_problem(sweep, "zz")
    several = export_problem(sweep, "")
    assert "3 trials of results/tiny/ begin with ''" in several
    assert all(name in several for name in (first, second, third))
    assert f"trial {second} has no model to export: oom: bad luck" in export_problem(sweep, second)
    assert "`checkpoints: {keep_weights: true}`" in export_problem(sweep, first[:8])
    weights = folder.work(first) / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"no tensors")
    damaged = export_problem(sweep, first, expected=3)
    assert "not a whole safetensors file" in damaged
    assert "`sweep run` with the YAML that plans it trains it again" in damaged
    assert not (folder.path / "export").exists()
    folder.space.write_bytes(sealed(folder.space.read_text().replace("- 1\n", "- 4\n")))
    assert f"trial {first}: no space in results/tiny/ plans it" in export_problem(sweep, first, expected=3)
    folder.space.write_bytes(folder.space.read_bytes().replace(b"- 4\n", b"- 1\n"))
    assert "space.yaml: changed since `sweep run` wrote it" in export_problem(sweep, first, expected=3)
    folder.space.unlink()
    assert "space.yaml: missing; run the sweep again" in export_problem(sweep, first, expected=3)


@pytest.fixture
def exported(monkeypatch):
    """The weights that were exported, instead of the export itself."""
    paths = []
    monkeypatch.setattr("workers.export.export_model", lambda config, weights, row, target: paths.append(weights))
    return paths


def with_weights(folder, trial_id):
    weights = folder.work(trial_id) / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    return weights


def test_without_a_sweeps_name_a_trial_is_found_in_whichever_sweep_has_it(sweep, finished, exported):
    older, trials = finished(RESNET)
    weights = with_weights(older, trials[1].trial_id)
    finished(EFFICIENTNET, name="newer")
    code, out, err = sweep("export", trials[1].trial_id[:8])
    assert (code, out) == (0, f"results/tiny/export/{trials[1].trial_id}\n"), err
    assert [path.resolve() for path in exported] == [weights]
    assert "newest" not in err
    code, out, err = sweep("export", "zz")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "no trial 'zz' in results/; " in err


def test_of_several_sweeps_with_the_trial_it_is_the_newest_that_kept_the_weights_and_says_so(sweep, finished, exported):
    older, trials = finished(RESNET, name="older")
    newer, _ = finished(RESNET, name="newer")
    name = trials[0].trial_id
    os.utime(older.trials, (1, 1))
    os.utime(older.space, (1, 1))
    weights = with_weights(older, name)
    code, _, err = sweep("export", name)
    assert (code, exported[-1].resolve()) == (0, weights)
    assert f"{name} is in results/older and in results/newer: exporting that of results/older\n" in err
    weights = with_weights(newer, name)
    assert sweep("export", name)[0] == 0
    assert exported[-1].resolve() == weights


def test_a_table_is_no_sweep_to_export_from(sweep, finished):
    folder, trials = finished(RESNET)
    code, _, err = sweep("export", trials[0].trial_id, "--sweep", folder.row(trials[0].trial_id))
    assert (code, err.count("\n")) == (2, 1)
    assert "only a trial that `sweep run` trained has weights" in err


def test_a_plugin_runs_for_an_export_only_if_the_person_says_so(sweep, finished, plugin):
    folder, trials = finished(MINE)
    name = trials[0].trial_id
    weights = folder.work(name) / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"no tensors")
    plugin.with_suffix(".ran").unlink()
    assert f"names plug-ins ({plugin}), which run only with --run-plugins" in export_problem(sweep, name)
    assert not plugin.with_suffix(".ran").exists()
    assert "cannot be exported" in export_problem(sweep, name, "--run-plugins")


def test_a_trial_of_an_earlier_space_is_exported_all_the_same(sweep, finished, monkeypatch):
    folder, trials = finished(RESNET)
    weights = folder.work(trials[2].trial_id) / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"")
    folder.keep_space(folder.space.read_text().replace("- 3\n", "- 4\n"))
    exported = []
    monkeypatch.setattr("workers.export.export_model", lambda *arguments: exported.append(arguments))
    code, out, err = sweep("export", trials[2].trial_id, "--sweep", "tiny", "--out", "here")
    assert (code, out) == (0, "here\n"), err
    ((config, path, row, target),) = exported
    assert (config.trial_id, path.resolve(), row["epochs"], str(target)) == (
        trials[2].trial_id, weights, 3, "here",
    )  # fmt: skip


def test_trials_of_another_recipe_are_left_out_once_the_space_no_longer_plans_them(sweep, finished):
    finished(RESNET)
    folder, trials = finished(RESNET.replace("recipe: small", "recipe: {name: small, learning_rate: 0.2}"))
    assert len(list(folder.trials.iterdir())) == 6  # nothing is removed
    for command in ("pareto", "rules", "report"):
        code, _, err = sweep(command, "tiny")
        assert (code, err.count("\n")) == (0, 1), err
        assert err == "3 of 6 rows are of trials that results/tiny/space.yaml no longer plans: left out\n"
    fronts = json.loads(sweep("pareto", "tiny", "--format", "json")[1])["fronts"]
    assert {member["trial_id"] for front in fronts for member in front["front"]} == {t.trial_id for t in trials}

"""`sweep pareto --out`: exactly the recommended cells, with every seed, as a space that plans the same trials."""

import json

import pytest

from sweep.commands import say_what_is_new
from sweep.layout import SweepFolder
from sweep.rows import cell_columns, commit
from sweep.space import dump_space, load_space
from sweep.trials import trials_of

SPACES = {
    "a grid with two seeds": "recipe: small\nseeds: [0, 1]\n"
    "axes: {width: [0.125, 0.25], depth: [26, 50], resolution: [16, 24], epochs: [2, 3]}\n",
    "cells of several variants": "recipe: small\nfamily: efficientnet\n"
    "cells: [{variant: b0, resolution: 32, epochs: 2}, {variant: b1, resolution: 32, epochs: 2},\n"
    "        {variant: b1, resolution: 48, epochs: 2}, {variant: b2, resolution: 48, epochs: 3}]\n",
    "a switch as an axis": "recipe: {name: small, learning_rate: 0.05}\nmodel: {width: 0.125}\n"
    "axes: {depth: [26, 50], se: [true, false], resolution: [16], epochs: [2]}\n",
    "limits and exclusions": "recipe: small\nlimits: {params: [0, 1e9]}\nexclude: [{depth: 50, resolution: 24}]\n"
    "axes: {width: [0.125], depth: [26, 50], resolution: [16, 24], epochs: [2]}\n",
    "a model of timm": "recipe: small\nfamily: timm:resnet10t\naxes: {resolution: [32, 48, 64], epochs: [2]}\n",
}


@pytest.fixture
def sweep(monkeypatch, in_process, tmp_path):
    monkeypatch.chdir(tmp_path)
    return in_process


def trained(tmp_path, text):
    """A sweep whose every trial has a row, the later the dearer, and two in three better than all before."""
    (tmp_path / "a.yaml").write_text("sweep: a\ndata: {name: digits}\n" + text)
    spec = load_space(tmp_path / "a.yaml")
    folder = SweepFolder(tmp_path / "results/a")
    folder.keep_space(dump_space(spec, "0"))
    cells = {}
    for config in trials_of(spec):
        cell = (config.family, config.width, config.depth, str(config.model), config.resolution, config.epochs)
        rank = cells.setdefault(cell, len(cells))
        top1 = 50 + rank - (5 if rank % 3 == 2 else 0) + 0.1 * config.seed
        numbers = {"minival_top1": top1, "train_step_ms": 2.0**rank, "attempts": 1}
        out = any(all(getattr(config, k) == v for k, v in rule.values.items()) for rule in spec.exclude)
        ended = {"status": "excluded"} if out else {"status": "ok", **numbers}
        commit(folder, {**cell_columns("a", config), **ended}, ())
    return spec


@pytest.mark.parametrize("name", SPACES)
def test_the_recommended_cells_come_out_and_no_others(sweep, tmp_path, name):
    spec = trained(tmp_path, SPACES[name])
    code, out, err = sweep("pareto", "a", "--top", "3", "--format", "json", "--out", "best.yaml")
    assert (code, err) == (0, "wrote best.yaml; `sweep run best.yaml` trains it\n")
    value = json.loads(out)
    recommended = {m["trial_id"] for front in value.get("fronts", [value]) for m in front["recommended"]}
    best = load_space(tmp_path / "best.yaml")
    assert best.sweep == "a_recommended"
    by_id = {trial.trial_id: trial for trial in trials_of(spec)}
    wanted = [by_id[name] for name in recommended]
    cells = {(t.width, t.depth, str(t.model), t.resolution, t.epochs) for t in wanted}
    same = {i for i, t in by_id.items() if (t.width, t.depth, str(t.model), t.resolution, t.epochs) in cells}
    planned = [trial.trial_id for trial in trials_of(best)]
    assert sorted(planned) == sorted(same)
    assert len(planned) == len(recommended) * len(spec.seeds)
    code, out, err = sweep("plan", "best.yaml", "--format", "json")
    assert (code, err) == (0, "")
    assert {trial["status"] for trial in json.loads(out)["trials"]} == {"planned"}


def test_trials_that_the_space_does_not_mean_are_named(capsys, tmp_path):
    spec = trained(tmp_path, SPACES["a model of timm"])
    own = [{"trial_id": trial.trial_id} for trial in trials_of(spec)]
    say_what_is_new(spec, own)
    assert capsys.readouterr().err == ""
    say_what_is_new(spec, [*own, {"trial_id": "0123"}])
    said = "1 of 4 recommended trials are not in the space as it is now: 0123; it trains their cells anew\n"
    assert capsys.readouterr().err == said

"""Several sweeps as one table: what may be put together, and what is said where it may not."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from sweep.errors import TableError
from sweep.unions import union, union_of_planned
from workers.recipe import Cell
from workers.recipes import RECIPES

SHAPES = [(50, 1.0), (101, 1.0), (50, 2.0)]


def table(name="a", *, epochs=3, seed=0, resolution=160, recipe="resnet_rs", prefix="", **own):
    """Three cells with every value of the named recipe; `own` replaces columns."""
    rows = []
    for depth, width in SHAPES:
        values = dataclasses.asdict(RECIPES[recipe](Cell(resolution, epochs, width, depth)))
        columns = {f"recipe_{field}": value for field, value in values.items() if field != "name"}
        rows.append(
            {"sweep": name, "trial_id": f"{prefix}{depth}-{width}-{resolution}-{epochs}-{seed}", "family": "f",
             "depth": depth, "width": width, "resolution": resolution, "epochs": epochs, "seed": seed, "recipe": recipe,
             "dataset": "digits 1", "protocol": "independent", "source": "measured", "status": "ok",
             "minival_top1": 70.0 + depth / 50, "train_step_ms": depth * width, **columns, **own}
        )  # fmt: skip
    return pd.DataFrame(rows)


def together(*tables, **options):
    return union([(f"T{place}", one) for place, one in enumerate(tables, 1)], **options)


def refused(*tables, **options):
    with pytest.raises(TableError) as caught:
        together(*tables, **options)
    return str(caught.value).split("\n")


def test_sweeps_of_other_seeds_and_budgets_are_put_together():
    assert len(together(table("a"), table("b", seed=1), table("c", epochs=350))) == 9


def test_a_recipe_whose_values_follow_from_the_cell_is_one_recipe():
    short, long = table("a", epochs=10), table("b", epochs=350, resolution=320)
    changed = [name for name in short if name.startswith("recipe_") and set(short[name]) != set(long[name])]
    assert changed  # or there is nothing to show
    assert len(together(short, long)) == 6


@pytest.mark.parametrize(
    ("column", "value", "was"),
    [("dataset", "digits 2", "digits 1"), ("protocol", "curve", "independent"), ("source", "simulated", "measured"),
     ("recipe_momentum", 0.5, "0.9"), ("recipe_optimizer", "lamb", "sgd"), ("recipe_label_smoothing", 0.3, "0")],
)  # fmt: skip
@pytest.mark.parametrize("epochs", [3, 350])
def test_what_differs_is_named_with_both_values(column, value, was, epochs):
    assert refused(table("a"), table("b", epochs=epochs, prefix="b", **{column: value})) == [
        f"T1 and T2 differ in {column}: {was} in T1, {value} in T2"
    ]


def test_every_column_that_differs_is_a_line_and_the_third_table_is_compared_too():
    lines = refused(table(), table(seed=1), table(seed=2, dataset="x", recipe_momentum=0.5))
    assert [line.partition(":")[0] for line in lines] == [
        "T1 and T3 differ in dataset", "T1 and T3 differ in recipe_momentum",
    ]  # fmt: skip


def test_another_recipe_is_refused_by_its_name():
    assert refused(table(), table(recipe="small"))[0] == "T1 and T2 differ in recipe: resnet_rs in T1, small in T2"


def test_learning_rates_may_differ_for_robust_alone():
    fast = table("b", prefix="fast", recipe_learning_rate=0.9)
    lines = refused(table(), fast)
    assert lines[0].startswith("T1 and T2 differ in recipe_learning_rate: ")
    assert lines[-1] == "--robust compares learning rates"
    assert len(together(table(), fast, rates_may_differ=True)) == 6
    assert "momentum" in refused(table(), fast.assign(recipe_momentum=0.5), rates_may_differ=True)[0]


def test_values_of_a_recipe_that_nobody_knows_are_compared_over_common_cells():
    own = table().assign(recipe="mine", recipe_dropout=[0.1, 0.2, 0.3])
    assert len(together(own, own.assign(seed=1, trial_id=["x", "y", "z"]))) == 6
    other = own.assign(seed=1, trial_id=["x", "y", "z"], recipe_dropout=[0.1, 0.2, 0.4])
    assert refused(own, other) == ["T1 and T2 differ in recipe_dropout: 0.1, 0.2, 0.3 in T1, 0.1, 0.2, 0.4 in T2"]


def test_a_table_that_does_not_say_how_it_was_trained_is_taken_as_it_is():
    silent = table(seed=1)[["trial_id", "family", "depth", "width", "resolution", "epochs", "seed", "minival_top1"]]
    assert len(together(table(), silent)) == 6


def test_a_trial_of_both_counts_once_and_its_good_row_wins():
    failed = table().assign(status="oom", minival_top1=np.nan)
    for pair in ((failed, table()), (table(), failed)):
        rows = together(*pair)
        assert len(rows) == 3
        assert rows["minival_top1"].notna().all()
    assert len(together(table().assign(trial_id=None), table(seed=1).assign(trial_id=None))) == 6


def test_one_id_for_two_trials_is_refused():
    numbered = [table(seed=seed).assign(trial_id=["1", "2", "3"]) for seed in (0, 1)]
    assert refused(*numbered) == ["T1 and T2 differ in seed of trial 1: 0 in T1, 1 in T2"]


def test_plans_are_put_together_and_a_table_without_one_stands_for_its_rows():
    names = ["trial_id", "family", "depth", "width", "resolution", "epochs", "seed"]
    plan = pd.concat([table()[names], table(seed=1)[names]])
    tables = [("a", table()), ("b", table(seed=2))]
    assert union_of_planned([None, None], tables) is None
    assert len(union_of_planned([plan, None], tables)) == 9
    assert len(union_of_planned([plan, plan], tables)) == 6


@pytest.fixture
def rules(tmp_path, in_process):
    """Runs `sweep rules` on tables: exit code, stdout, stderr."""

    def rules(tables, *options):
        paths = [tmp_path / f"{n}.parquet" for n in range(len(tables))]
        for path, one in zip(paths, tables, strict=True):
            one.to_parquet(path)
        return in_process("rules", *paths, *options)

    return rules


def test_the_command_reads_several(rules):
    code, out, err = rules([table("a"), table("b", seed=1), table("a")])
    assert (code, err.splitlines()[0]) == (0, "6 trials of 3 tables, each counted once")
    assert out.startswith("a+b: accuracy minival_top1")
    assert "3 epochs: 6 of 6" in out


def test_the_command_refuses_in_lines_with_exit_code_2(rules):
    code, out, err = rules([table("a"), table("b", seed=1, recipe_momentum=0.5)])
    assert (code, out) == (2, "")
    assert "differ in recipe_momentum: 0.9 in " in err
    assert err.count("\n") == 1


def test_two_rates_in_two_sweeps_are_what_robust_is_about(rules):
    rates = [table(prefix=f"{k}", recipe_learning_rate=0.1 * k) for k in (0.5, 1, 2)]
    code, out, _ = rules(rates, "--robust")
    assert code == 0
    assert "at 0.5x, 2x" in out
    assert rules(rates)[0] == 2

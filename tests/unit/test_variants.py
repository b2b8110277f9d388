"""Tables in which models and recipes differ by more than depth, width and resolution: nothing is mixed up."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sweep.display import front_tables, rules_tables
from sweep.errors import NoRulesError, TableError
from sweep.noise import SEED_SD
from sweep.pareto import pareto
from sweep.plots import plot_depth_width, plot_front
from sweep.report import write_report
from sweep.rules import rules
from sweep.rules.variants import PLAIN, codes_of, variants_of
from sweep.table import read_table, write_rows


def row(number, top1, cost, **changes):
    plain = {
        "trial_id": f"t{number}", "sweep": "a", "family": "resnet_rs", "width": 1.0, "depth": 50, "resolution": 32,
        "epochs": 3, "seed": 0, "recipe": "small", "recipe_learning_rate": 0.1, "status": "ok", "source": "measured",
        "minival_top1": top1, "train_step_ms": cost, "macs_per_image": int(1e6 * cost), "model_se": True,
    }  # fmt: skip
    return {**plain, **changes}


EFFICIENTNET = {"family": "efficientnet", "width": None, "depth": None, "model_se": None}
TIMM = {**EFFICIENTNET, "family": "timm:regnety_040"}


@pytest.fixture
def table(tmp_path):
    """Through Parquet, as it comes in practice: one part per trial, each with its own columns."""

    def table(rows):
        for number, values in enumerate(rows):
            write_rows(tmp_path / "trials" / f"{number}.parquet", [values])
        return read_table(tmp_path / "trials")

    return table


MIXED = [
    row(0, 70.0, 1.0), row(1, 72.0, 2.0, depth=101), row(2, 71.0, 2.5, width=1.5),
    row(3, 60.0, 0.8, model_se=False), row(4, 62.0, 1.6, depth=101, model_se=False),
    row(5, 61.0, 1.7, width=1.5, model_se=False),
    row(6, 75.0, 3.0, **EFFICIENTNET, model_variant="b0"), row(7, 80.0, 6.0, **EFFICIENTNET, model_variant="b4"),
    row(8, 80.4, 6.2, **EFFICIENTNET, model_variant="b4", seed=1), row(9, 77.0, 5.0, **TIMM),
]  # fmt: skip


def test_models_that_differ_in_an_argument_are_cells_of_their_own_and_seeds_of_one_are_not(table):
    found = pareto(table(MIXED))
    assert found["cells"] == 9
    assert [(member["family"], member["model"], member["n_seeds"]) for member in found["front"]] == [
        ("resnet_rs", {"se": False}, 1),
        ("resnet_rs", {"se": True}, 1),
        ("resnet_rs", {"se": True}, 1),
        ("efficientnet", {"variant": "b0"}, 1),
        ("timm:regnety_040", {}, 1),
        ("efficientnet", {"variant": "b4"}, 2),
    ]
    assert found["front"][-1]["top1"] == pytest.approx(80.2)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_variants_without_anything_to_compare_are_a_line_each(table):
    few = [row(20 + n, 70.0 + n, 1.0, model_resnet_d=False, epochs=epochs) for n, epochs in enumerate((3, 10))]
    value = rules(table([*MIXED, *few]))
    console = Console(width=200, file=io.StringIO(), highlight=False)
    rules_tables(console, value)
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    (told,) = [line for line in lines if "resnet_d=off" in line]
    assert told == (
        "resnet_rs resnet_d=off: undetermined (no cell with deeper and wider neighbours); "
        "trained: 3 epochs: 1 of 1; 10 epochs: 1 of 1"
    )
    assert lines.count("Depth or width") == 2  # of the plain models and of those without squeeze-and-excitation
    assert sum(line.startswith("Coverage") for line in lines) == 2


def test_a_front_of_many_families_is_drawn_and_printed(table, tmp_path):
    frame = table(MIXED)
    console = Console(width=80, file=io.StringIO(), highlight=False)
    front_tables(console, pareto(frame, compare="efficientnet"))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "depth 50, width 1, se=off" in text
    assert "b4" in text
    assert "regnety_040" in text
    assert plot_front(frame, tmp_path / "front.png").stat().st_size > 10_000


RECIPES = {
    "another value": {"recipe_learning_rate": 0.2},
    "another name": {"recipe": "large"},
    "a value that the other has not got": {"recipe_ema_decay": 0.9},
}


@pytest.mark.parametrize("difference", RECIPES)
def test_rows_of_two_recipes_are_never_seeds_of_one_cell(table, difference):
    rows = [row(0, 70.0, 1.0), row(1, 71.0, 1.0, seed=1, **RECIPES[difference]), row(2, 75.0, 2.0, depth=101)]
    frame = table(rows)
    found = pareto(frame)
    assert (found["cells"], found["front"][0]["n_seeds"]) == (3, 1)
    with pytest.raises(TableError, match="mixes recipe"):
        rules(frame)


def test_rules_say_which_values_of_the_recipe_are_mixed_and_where(table):
    rows = [row(0, 70.0, 1.0), row(1, 71.0, 1.0, seed=1, recipe_learning_rate=0.2), row(2, 75.0, 2.0, depth=101)]
    with pytest.raises(TableError) as caught:
        rules(table(rows))
    assert str(caught.value) == (
        "the table mixes recipes in one cell (family resnet_rs, depth 50, width 1, resolution 32, epochs 3): "
        "recipe_learning_rate 0.1, 0.2; keep the rows of one recipe"
    )


def test_recipes_that_follow_from_the_cell_are_one_recipe(table):
    rows = [row(0, 70.0, 1.0), row(1, 72.0, 2.0, depth=101, recipe_dropout=0.2), row(2, 71.0, 2.0, width=1.5)]
    assert rules(table(rows))["depth_vs_width"]


def test_rules_are_made_for_each_variant_apart_and_leave_the_others_aside_with_a_note(table):
    found = rules(table(MIXED), noise_sd=0.1)
    groups = [(entry["family"], entry["model"]) for entry in found["depth_vs_width"]]
    assert groups == [("resnet_rs", {"se": False}), ("resnet_rs", {"se": True})]
    tops = [[cell["top1"] for cell in entry["arms"]["depth"]] for entry in found["depth_vs_width"]]
    assert tops == [[60.0, 62.0], [70.0, 72.0]]
    assert found["left_aside"] == [
        {"family": "efficientnet", "rows": 3, "reason": "no depth and no width"},
        {"family": "timm:regnety_040", "rows": 1, "reason": "no depth and no width"},
    ]
    assert [(entry["model"], entry["planned"]) for entry in found["coverage"]] == [
        ({"se": False}, 3),
        ({"se": True}, 3),
    ]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_rules_of_several_variants_are_drawn_and_printed_under_their_names(table, tmp_path):
    found = rules(table(MIXED))
    console = Console(width=80, file=io.StringIO(), highlight=False)
    rules_tables(console, found)
    lines = [line.strip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert lines.index("resnet_rs se=off") < lines.index("resnet_rs")
    assert lines.count("Depth or width") == 2
    assert "left aside: 3 rows of efficientnet, which has no depth and no width" in lines
    plot_depth_width(found, tmp_path / "arms.png")
    assert (tmp_path / "arms.png").stat().st_size > 10_000


def test_a_table_without_depth_and_width_has_a_front_and_a_report_and_no_rules(table, tmp_path):
    frame = table([values for values in MIXED if values["depth"] is None])
    with pytest.raises(NoRulesError, match="rows with depth, width and resolution; efficientnet has no depth and no w"):
        rules(frame)
    (tmp_path / "depth-width.png").write_bytes(b"an earlier one")
    write_report(frame, None, tmp_path)
    assert len(json.loads((tmp_path / "pareto.json").read_text())["front"]) == 3
    assert "efficientnet has no depth" in json.loads((tmp_path / "rules.json").read_text())["note"]
    assert (tmp_path / "front-3.png").exists()
    assert not (tmp_path / "depth-width.png").exists()


def test_coverage_tells_the_variants_of_planned_trials_apart(table):
    planned = pd.DataFrame(MIXED[:6]).drop(columns="status")
    done = table([values for values in MIXED[:6] if values["model_se"]])
    for names in ([], ["trial_id"]):
        found = rules(done, planned=planned.drop(columns=names))
        assert [(entry["model"], entry["ok"]) for entry in found["coverage"]] == [({"se": False}, 0), ({"se": True}, 3)]
        assert found["depth_vs_width_by_budget"][0]["verdict"] == "undetermined"


def test_replicates_of_one_variant_say_nothing_of_a_difference_between_variants(table):
    """Ten points between the variants, a tenth of a point between the seeds: the noise is the tenth."""
    rows = [
        row(f"{se}{depth}{seed}", 70 + depth / 50 + 10 * se + 0.1 * seed, depth, depth=depth, seed=seed, model_se=se)
        for se in (False, True) for depth in (50, 101) for seed in (0, 1)
    ]  # fmt: skip
    assert rules(table(rows))["noise_sd"] == pytest.approx(0.1 / np.sqrt(2))


def test_models_without_depth_and_width_scatter_about_a_surface_over_their_multiply_adds(table):
    random = np.random.default_rng(1)
    rows = [
        row(f"{variant}{size}", 60 + 5 * np.log2(size / 16) + random.normal(0, 3), size, resolution=size,
            minival_images=360, **EFFICIENTNET, model_variant=variant)
        for variant in ("b0", "b1") for size in (16, 24, 32, 48, 64, 96)
    ]  # fmt: skip
    errors = [member["top1_se"] for member in pareto(table(rows))["front"]]
    assert min(errors) > 2 * SEED_SD
    frame = table(rows).drop(columns="macs_per_image")
    assert pareto(frame)["front"]


def test_variants_are_equal_by_value_whatever_type_a_part_gave_its_column(table):
    rows = [
        row(0, 70.0, 1.0, model_layers=3), row(1, 70.0, 1.0, model_layers=3.0), row(2, 70.0, 1.0, model_gate="on"),
        row(3, 70.0, 1.0), row(4, 70.0, 1.0, model_se=None),
    ]  # fmt: skip
    kinds = variants_of(table(rows)).tolist()
    assert kinds[0] == kinds[1] == '{"layers": 3, "se": true}'
    assert len(set(kinds)) == 4
    assert kinds[4] == PLAIN
    assert variants_of(pd.DataFrame({"family": ["f"]})).tolist() == [PLAIN]


def test_codes_do_not_depend_on_the_order_of_rows_or_on_the_index():
    frame = pd.DataFrame({"a": [True, None, "x", True], "b": [1.0, np.nan, np.nan, 1.0]}, index=[5, 5, 5, 5])
    codes = codes_of(frame, ["a", "b"])
    assert codes[0] == codes[3]
    assert sorted(set(codes.tolist())) == [0, 1, 2]
    assert codes_of(frame.iloc[::-1], ["a", "b"]).tolist() == codes[::-1].tolist()

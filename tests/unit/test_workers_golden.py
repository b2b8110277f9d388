import csv
import importlib.util
import json
from pathlib import Path

import pytest
import torchvision

from workers.costs import count_costs

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "resnet_rs_table7" / "source.csv"
# What is farther than 1.5 % from every number that prints as table 7 does: ours over the nearest such number, and why.
DEVIATIONS = {
    ("efficientnet-b4", "flops_b"): (
        1.040,
        "8.4 is twice the 4.2 B that EfficientNet's own paper prints. At 380 px, its resolution in both papers, the "
        "network has 4.39 B multiply-adds by this count, by another with hooks and by torchvision's own figure.",
    )
}


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "model_costs.json").read_text())


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_model_costs", GOLDEN / "make_model_costs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(row):
    if "variant" in row:
        return count_costs("efficientnet", {"variant": row["variant"]}, row["resolution"], 1000)
    return count_costs("resnet_rs", {"width": row["width"], "depth": row["depth"]}, row["resolution"], 1000)


@pytest.mark.parametrize(("part", "rows"), [("paper_grid", 175), ("table7", 11), ("efficientnet", 8)])
def test_counted_costs_are_those_of_the_whole_models_counted_in_another_way(golden, part, rows):
    assert len({json.dumps(row) for row in golden[part]}) == len(golden[part]) == rows
    assert [(row["params"], row["macs_per_image"]) for row in golden[part]] == [
        (costs.params, costs.macs_per_image) for costs in map(counted, golden[part])
    ]


def test_the_golden_grid_is_the_papers(golden):
    shapes = {(row["width"], row["depth"], row["resolution"]) for row in golden["paper_grid"]}
    assert len(shapes) == 175
    assert [sorted(set(axis)) for axis in zip(*shapes, strict=True)] == [
        [0.25, 0.5, 1.0, 1.5, 2.0],
        [26, 50, 101, 200, 300, 350, 400],
        [128, 160, 224, 320, 448],
    ]


def test_the_golden_file_is_what_its_maker_makes(golden, maker):
    assert [row for row in golden["paper_grid"] if (row["width"], row["depth"]) == (0.25, 26)] == maker.rows_of(
        0.25, 26, maker.RESOLUTIONS
    )
    assert golden["table7"][:1] == maker.rows_of(1.0, 50, [160])
    assert golden["efficientnet"][:1] == [maker.efficientnet_row("b0")]


@pytest.mark.parametrize(
    ("depth", "resolution", "params", "gflops"),
    [(50, 160, 35_691_912, 4.557), (152, 256, 86_621_576, 31.06), (420, 320, 191_891_656, 127.88)],
)
def test_resnet_rs_has_the_papers_parameters_and_flops(depth, resolution, params, gflops):
    costs = count_costs("resnet_rs", {"width": 1.0, "depth": depth}, resolution, 1000)
    assert costs.params == params
    digits = len(str(gflops).partition(".")[2])
    assert round(2 * costs.macs_per_image / 1e9, digits) == gflops


def test_efficientnets_have_torchvisions_parameters_and_multiply_adds(golden):
    for row in golden["efficientnet"]:
        weights = getattr(torchvision.models, f"EfficientNet_{row['variant'].upper()}_Weights").IMAGENET1K_V1.meta
        assert weights["num_params"] == row["params"]
        if row["variant"] != "b2":  # which torchvision counts at another resolution
            assert weights["_ops"] == pytest.approx(row["macs_per_image"] / 1e9, abs=6e-4)


def published_rows():
    with PUBLISHED.open() as file:
        return list(csv.DictReader(file))


def ours(golden, row):
    side = int(row["resolution"])
    if row["family"] == "efficientnet":
        variant = row["model"].removeprefix("efficientnet-")
        return next(r for r in golden["efficientnet"] if (r["variant"], r["resolution"]) == (variant, side))
    return next(r for r in golden["table7"] if (r["depth"], r["resolution"]) == (int(row["depth"]), side))


def over_nearest(exact, printed):
    """Our number over the nearest one that is printed so; 1 where ours is printed so itself."""
    half_digit = 0.5 * 10 ** -len(printed.partition(".")[2])
    return exact / min(max(exact, float(printed) - half_digit), float(printed) + half_digit)


@pytest.mark.parametrize("row", published_rows(), ids=lambda row: f"{row['model']}-{row['resolution']}")
def test_costs_are_within_one_and_a_half_percent_of_table_7(golden, row):
    exact = ours(golden, row)
    for column, value in (("params_m", exact["params"] / 1e6), ("flops_b", 2 * exact["macs_per_image"] / 1e9)):
        expected, _ = DEVIATIONS.get((row["model"], column), (1.0, ""))
        assert over_nearest(value, row[column]) == pytest.approx(expected, abs=0.002 if expected != 1 else 0.015)


def test_resnet_rs_is_as_printed_to_a_per_mille(golden):
    # The one that is not printed so itself: ResNet-RS-152 at 192 is printed as 18 and is 17.494.
    for row in published_rows():
        if row["family"] == "resnet_rs":
            exact = ours(golden, row)
            assert over_nearest(exact["params"] / 1e6, row["params_m"]) == 1
            assert over_nearest(2 * exact["macs_per_image"] / 1e9, row["flops_b"]) == pytest.approx(1, abs=1e-3)


def test_every_published_row_was_compared():
    assert sorted({row["family"] for row in published_rows()}) == ["efficientnet", "resnet_rs"]
    assert len(published_rows()) == 19

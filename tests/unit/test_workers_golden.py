import csv
import importlib.util
import json
from pathlib import Path

import pytest

from workers.profiling import count_costs

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = Path(__file__).parents[2] / "results" / "published" / "resnet_rs_table7" / "source.csv"


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
    return count_costs("resnet_rs", row["width"], row["depth"], row["resolution"], 1000)


def test_counted_costs_of_every_shape_of_the_papers_grid_are_those_of_the_whole_models(golden):
    rows = golden["paper_grid"]
    assert len({(row["width"], row["depth"], row["resolution"]) for row in rows}) == len(rows) == 175
    assert [(r["params"], r["macs_per_image"]) for r in rows] == [
        (costs.params, costs.macs_per_image) for costs in map(counted, rows)
    ]


def test_counted_costs_of_table_7s_models_are_those_of_the_whole_models(golden):
    assert len(golden["table7"]) == 11
    for row in golden["table7"]:
        costs = counted(row)
        assert (costs.params, costs.macs_per_image) == (row["params"], row["macs_per_image"]), row


def test_the_golden_file_is_what_its_maker_makes(golden, maker):
    assert [row for row in golden["paper_grid"] if (row["width"], row["depth"]) == (0.25, 26)] == maker.rows_of(
        0.25, 26, maker.RESOLUTIONS
    )
    assert golden["table7"][:1] == maker.rows_of(1.0, 50, [160])


@pytest.mark.parametrize(
    ("depth", "resolution", "params", "gflops"),
    [(50, 160, 35_691_912, 4.557), (152, 256, 86_621_576, 31.06), (420, 320, 191_891_656, 127.88)],
)
def test_resnet_rs_has_the_papers_parameters_and_flops(depth, resolution, params, gflops):
    costs = count_costs("resnet_rs", 1.0, depth, resolution, 1000)
    assert costs.params == params
    digits = len(str(gflops).partition(".")[2])
    assert round(2 * costs.macs_per_image / 1e9, digits) == gflops


def published_rows():
    with PUBLISHED.open() as file:
        return [row for row in csv.DictReader(file) if row["family"] == "resnet_rs"]


@pytest.mark.parametrize("row", published_rows(), ids=lambda row: f"{row['model']}-{row['resolution']}")
def test_costs_are_those_of_table_7(golden, row):
    ours = next(
        r for r in golden["table7"] if (r["depth"], r["resolution"]) == (int(row["depth"]), int(row["resolution"]))
    )
    for printed, exact in ((row["params_m"], ours["params"] / 1e6), (row["flops_b"], 2 * ours["macs_per_image"] / 1e9)):
        half_digit = 0.5 * 10 ** -len(printed.partition(".")[2])
        # One per mille on top of the rounding: ResNet-RS-152 at 192 is printed as 18 and is 17.494 here. All
        # of the 2.8 % but 0.006 is the column's rounding; what is left may be pooling and norms, which are not counted.
        assert exact == pytest.approx(float(printed), abs=half_digit + 1e-3 * float(printed))
        if half_digit < 0.015 * float(printed):
            assert exact == pytest.approx(float(printed), rel=0.015)

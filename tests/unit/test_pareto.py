import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep.errors import TableError
from sweep.pareto import pareto
from sweep.table import read_table

PUBLISHED = Path(__file__).parents[2] / "results" / "published"


def table(*rows, **common):
    """Rows of (cost, top1), each a cell of its own."""
    frame = pd.DataFrame(
        {"trial_id": [f"t{i}" for i in range(len(rows))], "width": 1.0, "depth": np.arange(len(rows)) + 1}
    )
    frame[["train_step_ms", "minival_top1"]] = np.array(rows, dtype=float)
    return frame.assign(family="f", resolution=32, epochs=3, seed=0, status="ok", **common)


def ids(entries):
    return [entry["trial_id"] for entry in entries]


def test_front_of_a_small_table_and_its_json():
    result = pareto(table((1, 50), (2, 60), (3, 55), (4, 70), (2, 60)).assign(sweep="s"))
    assert ids(result["front"]) == ["t0", "t1", "t4", "t3"]  # equal points stay together
    assert (result["sweep"], result["budget"], result["cost"]) == ("s", 3, "train_step_ms")
    assert (result["considered"], result["excluded"], result["speedups"]) == (5, {}, [])
    assert result["accuracy_column"] == "minival_top1"
    first = result["front"][0]
    assert first["top1_se"] == pytest.approx(0.1)
    assert first["val_top1"] is None
    assert type(first["depth"]) is int
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_seeds_of_a_cell_are_one_point_named_by_the_first_seed():
    rows = table((1, 50), (1, 52), (2, 60), (2, 62), (1, 51))
    rows["depth"], rows["seed"] = [1, 1, 2, 2, 1], [1, 0, 0, 1, 2]
    front = pareto(rows)["front"]
    assert ids(front) == ["t1", "t2"]
    assert [member["n_seeds"] for member in front] == [3, 2]
    assert [member["top1"] for member in front] == pytest.approx([51, 61])
    # Squares 2 + 2 over 3 degrees of freedom.
    assert front[1]["top1_se"] == pytest.approx(np.sqrt(4 / 3 / 2))


def test_rows_without_a_seed_are_points_of_their_own():
    rows = table((1, 50), (2, 60)).assign(seed=np.nan, depth=np.nan, width=np.nan)
    assert len(pareto(rows)["front"]) == 2


def test_what_is_left_out_is_counted_with_its_reason():
    rows = table((1, 50), (2, 60), (3, np.nan), (np.inf, 60), (9, 90), (4, 70), (5, 71))
    rows["status"] = ["ok", None, "ok", "ok", "oom", "ok", "ok"]
    rows.loc[5, "trial_id"] = "t0"
    result = pareto(rows, max_cost=4.5)
    assert ids(result["front"]) == ["t0", "t1"]
    assert result["considered"] == 2
    reasons = {"no minival_top1": 1, "infinite train_step_ms": 1, "oom": 1, "duplicate trial_id": 1, "over max_cost": 1}
    assert result["excluded"] == reasons
    named = {"no minival_top1": ["t2"], "infinite train_step_ms": ["t3"], "oom": ["t4"], "duplicate trial_id": ["t0"]}
    assert result["excluded_trials"] == named


def test_numbers_that_are_no_cost_are_told_from_missing_ones_and_few_trials_are_named():
    rows = table(*[(-1, 50)] * 7, (1, 60), (0, 60), (np.nan, 60))
    result = pareto(rows)
    assert result["excluded"] == {"train_step_ms not above 0": 8, "no train_step_ms": 1}
    assert result["excluded_trials"] == {
        "train_step_ms not above 0": ["t0", "t1", "t2", "t3", "t4"],
        "no train_step_ms": ["t9"],
    }


def test_several_costs_make_one_front():
    rows = table((1, 50), (2, 60), (3, 60), (4, 55)).assign(params=[9, 8, 7, 8], macs_per_image=[5.0, np.nan, 5, 5])
    result = pareto(rows, cost=["train_step_ms", "params"])
    assert ids(result["front"]) == ["t0", "t1", "t2"]
    assert (result["cost"], result["costs"]) == ("train_step_ms", ["train_step_ms", "params"])
    assert result["front"][1]["costs"] == {"train_step_ms": 2, "params": 8}
    assert result["front"][1]["cost"] == 2
    three = pareto(rows, cost=["params", "train_step_ms", "macs_per_image"])
    assert ids(three["front"]) == ["t2", "t0"]
    assert three["excluded"] == {"no macs_per_image": 1}


def test_limits_may_be_on_any_column():
    rows = table((1, 50), (2, 60), (3, 70), (4, 80)).assign(params=[1, 2, 9, np.nan])
    result = pareto(rows, max_cost={"params": 5})
    assert ids(result["front"]) == ["t0", "t1"]
    assert result["excluded"] == {"over max_cost of params": 1, "no params": 1}
    assert result["costs"] == ["train_step_ms"]
    both = pareto(rows, cost=["train_step_ms", "params"], max_cost={"params": 5, "train_step_ms": 1})
    assert ids(both["front"]) == ["t0"]
    assert both["excluded"] == {"over max_cost": 2, "no params": 1}


def test_only_rows_of_one_device():
    rows = table((1, 50), (2, 60), (1, 70)).assign(device=["Tesla V100", None, "NVIDIA A100"])
    assert pareto(rows)["notes"] == [
        "train_step_ms of 2 devices together (NVIDIA A100, Tesla V100); --device keeps one"
    ]
    assert pareto(rows.assign(macs_per_image=[1, 2, 3]), cost="macs_per_image")["notes"] == []
    for name in ("tesla v100", "TESLA V100", "v100"):
        result = pareto(rows, device=name)
        assert ids(result["front"]) == ["t0"]
        assert (result["excluded"], result["devices"]) == ({"another device": 2}, ["Tesla V100"])
        assert result["notes"] == []


def test_a_table_of_two_sources_is_no_mixture_on_one_device():
    rows = table((1, 50), (2, 60)).assign(device=["a", "b"], source=["measured", "simulated"])
    assert ids(pareto(rows, device="b")["front"]) == ["t1"]


def test_imported_latencies_are_said_to_be_inverse_throughput():
    rows = table((1, 50), (2, 60)).assign(infer_latency_ms=[1, 2], infer_latency_kind="inverse throughput")
    assert pareto(rows)["notes"] == []
    (note,) = pareto(rows, cost="infer_latency_ms")["notes"]
    assert note.startswith("infer_latency_ms is inverse throughput")


def test_one_front_per_budget_unless_one_is_asked_for():
    rows = pd.concat([table((1, 50), (2, 60)), table((1, 60), (2, 50)).assign(epochs=9)])
    result = pareto(rows.assign(trial_id=list("abcd")))
    assert [front["budget"] for front in result["fronts"]] == [3, 9]
    assert [ids(front["front"]) for front in result["fronts"]] == [["a", "b"], ["c"]]
    assert ids(pareto(rows.assign(trial_id=list("abcd")), budget=9)["front"]) == ["c"]


def test_probability_of_being_on_the_front():
    rows = table((1, 50.0), (2, 50.05), (3, 80.0))
    result = pareto(rows, noise_sd=0.5)
    chance = [member["p_on_front"] for member in result["front"]]
    assert chance[0] == 1
    assert chance[1] == pytest.approx(0.528, abs=0.03)  # normal probability of 0.05 / (0.5 sqrt 2)
    assert chance[2] == 1


def test_recommended_members_are_spread_evenly_in_log_cost():
    rows = table(*[(2.0**i, 50 + i) for i in range(9)])
    assert len(pareto(rows)["recommended"]) == 5
    assert [m["cost"] for m in pareto(rows, top=3)["recommended"]] == [1, 16, 256]
    assert [m["cost"] for m in pareto(rows, top=1)["recommended"]] == [256]
    assert len(pareto(rows, top=50)["recommended"]) == 9


def test_the_validation_set_only_where_no_row_has_minival():
    rows = table((1, 50), (2, 60)).rename(columns={"minival_top1": "val_top1"})
    assert pareto(rows)["accuracy_column"] == "val_top1"
    assert pareto(rows.assign(minival_top1=[np.nan, 40.0]))["accuracy_column"] == "minival_top1"


def test_the_default_cost_is_the_first_that_has_values():
    rows = table((1, 50), (2, 60)).assign(macs_per_image=[5, 4], infer_latency_ms=np.nan)
    assert pareto(rows)["cost"] == "train_step_ms"
    assert pareto(rows.assign(train_step_ms=np.nan))["cost"] == "macs_per_image"
    assert ids(pareto(rows, cost="macs_per_image")["front"]) == ["t1"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"cost": "flops"}, "no such column; right would be train_step_ms"),
        ({"cost": "family"}, "not a numeric column"),
        ({"cost": "empty"}, "has no values"),
        ({"budget": 350}, "budget 350: not in the table; right would be 3"),
        ({"compare": "vit"}, "compare 'vit'"),
        ({"top": 0}, "right would be 1 or more"),
        ({"max_cost": 0.5}, "no usable rows: 2 over max_cost"),
        ({"device": "tpu"}, "device 'tpu': not in the table; right would be gpu a, gpu b"),
        ({"device": "GPU"}, "device 'GPU': names several; right would be gpu a, gpu b"),
        ({"device": ""}, "device '': not in the table"),
        ({"cost": ["train_step_ms"] * 2}, "right would be 1 to 3 different columns"),
        ({"cost": list("abcd")}, "right would be 1 to 3 different columns"),
        ({"cost": ["train_step_ms", "flops"]}, "cost 'flops': no such column"),
        ({"cost": ["train_step_ms", "half"]}, "no usable rows: 1 no half, 1 no train_step_ms"),
        ({"cost": ["train_step_ms", "more"], "max_cost": 3}, "of which cost. right would be train_step_ms=3"),
        ({"max_cost": {"flops": 3}}, "cost 'flops': no such column"),
    ],
)
def test_a_question_that_the_table_cannot_answer_is_one_clear_line(question, message):
    missing = np.nan if "half" in question.get("cost", []) else 2
    rows = table((1, 50), (missing, 60), empty=np.nan, more=1.0)
    rows = rows.assign(device=["gpu a", "gpu b"], half=[np.nan, 1])
    with pytest.raises(TableError, match=message) as caught:
        pareto(rows, **question)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["source", "protocol", "dataset"])
def test_rows_that_must_not_be_compared_are_refused(column):
    rows = table((1, 50), (2, 60), (3, 70)).assign(**{column: ["one", "two", None]})
    with pytest.raises(TableError, match=f"mixes {column} one, two"):
        pareto(rows)


def test_no_usable_rows():
    with pytest.raises(TableError, match="no usable rows: 2 oom"):
        pareto(table((1, 50), (2, 60)).assign(status="oom"))


def test_speedups_interpolate_log_cost_and_never_extrapolate():
    rows = table((10, 70), (40, 80), (60, 75), (5, 60), (90, 90))
    rows["family"] = ["ours", "ours", "theirs", "theirs", "theirs"]
    (only,) = pareto(rows, compare="theirs")["speedups"]
    assert (only["than"], only["trial_id"], only["at_top1"]) == ("d3 w1 32px", "t2", 75)
    assert only["times_faster"] == pytest.approx(60 / 20)  # halfway between 10 and 40 in log cost
    assert only["ci"][0] < 3 < only["ci"][1]


@pytest.mark.parametrize(("cost", "low", "high"), [("tpuv3_train_step_ms", 1.7, 2.7), ("v100_train_step_ms", 2.1, 3.3)])
def test_published_table_7_gives_the_papers_speedups(cost, low, high):
    result = pareto(read_table(PUBLISHED / "resnet_rs_table7" / "trials"), cost=cost, compare="efficientnet")
    factors = [entry["times_faster"] for entry in result["speedups"]]
    assert [round(min(factors), 1), round(max(factors), 1)] == [low, high]
    assert len(factors) == 6  # B0 and B7 lie beyond the range of ResNet-RS
    overall = result["overall_speedup"]
    assert (overall["than"], overall["from_top1"], overall["to_top1"]) == ("efficientnet", 78.8, 84.4)
    assert min(factors) < overall["ci"][0] < overall["times_faster"] < overall["ci"][1] < max(factors)


@pytest.mark.parametrize("budget", [10, 100, 350])
def test_published_front_equals_brute_force(budget):
    rows = read_table(PUBLISHED / "resnet_rs_fig3" / "trials")
    front = pareto(rows, budget=budget)["front"]
    part = rows[rows["epochs"] == budget]
    pairs = list(zip(part["trial_id"], part["train_step_ms"], part["minival_top1"], strict=True))
    expected = {name for name, c, a in pairs if not any(x <= c and y >= a and (x < c or y > a) for _, x, y in pairs)}
    assert set(ids(front)) == expected


def test_a_budget_without_evidence_is_an_empty_front_among_others():
    rows = pd.concat([table((1, 50), (2, 60)), table((1, 60), (2, 50)).assign(epochs=9, status="oom")])
    rows = rows.assign(trial_id=list("abcd"), family=["f", "g", "f", "g"])
    done, lost = pareto(rows, compare="g")["fronts"]
    assert ids(done["front"]) == ["a", "b"]
    assert (lost["front"], lost["recommended"], lost["excluded"]) == ([], [], {"oom": 2})
    with pytest.raises(TableError, match="no usable rows: 2 oom"):
        pareto(rows, budget=9)

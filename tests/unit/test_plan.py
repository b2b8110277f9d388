import pytest

from sweep.plan import EXCLUDED, PlanStatus, RowState, longest_first, make_plan, plan_json
from sweep.space import SweepSpec
from sweep.trials import trials_of
from workers.contract import TrialStatus
from workers.costs import Costs

AXES = {"width": [0.25, 0.5], "depth": [26, 50], "resolution": [16], "epochs": [1, 10]}


def space(**changes):
    return SweepSpec.model_validate(
        {"sweep": "a", "data": {"name": "digits"}, "recipe": "small", "axes": AXES, **changes}
    )


def costs_of(config):
    """Not the true ones, but as different as they are."""
    return Costs(int(1000 * config.width), round(config.width**2 * config.depth * 10_000))


def never(config):
    raise AssertionError("costs were asked for, which imports torch")


def planned(spec, rows=(), retry=(), costs=never):
    return make_plan(spec, trials_of(spec), dict(rows), costs, retry)


def statuses(plan):
    return [trial.status.value for trial in plan.trials]


def test_without_rows_everything_is_planned_in_the_files_order():
    spec = space()
    plan = planned(spec)
    assert plan.sweep == "a"
    assert plan.to_run == trials_of(spec)
    assert statuses(plan) == ["planned"] * 8


def test_rows_say_what_is_finished_and_what_failed():
    ids = [trial.trial_id for trial in trials_of(space())]
    rows = {
        ids[0]: RowState("ok"),
        ids[1]: RowState("oom", "too large"),
        ids[2]: RowState("crashed", "died"),
        ids[3]: RowState(EXCLUDED, "excluded in an earlier version of the space"),
        "another": RowState("ok"),
    }
    plan = planned(space(), rows)
    assert statuses(plan) == ["finished", "failed", "failed", *["planned"] * 5]
    assert [trial.reason for trial in plan.trials] == [None, "oom: too large", "crashed: died", *[None] * 5]
    assert [trial.trial_id for trial in plan.to_run] == ids[3:]


@pytest.mark.parametrize("retry", [(), (TrialStatus.OOM,), (TrialStatus.CRASHED, TrialStatus.OOM)])
def test_only_the_failures_that_are_asked_for_run_again(retry):
    ids = [trial.trial_id for trial in trials_of(space())]
    kinds = [TrialStatus.OK, *(status for status in TrialStatus if status is not TrialStatus.OK)]
    rows = {trial_id: RowState(kind.value, "x") for trial_id, kind in zip(ids, kinds, strict=False)}
    plan = planned(space(), rows, retry)
    again = [trial.config.trial_id for trial in plan.with_status(PlanStatus.PLANNED) if trial.config.trial_id in rows]
    assert again == [trial_id for trial_id in ids if trial_id in rows and rows[trial_id].status in retry]


def test_excluded_cells_say_by_which_rule():
    plan = planned(space(exclude=[{"width": 0.5, "depth": 50}, {"epochs": 10, "width": 0.25}]))
    reasons = {
        (t.config.width, t.config.depth, t.config.epochs): t.reason for t in plan.with_status(PlanStatus.EXCLUDED)
    }
    assert reasons == {
        (0.5, 50, 1): "exclude: width 0.5, depth 50",
        (0.5, 50, 10): "exclude: width 0.5, depth 50",
        (0.25, 26, 10): "exclude: width 0.25, epochs 10",
        (0.25, 50, 10): "exclude: width 0.25, epochs 10",
    }
    assert len(plan.to_run) == 4


def test_cells_are_excluded_by_any_argument_of_the_family():
    axes = {"variant": ["b0", "b1"], "resolution": [32, 64], "epochs": [1]}
    spec = space(family="efficientnet", axes=axes, exclude=[{"variant": "b1", "resolution": 64}])
    assert [trial.reason for trial in planned(spec).trials] == [None] * 3 + ["exclude: resolution 64, variant b1"]
    switched = space(axes={**AXES, "se": [True, False]}, exclude=[{"se": False, "width": 0.5}, {"stem_pool": "max"}])
    reasons = [trial.reason for trial in planned(switched).trials if trial.reason]
    assert reasons == ["exclude: width 0.5, se off"] * 4


def test_json_of_models_without_width_and_depth_says_so_and_names_their_arguments():
    axes = {"variant": ["b4"], "resolution": [32], "epochs": [1]}
    plan = planned(space(family="efficientnet", axes=axes))
    (trial,) = plan_json(plan, lambda config: Costs(1, 2), lambda config: None)["trials"]
    assert (trial["family"], trial["width"], trial["depth"]) == ("efficientnet", None, None)
    assert trial["model"] == {"variant": "b4"}


def test_limits_exclude_on_both_sides_and_say_why():
    plan = planned(space(limits={"macs_per_image": [20_000, 70_000]}), costs=costs_of)
    assert [(t.config.width, t.config.depth, t.reason) for t in plan.with_status(PlanStatus.EXCLUDED)] == [
        (0.25, 26, "limits: macs_per_image 1.625e+04 outside [20000, 70000]"),
        (0.25, 26, "limits: macs_per_image 1.625e+04 outside [20000, 70000]"),
        (0.5, 50, "limits: macs_per_image 1.25e+05 outside [20000, 70000]"),
        (0.5, 50, "limits: macs_per_image 1.25e+05 outside [20000, 70000]"),
    ]
    assert {
        t.config.width for t in planned(space(limits={"params": [500, 500]}), costs=costs_of).trials if not t.reason
    } == {0.5}


def test_finished_trials_are_finished_even_where_the_space_excludes_them_now():
    first = trials_of(space())[0]
    plan = planned(space(exclude=[{"width": 0.25}]), {first.trial_id: RowState("ok")})
    assert statuses(plan) == ["finished", *["excluded"] * 3, *["planned"] * 4]


def test_failed_trials_that_the_space_now_excludes_are_excluded():
    first = trials_of(space())[0]
    plan = planned(space(exclude=[{"width": 0.25}]), {first.trial_id: RowState("oom", "x")}, [TrialStatus.OOM])
    assert statuses(plan)[0] == "excluded"


def test_costs_are_asked_only_where_there_are_limits_and_the_trial_is_not_finished():
    spec = space(limits={"params": [0, 10_000]})
    rows = {trial.trial_id: RowState("ok") for trial in trials_of(spec)}
    assert statuses(planned(spec, rows)) == ["finished"] * 8
    with pytest.raises(AssertionError, match="imports torch"):
        planned(spec)


def test_the_order_is_by_multiply_adds_while_any_shape_is_unmeasured():
    trials = trials_of(space())
    ordered = longest_first(trials, costs_of, lambda trial: None if trial.width == 0.5 else 1.0)
    works = [trial.epochs * costs_of(trial).macs_per_image for trial in ordered]
    assert works == sorted(works, reverse=True)
    assert sorted(map(id, ordered)) == sorted(map(id, trials))


def test_the_order_is_by_measured_time_where_every_shape_is_measured_and_costs_are_not_asked():
    ordered = longest_first(trials_of(space()), never, lambda trial: 100.0 - trial.depth - trial.width)
    times = [trial.epochs * (100.0 - trial.depth - trial.width) for trial in ordered]
    assert times == sorted(times, reverse=True)
    assert ordered[0].depth == 26


def test_equal_trials_keep_the_files_order():
    trials = trials_of(space(seeds=[3, 1, 2]))
    ordered = longest_first(trials, costs_of, lambda trial: None)
    assert [trial.seed for trial in ordered] == [3, 1, 2] * 8


def test_json_has_every_trial_with_its_costs_and_the_totals():
    spec = space(exclude=[{"width": 0.5}])
    rows = {trials_of(spec)[0].trial_id: RowState("ok"), trials_of(spec)[1].trial_id: RowState("oom", "x")}
    value = plan_json(planned(spec, rows), costs_of, lambda trial: 32.0)
    assert [trial["status"] for trial in value["trials"]] == [
        "finished",
        "failed",
        "planned",
        "planned",
        *["excluded"] * 4,
    ]
    first = value["trials"][0]
    assert first["model"] == {"se": True, "resnet_d": True, "stem_pool": "conv"}
    assert {k: first[k] for k in ("family", "width", "depth", "resolution", "epochs", "seed", "recipe")} == {
        "family": "resnet_rs", "width": 0.25, "depth": 26, "resolution": 16, "epochs": 1, "seed": 0, "recipe": "small",
    }  # fmt: skip
    assert (first["params"], first["macs_per_image"], first["train_flops"]) == (250, 16250, 6 * 16250 * 1078)
    assert first["predicted_device_hours"] == pytest.approx((1078 + 2 * 1078 / 9) / 32 * 0.032 / 3600)
    assert value["trials"][-1]["reason"] == "exclude: width 0.5"
    totals = value["totals"]
    assert {name: totals[name] for name in ("trials", "finished", "failed", "planned", "excluded")} == {
        "trials": 8, "finished": 1, "failed": 1, "planned": 2, "excluded": 4,
    }  # fmt: skip
    assert totals["train_flops"] == sum(trial["train_flops"] for trial in value["trials"][:4])
    assert totals["predicted_device_hours"] == pytest.approx(
        sum(trial["predicted_device_hours"] for trial in value["trials"][:4])
    )


def test_totals_are_none_as_soon_as_one_part_is_unknown():
    value = plan_json(planned(space()), costs_of, lambda trial: None if trial.width == 0.5 else 1.0)
    assert value["totals"]["predicted_device_hours"] is None
    assert value["totals"]["train_flops"] > 0
    unknown_size = space(data={"name": "folder", "root": "/x", "classes": 3})
    totals = plan_json(planned(unknown_size), costs_of, lambda trial: 1.0)["totals"]
    assert totals["predicted_device_hours"] is totals["train_flops"] is None


def test_unknown_costs_of_excluded_cells_do_not_matter():
    spec = space(exclude=[{"width": 0.5}])
    value = plan_json(planned(spec), costs_of, lambda trial: None if trial.width == 0.5 else 1.0)
    assert value["totals"]["predicted_device_hours"] > 0

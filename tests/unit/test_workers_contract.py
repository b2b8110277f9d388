import dataclasses
import json
import re

import pytest

from workers.contract import (
    DataConfig,
    DataError,
    DivergedError,
    EpochMetrics,
    Execution,
    InvalidConfigError,
    TrialConfig,
    TrialError,
    TrialResult,
    TrialStatus,
)
from workers.recipe import Cell
from workers.recipes import resolve

CONFIG = TrialConfig(
    trial_id="abc",
    family="resnet_rs",
    width=0.1,
    depth=26,
    resolution=16,
    epochs=2,
    seed=3,
    recipe=resolve("small", Cell(16, 2, 0.1, 26), {"learning_rate": 0.1 + 0.2}),
    data=DataConfig("digits", "sklearn-1797", 10, 1078, 0.25),
    model={"se": True, "stem_pool": "conv"},
    plugins=("my_models.py",),
    execution=Execution(ranks=2, checkpoint_every_s=1 / 3),
)
EPOCH = EpochMetrics(1, 1 / 3, 90.1, 88.8, 0.05, 1.5, 2.5, 1_700_000_000.123456)
RESULT = TrialResult("abc", TrialStatus.OK, 1, "2026-01-01", "2026-01-02", history=(EPOCH,), val_top1=200 / 3)


def changed(**fields):
    return json.dumps({**json.loads(CONFIG.to_json()), **fields})


@pytest.mark.parametrize("config", [CONFIG, dataclasses.replace(CONFIG, device="cuda", threads=None)])
def test_a_configuration_survives_json_digit_for_digit(config):
    assert TrialConfig.from_json(config.to_json()) == config


def test_a_result_survives_json_digit_for_digit():
    assert TrialResult.from_json(RESULT.to_json()) == RESULT
    assert TrialResult.from_json(RESULT.to_json()).status is TrialStatus.OK


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        CONFIG.to_json()[:-20],
        changed(colour="red"),
        changed(recipe=None),
        changed(recipe={"name": "small"}),
        changed(recipe={**dataclasses.asdict(CONFIG.recipe), "colour": "red"}),
        changed(recipe={**dataclasses.asdict(CONFIG.recipe), "bn_batch": 0}),
        changed(recipe={**dataclasses.asdict(CONFIG.recipe), "bn_batch": 5}),
        changed(recipe={**dataclasses.asdict(CONFIG.recipe), "batch_size": "32"}),
        changed(data={}),
        changed(execution={"colour": "red"}),
        changed(execution=None),
    ],
)
def test_what_is_not_a_configuration_is_refused_in_one_line(text):
    with pytest.raises(InvalidConfigError) as refused:
        TrialConfig.from_json(text)
    assert str(refused.value).startswith("not a trial configuration: ")
    assert "\n" not in str(refused.value)


def nested(part, **fields):
    return changed(**{part: {**json.loads(CONFIG.to_json())[part], **fields}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (changed(epochs="3"), "epochs: must be a whole number, not '3'"),
        (changed(epochs=True), "epochs: must be a whole number, not True"),
        (changed(epochs=0), "epochs: must be at least 1, not 0"),
        (changed(resolution=-1), "resolution: must be at least 1, not -1"),
        (changed(width="x"), "width: must be a finite number or null, not 'x'"),
        (changed(width=float("nan")), "width: must be a finite number or null, not nan"),
        (changed(model={"se": []}), "model.se: must be true or false or a whole number or a finite number or text"),
        (changed(plugins="a.py"), "plugins: must be a list, not 'a.py'"),
        (changed(plugins=[1]), "plugins.0: must be text, not 1"),
        (changed(colour="red"), "unknown field 'colour'; known: trial_id, family"),
        (nested("recipe", colour="red"), "recipe: unknown field 'colour'; known: name, batch_size"),
        (nested("recipe", batch_size="32"), "recipe.batch_size: must be a whole number, not '32'"),
        (nested("recipe", bn_batch=5), "recipe.batch_size 32 is not a multiple of bn_batch 5"),
        (nested("data", classes=1), "data.classes: must be at least 2, not 1"),
        (nested("execution", ranks=0), "execution.ranks: must be at least 1, not 0"),
        ("[]", "must be an object with the fields of TrialConfig, not []"),
    ],
)
def test_a_slip_in_a_configuration_by_hand_is_told_by_the_fields_name(text, said):
    with pytest.raises(InvalidConfigError, match="^not a trial configuration: " + re.escape(said)) as refused:
        TrialConfig.from_json(text)
    assert "\n" not in str(refused.value)


def test_a_whole_number_passes_for_a_real_one():
    config = TrialConfig.from_json(changed(width=1))
    assert (config.width, type(config.width)) == (1.0, float)


@pytest.mark.parametrize("field", ["trial_id", "recipe", "data", "epochs"])
def test_a_missing_field_is_named(field):
    raw = json.loads(CONFIG.to_json())
    del raw[field]
    with pytest.raises(InvalidConfigError, match=field):
        TrialConfig.from_json(json.dumps(raw))


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "{}", RESULT.to_json()[:-30], RESULT.to_json().replace('"ok"', '"fine"')]
)
def test_a_torn_result_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - of json, of the status and our own
        TrialResult.from_json(text)


def test_nothing_can_be_changed_after_it_is_made():
    for value, field in ((CONFIG, "seed"), (CONFIG.recipe, "momentum"), (RESULT, "val_top1"), (EPOCH, "epoch")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, 0)


def test_what_was_not_measured_is_none_and_not_zero():
    failed = TrialResult("abc", TrialStatus.CRASHED, 1, "", "")
    raw = json.loads(failed.to_json())
    assert {raw[name] for name in ("val_top1", "val_top5", "val_loss", "train_images_per_s", "val_images")} == {None}


def test_every_known_failure_has_its_status():
    assert {kind.status for kind in (TrialError, DataError, DivergedError, InvalidConfigError)} == {
        TrialStatus.CRASHED,
        TrialStatus.DATA_ERROR,
        TrialStatus.DIVERGED,
        TrialStatus.INVALID,
    }


def test_the_statuses_that_tables_hold():
    assert [str(status) for status in TrialStatus] == [
        "ok", "oom", "diverged", "hung", "data_error", "invalid", "crashed", "preempted",
    ]  # fmt: skip


def test_the_models_arguments_hold_width_and_depth_where_the_family_has_them():
    assert CONFIG.arguments == {"width": 0.1, "depth": 26, "se": True, "stem_pool": "conv"}
    assert dataclasses.replace(CONFIG, width=None, depth=None, model={"variant": "b0"}).arguments == {"variant": "b0"}

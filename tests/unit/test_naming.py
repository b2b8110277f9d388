import math

import pytest

from sweep.naming import kind_in_words, label, model_in_words, model_of
from sweep.rows import cell_columns
from sweep.space import SweepSpec
from sweep.trials import trials_of

ROW = {"family": "resnet_rs", "depth": 50, "width": 0.5, "resolution": 32, "epochs": 3, "seed": 0}


def test_labels_are_short_and_name_the_seed_only_where_it_says_something():
    assert label(ROW) == "d50 w0.5 32px 3ep"
    assert label({**ROW, "seed": 2, "width": 1.0}) == "d50 w1 32px 3ep s2"


NAMED = {
    "b4 192px 3ep": {"family": "efficientnet", "axes": {"variant": ["b4"]}},
    "d50 w1 192px 3ep": {"axes": {"depth": [50], "width": [1]}, "model": {"se": True, "stem_pool": "conv"}},
    "d50 w1 192px 3ep se=off": {"axes": {"depth": [50], "width": [1], "se": [False]}},
    "d50 w1 192px 3ep s7 resnet_d=off stem_pool=max": {
        "axes": {"depth": [50], "width": [1]}, "seeds": [7], "model": {"resnet_d": False, "stem_pool": "max"},
    },
    "regnety_040 192px 3ep": {"family": "timm:regnety_040", "axes": {}},
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_a_trial_and_its_row_are_called_the_same_by_what_is_not_the_familys_default(name):
    axes = {"resolution": [192], "epochs": [3], **NAMED[name]["axes"]}
    space = {"sweep": "a", "data": {"name": "digits"}, "recipe": "small", **NAMED[name], "axes": axes}
    (config,) = trials_of(SweepSpec.model_validate(space))
    assert label(vars(config)) == name
    row = cell_columns("a", config)
    assert label(row) == name
    # As Parquet gives it back: without empty columns, or with NaN, and with whole numbers as real ones.
    assert label({key: value for key, value in row.items() if value is not None}) == name
    assert label({key: math.nan if value is None else value for key, value in row.items()} | {"depth": math.nan}) != ""


def test_a_plugins_arguments_are_all_named_without_running_it():
    row = {**ROW, "family": "mine", "width": None, "depth": None, "model_layers": 3.0, "model_gate": True}
    assert label(row) == "mine 32px 3ep layers=3 gate=on"
    assert model_of(row) == {"layers": 3.0, "gate": True}


def test_a_member_of_a_front_has_a_name_whatever_is_known_of_it():
    member = {"family": None, "width": None, "depth": None, "model": {}, "trial_id": "t1"}
    assert model_in_words(member) == "t1"
    assert model_in_words({**member, "model": "B7"}) == "B7"
    assert model_in_words({**member, "family": "efficientnet", "model": {"variant": "b7"}}) == "b7"


def test_a_kind_is_named_only_among_several():
    plain, switched = ({"family": "resnet_rs", "model": model} for model in ({}, {"se": False}))
    assert kind_in_words(plain, [plain, plain]) == ""
    assert kind_in_words(plain, [plain, switched]) == "resnet_rs"
    assert kind_in_words(switched, [plain, switched]) == "resnet_rs se=off"

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.families import BUILT_IN, Argument, Family, check_cell, find_family, resolve_arguments
from workers.resnet_rs import BLOCKS

RESNET_RS = find_family("resnet_rs")


def test_the_arguments_of_resnet_rs_take_their_defaults_in_one_order():
    expected = {"width": 0.5, "depth": 50, "se": True, "resnet_d": True, "stem_pool": "conv"}
    assert resolve_arguments(RESNET_RS, {"depth": 50, "width": 0.5}) == expected
    assert list(resolve_arguments(RESNET_RS, {"se": True, "depth": 50, "width": 0.5})) == list(expected)


def test_whole_numbers_pass_for_real_ones_and_become_them():
    width = resolve_arguments(RESNET_RS, {"width": 1, "depth": 50})["width"]
    assert (width, type(width)) == (1.0, float)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "width is missing; resnet_rs needs it: multiplier on the channels"),
        ({"width": 1.0}, "depth is missing"),
        ({"width": None, "depth": 50}, "width is missing"),
        ({"width": True, "depth": 50}, "width must be a finite number, not True"),
        ({"width": "1", "depth": 50}, "width must be a finite number, not '1'"),
        ({"width": float("nan"), "depth": 50}, "width must be a finite number, not nan"),
        ({"width": float("inf"), "depth": 50}, "width must be a finite number, not inf"),
        ({"width": 1.0, "depth": 50.0}, "depth must be a whole number, not 50.0"),
        ({"width": 1.0, "depth": True}, "depth must be a whole number, not True"),
        ({"width": 1.0, "depth": 51}, "depth 51 is none of resnet_rs's; known: 26, 50, 101"),
        ({"width": 1.0, "depth": 50, "se": 1}, "se must be true or false, not 1"),
        ({"width": 1.0, "depth": 50, "stem_pool": "avg"}, "stem_pool avg is none of resnet_rs's; known: conv, max"),
        ({"width": 1.0, "depth": 50, "heads": 8}, "heads is no argument of resnet_rs; known: width, depth, se"),
    ],
)
def test_a_wrong_argument_is_refused_by_its_name(given, said):
    with pytest.raises(ValueError, match=r"^" + said) as refused:
        resolve_arguments(RESNET_RS, given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "arguments", "resolution", "said"),
    [
        ("resnet_rs", {"width": 0.03, "depth": 26}, 16, "width 0.03 gives no channels; the smallest is 0.03125"),
        ("resnet_rs", {"width": -1.0, "depth": 26}, 16, "width -1 gives no channels"),
        ("resnet_rs", {"width": 1.0, "depth": 27}, 16, "depth 27 is none of resnet_rs's; known: 26, 50, 101"),
        ("resnet_rs", {"width": 1.0, "depth": 26}, 15, "resolution 15 is below 16, the smallest that resnet_rs can"),
        ("efficientnet", {"variant": "b8"}, 224, "variant b8 is none of efficientnet's; known: b0, b1"),
        ("efficientnet", {}, 224, "variant is missing"),
        ("efficientnet", {"variant": "b0", "width": 1.0}, 224, "width is no argument of efficientnet; known: variant"),
        ("efficientnet", {"variant": "b0"}, 8, "resolution 8 is below 16"),
        ("timm:resnet18", {"depth": 18}, 64, "depth is no argument of timm:resnet18; known: none"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_by_the_wrong_fields_name(name, arguments, resolution, said):
    with pytest.raises(ValueError, match=r"^" + said):
        check_cell(find_family(name), arguments, resolution)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    width=st.integers(1, 128).map(lambda n: n / 32), depth=st.sampled_from(sorted(BLOCKS)), side=st.integers(16, 999)
)
def test_every_shape_inside_the_limits_passes(width, depth, side):
    check_cell(RESNET_RS, {"width": width, "depth": depth}, side)


def test_an_unknown_family_is_refused_with_those_that_are_known():
    with pytest.raises(
        ValueError, match=r"^unknown family 'vit'; known: resnet_rs, efficientnet, timm:<architecture>$"
    ):
        find_family("vit")


@pytest.mark.parametrize(
    "name",
    [
        "timm:",
        "timm:hf-hub:timm/resnet50.a1_in1k",
        "timm:hf_hub:timm/resnet50",
        "timm:local-dir:/tmp/model",
        "timm:/tmp/model",
        "timm:../resnet50",
        "timm:~/resnet50",
        "timm:resnet50.a1_in1k",
        "timm:C:\\models",
        "timm:https://example.org/model",
        "timm:resnet50\n",
        "timm:resnet50\0",
        "timm:ResNet50",
        "timm:resnet５０",
    ],
)
def test_names_that_could_lead_to_a_hub_a_path_or_weights_are_refused(name):
    with pytest.raises(ValueError, match="is not one of timm's own architectures") as refused:
        find_family(name)
    assert str(refused.value).startswith("family ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet50", "local-dir:/tmp", "/tmp/model.py", "timm", ""])
def test_no_other_prefix_is_a_family(name):
    with pytest.raises(ValueError, match=r"^unknown family"):
        find_family(name)


def test_every_family_says_what_its_arguments_mean():
    for family in BUILT_IN.values():
        assert all(len(argument.meaning) > 10 for argument in family.arguments.values())
        assert {argument.type for argument in family.arguments.values()} <= {bool, int, float, str}


def test_a_familys_own_check_is_asked_with_all_arguments():
    asked = []
    argument = Argument(int, "number of things", default=3)
    family = Family("own", {"things": argument}, lambda *_: None, lambda *given: asked.append(given), min_resolution=8)
    check_cell(family, {}, 8)
    assert asked == [({"things": 3}, 8)]
    with pytest.raises(ValueError, match=r"^resolution 7 is below 8, the smallest that own can read"):
        check_cell(family, {}, 7)


def test_families_are_found_and_resolved_without_torch_or_timm():
    program = (
        "import sys\n"
        "from workers.families import check_cell, find_family, resolve_arguments\n"
        "check_cell(find_family('resnet_rs'), {'width': 1, 'depth': 50}, 224)\n"
        "check_cell(find_family('efficientnet'), {'variant': 'b0'}, 224)\n"
        "resolve_arguments(find_family('timm:resnet50'), {})\n"
        "sys.exit(bool({'torch', 'timm', 'numpy', 'PIL'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

"""Whatever a search space holds, `sweep plan` and `sweep run` answer or refuse it in one line, and write nothing."""

import copy
import re

import pytest
import yaml
from hostile import empty_folder, refuses_or_answers, sweep, tree, tried
from hypothesis import given
from hypothesis import strategies as st

GOOD = {
    "sweep": "a",
    "data": {"name": "digits", "minival": 0.25},
    "family": "resnet_rs",
    "recipe": {"name": "small", "learning_rate": 0.1},
    "axes": {"width": [0.125], "depth": [26], "resolution": [32], "epochs": [1]},
    "cells": [{"width": 0.25, "depth": 26, "resolution": 32, "epochs": 2}],
    "seeds": [0],
    "limits": {"macs_per_image": [0, 60e9]},
    "exclude": [{"width": 0.125, "epochs": 3}],
    "resources": {"cpu": 1},
    "model": {"se": False},
    "plugins": [],
}
OUTSIDE = [
    "../x", "/tmp/x", "a/../../x", "..", ".", "", "a/b", "a\\b", "a\0b", "~", "~root", "a" * 300, "a\nb", "\x1b[2J",
    "-x",
    "$HOME", "${HOME}", "${PATH}", "${NOT_SET}", "con", "é", "published", "a b", "*", "x.yaml", "file:///etc/passwd",
    "s3://bucket/x", "/dev/zero", "/proc/self/environ", "hfds/../x", "torch/../x", "wds/../x", "timm:../x",
    "timm:resnet18",
    "os.system", "__import__('os')", "torch/cifar10", "tfds/x", "imagenet", "folder",
]  # fmt: skip
LEAVES = st.sampled_from(OUTSIDE) | st.sampled_from(
    [None, True, 0, -1, 1e308, 2**63, 10**400, 1.5, [], {}, [[]], "1e999", ".nan", "9" * 5000]
)
NAMES = st.text(max_size=6)
ANYTHING = LEAVES | NAMES | st.lists(LEAVES, max_size=2) | st.dictionaries(NAMES, LEAVES, max_size=2)
COMMANDS = st.sampled_from(
    [("plan",), ("plan", "--format", "json"), ("plan", "--dump", "dump"), ("plan", "--results", "x")]
)
LINE = re.compile(r"^\S*a\.yaml:\d+: .+$")


def places(value, path=()):
    """The path of every value in a nested one."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


@st.composite
def spaces(draw):
    """A good space with one or two of its values replaced."""
    space = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from([path for path in places(space) if path]))
        inner = space
        for key in way:
            inner = inner[key]
        inner[last] = draw(ANYTHING)
    return space


def answered(content, command):
    """A space is refused with a place for each problem, or planned; a plan is all that is written."""
    with empty_folder() as folder:
        (folder / "a.yaml").write_bytes(content)
        if "--dump" not in command:
            answer = refuses_or_answers(folder, command[0], "a.yaml", *command[1:])
        else:
            before = tree(folder)
            answer = sweep(command[0], "a.yaml", *command[1:])
            allowed = {"a.yaml"} if answer.code else {"a.yaml", "dump"}
            assert {path.split("/")[0] for path in tree(folder)} <= allowed
            assert before.items() <= tree(folder).items()
        if answer.code:
            assert all(LINE.match(line) for line in answer.err.splitlines()), answer.err
        return answer


@tried(300)
@given(spaces(), COMMANDS)
def test_a_space_with_hostile_values(space, command):
    answered(yaml.safe_dump(space, sort_keys=False).encode(), command)


@tried(100)
@given(st.data(), st.binary(max_size=8), COMMANDS)
def test_a_space_with_some_bytes_replaced(data, noise, command):
    text = yaml.safe_dump(GOOD, sort_keys=False).encode()
    first = data.draw(st.integers(0, len(text)))
    last = data.draw(st.integers(first, min(len(text), first + 9)))
    answered(text[:first] + noise + text[last:], command)


@tried(60)
@given(spaces(), st.sampled_from([("run",), ("run", "--executor", "local"), ("run", "--retry", "oom")]))
def test_a_space_that_cannot_be_run_starts_nothing(space, command):
    answer = answered(yaml.safe_dump({**space, "no such key": 1}, sort_keys=False).encode(), command)
    assert answer.code == 2


@pytest.mark.parametrize("name", OUTSIDE[: OUTSIDE.index("con")])
def test_a_sweep_may_not_be_named_out_of_its_folder(name):
    answer = answered(yaml.safe_dump({**GOOD, "sweep": name}).encode(), ("run", "--executor", "local"))
    assert answer.code == 2
    assert re.match(r"a\.yaml:\d+: ", answer.err)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/mem", ".", "/nonexistent", "a" * 300])
def test_what_is_no_file_of_a_sensible_size_is_refused(path):
    with empty_folder() as folder:
        assert refuses_or_answers(folder, "plan", path).code == 2


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [touch made]", "!!python/name:os.system", "&a [*a]"])
def test_a_space_makes_no_objects(tag):
    answer = answered(f"sweep: {tag}\n".encode(), ("plan",))
    assert answer.code == 2


def test_a_space_that_grows_without_end_is_refused():
    steps = zip("abcdefgh", "bcdefghi", strict=True)
    bomb = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in steps)
    assert "alias" in answered(bomb.encode(), ("plan",)).err
    with empty_folder() as folder:
        (folder / "a.yaml").write_bytes(b"a: " + b"x" * 2**20)
        assert "larger than" in refuses_or_answers(folder, "plan", "a.yaml").err
    assert "deep" in answered(b"a: " + b"[" * 200, ("plan",)).err

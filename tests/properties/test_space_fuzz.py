"""Whatever stands in the file, the answer is a spec or a SpaceError that names the place."""

import copy
import re
import tempfile
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep.errors import SpaceError
from sweep.space import dump_space, load_space
from sweep.trials import trials_of
from workers.recipe import OVERRIDABLE
from workers.resnet_rs import BLOCKS

GOOD = {
    "sweep": "a",
    "data": {"name": "digits", "minival": 0.25},
    "family": "resnet_rs",
    "recipe": {"name": "small", "learning_rate": 0.1},
    "axes": {"width": [0.25, 0.5], "depth": [26], "resolution": [16], "epochs": [1, 3]},
    "cells": [{"width": 1.0, "depth": 50, "resolution": 32, "epochs": 2}],
    "seeds": [0, 1],
    "limits": {"macs_per_image": [0, 60e9]},
    "exclude": [{"width": 0.5, "epochs": 3}],
    "resources": {"cpu": 1, "precision": "float32", "devices": 1, "compile": "auto"},
    "model": {"se": False},
    "checkpoints": {"every_minutes": 5, "keep_weights": False},
    "hung_after_minutes": 30,
    "plugins": [],
}
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
KNOWN = {
    "root", "classes", "version", "cache", "unreadable", "download", "params", "depth", "resolution", "gpu", "tpu",
    "micro_batch", "loader_workers", "quota_gb", "resnet_d", "stem_pool", *OVERRIDABLE,
}  # fmt: skip
# Words of the libraries that read the file, and what is said where we have none of our own.
FOREIGN = ("Input should", "ydantic", "Value error", "valid string", "unable to", "cannot be used here", "Traceback")
PLACE = re.compile(r"^.*\.yaml:\d+: .+$")


def loaded(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        try:
            return load_space(path), None
        except SpaceError as error:
            message = str(error)
    assert all(PLACE.match(line) for line in message.split("\n")), message
    assert not any(words in message for words in FOREIGN), message
    return None, message


def places(value, path=()):
    """The path of every value in a nested one."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.dates()
    | st.binary(max_size=5)
    | st.text(max_size=8)
    | st.sampled_from(["nan", "inf", "1e999", "4e-5", "${X}", "~", "<<", "digits", "folder", "name", "self", "a\nb"])
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@quick
@given(st.data(), anything)
def test_a_good_space_with_one_thing_replaced_loads_or_names_the_place(data, value):
    path = data.draw(st.sampled_from([path for path in places(GOOD) if path]))
    space = copy.deepcopy(GOOD)
    inner = space
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    spec, _ = loaded(yaml.dump(space, sort_keys=False))
    if spec:
        trials_of(spec)


SLIPS = (
    -1, 0, 1, 0.5, 10**12, 10**400, -1e300, True, None, "", "x", "nan", "1e5", "x" * 300, [], [1], ["x"], [[1]],
    [1, 2, 3], {}, {"name": "small"}, {"x": 1}, {1: 2}, [{}], [None],
)  # fmt: skip


@settings(quick, max_examples=200)
@given(st.sampled_from([path for path in places(GOOD) if path]), st.sampled_from(SLIPS))
def test_a_slip_anywhere_is_told_in_our_own_words_in_one_line_per_problem(path, slip):
    space = copy.deepcopy(GOOD)
    get(space, path[:-1])[path[-1]] = slip
    _, message = loaded(yaml.safe_dump(space, sort_keys=False))
    if message:
        assert len(set(message.split("\n"))) == message.count("\n") + 1


@quick
@given(st.data(), st.text(max_size=8), anything)
def test_an_unknown_key_anywhere_is_refused_with_its_place(data, key, value):
    path = data.draw(st.sampled_from([path for path in places(GOOD) if isinstance(get(GOOD, path), dict)]))
    space = copy.deepcopy(GOOD)
    inner = get(space, path)
    if key in KNOWN | {*get(GOOD, path)}:
        return
    inner[key] = value
    spec, message = loaded(yaml.dump(space, sort_keys=False))
    assert spec is None
    assert message


def get(value, path):
    for key in path:
        value = value[key]
    return value


@quick
@given(st.data(), st.binary(max_size=6))
def test_a_file_with_some_bytes_replaced_loads_or_names_the_place(data, noise):
    text = yaml.safe_dump(GOOD, sort_keys=False).encode()
    first = data.draw(st.integers(0, len(text)))
    last = data.draw(st.integers(first, min(len(text), first + 8)))
    loaded(text[:first] + noise + text[last:])


@quick
@given(st.text(alphabet="{}[]:,-?&*!|>'\"%@`#~<=.0123456789eabnfiy \n\t", max_size=60))
def test_any_text_is_refused_with_its_place(text):
    spec, message = loaded(text)
    assert spec is None
    assert message


def axis(values):
    return st.lists(values, min_size=1, max_size=3, unique=True)


widths = st.floats(min_value=0.03125, max_value=8.0)
depths = st.sampled_from(sorted(BLOCKS))
resolutions = st.integers(16, 4096)
epochs = st.integers(1, 100_000)
numbers = st.floats(allow_nan=False, allow_infinity=False)
plain_text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
valid = st.fixed_dictionaries(
    {
        "sweep": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,20}", fullmatch=True).filter(
            lambda name: name not in ("published", "reference", "simulated")
        ),
        "data": st.fixed_dictionaries(
            {"name": st.just("digits")},
            optional={
                "root": plain_text,
                "minival": st.floats(0, 0.9, exclude_min=True),
                "classes": st.just(10),
                "version": plain_text,
            },
        ),
        "recipe": st.just("small")
        | st.fixed_dictionaries(
            {"name": st.sampled_from(["small", "resnet_rs"]), "batch_size": st.just(64), "bn_batch": st.just(64)},
            optional={
                "learning_rate": st.floats(0, 1e6, exclude_min=True),
                "weight_decay": st.floats(0, 1.0),
                "nesterov": st.booleans(),
                "horizontal_flip": st.floats(0, 1),
            },
        ),
        "axes": st.fixed_dictionaries(
            {"width": axis(widths), "depth": axis(depths), "resolution": axis(resolutions), "epochs": axis(epochs)}
        ),
    },
    optional={
        "seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3, unique=True),
        "limits": st.fixed_dictionaries(
            {},
            optional={
                name: st.lists(numbers, min_size=2, max_size=2).map(sorted) for name in ("params", "macs_per_image")
            },
        ),
        "exclude": st.lists(
            st.fixed_dictionaries({"width": widths}, optional={"depth": depths, "epochs": epochs}), max_size=2
        ),
        "resources": st.fixed_dictionaries(
            {},
            optional={
                "cpu": st.integers(1, 64),
                "gpu": st.floats(0, 8),
                "precision": st.just("float32"),
                "compile": st.booleans() | st.sampled_from(["auto", "on", "off"]),
                "loader_workers": st.integers(0, 64),
            },
        ),
        "model": st.fixed_dictionaries(
            {}, optional={"se": st.booleans(), "stem_pool": st.sampled_from(["conv", "max"])}
        ),
        "checkpoints": st.fixed_dictionaries(
            {}, optional={"every_minutes": st.floats(0.01, 1e6), "quota_gb": st.integers(1, 99)}
        ),
        "hung_after_minutes": st.integers(1, 1000),
    },
)


@quick
@given(valid)
def test_a_valid_space_loads_and_its_dump_loads_back_equal_with_the_same_ids(space):
    spec, message = loaded(yaml.safe_dump(space, sort_keys=False))
    assert message is None
    again, message = loaded(dump_space(spec, "1.2.3"))
    assert message is None
    assert again == spec
    assert [trial.trial_id for trial in trials_of(again)] == [trial.trial_id for trial in trials_of(spec)]

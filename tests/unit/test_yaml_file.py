import datetime

import pytest

from sweep.errors import SpaceError
from sweep.yaml_file import MAX_BYTES, MAX_DEPTH, read_yaml


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "a.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_yaml(path)

    return read


def refusal(read, text, tmp_path):
    with pytest.raises(SpaceError) as caught:
        read(text)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(str(tmp_path / "a.yaml"))


def test_values_are_plain_and_every_line_is_known(read, tmp_path):
    file = read("a: 1\nb:\n  c: [x, 2.5]\n  d:\n    - true\n    - ~\n")
    assert file.values == {"a": 1, "b": {"c": ["x", 2.5], "d": [True, None]}}
    assert {loc: line for loc, line in file.lines.items() if loc} == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "c", 0): 3,
        ("b", "c", 1): 3,
        ("b", "d"): 4,
        ("b", "d", 0): 5,
        ("b", "d", 1): 6,
    }
    assert file.place(("b", "d", 1)) == f"{tmp_path}/a.yaml:6: b.d.1"


def test_a_place_that_is_not_in_the_file_is_where_its_parent_is(read):
    file = read("a: 1\nb:\n  c: 2\n")
    assert file.place(("b", "missing", 3)).endswith("a.yaml:2: b.missing.3")
    assert file.place(("nowhere",)).endswith("a.yaml:1: nowhere")
    assert file.place(()).endswith("a.yaml:1")


def test_a_name_that_would_break_the_line_is_escaped_and_a_long_one_shortened(read):
    file = read("a: 1\n")
    assert file.place(("a\nb",)).endswith(r":1: 'a\nb'")
    assert len(file.place(("a" * 1000,))) < len(str(file.path)) + 100


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' stands twice"),
        ("a:\n  b: 1\n  c: 1\n  b: 1\n", 4, "key 'b' stands twice"),
        ("a: &x [1]\nb: *x\n", 2, "alias *x is not allowed"),
        ("a: &x\n  c: 1\nb:\n  <<: *x\n", 4, "alias *x is not allowed"),
        ("a: 1\nb: !!binary YQ==\n", 2, "tag !!binary is not allowed"),
        ("a: 1\nb: !mine [1]\n", 2, "tag !mine is not allowed"),
        ("a: 1\nb: [1, .nan]\n", 2, ".nan is not a finite number"),
        ("a: 1\nb: -.inf\n", 2, "-.inf is not a finite number"),
        ("a: 2020-13-41\n", 1, "2020-13-41 is not a plain value"),
        ("a: 1\nb: [1, 2\n", 3, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
        ("a: 1\nb: \x07\n", 2, "not valid YAML"),
        (b"a: 1\nb: \xe9\n", 2, "not UTF-8"),
        ("a: 1\n? [b, c]\n: 2\n", 2, "a key must be a plain word"),
        ("a: 1\nb: " + "[" * 5000 + "]" * 5000, 2, f"nested more than {MAX_DEPTH} deep"),
        ("a: 1\nb: " + "{c: " * 3000 + "1" + "}" * 3000, 2, f"nested more than {MAX_DEPTH} deep"),
        ("a: " + "9" * 10_000, 1, "is not a plain value"),
    ],
)
def test_what_is_no_plain_document_is_refused_in_one_line_with_its_place(read, tmp_path, text, line, what):
    message = refusal(read, text, tmp_path)
    assert message.startswith(f":{line}: ")
    assert what in message
    assert len(message) < 200


def test_a_large_file_is_refused_before_it_is_parsed(read, tmp_path):
    assert "larger than" in refusal(read, "#" * (MAX_BYTES + 1), tmp_path)
    assert read("a: 1\n" + "#" * (MAX_BYTES - 5)).values == {"a": 1}


@pytest.mark.parametrize(
    ("make", "what"), [(lambda path: None, "No such file"), (lambda path: path.mkdir(), "directory")]
)
def test_what_is_no_file_is_refused_with_the_systems_word(tmp_path, make, what):
    make(tmp_path / "x.yaml")
    with pytest.raises(SpaceError, match=rf"x\.yaml: cannot be read: .*{what}"):
        read_yaml(tmp_path / "x.yaml")


def test_an_empty_file_has_no_values(read):
    assert read("").values is None
    assert read("# only a remark\n").values is None


def test_a_date_stays_a_date_for_the_validation_to_refuse(read):
    assert read("a: 2020-01-01\n").values == {"a": datetime.date(2020, 1, 1)}

import json
import subprocess
import sys

import pytest

from workers.files import plain, write_bytes, write_json


def test_writing_makes_the_folder_and_leaves_the_file_alone_in_it(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from workers.files import write_bytes

path = Path(sys.argv[1])
write_bytes(path, b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # as on a full disk: a larger write fails with EFBIG
try:
    write_bytes(path, b"x" * 5000)
except OSError as error:
    assert "too large" in str(error), error
else:
    raise AssertionError("the write did not fail")
"""


def test_a_failing_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "file.json"
    # In a process of its own: the limit would hold for this one's log as well.
    subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], check=True)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_a_failing_rename_leaves_no_temporary(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_bytes(tmp_path / "taken", b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_readers_see_the_old_file_or_the_new_one_never_a_part(tmp_path):
    path = tmp_path / "file.json"
    write_bytes(path, b"old")
    with path.open("rb") as reader:
        write_bytes(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"


def test_json_has_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"nan": float("nan"), "deep": [{"inf": float("inf")}, (-float("inf"), 1.5)], "text": "NaN"})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    read = json.loads(path.read_text(), parse_constant=refuse)
    assert read == {"nan": None, "deep": [{"inf": None}, [None, 1.5]], "text": "NaN"}


def test_plain_leaves_finite_values_as_they_are():
    value = {"a": [1, 0.1, True, None, "x"], "b": {"c": -0.0}}
    assert plain(value) == value

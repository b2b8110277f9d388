"""The tool that strikes does what the other tests take it to do."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from faultlib import Kind

PROGRAM = """
import json, os, sys, time
said = {"then": time.time()}
os.chdir(sys.argv[1])
try:
    os.mkdir("folder")                                          # 1
    with open("folder/new", "wb", buffering=0) as file:         # 2
        file.write(b"12345678")                                 # 3
        os.fsync(file)                                          # 4
    os.rename("folder/new", "folder/whole")                     # 5
    os.link("folder/whole", "other")                            # 6
    if os.fork() == 0:
        os.unlink("other")                                      # the child's first
        os._exit(0)
    status = os.wait()[1]
    said["child"] = os.waitstatus_to_exitcode(status)
    with open(sys.argv[2], "w"):                                # does not count
        pass
    os.unlink("folder/whole")                                   # 7
except OSError as error:
    said["error"] = error.errno
said["now"] = time.time()
print(json.dumps(said))
"""


@pytest.fixture
def struck(shim, tmp_path):
    """Runs the program in a folder with a fault that is armed by the environment; its exit code and what it says."""

    def run(kind, **settings):
        root = tmp_path / "root"
        root.mkdir(exist_ok=True)
        values = {"ROOT": root, "KIND": int(kind), "TRACE": tmp_path / "trace", **settings}
        environment = {f"SWEEP_FAULT_{name}": str(value) for name, value in values.items()}
        command = [sys.executable, "-c", PROGRAM, str(root), str(tmp_path / "beside")]
        done = subprocess.run(
            command, env=os.environ | environment | {"LD_PRELOAD": str(shim)}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout) if done.stdout else None, root

    return run


def operations(root):
    return [line.split()[1] for line in (root.parent / "trace").read_text().splitlines()]


ALL = ["mkdir", "open", "write", "fsync", "rename", "link", "unlink"]


def test_operations_of_the_armed_process_are_counted_on_paths_below_the_folder(struck):
    code, said, root = struck(Kind.COUNT)
    assert (code, operations(root), "error" in said) == (0, ALL, False)


@pytest.mark.parametrize("at", range(1, 8))
def test_a_process_is_killed_before_the_operation(struck, at):
    code, _, root = struck(Kind.KILL, AT=at)
    assert code == -signal.SIGKILL
    assert (root / "folder").exists() == (at > 1)
    assert (root / "folder/new").exists() == (3 <= at <= 5)
    assert (root / "folder/whole").exists() == (at > 5)


def test_half_of_a_write_is_left(struck):
    code, _, root = struck(Kind.TORN, AT=2)
    assert (code, (root / "folder/new").read_bytes()) == (-signal.SIGKILL, b"1234")


def test_an_operation_fails(struck):
    code, said, root = struck(Kind.FAIL, AT=5, ERROR=errno.EIO)
    assert (code, said["error"], (root / "folder/new").read_bytes()) == (0, errno.EIO, b"12345678")


def test_removing_needs_no_room(struck):
    _, said, root = struck(Kind.FAIL, AT=7, ERROR=errno.ENOSPC)
    assert ("error" in said, (root / "folder/whole").exists()) == (False, False)


def test_a_lasting_failure_ends_once_there_is_room(struck, tmp_path):
    (tmp_path / "root.ok").touch()
    _, said, root = struck(Kind.FAIL, AT=1, ERROR=errno.EROFS, LASTING=1)
    assert (operations(root), "error" in said) == (ALL, False)


def test_children_count_on_their_own_where_asked(struck):
    code, _, root = struck(Kind.KILL, AT=7, CHILDREN=1)  # the child's unlink is its own first operation
    assert (code, operations(root), (root / "other").exists()) == (-signal.SIGKILL, [*ALL, "unlink"], False)


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_the_clock_jumps_at_the_operation(struck, seconds):
    _, said, _ = struck(Kind.CLOCK, AT=3, SHIFT_S=seconds)
    assert abs(said["now"] - said["then"] - seconds) < 600

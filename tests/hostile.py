"""Runs the command on made-up input in this process, and says what has to be true of any answer."""

import contextlib
import hashlib
import io
import os
import signal
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, settings

from sweep.cli import main


def tried(examples):
    """Settings of a property that is tried on so many examples, the same ones every time."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=checks)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


@contextlib.contextmanager
def empty_folder():
    """A new folder that is the working directory, with the process's own state put back afterwards."""
    before, handler, umask = Path.cwd(), signal.getsignal(signal.SIGTERM), os.umask(0o077)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # an earlier test's thread may write
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
            os.umask(umask)
            signal.signal(signal.SIGTERM, handler)


def sweep(*arguments, warn="ignore"):
    """One command; an exception that is none of ours comes out of it as it is."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["sweep", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter(warn)
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    return Answer(code, out.getvalue(), err.getvalue())


def tree(folder):
    """Every path below a folder with its kind, its mode and its bytes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found[str(path.relative_to(folder))] = hashlib.sha256(str(content).encode()).hexdigest()
    return found


def refuses_or_answers(folder, *arguments):
    """Run one command that only reads; it leaves the folder as it is, whatever it says."""
    before = tree(folder)
    answer = sweep(*arguments, warn="error")
    assert tree(folder) == before
    assert answer.code in (0, 2, 3), answer
    assert "Traceback" not in answer.err
    assert all(line.strip() and line.isprintable() for line in answer.err.splitlines()), answer.err
    if answer.code:
        assert answer.err
    return answer

"""What tests of commands share."""

import signal
import sys

import pytest

from sweep.cli import main

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that `sweep run` handles


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Runs the command in this process: exit code, stdout, stderr."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def in_process(*arguments):
        monkeypatch.setattr(sys, "argv", ["sweep", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capsys.readouterr()

    yield in_process
    for number, handler in handlers.items():
        signal.signal(number, handler)

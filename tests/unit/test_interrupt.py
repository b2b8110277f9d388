import signal
import subprocess
import sys

import pytest

from sweep import interrupt


@pytest.fixture
def installed(monkeypatch):
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.setattr(interrupt, "_received", 0)
    interrupt.install()
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_raises_keyboard_interrupt(installed, number):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


def test_what_nohup_has_ignore_a_closed_terminal_goes_on():
    program = (
        "import signal; from sweep import interrupt; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "interrupt.install(); signal.raise_signal(signal.SIGHUP); print(interrupt.received())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_a_signal_checking_does_nothing(installed):
    interrupt.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_loses_in_a_destructor_is_found_by_the_next_check(installed):
    class Dying:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    Dying()  # python prints the exception and goes on
    with pytest.raises(KeyboardInterrupt):
        interrupt.check()


def test_a_deferred_signal_is_known_at_once_and_raised_at_the_end(installed):
    reached = []
    with pytest.raises(KeyboardInterrupt), interrupt.deferred():  # noqa: PT012
        assert not interrupt.received()
        signal.raise_signal(signal.SIGTERM)
        reached.append(interrupt.received())
    assert reached == [True]


def test_without_a_signal_deferring_changes_nothing(installed):
    with interrupt.deferred():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_an_exception_while_a_signal_is_deferred_stays_itself(installed):
    with pytest.raises(ZeroDivisionError), interrupt.deferred():
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt):  # it is not deferred any more
        signal.raise_signal(signal.SIGINT)


TWICE = """
import signal
from sweep import interrupt
interrupt.install()
with interrupt.deferred():
    signal.raise_signal(signal.{})
    print("first", flush=True)
    try:
        signal.raise_signal(signal.{})
    finally:
        print("came to an orderly end", flush=True)
"""


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGINT"), ("SIGINT", "SIGTERM")])
def test_the_second_signal_ends_the_process_at_once_with_130(first, second):
    done = subprocess.run([sys.executable, "-c", TWICE.format(first, second)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "first\n", "")

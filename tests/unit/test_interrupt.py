import signal

import pytest

from sweep import interrupt


@pytest.fixture
def installed(monkeypatch):
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(interrupt, "_received", False)
    interrupt.install()
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_raise_keyboard_interrupt(installed, number):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


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

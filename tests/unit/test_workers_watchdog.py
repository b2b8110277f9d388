import signal
import subprocess
import sys
import threading
import time

from workers.watchdog import Watchdog


def test_silence_is_noticed_once_and_says_how_long_it_was():
    heard, noticed = [], threading.Event()

    def when_hung(silent_s):
        heard.append(silent_s)
        noticed.set()

    with Watchdog(0.05, when_hung):
        assert noticed.wait(10)
        time.sleep(0.2)
    assert len(heard) == 1
    assert heard[0] >= 0.05


def test_beats_keep_it_quiet_and_leaving_ends_its_thread():
    heard = []
    with Watchdog(2.0, heard.append) as watchdog:
        for _ in range(10):
            time.sleep(0.02)
            watchdog.beat()
    assert heard == []
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def test_leaving_does_not_wait_for_the_limit():
    started = time.monotonic()
    with Watchdog(3600.0, lambda _: None):
        pass
    assert time.monotonic() - started < 5


def test_a_process_that_was_suspended_has_not_hung():
    program = """
import os, sys, time
from workers.watchdog import Watchdog
with Watchdog(1.0, lambda silent_s: os._exit(1)) as watchdog:
    for _ in range(20):
        print(flush=True)
        watchdog.beat()
        time.sleep(0.1)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        process.send_signal(signal.SIGCONT)
        assert process.wait(30) == 0

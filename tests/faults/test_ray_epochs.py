"""Epochs are handed on in order, and training waits for no controller."""

import threading

from sweep.epoch_reports import EpochReports
from workers.contract import EpochMetrics

EPOCHS = [EpochMetrics(number, 1.0, 2.0, 3.0, 0.1, 1.0, 2.0, 0.0) for number in range(1, 6)]


def test_all_epochs_arrive_in_order_before_the_end():
    heard = []
    with EpochReports(lambda fields: heard.append(EpochMetrics(**fields))) as reports:
        for epoch in EPOCHS:
            reports.put(epoch)
        reports.wait()
        assert heard == EPOCHS


def test_nobody_waits_for_a_controller_that_takes_none_and_the_next_trial_is_not_taken_for_this_one():
    heard, takes, began = [], threading.Event(), threading.Event()

    def report(fields):
        began.set()
        takes.wait()
        heard.append(fields["epoch"])

    with EpochReports(report) as reports:
        for epoch in EPOCHS:
            reports.put(epoch)
        began.wait()
    takes.set()
    reports.wait()
    assert heard == [1]


def test_an_epoch_that_cannot_be_handed_on_holds_up_nobody():
    heard = []

    def report(fields):
        if fields["epoch"] == 2:
            raise OSError("gone")
        heard.append(fields["epoch"])

    with EpochReports(report) as reports:
        for epoch in EPOCHS:
            reports.put(epoch)
        reports.wait()
    assert heard == [1, 3, 4, 5]

import io
import time

import pytest
from rich.console import Console

from sweep import progress
from sweep.progress import LiveProgress, PlainProgress, duration, make_progress, outcome
from sweep.space import SweepSpec
from sweep.trials import trials_of
from workers.contract import EpochMetrics, TrialResult, TrialStatus

SPACE = {
    "sweep": "a",
    "data": {"name": "digits"},
    "recipe": "small",
    "axes": {"width": [0.125, 0.25], "depth": [26], "resolution": [16], "epochs": [4]},
}
FIRST, SECOND = trials_of(SweepSpec.model_validate(SPACE))


def epoch(number):
    return EpochMetrics(number, 1.0, 50.0, 40.0 + number, 0.1, 1.0, 1.0, 0.0)


def ok(config, epochs=4, hours=0.5):
    history = tuple(epoch(number) for number in range(1, epochs + 1))
    return TrialResult(config.trial_id, TrialStatus.OK, 1, "", "", history=history, train_device_hours=hours)


def failed(config, error="no room [/red] for it"):
    return TrialResult(config.trial_id, TrialStatus.OOM, 1, "", "", error=error)


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(progress.time, "monotonic", made.monotonic)
    return made


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (45, "45 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (9000, "2.5 h"),
     (172_799, "48.0 h"), (345_600, "4.0 d")],
)  # fmt: skip
def test_durations_have_the_unit_that_people_would_take(seconds, words):
    assert duration(seconds) == words


def test_an_outcome_is_one_line():
    assert outcome(FIRST, ok(FIRST)) == "ok d26 w0.125 16px 4ep      minival  44.0 %  30 min"
    assert outcome(FIRST, failed(FIRST)) == "oom d26 w0.125 16px 4ep      no room [/red] for it"


def preempted(config):
    return TrialResult(config.trial_id, TrialStatus.PREEMPTED, 1, "", "", error="the node [/red] is gone")


def lines_of(console_file):
    return console_file.getvalue().splitlines()


def test_piped_output_is_one_plain_line_per_event_that_matters(clock):
    file = io.StringIO()
    shown = make_progress(Console(file=file, width=40))
    assert type(shown) is PlainProgress
    with shown:
        shown.measuring(FIRST, 1, 2)
        shown.measuring(SECOND, 2, 2)
        shown.running([FIRST, SECOND], {FIRST.trial_id: 4.0, SECOND.trial_id: 8.0})
        shown.started(FIRST)
        shown.started(SECOND)
        for number in (1, 2, 3, 4):
            clock.now += 10
            shown.epoch(FIRST, epoch(number))
        shown.ended(FIRST, ok(FIRST))
        shown.epoch(SECOND, epoch(1))
        clock.now += 20
        shown.ended(SECOND, failed(SECOND))
        shown.note("a remark with [bold] brackets")
    assert lines_of(file) == [
        "measuring shapes before training, one at a time: 2 measurements",
        "training 2 trials, longest first",
        f"[1/2] {outcome(FIRST, ok(FIRST))}, 80 s left",
        f"[2/2] {outcome(SECOND, failed(SECOND))}, 0 s left",
        "a remark with [bold] brackets",
    ]


def test_an_attempt_that_is_repeated_is_a_line_and_no_end(clock):
    file = io.StringIO()
    for shown in (PlainProgress(Console(file=file, width=200)), make_progress(Console(file=file, force_terminal=True))):
        shown.running([FIRST, SECOND], {FIRST.trial_id: 1.0, SECOND.trial_id: 1.0})
        shown.started(FIRST)
        shown.again(FIRST, preempted(FIRST))
        assert lines_of(file)[-1] == f"again, from its last checkpoint: {outcome(FIRST, preempted(FIRST))}"
        assert shown._tally.summary().startswith("0/2 done · 0 running · 0 failed")
        shown.started(FIRST)
        shown.ended(FIRST, ok(FIRST))
        assert shown._tally.summary().startswith("1/2 done · 0 running · 0 failed")


def test_one_of_a_kind_is_singular():
    file = io.StringIO()
    shown = PlainProgress(Console(file=file))
    shown.measuring(FIRST, 1, 1)
    shown.running([FIRST], {FIRST.trial_id: 1.0})
    assert lines_of(file)[0].endswith(": 1 measurement")
    assert lines_of(file)[1].startswith("training 1 trial,")


def test_time_left_follows_the_work_done_and_not_the_number_of_trials(clock):
    file = io.StringIO()
    shown = PlainProgress(Console(file=file, width=200))
    shown.running([FIRST, SECOND], {FIRST.trial_id: 1.0, SECOND.trial_id: 99.0})
    shown.started(FIRST)
    clock.now += 1
    for number in (1, 2, 3, 4):
        shown.epoch(FIRST, epoch(number))
    shown.ended(FIRST, ok(FIRST))
    assert "99 s left" in lines_of(file)[-1]


def test_before_the_first_epoch_the_time_left_is_not_guessed(clock):
    file = io.StringIO()
    shown = PlainProgress(Console(file=file, width=200))
    shown.running([FIRST, SECOND], {FIRST.trial_id: 1.0, SECOND.trial_id: 1.0})
    shown.started(FIRST)
    clock.now += 5
    shown.ended(FIRST, failed(FIRST))
    assert lines_of(file)[-1] == f"[1/2] {outcome(FIRST, failed(FIRST))}"


def test_a_terminal_shows_what_is_running_and_keeps_failures(clock):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, height=20, color_system=None)
    shown = make_progress(console)
    assert type(shown) is LiveProgress
    shown.measuring(FIRST, 1, 2)
    assert "measuring shapes alone on the device: 1/2, d26 w0.125" in screen(shown)
    shown.running([FIRST, SECOND], {FIRST.trial_id: 1.0, SECOND.trial_id: 1.0})
    shown.started(FIRST)
    assert "d26 w0.125 16px 4ep" in screen(shown)
    assert "started" in screen(shown)
    clock.now += 1
    shown.epoch(FIRST, epoch(2))
    assert "epoch 2/4, minival 42.0 %" in screen(shown)
    shown.ended(FIRST, failed(FIRST))
    assert "no room [/red] for it" in file.getvalue()
    assert "0/2 done · 0 running · 1 failed" in screen(shown)
    assert "epoch 2/4" not in screen(shown)


def screen(shown):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(shown._screen())
    text = console.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    return text


def test_a_terminals_display_is_taken_down_and_the_counts_stay():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, height=20, color_system=None)
    with make_progress(console) as shown:
        shown.running([FIRST], {FIRST.trial_id: 1.0})
        shown.started(FIRST)
        shown.epoch(FIRST, epoch(1))
        deadline = time.monotonic() + 10
        while "epoch 1/4" not in file.getvalue():
            assert time.monotonic() < deadline, "the display was never drawn"
            time.sleep(0.05)
        shown.ended(FIRST, ok(FIRST))
    assert "1/1 done · 0 running · 0 failed" in lines_of(file)[-1]
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back

"""An attempt that is told to stop, or killed, and what the next one makes of it."""

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from digits_trials import REGULARISED, digits_trial

from workers import tether
from workers.contract import Execution, TrialResult, TrialStatus
from workers.tether import Lease, grant, last_seen, reached
from workers.trial import run_trial
from workers.work_folder import RESULT, read_attempts, read_result

ROOT = Path(__file__).parents[2]
TIMES = ("train_seconds", "seconds", "finished_at")
RECIPE = {**REGULARISED, "batch_size": 128, "bn_batch": 32}  # eight steps an epoch
CONFIG = digits_trial(epochs=2, execution=Execution(loader_workers=0, micro_batch=64), **RECIPE)


def outcome(result):
    """All that must come out again, digit for digit: everything but times."""
    history = [{k: v for k, v in dataclasses.asdict(epoch).items() if k not in TIMES} for epoch in result.history]
    names = ("trial_id", "status", "error", "val_top1", "val_top5", "val_loss", "minival_images", "val_images")
    return history, {name: getattr(result, name) for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_trial(CONFIG, tmp_path_factory.mktemp("whole"))


@pytest.fixture(autouse=True)
def no_further_signs(monkeypatch):
    """Only those at the start of an attempt and at each checkpoint."""
    monkeypatch.setattr(tether, "LOOK_S", 1000.0)


def newest(work):
    """The last checkpoint's finished epochs and, of the next one, steps."""
    name = max(path.stem for path in work.glob("checkpoint-*.json"))
    return tuple(int(number) for number in name.split("-")[1:])


class StopAfter:
    """Asked after every step: says so some steps after the given epoch."""

    def __init__(self, epoch, steps):
        self._epoch, self._left = epoch, steps
        self._counting = False

    def hear(self, metrics):
        self._counting = self._counting or metrics.epoch == self._epoch

    def __call__(self):
        self._left -= self._counting
        return self._left < 0


@pytest.mark.parametrize("steps", [1, 5])
def test_told_to_stop_within_an_epoch_it_saves_every_step_and_goes_on_as_if_nothing_had_been(tmp_path, whole, steps):
    stop = StopAfter(1, steps)
    first = run_trial(CONFIG, tmp_path, stop.hear, told_to_stop=stop)
    assert (first.status, first.error, len(first.history)) == (TrialStatus.PREEMPTED, "it was told to stop", 1)
    assert not (tmp_path / RESULT).exists()
    epoch, done = newest(tmp_path)
    assert epoch == 1
    assert 0 < done < 8
    assert reached(tmp_path) == 1 + done / 8
    heard = []
    second = run_trial(CONFIG, tmp_path, heard.append)
    assert [metrics.epoch for metrics in heard] == [2]
    assert outcome(second) == outcome(whole)
    assert (second.attempts, second.epochs_repeated) == (2, 0.0)
    assert second.lost_device_hours < 1 / 3600
    assert read_result(tmp_path) == second
    assert not list(tmp_path.glob("checkpoint-*"))


def test_stopped_again_and_again_it_ends_the_same_and_repeats_nothing(tmp_path, whole):
    stops = 0
    while True:
        left = iter([False] * 20 + [True] * 100)  # reading the data asks too
        result = run_trial(CONFIG, tmp_path, told_to_stop=lambda left=left: next(left, True))
        if result.status is TrialStatus.OK:
            break
        stops += 1
        assert result.status is TrialStatus.PREEMPTED
        assert stops < 50, "it never gets any further"
    assert stops >= 1
    assert outcome(result) == outcome(whole)
    assert (result.attempts, result.epochs_repeated) == (stops + 1, 0.0)


def test_told_to_stop_from_the_beginning_every_attempt_gets_one_step_further(tmp_path):
    for attempt in (1, 2, 3):
        result = run_trial(CONFIG, tmp_path, told_to_stop=lambda: True)
        assert (result.status, result.attempts, result.history) == (TrialStatus.PREEMPTED, attempt, ())
        assert newest(tmp_path) == (0, attempt)
        assert not (tmp_path / RESULT).exists()
    assert read_attempts(tmp_path)["epochs_repeated"] == 0.0


def owner(folder):
    tether.write_passing(folder / "owner.json", {"token": "owner", "stopping": False})
    return str(folder / "owner.json")


def test_a_result_carries_its_attempts_token(tmp_path, whole):
    grant(tmp_path / "work", "mine")
    result = run_trial(dataclasses.replace(CONFIG, epochs=1), tmp_path / "work", lease=Lease("mine", owner(tmp_path)))
    assert (result.status, result.token, whole.token) == (TrialStatus.OK, "mine", None)
    assert TrialResult.from_json((tmp_path / "work" / RESULT).read_text()).token == "mine"


def test_an_attempt_whose_trial_was_given_away_does_not_begin(tmp_path):
    grant(tmp_path / "work", "another's")
    result = run_trial(CONFIG, tmp_path / "work", pytest.fail, lease=Lease("mine", owner(tmp_path)))
    assert (result.status, result.error) == (TrialStatus.PREEMPTED, "another attempt took its place")
    assert read_attempts(tmp_path / "work") == {}


def test_an_attempt_whose_trial_was_given_away_meanwhile_publishes_nothing(tmp_path):
    work = tmp_path / "work"
    grant(work, "mine")
    config = dataclasses.replace(CONFIG, epochs=1)
    lease = Lease("mine", owner(tmp_path))
    result = run_trial(config, work, lambda _: grant(work, "another's"), lease=lease)
    assert (result.status, result.error) == (TrialStatus.PREEMPTED, "another attempt took its place")
    assert not (work / RESULT).exists()
    good = run_trial(config, work, lease=Lease("another's", lease.owner))
    assert (good.status, good.token, good.attempts) == (TrialStatus.OK, "another's", 2)


KILLED = """
import os, signal, sys
from pathlib import Path
from workers import tether
from workers.contract import TrialConfig
from workers.trial import run_trial
tether.LOOK_S = 0.001
work = Path(sys.argv[2])

def strike():
    if tether.reached(work) > 1.25:
        os.kill(os.getpid(), signal.SIGKILL)
    return False

run_trial(TrialConfig.from_json(Path(sys.argv[1]).read_text()), work, told_to_stop=strike)
"""


def test_after_a_kill_it_is_known_how_much_is_trained_again_and_how_long_the_device_was_held_for_nothing(
    tmp_path, whole
):
    work, file = tmp_path / "work", tmp_path / "trial.json"
    file.write_text(CONFIG.to_json())
    done = subprocess.run([sys.executable, "-c", KILLED, str(file), str(work)], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    seen = last_seen(work, 1)
    assert newest(work) == (1, 0)
    assert 1.25 < seen.epochs < 2
    assert seen.unsaved_s > 0
    result = run_trial(CONFIG, work)
    assert outcome(result) == outcome(whole)
    assert (result.attempts, result.epochs_repeated) == (2, seen.epochs - 1)
    assert result.lost_device_hours == seen.unsaved_s / 3600

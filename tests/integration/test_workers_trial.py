import dataclasses
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from digits_trials import DIGITS, QUICK, REGULARISED, digits_trial
from PIL import Image
from sklearn.datasets import load_digits

from workers.contract import DataConfig, EpochMetrics, TrialResult, TrialStatus
from workers.environment import cpu_model, versions
from workers.trial import main, run_trial
from workers.work_folder import read_result

ROOT = Path(__file__).parents[2]
TIMES = ("train_seconds", "seconds", "finished_at")


def outcome(result):
    """All that must come out again, digit for digit: everything but times."""
    history = [{k: v for k, v in dataclasses.asdict(epoch).items() if k not in TIMES} for epoch in result.history]
    names = ("trial_id", "status", "error", "val_top1", "val_top5", "val_loss", "minival_images", "val_images")
    return history, {name: getattr(result, name) for name in names}


FROM_THE_START = "no checkpoint could be used, though an earlier attempt had got to epoch 2.0: trained from the start"


def checkpoints(work):
    return sorted(path.name for path in work.iterdir() if "checkpoint" in path.name)


class Stop:
    """Records epochs and raises after the given one."""

    def __init__(self, after=None, error=None):
        self.epochs: list[EpochMetrics] = []
        self.after, self.error = after, error

    def __call__(self, epoch):
        self.epochs.append(epoch)
        if epoch.epoch == self.after:
            raise self.error

    @property
    def numbers(self):
        return [epoch.epoch for epoch in self.epochs]


# --- a trial that ends well -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A trial of three epochs, nothing in its way: its work folder and result."""
    work = tmp_path_factory.mktemp("finished")
    return work, run_trial(digits_trial(epochs=3), work)


def test_a_trial_learns_the_digits_and_trains_all_its_epochs(finished):
    _, result = finished
    assert result.status is TrialStatus.OK
    assert result.error is None
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]
    assert result.val_top1 > 85
    assert 100 >= result.val_top5 > result.val_top1
    assert result.history[-1].minival_top1 > 85
    assert result.history[-1].train_top1 > 85
    assert result.history[0].train_loss > result.history[1].train_loss > result.history[2].train_loss
    assert (result.minival_images, result.val_images) == (359, 359)


def test_a_result_says_what_it_cost_and_where_it_was_made(finished):
    _, result = finished
    images = 3 * (1079 // 32) * 32
    assert result.train_images_per_s == pytest.approx(images / sum(epoch.train_seconds for epoch in result.history))
    seconds = sum(epoch.seconds for epoch in result.history)
    assert seconds < 3600 * result.train_device_hours < seconds + 5
    assert all(0 < epoch.train_seconds < epoch.seconds for epoch in result.history)
    assert (result.device, result.versions, result.micro_batch) == (cpu_model(), versions(), 32)
    assert result.attempts == 1
    assert result.started_at <= result.finished_at
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", result.started_at)


def test_the_rate_of_each_epochs_last_step_is_recorded(finished):
    rates = [epoch.learning_rate for epoch in finished[1].history]
    assert rates[0] > rates[1] > rates[2]
    assert 0 < rates[2] < 1e-3


def test_the_result_is_in_the_folder_and_the_checkpoints_are_gone(finished):
    work, result = finished
    assert read_result(work) == result
    assert checkpoints(work) == []


def test_a_finished_result_is_returned_without_training(finished):
    work, result = finished
    stop = Stop()
    assert run_trial(digits_trial(epochs=3), work, stop) == result
    assert stop.epochs == []


def test_a_seed_gives_the_same_result_twice_and_another_seed_another(finished, tmp_path):
    _, result = finished
    again = run_trial(digits_trial(epochs=3), tmp_path / "again")
    assert outcome(again) == outcome(result)
    other = Stop(1, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_trial(digits_trial(epochs=3, seed=1), tmp_path / "other", other)
    assert other.epochs[0].train_loss != result.history[0].train_loss


@pytest.mark.parametrize("damage", ["", '{"trial_id": "a-trial"', "[]"])
def test_a_damaged_result_trains_again(tmp_path, damage):
    (tmp_path / "result.json").write_text(damage)
    stop = Stop()
    result = run_trial(digits_trial(epochs=1, **QUICK), tmp_path, stop)
    assert result.status is TrialStatus.OK
    assert stop.numbers == [1]
    assert read_result(tmp_path) == result


def test_the_result_of_another_trial_is_not_taken(tmp_path):
    run_trial(digits_trial(epochs=1, **QUICK), tmp_path)
    stop = Stop()
    result = run_trial(dataclasses.replace(digits_trial(epochs=1, **QUICK), trial_id="other"), tmp_path, stop)
    assert (result.trial_id, stop.numbers) == ("other", [1])


# --- interrupted and resumed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "interrupted_after"), [(QUICK, (1, 2, 3)), (REGULARISED, (1,))], ids=["plain", "regularised"]
)
def test_interrupted_after_any_epoch_and_resumed_it_ends_as_if_it_had_not_been(tmp_path, overrides, interrupted_after):
    config = digits_trial(epochs=3, **overrides)
    whole = run_trial(config, tmp_path / "whole")
    assert whole.status is TrialStatus.OK
    for after in interrupted_after:
        work = tmp_path / str(after)
        first, second = Stop(after, KeyboardInterrupt()), Stop()
        with pytest.raises(KeyboardInterrupt):
            run_trial(config, work, first)
        assert read_result(work) is None
        resumed = run_trial(config, work, second)
        assert outcome(resumed) == outcome(whole)
        assert (first.numbers, second.numbers) == (list(range(1, after + 1)), list(range(after + 1, 4)))
        assert resumed.history[:after] == tuple(first.epochs)  # with their times: they were not trained again
        assert resumed.attempts == 2


def test_every_epoch_interrupted_it_still_ends_as_if_it_had_not_been(tmp_path, finished):
    config = digits_trial(epochs=3)
    for after in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            run_trial(config, tmp_path, Stop(after, KeyboardInterrupt()))
        assert len(checkpoints(tmp_path)) == 2 * min(after, 2)
    resumed = run_trial(config, tmp_path)
    assert outcome(resumed) == outcome(finished[1])
    assert resumed.attempts == 4


def test_with_its_checkpoints_damaged_it_ends_the_same_and_the_result_says_so(tmp_path):
    config = digits_trial(epochs=3, **QUICK)
    whole = run_trial(config, tmp_path / "whole")
    for damaged in (1, 2):
        work = tmp_path / str(damaged)
        with pytest.raises(KeyboardInterrupt):
            run_trial(config, work, Stop(2, KeyboardInterrupt()))
        for file in sorted(work.glob("*.pt"))[-damaged:]:
            file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(KeyboardInterrupt):
            run_trial(config, work, Stop(2, KeyboardInterrupt()))
        stop = Stop()
        result = run_trial(config, work, stop)  # the attempt after the one that met the damage
        assert outcome(result) == outcome(whole)
        assert stop.numbers == [3]
        found = [note for note in result.notes if "damaged checkpoint passed over: its contents do not fit" in note]
        assert len(found) == damaged
        others = [note for note in result.notes if note not in found]
        assert others == ([FROM_THE_START] if damaged == 2 else [])


def test_the_checkpoints_of_another_trial_are_not_gone_on_from(tmp_path):
    config = digits_trial(epochs=2, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        run_trial(digits_trial(epochs=4, seed=1, **QUICK), tmp_path / "used", Stop(3, KeyboardInterrupt()))
    stop = Stop(1, KeyboardInterrupt())
    other = dataclasses.replace(config, trial_id="other")
    with pytest.raises(KeyboardInterrupt):
        run_trial(other, tmp_path / "used", stop)
    resumed = run_trial(other, tmp_path / "used", stop)
    assert stop.numbers == [1, 2]
    clean = run_trial(other, tmp_path / "clean")
    assert outcome(resumed) == outcome(clean)


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "status", "error"),
    [
        ({"learning_rate": 1e6}, TrialStatus.DIVERGED, r"the training loss became nan in epoch 1"),
        (
            # One step in all: the loss before it is fine, and the weights after it are not.
            {"learning_rate": 1e6, "batch_size": 1024, "bn_batch": 1024, "epochs": 1},
            TrialStatus.DIVERGED,
            r"the minival loss is nan after epoch 1",
        ),
        ({"device": "abacus"}, TrialStatus.INVALID, r"device 'abacus' is unknown; known: cpu, cuda, xla"),
        (
            {"data": DataConfig("folder", "mine", 3, None, 0.25, "/nonexistent/digits")},
            TrialStatus.DATA_ERROR,
            r"data.root/train: no such folder; .*",
        ),
        ({"data": dataclasses.replace(DIGITS, classes=5)}, TrialStatus.DATA_ERROR, r"digits: 10 classes, expected 5"),
        ({"batch_size": 2048, "bn_batch": 2048}, TrialStatus.DATA_ERROR, r"1079 training images are fewer than .*"),
        ({"data": dataclasses.replace(DIGITS, minival=0.0)}, TrialStatus.INVALID, r"minival 0.0 is not in \(0, 1\)"),
        ({"epochs": 0}, TrialStatus.INVALID, r"epochs 0 is below 1"),
    ],
    ids=["diverged", "diverged at the end", "device", "no data", "classes", "batch", "minival", "epochs"],
)
def test_a_known_failure_is_a_result_with_its_status_and_one_line(tmp_path, options, status, error):
    result = run_trial(digits_trial(**options), tmp_path)
    assert result.status is status
    assert re.fullmatch(error, result.error)
    assert read_result(tmp_path) == result
    assert result.val_top1 is None


def test_weights_that_are_not_finite_after_an_epochs_last_step_are_not_kept(tmp_path):
    options = {"learning_rate": 1e6, "batch_size": 1024, "bn_batch": 1024}
    result = run_trial(digits_trial(**options), tmp_path)
    assert (result.status, result.history) == (TrialStatus.DIVERGED, ())
    assert checkpoints(tmp_path) == []


def test_checkpoints_that_were_left_beside_a_good_result_are_cleared_at_the_next_look(finished, tmp_path):
    work, result = finished
    (tmp_path / "result.json").write_text((work / "result.json").read_text())
    for name in ("checkpoint-00003-0000000.pt", "checkpoint-00003-0000000.json"):
        (tmp_path / name).write_bytes(b"left by a process that was killed before it could clear them")
    assert run_trial(digits_trial(epochs=3), tmp_path) == result
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        ({"test_resolution": 8}, "test_resolution 8 is below 16, the smallest that resnet_rs can read"),
        ({"warmup_epochs": 2.0, "epochs": 3, "shorter": 2}, "warmup_epochs 2 leaves nothing of 2 epochs"),
    ],
)
def test_a_recipe_that_a_trial_written_by_hand_cannot_follow_is_invalid(tmp_path, recipe, error):
    shorter = recipe.pop("shorter", None)
    config = digits_trial(**recipe)
    result = run_trial(dataclasses.replace(config, epochs=shorter or config.epochs), tmp_path)
    assert result.status is TrialStatus.INVALID
    assert result.error.startswith(error)


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ({"depth": 27}, "depth 27 is none of resnet_rs's; known: 26, "),
        ({"family": "vit"}, "unknown family 'vit'; known: resnet_rs"),
        ({"width": 0.01}, "width 0.01 gives no channels"),
        ({"resolution": 8}, "resolution 8 is below 16"),
    ],
)
def test_a_shape_that_cannot_be_built_is_invalid(tmp_path, shape, error):
    result = run_trial(dataclasses.replace(digits_trial(), **shape), tmp_path)
    assert result.status is TrialStatus.INVALID
    assert result.error.startswith(error)


def test_a_model_that_does_not_fit_into_memory_is_out_of_memory(tmp_path):
    # Its second convolution alone, 180 TB, is larger than a process can address.
    result = run_trial(dataclasses.replace(digits_trial(), width=70_000.0), tmp_path)
    assert result.status is TrialStatus.OOM
    assert "can't allocate memory" in result.error


def test_any_other_exception_is_a_crash_with_one_line_and_the_epochs_so_far(tmp_path):
    result = run_trial(digits_trial(**QUICK), tmp_path, Stop(1, RuntimeError("one\n  thing\nor another")))
    assert (result.status, result.error) == (TrialStatus.CRASHED, "RuntimeError: one thing or another")
    assert [epoch.epoch for epoch in result.history] == [1]
    assert checkpoints(tmp_path)  # kept, to go on from
    silent = run_trial(digits_trial(**QUICK), tmp_path, Stop(2, AssertionError()))
    assert silent.error == "AssertionError"


def test_a_failed_trial_run_again_goes_on_and_counts_its_attempts(tmp_path):
    config = digits_trial(**QUICK)
    failed = [run_trial(dataclasses.replace(config, device="abacus"), tmp_path) for _ in range(2)]
    failed.append(run_trial(config, tmp_path, Stop(1, RuntimeError("x"))))
    stop = Stop()
    result = run_trial(config, tmp_path, stop)
    assert [attempt.attempts for attempt in failed] == [1, 2, 3]
    assert (result.status, result.attempts, stop.numbers) == (TrialStatus.OK, 4, [2])
    assert {attempt.started_at for attempt in failed} == {result.started_at}


def test_a_corrupt_image_is_a_data_error_that_names_its_file_in_one_line(tmp_path):
    source = load_digits()
    for label in (0, 1):
        for number, index in enumerate(np.flatnonzero(source.target == label)[:20]):
            folder = tmp_path / "data" / ("train" if number < 16 else "val") / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((source.images[index] * 15).astype("uint8")).save(folder / f"{number}.png")
    data = DataConfig("folder", "mine", 2, None, 0.25, str(tmp_path / "data"))
    config = digits_trial(epochs=1, data=data, batch_size=8, bn_batch=8)
    assert run_trial(config, tmp_path / "good").status is TrialStatus.OK
    bad = tmp_path / "data" / "val" / "1" / "18.png"
    bad.write_bytes(b"not an image")
    result = run_trial(config, tmp_path / "bad")
    assert result.status is TrialStatus.DATA_ERROR
    assert result.error.startswith("data.root/val/1/18.png: not a readable image")
    assert "\n" not in result.error


# --- the command ----------------------------------------------------------------------------------------------------


def written(config, folder):
    path = folder / "trial.json"
    path.write_text(config.to_json())
    return path


def command(config_file, work):
    return [sys.executable, "-m", "workers.trial", "--config", str(config_file), "--work", str(work)]


def started(config, folder, work, **environment):
    """The command as a process, after its first epoch."""
    process = subprocess.Popen(
        command(written(config, folder), work), cwd=ROOT, env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith("epoch 1: loss "), line + process.communicate()[1]
    return process


def test_killed_in_mid_training_and_resumed_it_ends_as_if_it_had_not_been(tmp_path, finished):
    config, work, stop = digits_trial(epochs=3), tmp_path / "work", Stop()
    process = started(config, tmp_path, work)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read_result(work) is None
    resumed = run_trial(config, work, stop)
    assert outcome(resumed) == outcome(finished[1])
    assert 1 not in stop.numbers
    assert resumed.attempts == 2
    assert checkpoints(work) == []


FORBIDDEN = ("ray", "mlflow", "pydantic", "sweep")
BARE = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_alone_on_a_bare_machine_it_runs_while_a_second_process_waits_for_its_folder(tmp_path, finished):
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "sitecustomize.py").write_text(BARE)
    environment = {**os.environ, "PYTHONPATH": str(bare)}
    for name in FORBIDDEN:
        probe = subprocess.run(
            [sys.executable, "-c", f"import {name}"], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        assert f"No module named '{name}'" in probe.stderr
    config, work, stop = digits_trial(epochs=3), tmp_path / "work", Stop()
    process = started(config, tmp_path, work, PYTHONPATH=str(bare))
    with (work / "lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    second = run_trial(config, work, stop)  # in this process: waits, and finds the first one's result
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert stop.epochs == []
    assert second.attempts == 1
    assert outcome(second) == outcome(finished[1])
    assert TrialResult.from_json((work / "result.json").read_text()) == second
    lines = output.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["epoch 2", "epoch 3", "a-trial"]
    assert lines[-1].endswith(f"val top-1 {second.val_top1:.2f} %, {work / 'result.json'}")


def test_the_command_of_a_failing_trial_ends_with_1_and_one_line(tmp_path, capsys):
    config = digits_trial(epochs=1, learning_rate=1e6)
    assert main(["--config", str(written(config, tmp_path)), "--work", str(tmp_path / "work")]) == 1
    assert capsys.readouterr().err == "a-trial: diverged: the training loss became nan in epoch 1\n"
    assert read_result(tmp_path / "work").status is TrialStatus.DIVERGED


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "not a trial configuration"),
        (b"{,}", "not a trial configuration"),
        (b"\xff\xfe\x00", "can't decode"),
        (b'{"trial_id": "x"}', "not a trial configuration"),
        (json.dumps({**json.loads(digits_trial().to_json()), "colour": 1}).encode(), "colour"),
    ],
    ids=["absent", "empty", "not JSON", "not text", "incomplete", "unknown field"],
)
def test_the_command_with_bad_input_ends_with_2_and_one_line_and_makes_no_folder(tmp_path, capsys, content, said):
    path = tmp_path / "trial.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["--config", str(path), "--work", str(tmp_path / "work")]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{path}: ")
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_the_command_with_a_work_folder_that_is_a_file_ends_with_2_and_one_line(tmp_path, capsys):
    path = written(digits_trial(), tmp_path)
    assert main(["--config", str(path), "--work", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_bad_json_from_the_shell_ends_with_2_and_no_traceback(tmp_path):
    path = tmp_path / "trial.json"
    path.write_text("{")
    done = subprocess.run(command(path, tmp_path / "work"), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{path}: not a trial configuration: ")
    assert done.stderr.count("\n") == 1

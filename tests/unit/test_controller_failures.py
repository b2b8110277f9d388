"""What the controller makes of trials that fail, of rows that cannot be written, and of a sweep that it lost."""

import errno
import os

import pytest
from controller_fakes import Executor, Progress, ids, result_of, rows, run, space, untracked

from sweep import controller, interrupt
from sweep.errors import RefusedError, StoppedEarlyError, StorageError
from sweep.failures import FRUITLESS
from sweep.layout import SweepFolder
from sweep.ownership import owned
from sweep.rows import commit
from workers.contract import TrialStatus
from workers.files import write_passing
from workers.tether import ALIVE

CRASHED, OOM, PREEMPTED = TrialStatus.CRASHED, TrialStatus.OOM, TrialStatus.PREEMPTED


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    return SweepFolder(tmp_path / "a")


def fails(statuses, error="bad luck"):
    """The first attempt at a trial ends with its first status, and so on; then all is well."""

    def outcome(job, before):
        own = statuses.get(job.config.trial_id, [])
        return result_of(job.config, own[before] if before < len(own) else TrialStatus.OK, error)

    return Executor(outcome=outcome)


def wide(count):
    """A space of so many shapes, from the smallest to the largest."""
    axes = {"width": [0.125 * n for n in range(1, count + 1)], "depth": [26], "resolution": [16], "epochs": [1]}
    return space(axes=axes)


def test_a_trial_that_crashes_twice_and_then_succeeds_has_one_row_and_it_is_good(folder):
    unlucky = ids()[0]
    executor, tracker, progress = run(folder, executor=fails({unlucky: [CRASHED, CRASHED]}))
    assert executor.ran.count(unlucky) == 3
    assert {row["status"] for row in rows(folder).values()} == {"ok"}
    assert rows(folder).keys() == set(ids())
    assert len(tracker.rows[unlucky]) == 1
    assert progress.events.count("again crashed") == 2
    assert progress.events.count("ended ok") == 4


def test_a_trial_that_crashes_three_times_has_a_row_that_says_so_and_the_others_go_on(folder):
    unlucky = ids()[-1]  # the longest, hence the first
    executor, _, progress = run(folder, executor=fails({unlucky: [CRASHED] * 9}))
    assert executor.ran.count(unlucky) == 3
    assert (rows(folder)[unlucky]["status"], rows(folder)[unlucky]["error"]) == ("crashed", "bad luck")
    assert sorted(row["status"] for row in rows(folder).values()) == ["crashed", "ok", "ok", "ok"]
    assert progress.events[-1] == "ended ok"


def test_a_trial_that_is_repeated_comes_before_the_others(folder):
    executor, _, _ = run(folder, executor=fails({trial_id: [CRASHED] for trial_id in ids()}))
    assert executor.ran == [trial_id for trial_id in dict.fromkeys(executor.ran) for _ in range(2)]


def preempted(times, progress):
    """Attempts that are ended from outside; `progress` is what each gets further than the last."""

    def outcome(job, before):
        if before < times:
            write_passing(job.work / ALIVE, {"attempt": before + 1, "epochs": progress * (before + 1)})
            return result_of(job.config, PREEMPTED, "its node is gone")
        return result_of(job.config)

    return Executor(outcome=outcome)


ONE = {"axes": {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [1]}}


def test_an_attempt_that_was_ended_from_outside_is_no_row_as_long_as_the_trial_gets_further(folder):
    executor, tracker, progress = run(folder, space(**ONE), preempted(3 * FRUITLESS, 0.01))
    assert len(executor.ran) == 3 * FRUITLESS + 1
    (row,) = rows(folder).values()
    assert row["status"] == "ok"
    assert [len(sent) for sent in tracker.rows.values()] == [1]
    assert progress.events.count("again preempted") == 3 * FRUITLESS


def test_a_trial_that_never_gets_any_further_is_a_row_in_the_end(folder):
    executor, _, _ = run(folder, space(**ONE), preempted(10 * FRUITLESS, 0.0))
    assert len(executor.ran) == FRUITLESS
    (row,) = rows(folder).values()
    assert (row["status"], row["error"]) == ("preempted", "its node is gone")


def test_a_failure_after_a_signal_is_none_of_the_trials(folder, monkeypatch):
    def outcome(job, before):
        monkeypatch.setattr(interrupt, "_received", 1)
        return result_of(job.config, CRASHED)

    monkeypatch.setattr(interrupt, "_received", 0)
    with pytest.raises(KeyboardInterrupt):
        run(folder, executor=Executor(outcome=outcome))
    assert rows(folder) == {}


def test_where_all_fail_alike_the_sweep_stops_after_the_probes_and_says_what_and_how_many(folder):
    spec = wide(9)
    executor = Executor(failing=ids(spec))
    with pytest.raises(StoppedEarlyError) as caught:
        run(folder, spec, executor)
    by_size = ids(spec)
    assert executor.ran == [by_size[8], by_size[7], by_size[6], by_size[0], by_size[1]]
    assert str(caught.value) == "the last 5 trials failed alike (oom: too large); 4 were not begun"
    assert caught.value.exit_code == 1
    assert rows(folder).keys() == set(executor.ran)
    assert run(folder, spec)[0].ran == [by_size[5], by_size[4], by_size[3], by_size[2]]


def test_where_only_the_large_ones_fail_the_sweep_goes_on(folder):
    spec = wide(9)
    large = ids(spec)[2:]
    executor, _, _ = run(folder, spec, Executor(failing=large))
    assert sorted(executor.ran) == sorted(ids(spec))
    assert {trial_id for trial_id, row in rows(folder).items() if row["status"] == "oom"} == set(large)


def test_failures_of_different_kinds_do_not_stop_a_sweep(folder):
    words = dict(zip(ids(wide(9)), ["apple", "bread", "cheese"] * 3, strict=True))
    executor, _, _ = run(
        folder, wide(9), Executor(outcome=lambda job, _: result_of(job.config, OOM, words[job.config.trial_id]))
    )
    assert len(executor.ran) == 9


def test_where_the_last_ones_fail_alike_there_is_nothing_to_stop(folder):
    executor, _, _ = run(folder, wide(5), Executor(failing=ids(wide(5))))
    assert len(executor.ran) == 5


def full_disk(monkeypatch, times):
    """Rows cannot be written so many times."""
    left = [times]

    def commit_or_fail(target, row, history):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target.row(row["trial_id"])))
        commit(target, row, history)

    monkeypatch.setattr(controller, "commit", commit_or_fail)


def test_a_row_that_could_not_be_written_is_written_with_the_next_one(folder, monkeypatch):
    full_disk(monkeypatch, times=1)
    executor, tracker, progress = run(folder)
    assert rows(folder).keys() == tracker.rows.keys() == set(ids())
    assert untracked(folder) == []
    (note,) = progress.notes
    where = folder.row(executor.ran[0])
    assert note.startswith(f"{executor.ran[0]} has no row yet: {where}: No space left on device; nothing is lost")
    assert note.endswith("the same command goes on")
    assert "\n" not in note


def test_the_last_row_is_tried_once_more_at_the_end(folder, monkeypatch):
    full_disk(monkeypatch, times=1)
    run(folder, space(**ONE))
    assert len(rows(folder)) == 1


def test_where_no_row_can_be_written_the_results_stay_and_the_next_run_takes_them_over(folder, monkeypatch):
    progress = Progress()
    with monkeypatch.context() as patch:
        full_disk(patch, times=10**9)
        with pytest.raises(StorageError, match="No space left on device; nothing is lost") as caught:
            run(folder, progress=progress)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert rows(folder) == {}
    assert progress.events.count("ended ok") == 4
    executor, tracker, progress = run(folder)
    assert executor.ran == []
    assert rows(folder).keys() == tracker.rows.keys() == set(ids())
    assert sorted(progress.notes) == sorted(f"took over the finished result of {trial_id}" for trial_id in ids())


def test_where_no_right_to_train_can_be_written_the_sweep_ends_with_what_the_disk_says(folder, monkeypatch):
    def no_room(work, token):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work))

    with monkeypatch.context() as patch:
        patch.setattr("sweep.jobs.grant", no_room)
        executor = Executor()
        with pytest.raises(StorageError, match="No space left on device"):
            run(folder, executor=executor)
    assert executor.ran == []
    assert sorted(run(folder)[0].ran) == sorted(ids())


def test_a_controller_that_lost_the_sweep_writes_no_more_rows_and_hands_out_no_more_trials(folder):
    class Robbed(Executor):
        def run(self, jobs, listener):
            job = jobs.take()
            folder.lock.unlink()
            with owned(folder):
                with pytest.raises(RefusedError):
                    listener.ended(job, result_of(job.config))
                jobs.take()

    with pytest.raises(RefusedError, match="took this sweep over; this one stops and writes nothing"):
        run(folder, executor=Robbed())
    assert rows(folder) == {}

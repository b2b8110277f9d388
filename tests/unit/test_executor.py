"""What became of an attempt whose worker says nothing any more, from what its folder tells."""

import fcntl

import pytest
from digits_trials import digits_trial

from sweep.executor import result_of
from sweep.jobs import Job
from workers.attempt import Attempt
from workers.contract import Execution, TrialResult, TrialStatus
from workers.files import seal, write_json, write_passing
from workers.tether import ALIVE, SUPERSEDED, Lease, grant
from workers.work_folder import HELD, RESULT

CRASHED = TrialStatus.CRASHED, "the worker process died"


@pytest.fixture
def job(tmp_path):
    config = digits_trial(execution=Execution(ranks=2))
    grant(tmp_path, "mine")
    return Job(config, tmp_path, Lease("mine", ""))


def sign(job, token="mine", **fields):
    write_passing(job.work / ALIVE, {"token": token, "attempt": 1, "epochs": 1.5, "unsaved_s": 18.0, **fields})


def ended(job, ending=CRASHED):
    result = result_of(job, *ending)
    return result.status, result.error


def test_a_worker_that_died_is_what_others_say_of_it(job):
    assert ended(job) == CRASHED
    sign(job)
    assert ended(job) == CRASHED


def test_one_that_had_to_stop_was_preempted_however_it_ended_and_its_own_reason_counts(job):
    sign(job, stopped="the controller is gone")
    assert ended(job) == (TrialStatus.PREEMPTED, "the controller is gone")
    assert ended(job, (TrialStatus.PREEMPTED, "something general")) == (TrialStatus.PREEMPTED, "the controller is gone")


def test_one_that_lost_its_lease_was_preempted(job):
    grant(job.work, "another's")
    assert ended(job) == (TrialStatus.PREEMPTED, SUPERSEDED)


def test_another_attempts_reason_says_nothing_of_this_one(job):
    sign(job, token="another's", stopped="the controller is gone")
    assert ended(job) == CRASHED


def test_one_that_was_kept_out_by_another_process_was_preempted(job):
    sign(job, token="another's")
    with (job.work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ended(job) == (TrialStatus.PREEMPTED, HELD)
        sign(job)  # this one began: a process of its own holds the folder
        assert ended(job) == CRASHED


def test_a_workers_own_result_counts_and_an_earlier_failure_does_not(job):
    def left(token, status):
        result = TrialResult("a-trial", status, 1, "", "", error="no", token=token)
        (job.work / RESULT).write_text(result.to_json())

    left("mine", TrialStatus.OOM)
    sign(job, stopped="the controller is gone")
    assert ended(job) == (TrialStatus.OOM, "no")
    left("another's", TrialStatus.OOM)
    assert ended(job)[0] is TrialStatus.PREEMPTED
    left("another's", TrialStatus.OK)
    assert ended(job)[0] is TrialStatus.OK


def test_the_last_attempt_counts_in_what_was_lost(job):
    attempt = Attempt(job.config, job.work, leads=True, lease=job.lease)
    attempt.begin()
    assert result_of(job, *CRASHED).lost_device_hours == 0
    sign(job)
    assert result_of(job, *CRASHED).lost_device_hours == 2 * 18.0 / 3600
    Attempt(job.config, job.work, leads=True, lease=job.lease).begin()  # has left no sign yet
    result = result_of(job, *CRASHED)
    assert (result.attempts, result.lost_device_hours) == (2, 2 * 18.0 / 3600)
    sign(job, attempt=2, unsaved_s=9.0)
    assert result_of(job, *CRASHED).lost_device_hours == 2 * 27.0 / 3600


def test_a_record_that_is_missing_costs_no_result(job):
    sign(job)
    assert result_of(job, *CRASHED).lost_device_hours == 2 * 18.0 / 3600
    write_json(job.work / "attempts.json", seal({"attempts": 3}))
    assert result_of(job, *CRASHED).attempts == 3

"""The trials that wait, and the right to train that each is handed out with."""

import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.errors import RefusedError
from sweep.jobs import JobQueue
from sweep.space import SweepSpec
from sweep.trials import trials_of
from workers.tether import LEASE, Lease, is_current

SPACE = {
    "sweep": "a",
    "data": {"name": "digits"},
    "recipe": "small",
    "axes": {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [1]},
    "seeds": [0, 1, 2, 3, 4],
}
TRIALS = trials_of(SweepSpec.model_validate(SPACE))


@pytest.fixture
def work(tmp_path):
    return lambda trial_id: tmp_path / trial_id


@pytest.fixture
def queue(work):
    return JobQueue(TRIALS, work, "owner.json")


def seeds(queue, count=None):
    """Of the next trials, or of all."""
    taken = []
    while len(taken) != count and (job := queue.take()):
        taken.append(job.config.seed)
    return taken


def test_trials_come_in_order_and_then_none(queue):
    assert len(queue) == 5
    assert seeds(queue) == [0, 1, 2, 3, 4]
    assert (queue.take(), len(queue), queue.problem) == (None, 0, None)


def test_each_comes_with_its_folder_and_a_right_of_its_own_that_counts(queue, work):
    jobs = [queue.take() for _ in TRIALS]
    for config, job in zip(TRIALS, jobs, strict=True):
        assert (job.config, job.work, job.lease.owner) == (config, work(config.trial_id), "owner.json")
        assert is_current(job.work, job.lease)
        assert not is_current(job.work, Lease("another", "owner.json"))
    assert len({job.lease.token for job in jobs}) == 5


def test_the_work_folder_is_the_same_from_anywhere(tmp_path, monkeypatch, work):
    monkeypatch.chdir(tmp_path)
    job = JobQueue(TRIALS, lambda trial_id: work(trial_id).relative_to(tmp_path), "owner.json").take()
    assert job.work == work(TRIALS[0].trial_id)


def test_what_is_put_back_comes_first_and_with_a_new_right(queue):
    first = queue.take()
    assert seeds(queue, 1) == [1]
    queue.put_back(first.config)
    again = queue.take()
    assert again.config == first.config
    assert again.lease.token != first.lease.token
    assert is_current(again.work, again.lease)
    assert not is_current(first.work, first.lease)
    assert seeds(queue) == [2, 3, 4]


def test_a_probe_is_from_the_other_end_and_says_so(queue):
    assert not queue.take().probe
    queue.probe(True)
    probe = queue.take()
    assert (probe.config.seed, probe.probe) == (4, True)
    queue.probe(False)
    assert seeds(queue) == [1, 2, 3]


def test_clearing_leaves_nothing_and_says_how_much_there_was(queue):
    queue.take()
    assert (queue.clear(), queue.clear(), queue.take()) == (4, 0, None)


def test_stopping_tells_the_workers(work):
    told = []
    JobQueue(TRIALS, work, "owner.json", lambda: told.append("stop")).stop()
    assert told == ["stop"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_while_nothing_can_be_written_nothing_is_handed_out_and_it_is_known_why(queue, number, monkeypatch):
    def fail(folder, token):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("sweep.jobs.grant", fail)
        assert queue.take() is None
        assert queue.problem.errno == number
        assert len(queue) == 5
    assert seeds(queue) == [0, 1, 2, 3, 4]
    assert queue.problem is None


def test_a_folder_in_whose_place_is_a_file_is_its_own_trials_problem(queue, work):
    work(TRIALS[1].trial_id).write_text("")
    assert seeds(queue) == [0, 1, 2, 3, 4]
    assert queue.problem is None


def test_a_right_is_whole_or_not_there(queue):
    job = queue.take()
    assert [path.name for path in job.work.iterdir()] == [LEASE]


STEPS = st.lists(st.sampled_from(["take", "put back", "probe", "stop probing"]), max_size=40)


@settings(max_examples=50, deadline=None)
@given(STEPS)
def test_every_trial_waits_is_out_or_was_put_back_and_none_twice(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("work", numbered=True)
    queue = JobQueue(TRIALS, lambda trial_id: folder / trial_id, "owner.json")
    waiting, out, probing = list(TRIALS), [], False
    for step in steps:
        if step == "take":
            job = queue.take()
            wanted = waiting.pop(-1 if probing else 0) if waiting else None
            assert (job and job.config) == wanted
            out += [wanted] if wanted else []
        elif step == "put back" and out:
            queue.put_back(out[0])
            waiting.insert(0, out.pop(0))
        elif "probe" in step or "probing" in step:
            probing = step == "probe"
            queue.probe(probing)
        assert len(queue) == len(waiting)


def test_a_controller_that_was_taken_over_hands_out_nothing_and_no_worker_loses_its_lease(work):
    def taken_over():
        raise RefusedError("another one took it")

    first = JobQueue(TRIALS, work, "owner.json").take()
    late = JobQueue(TRIALS, work, "owner.json", check=taken_over)
    with pytest.raises(RefusedError):
        late.take()
    assert len(late) == 5
    assert is_current(first.work, first.lease)

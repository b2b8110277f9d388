"""What every executor promises the controller; one suite for all of them."""

import dataclasses
import os
import signal
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from sweep.jobs import JobQueue
from sweep.local_executor import LocalExecutor
from sweep.space import SweepSpec
from sweep.trials import trial_id, trials_of
from workers.background import Background
from workers.contract import TrialStatus
from workers.files import seal, write_json
from workers.work_folder import read_result

TINY = {
    "sweep": "a",
    "data": {"name": "digits"},
    "recipe": {"name": "small", "batch_size": 256, "bn_batch": 128},
    "axes": {"width": [0.125], "depth": [26], "resolution": [16], "epochs": [1]},
}


def trials(count, **changes):
    """Trials of a second each, with a field or two changed."""
    made = trials_of(SweepSpec.model_validate({**TINY, "seeds": list(range(count))}))
    changed = [dataclasses.replace(config, **changes) for config in made]
    return [dataclasses.replace(config, trial_id=trial_id(config)) for config in changed]


def make(name):
    if name == "local":
        return LocalExecutor()
    from sweep.ray_executor import RayExecutor

    return RayExecutor(cpus=1, gpus=0, max_concurrent=1)


@pytest.fixture(scope="module", params=["local", "ray"])
def executor(request):
    """One of each for the whole file: Ray takes seconds to start, and another few for every worker process."""
    with make(request.param) as made:
        yield made


only_ray = pytest.mark.parametrize("executor", ["ray"], indirect=True, scope="module")


class Recorder:
    """A listener that remembers, and may do something at an event of a trial."""

    def __init__(self, act=lambda event, config: None):
        self.events = []
        self.results = {}
        self._act = act

    def started(self, job):
        self._hear("started", job.config)

    def epoch(self, job, metrics):
        self._hear(f"epoch {metrics.epoch}", job.config)

    def ended(self, job, result):
        config = job.config
        assert config.trial_id not in self.results
        self.results[config.trial_id] = result
        self._hear("ended", config)

    def of(self, config):
        return [event for event, trial_id in self.events if trial_id == config.trial_id]

    def order(self, event):
        return [trial_id for name, trial_id in self.events if name == event]

    def _hear(self, event, config):
        self.events.append((event, config.trial_id))
        self._act(event, config)


OWNERS = []  # files of all controllers


class Heart(Background):
    """Lets the controllers of this file live, however slow the machine is."""

    def _live(self):
        while not self._ended.wait(1.0):
            for owner in OWNERS:
                os.utime(owner)


@pytest.fixture(scope="module", autouse=True)
def heart():
    with Heart("heart"):
        yield


def queue(configs, work):
    """The trials, with a controller that lives."""
    owner = work("owner").with_suffix(".json")
    write_json(owner, seal({"pid": os.getpid()}))
    OWNERS.append(owner)
    return JobQueue(configs, work, str(owner))


@pytest.fixture
def work(tmp_path):
    return lambda trial_id: tmp_path / trial_id


@pytest.fixture(scope="module")
def run(executor, tmp_path_factory):
    """One run with all kinds of trials, for every law that needs no run of its own."""
    folder = tmp_path_factory.mktemp("work")
    long, (bad, blocked, *good) = trials(1, epochs=2)[0], trials(4)
    bad = dataclasses.replace(bad, depth=27)
    configs = [long, bad, blocked, *good]
    (folder / blocked.trial_id).write_text("a file where the trial's folder should be")
    heard = Recorder()
    executor.run(queue(configs, lambda trial_id: folder / trial_id), heard)
    return SimpleNamespace(
        configs=configs,
        long=long,
        bad=bad,
        blocked=blocked,
        good=good,
        heard=heard,
        work=lambda trial_id: folder / trial_id,
    )


def test_every_trial_starts_in_order_and_ends_once(run):
    ids = [config.trial_id for config in run.configs]
    assert run.heard.order("started") == ids
    assert sorted(run.heard.order("ended")) == sorted(ids)
    assert run.heard.results.keys() == set(ids)
    assert all(run.heard.results[trial_id].trial_id == trial_id for trial_id in ids)


def test_a_trial_starts_reports_each_epoch_and_ends_with_the_result_in_its_folder(run):
    for config in (run.long, *run.good):
        epochs = [f"epoch {number}" for number in range(1, config.epochs + 1)]
        assert run.heard.of(config) == ["started", *epochs, "ended"]
        result = run.heard.results[config.trial_id]
        assert (result.status, len(result.history)) == (TrialStatus.OK, config.epochs)
        assert read_result(run.work(config.trial_id)) == result


def test_a_failing_trial_has_its_result_and_the_others_go_on(run):
    result = run.heard.results[run.bad.trial_id]
    assert run.heard.of(run.bad) == ["started", "ended"]
    assert result.status is TrialStatus.INVALID
    assert "depth 27" in result.error


def test_a_trial_that_cannot_even_write_its_result_has_one_nevertheless(run):
    result = run.heard.results[run.blocked.trial_id]
    assert run.heard.of(run.blocked) == ["started", "ended"]
    assert result.status is TrialStatus.CRASHED
    assert result.error
    assert "\n" not in result.error


def test_nothing_to_run_is_nothing_to_hear(executor, work):
    heard = Recorder()
    executor.run(queue([], work), heard)
    assert heard.events == []


class DiskFullError(Exception):
    """The listener's own."""


def test_a_listener_that_raises_stops_the_run_with_its_own_exception(executor, work):
    for event in ("started", "epoch 1", "ended") if isinstance(executor, LocalExecutor) else ("ended",):
        configs = trials(6)
        heard = Recorder(raise_at(event))
        with pytest.raises(DiskFullError, match=event):
            executor.run(queue(configs, work), heard)
        assert len(heard.order("started")) < len(configs)
        assert len(heard.order(event)) == 1


def raise_at(event):
    def act(name, config):
        if name == event:
            raise DiskFullError(name)

    return act


def test_a_shape_is_measured_and_one_that_cannot_be_raises(executor):
    (config,) = trials(1)
    measured = executor.measure(config)
    assert 0 < measured.infer_latency_p10_ms <= measured.infer_latency_ms <= measured.infer_latency_p90_ms
    assert measured.train_step_ms > 0
    assert measured.peak_memory_bytes > 1_000_000
    assert measured.device
    with pytest.raises(Exception, match="27"):
        executor.measure(dataclasses.replace(config, depth=27))


def holder_of(work):
    """The process that trains in a work folder."""
    lock = str(work / "lock")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(str(file.readlink()) == lock for file in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"nothing holds {lock}")


@only_ray
def test_a_killed_worker_is_a_crashed_trial_and_the_others_end(executor, work):
    (victim,) = trials(1, epochs=500)
    others = trials(2)

    def act(event, config):
        if (event, config) == ("epoch 1", victim):
            os.kill(holder_of(work(victim.trial_id)), signal.SIGKILL)

    heard = Recorder(act)
    executor.run(queue([victim, *others], work), heard)
    result = heard.results[victim.trial_id]
    assert result.status is TrialStatus.CRASHED
    assert "died" in result.error
    assert "\n" not in result.error
    assert Counter(heard.order("ended")) == Counter(config.trial_id for config in [victim, *others])
    assert [heard.results[config.trial_id].status for config in others] == [TrialStatus.OK] * 2
    assert list(work(victim.trial_id).glob("checkpoint-*"))  # the next run goes on from here


@only_ray
def test_leaving_the_context_leaves_no_process_behind(executor, run):
    started = descendants(os.getpid())
    names = " ".join(command(pid) for pid in started)
    assert all(name in names for name in ("gcs_server", "raylet", "ray::"))
    executor.__exit__(None, None, None)
    assert_ended(pid for pid in started if "ray" in command(pid))


@only_ray
@pytest.mark.parametrize(("wanted", "named"), [({"cpus": 100_000}, "cpu 100000"), ({"cpus": 1, "tpus": 4}, "TPU 4")])
def test_more_than_the_machine_has_is_refused_instead_of_waited_for(executor, work, wanted, named):
    from sweep.errors import ResourcesError
    from sweep.ray_executor import RayExecutor

    (config,) = trials(1)
    with RayExecutor(**wanted, gpus=0) as greedy:
        with pytest.raises(ResourcesError, match=f"one trial asks for {named}, this machine has"):
            greedy.run(queue([config], work), Recorder())
        started = descendants(os.getpid())
    assert_ended(pid for pid in started if "ray" in command(pid))


def assert_ended(processes):
    left = list(processes)
    deadline = time.monotonic() + 10
    while left := [pid for pid in left if state_and_parent(pid)]:
        assert time.monotonic() < deadline, [command(pid) for pid in left]
        time.sleep(0.1)


def descendants(root):
    found = [pid for pid in running() if (state_and_parent(pid) or ("", 0))[1] == root]
    return found + [pid for child in found for pid in descendants(child)]


def running():
    return [int(process.name) for process in Path("/proc").glob("[0-9]*")]


def state_and_parent(pid):
    """None once it has ended, whether or not anybody has asked after it."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else (state, int(parent))


def command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""

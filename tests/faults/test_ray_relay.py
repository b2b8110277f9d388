"""What the executor makes of Tune runs that end too early, and of measurements that never end."""

import time
from types import SimpleNamespace

import pytest
from digits_trials import digits_trial

from sweep import ray_executor
from sweep.jobs import JobQueue
from sweep.ray_executor import RayExecutor
from workers.contract import TrialStatus
from workers.files import write_passing
from workers.tether import ALIVE


class Listener:
    def __init__(self, jobs):
        self.jobs, self.results = jobs, []

    def ended(self, job, result):
        self.results.append((result.status, result.error))
        if len(self.results) == 1:
            self.jobs.put_back(job.config)


class Tuner:
    """Comes to its end with a trial that it was given and says nothing of."""

    runs = 0

    def __init__(self, trainable, tune_config, run_config):
        self.feed, self.relay = tune_config.search_alg, run_config.callbacks[0]

    def fit(self):
        Tuner.runs += 1
        handed_out = self.feed.suggest("x")
        self.relay.any_started = True
        if Tuner.runs == 2:
            self.relay.on_trial_complete(0, [], SimpleNamespace(config=handed_out))


def test_a_trial_that_tune_left_behind_is_run_again_in_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor.tune, "Tuner", Tuner)
    jobs = JobQueue([digits_trial()], lambda trial_id: tmp_path / trial_id, "")
    heard = Listener(jobs)
    executor = RayExecutor(cpus=1, gpus=0)
    monkeypatch.setattr(executor, "start", lambda: None)
    executor.run(jobs, heard)
    ended, stopped = heard.results
    assert ended == (TrialStatus.PREEMPTED, "Ray ended the run: Tune came to its end before its trials did")
    assert stopped == (TrialStatus.PREEMPTED, "the worker stopped before the trial's end")


def test_a_worker_that_stopped_says_itself_why(tmp_path):
    jobs = JobQueue([digits_trial()], lambda trial_id: tmp_path / trial_id, "")
    heard = Listener(jobs)
    relay = ray_executor._Relay(jobs, heard, set())
    job = relay.take()
    write_passing(job.work / ALIVE, {"token": job.lease.token, "stopped": "the controller is gone"})
    relay.on_trial_complete(0, [], SimpleNamespace(config={"trial_id": job.config.trial_id}))
    assert heard.results == [(TrialStatus.PREEMPTED, "the controller is gone")]


MEMORY = """Task was killed due to the node running low on memory. Memory on the node (IP: 192.0.2.1, ID: 87e7) was 10GB
Selected to kill: (task name=ImplicitFunc.train, pid=77, actual memory used=3.0GB, worker ID=a9df)
"""


def test_of_two_processes_of_one_number_that_on_the_node_in_need_is_to_blame(tmp_path, monkeypatch):
    nodes = [{"NodeID": "87e7", "NodeManagerHostname": "here"}, {"NodeID": "91ab", "NodeManagerHostname": "there"}]
    monkeypatch.setattr(ray_executor.ray, "nodes", lambda: nodes)
    greedy = set()
    for host in ("there", "here"):
        jobs = JobQueue([digits_trial()], lambda trial_id: tmp_path / trial_id, "")
        relay = ray_executor._Relay(jobs, Listener(jobs), greedy)
        job = relay.take()
        write_passing(job.work / ALIVE, {"token": job.lease.token, "host": host, "pid": 77})
        relay.break_off(RuntimeError(MEMORY))
        assert greedy == ({"a-trial"} if host == "here" else set())


def test_a_measurement_that_never_ends_is_ended_and_the_next_shape_has_the_device(monkeypatch):
    @ray_executor.ray.remote(max_retries=0)
    def never(config_json):
        time.sleep(600)

    monkeypatch.setattr(ray_executor, "LOOK_S", 0.5)
    monkeypatch.setattr(ray_executor, "MEASURE_S", 6.0)
    with RayExecutor(cpus=1, gpus=0) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(ray_executor, "_measure", never)
            with pytest.raises(TimeoutError, match=r"^measuring it took more than 0.1 minutes$"):
                executor.measure(digits_trial())
        monkeypatch.setattr(ray_executor, "MEASURE_S", 120.0)
        assert executor.measure(digits_trial(batch_size=256, bn_batch=128)).train_step_ms > 0

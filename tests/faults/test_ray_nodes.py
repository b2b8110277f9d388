"""A sweep on a cluster of several nodes that lose their machines, or their controller."""

import signal
from pathlib import Path

import pytest
from ray_runs import LONG, Cluster, Run, seen, until, works

from sweep.failures import RETRIES
from workers.contract import TrialStatus
from workers.work_folder import in_use

LOSSES = RETRIES[TrialStatus.CRASHED] + 1  # more than any trial may crash


@LONG
@pytest.mark.slow
def test_trials_whose_nodes_die_go_on_elsewhere_as_often_as_it_takes(paced, started, tmp_path):
    place = paced.place()
    cluster = started(Cluster(tmp_path))
    cluster.head()
    cluster.node(cpus=1)
    run = started(Run(place, "--address", cluster.address, "--max-concurrent", "1"))  # the same trial each time
    reached = 0.0
    for _ in range(LOSSES):
        work = run.training(reached + 0.3)
        reached = seen(work, "epochs")
        cluster.node_of(seen(work, "pid")).end()
        cluster.node(cpus=1)
    cluster.node(cpus=1)
    code, said = run.ended()
    assert code == 0, said
    assert said.count("the node that it ran on is gone") == LOSSES
    assert run.all() == {}
    struck = place.rows().set_index("trial_id").loc[work.name]
    assert struck["attempts"] == 1 + LOSSES
    assert 0 < struck["epochs_repeated"] < LOSSES
    assert struck["lost_device_hours"] > 0
    assert paced.truth.broken(place) == []


@LONG
@pytest.mark.slow
def test_workers_on_somebody_elses_cluster_end_with_their_controller(paced, started, tmp_path):
    place = paced.place()
    cluster = started(Cluster(tmp_path))
    cluster.head()
    cluster.node(cpus=2)
    run = started(Run(place, "--address", cluster.address))
    work = run.training(0.3)
    worker = Path(f"/proc/{seen(work, 'pid')}")
    run.send(signal.SIGKILL)
    until(lambda: not worker.exists(), "the end of a worker")
    until(lambda: not any(in_use(work) for work in works(place)), "the end of all workers")
    code, said = started(Run(place, "--address", cluster.address)).ended()
    assert code == 0, said
    assert paced.truth.broken(place) == []

"""A sweep on Ray whose controller is told to stop, sleeps while another takes over, or loses its cluster."""

import json
import os
import signal
from pathlib import Path

import pytest
from ray_runs import LONG, Run, seen, until, works

from sweep.errors import ResourcesError
from workers.work_folder import in_use

INTERRUPTED, REFUSED = 130, 3


def within_an_epoch(work):
    """Checkpoints that were written between two ends of epochs."""
    return [path for path in work.glob("checkpoint-*.pt") if not path.stem.endswith("-0000000")]


@pytest.mark.slow
def test_nothing_trained_is_lost_when_it_is_told_to_stop_and_a_stale_one_writes_nothing(paced, started):
    place = paced.place()
    run = started(Run(place))
    stopped = run.training(1.3)
    run.send(signal.SIGTERM)
    code, said = run.ended()
    assert code == INTERRUPTED, said
    run.all_gone()
    assert within_an_epoch(stopped)

    first = started(Run(place))
    first.training(2.3)
    first.send(signal.SIGSTOP)
    (place.sweep / "lock").unlink()
    second = started(Run(place))
    until(lambda: in_place_of(first, place), "a trial's second worker")
    first.send(signal.SIGCONT)
    code, said = first.ended()
    assert code == REFUSED, said
    assert "took this sweep over" in said.splitlines()[-1]
    code, said = second.ended()
    assert code == 0, said
    first.all_gone()
    second.all_gone()
    assert paced.truth.broken(place) == []
    rows = place.rows().set_index("trial_id")
    assert rows["attempts"][stopped.name] >= 2
    assert rows["epochs_repeated"][stopped.name] == 0


def in_place_of(first, place):
    """Whether a worker that another run did not start trains."""
    return any(in_use(work) and seen(work, "pid") not in {0, *first.all()} for work in works(place))


@LONG
@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(paced, started):
    place = paced.place()
    run = started(Run(place))
    run.training(0.3)
    run.send(signal.SIGINT)
    until(lambda: json.loads((place.sweep / "owner.json").read_text())["stopping"], "the first signal's effect")
    run.send(signal.SIGINT)
    code, said = run.ended()
    assert code == INTERRUPTED
    assert "goes on from there" not in said  # it had no time to
    run.all_gone()
    assert started(Run(place)).ended()[0] == 0
    assert paced.truth.broken(place) == []


@LONG
@pytest.mark.slow
def test_nothing_trained_is_lost_without_ray_either(paced, started):
    place = paced.place()
    run = started(Run(place, "--executor", "local"))
    stopped = run.training(1.3)
    run.send(signal.SIGINT)
    assert run.ended()[0] == INTERRUPTED
    run.all_gone()
    assert within_an_epoch(stopped)
    assert started(Run(place, "--executor", "local", pace_s=0.0)).ended()[0] == 0
    assert paced.truth.broken(place) == []
    row = place.rows().set_index("trial_id").loc[stopped.name]
    assert (row["attempts"], row["epochs_repeated"]) == (2, 0)


@LONG
@pytest.mark.slow
def test_it_stops_while_shapes_are_measured_and_while_ray_starts(paced, started):
    place = paced.place()
    for moment in ("gcs_server", "ray::"):
        run = started(Run(place))
        until(lambda run=run, moment=moment: run.named(moment), moment)
        run.send(signal.SIGINT)
        code, said = run.ended()
        assert code == INTERRUPTED, said
        run.all_gone()
    assert started(Run(place)).ended()[0] == 0
    assert paced.truth.broken(place) == []


@LONG
@pytest.mark.slow
def test_workers_of_one_that_sleeps_stop_with_a_checkpoint_and_go_on_when_it_wakes(paced, started):
    place = paced.place()
    run = started(Run(place, pace_s=0.6))
    work = run.training(0.3)
    run.send(signal.SIGSTOP)
    until(lambda: not any(in_use(work) for work in works(place)), "the end of the workers' patience")
    assert within_an_epoch(work)
    run.send(signal.SIGCONT)
    code, said = run.ended()
    assert code == 0, said
    assert "preempted" in said
    assert paced.truth.broken(place) == []
    assert place.rows().set_index("trial_id")["epochs_repeated"][work.name] == 0


@LONG
@pytest.mark.slow
def test_one_whose_cluster_dies_ends_with_one_line(paced, started):
    place = paced.place()
    run = started(Run(place))
    worker = seen(run.training(0.3), "pid")
    (raylet,) = [pid for pid in run.all() if Path(f"/proc/{pid}/exe").resolve().name == "raylet"]
    os.kill(raylet, signal.SIGKILL)  # those who train go on
    os.kill(worker, signal.SIGKILL)  # and nobody can take this one's place
    code, said = run.ended()
    assert code == ResourcesError.exit_code, said
    assert "the same command goes on" in said.splitlines()[-1]
    run.all_gone()
    assert started(Run(place)).ended()[0] == 0
    assert paced.truth.broken(place) == []

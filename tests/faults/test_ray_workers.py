"""Workers of a sweep on Ray that are killed, raise or run out of memory: the others go on in the same run."""

import os
import signal
from pathlib import Path

import pytest
from ray_runs import Run, seen, trouble_of

from sweep.failures import RETRIES
from workers.contract import TrialStatus

ROOM = 4 * 2**30  # bytes that may be taken before Ray's memory monitor strikes; the model that swells takes more


@pytest.mark.slow
def test_each_failure_is_one_trials_alone(paced, started):
    place = paced.place()
    raises, swells = trouble_of(place) / "raise-2", trouble_of(place) / "swell-3"
    raises.touch()
    swells.touch()
    run = started(Run(place, RAY_memory_usage_threshold=threshold(), RAY_memory_monitor_refresh_ms="100"))
    work = run.training(1.3)
    os.kill(seen(work, "pid"), signal.SIGKILL)
    code, said = run.ended()
    assert code == 1
    run.all_gone()
    rows = place.rows().set_index("width")
    assert dict(rows["status"]) == {1: "ok", 2: "crashed", 3: "oom", 4: "ok"}
    assert rows["attempts"][2] == 1 + RETRIES[TrialStatus.CRASHED]
    assert "the model fell over" in rows["error"][2]
    assert "short of memory" in rows["error"][3]
    assert "crashed" in said
    struck = rows[rows["trial_id"] == work.name].iloc[0]
    assert struck["attempts"] >= 2  # the memory monitor may have ended it too
    assert 0 < struck["epochs_repeated"] < struck["attempts"]
    assert struck["lost_device_hours"] > 0
    raises.unlink()
    swells.unlink()
    assert started(Run(place, "--retry", "crashed,oom")).ended()[0] == 0
    assert paced.truth.broken(place) == []
    good = rows[rows["status"] == "ok"]
    assert good["finished_at"].equals(place.rows().set_index("width")["finished_at"][good.index])  # were not run again


def threshold():
    """The share of memory in use above which processes are killed."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    kibibytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    total, free = 1024 * kibibytes["MemTotal"], 1024 * kibibytes["MemAvailable"]
    return f"{(total - free + ROOM) / total:.4f}"

"""What this process cannot train is told once, in one line, and not as the failure of every trial."""

import dataclasses

import pytest
import torch
from digits_trials import digits_trial

from sweep.errors import ResourcesError
from sweep.local_executor import LocalExecutor
from sweep.local_resources import check_local
from workers.contract import Execution


def refusal(config):
    with pytest.raises(ResourcesError) as refused:
        LocalExecutor().measure(config)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_several_devices_need_other_processes_than_this_one():
    config = digits_trial(execution=Execution(ranks=2), batch_size=128)
    assert refusal(config) == (
        "resources.devices: 2 devices need as many processes, and `--executor local` has one; "
        "right would be `--executor ray`"
    )


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = refusal(dataclasses.replace(digits_trial(), device="cuda", threads=None))
    assert told == "resources: device cuda: this machine has no CUDA device; use `resources: {cpu: 1}`"


def test_a_tpu_without_its_library(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_xla", None)
    told = refusal(dataclasses.replace(digits_trial(), device="xla", threads=None))
    assert told == "resources: device xla: torch_xla is not installed; see docs/devices.md"


def test_a_cpu_is_always_there():
    check_local(digits_trial())

"""A cluster that a sweep starts: which ports it opens, on which address, and that each asks for the token."""

import ipaddress
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ray_ports import METHODS, UNAUTHENTICATED, UNKNOWN_METHOD, grpc_status, http_status, listening, processes_below

from sweep import ray_security

CLUSTER = """
import json, os, sys
from sweep.ray_security import close_cluster
options = close_cluster(None)
import ray
ray.init(num_cpus=1, log_to_driver=False, **options)

@ray.remote
class Worker:
    def environment(self):
        return dict(os.environ)

worker = Worker.remote()
environment = ray.get(worker.environment.remote())
print(json.dumps({"folder": options["_temp_dir"], "token": os.environ["RAY_AUTH_TOKEN_PATH"], "worker": environment}))
sys.stdout.flush()
sys.stdin.read()
ray.shutdown()
"""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A running cluster of one worker: its process, what it said, and its token."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "HOME": str(home), "RAY_AUTH_TOKEN": "of-another-cluster", "RAY_ADDRESS": "192.0.2.1:6379"}
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    said = process.stdout.readline()
    try:
        assert said, process.communicate()[1]
        said = json.loads(said)
        yield process, said, Path(said["token"]).read_text(), home
    finally:
        process.communicate()
    assert process.returncode == 0
    assert not Path(said["folder"]).parent.exists()  # the token is gone with the cluster


def test_every_port_is_open_to_this_machine_only(cluster):
    process, *_ = cluster
    found = listening(processes_below(process.pid))
    assert len(found) >= 5  # GCS, raylet and its object manager, driver, worker
    addresses = [ipaddress.ip_address(address) for address, _ in found]
    assert all((getattr(address, "ipv4_mapped", None) or address).is_loopback for address in addresses), found


def test_every_port_refuses_who_has_not_got_the_token(cluster):
    process, _, token, _ = cluster
    served = set()
    for _, port in listening(processes_below(process.pid)):
        offered = [method for method in METHODS if grpc_status(port, method, token) not in (None, UNKNOWN_METHOD)]
        for method in offered:
            assert grpc_status(port, method, token) != UNAUTHENTICATED
            assert grpc_status(port, method) == UNAUTHENTICATED
            assert grpc_status(port, method, "0" * len(token)) == UNAUTHENTICATED
        if not offered:  # the one that speaks HTTP
            path = "/get_or_create_runtime_env"
            assert http_status(port, path, token) not in (401, 403, 404)
            assert {http_status(port, path), http_status(port, path, "0" * len(token))} <= {401, 403}
        served |= {*offered} or {"HTTP"}
    assert served == {*METHODS, "HTTP"}


def test_the_token_is_of_this_cluster_and_private(cluster):
    _, said, token, home = cluster
    private = Path(said["token"]).parent
    assert len(token) == 64
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(said["token"]).stat().st_mode) == 0o600
    assert Path(said["folder"]).parent == private  # Ray's sockets and logs, whose own folders it opens to everybody
    assert not (home / ".ray").exists()
    assert "RAY_AUTH_TOKEN" not in said["worker"]
    assert token not in said["worker"].values()


def test_dashboard_and_usage_report_are_off(cluster):
    process, said, *_ = cluster
    assert said["worker"]["RAY_USAGE_STATS_ENABLED"] == "0"
    processes = processes_below(process.pid)
    dashboards = [pid for pid in processes if "dashboard/dashboard.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert not listening(dashboards)  # Ray starts the process in any case; without a port where it is off
    assert 8265 not in {port for _, port in listening(processes)}


def test_a_cluster_that_is_there_keeps_its_own_settings(monkeypatch):
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "mine", "RAY_AUTH_TOKEN_PATH": "/mine"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in (*ray_security.LOOPBACK, *ray_security.INTERFACES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    before = dict(os.environ)
    assert ray_security.close_cluster("192.0.2.1:6379") == {"address": "192.0.2.1:6379"}
    assert dict(os.environ) == {**before, "RAY_USAGE_STATS_ENABLED": "0"}

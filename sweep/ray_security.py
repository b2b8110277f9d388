"""Closes the Ray cluster that a sweep starts to everybody else. Knows Ray's environment variables, never imports Ray.

Ray reads them when it is imported, and its processes inherit them, so `close_cluster` comes before `import ray`.
"""

import atexit
import fcntl
import os
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

# Always, also on somebody else's cluster.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
# Ray's own switch for a cluster of one machine: every port that its processes open is bound to 127.0.0.1. On Linux it
# is on unless set so, and the ports of GCS, raylet, driver and workers are then open on all addresses.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # of the processes that share a trial; else the host's name
_TOKEN_BYTES = 32
_PREFIX = "sweep-ray-"
_YOUNG_S = 86_400.0  # one that is not locked may be about to be


_chosen = False  # which cluster is meant


def before_import() -> dict[str, str]:
    """The environment for a cluster of our own, unless it was said before that another one is meant.

    Nothing where Ray is there already: in its workers, which have their controller's settings.
    """
    return {} if _chosen or "ray" in sys.modules else _environment()


def close_cluster(address: str | None) -> dict[str, Any]:
    """What `ray.init` has to be called with, once the environment is set so that nobody else can reach what it starts.

    A cluster of our own listens on this machine only, asks for a token that is made for this process alone, and keeps
    its files and sockets in a folder that other users cannot enter; folder and token go when this process ends.
    A cluster that is there already keeps its own settings, and the person's RAY_AUTH_TOKEN and such are used for it.

    Args:
        address: of a running cluster; None for one of our own.

    Returns:
        Arguments of `ray.init`.
    """
    global _chosen
    _chosen = True
    os.environ.update(QUIET)
    if address is not None:
        return {"address": address}
    os.environ.update(_environment())
    os.environ.pop("RAY_AUTH_TOKEN", None)  # of another cluster, and Ray would prefer it
    # "local": without it RAY_ADDRESS or a cluster that happens to run here would be taken.
    return {"address": "local", "include_dashboard": False, "_temp_dir": str(_private_folder() / "ray")}


def _environment() -> dict[str, str]:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(_private_folder() / "token")}
    there = Path("/sys/class/net/lo").exists()
    interfaces = {name: os.environ.get(name, "lo") for name in INTERFACES if there}
    return {**QUIET, **LOOPBACK, **token, **interfaces}


@cache
def _private_folder() -> Path:
    """A folder with mode 0700 that holds a new token; one per process, since Ray reads the token only once.

    Ray makes its own folder, which it opens to everybody, inside.
    """
    _remove_left_behind()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_base()))
    descriptor = os.open(folder / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, secrets.token_hex(_TOKEN_BYTES).encode())
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # left open: the lock ends with this process, however it ends
    atexit.register(_remove, folder, os.getpid())
    return folder


def _base() -> Path:
    """Ray's sockets lie below it, whose names have room for 107 characters: not in a deep TMPDIR."""
    short = Path("/tmp")  # noqa: S108
    return short if short.is_dir() else Path(tempfile.gettempdir())


def _remove_left_behind() -> None:
    """Folders of processes that were killed."""
    for folder in _base().glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or in use
            if time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue
            with (folder / "token").open() as token:
                fcntl.flock(token, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)


def _remove(folder: Path, owner: int) -> None:
    """Only by the process that made it: one that it forked runs the same exit handlers."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)

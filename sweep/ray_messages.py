"""What Ray says of a worker that ended without a result, read by the texts of Ray 2.60. Knows no Ray."""

import re
from collections.abc import Mapping

from sweep.yaml_file import one_line
from workers.contract import TrialStatus

_ENDS = (
    (TrialStatus.PREEMPTED, ("its node has died", "node was terminated"), "the node that it ran on is gone"),
    (TrialStatus.PREEMPTED, ("is temporarily unavailable",), "Ray lost touch with the worker"),  # and knows no more yet
    (TrialStatus.CRASHED, ("actor died", "actor is dead"), "the worker process died (killed, or out of memory)"),
)
SHORT_OF_MEMORY = "Ray ended processes of its host, which was short of memory"
_HELD = re.compile(r"\bpid=(\d+), actual memory used=([\d.]+)GB")
_NODE = re.compile(r"\(IP: [^,\s]+, ID: (\w+)\)")


def first_line(error: BaseException) -> str:
    """Where Ray's own messages say the most."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def what_happened(text: str) -> tuple[TrialStatus, str]:
    """Why a worker ended without a result."""
    for status, marks, reason in _ENDS:
        if any(mark in text for mark in marks):
            return status, reason
    return TrialStatus.CRASHED, one_line(text.strip().splitlines()[-1]) if text.strip() else "Ray does not say why"


def about_memory(text: str) -> bool:
    """Whether Ray's memory monitor killed processes."""
    return "running low on memory" in text


def held_the_most(text: str, process: tuple[str, int] | None, hosts: Mapping[str, str]) -> bool:
    """Whether a process held the most of those that the memory monitor looked at: it kills the newest, and several.

    Args:
        text: Ray's message.
        process: host and number; None where they are not known.
        hosts: name of each node's host, by the node's id.
    """
    held = [(float(gigabytes), int(pid)) for pid, gigabytes in _HELD.findall(text)]
    if not held or process is None:
        return False
    node = _NODE.search(text)
    host = hosts.get(node[1], process[0]) if node else process[0]
    return process == (host, max(held)[1])

"""What Ray 2.60 wrote when workers were struck: each text was taken from a real one."""

import pytest

from sweep.ray_messages import about_memory, held_the_most, what_happened

DIED = """Failure # 1 (occurred at 2026-11-21_14-56-52)
The actor died unexpectedly before finishing this task.
\tclass_name: ImplicitFunc
\tactor_id: 8412b8cf261cadc07abd880e01000000
\tpid: 20644
\tip: 192.0.2.2
"""
NODE = """The actor died because its node has died. Node Id: 71fbb91a6bb8
\tthe actor's node was terminated unexpectedly: health check failed due to missing too many heartbeats

"""
KILLED = """The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: \
Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was \
killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the \
worker crashed unexpectedly.
"""
UNAVAILABLE = "The actor ad6402e0 is unavailable: The actor is temporarily unavailable: IOError: RpcError"
RAISED = """Failure # 1 (occurred at 2026-11-21_14-56-52)
ray::ImplicitFunc.train() (pid=1, ip=127.0.0.1)
  File "executor.py", line 1, in _train
PermissionError: [Errno 13] Permission denied: 'lock'

"""
MEMORY = """Caught unexpected exception: 2 worker(s) were killed due to the node running low on memory. Memory on the \
node (IP: 127.0.0.1, ID: 87e7) was 10.95GB used / 23.54GB limit (0.465218)
Ray killed 2 worker(s) based on the killing policy
Considered workers: [
Selected to kill: (Actor(9e9a): job ID=01000000, task name=ImplicitFunc.__init__, required resources={CPU: 1}, \
pid=20970, actual memory used=0.55GB, worker ID=a9df)
Selected to kill: (Actor(028c): job ID=01000000, task name=ImplicitFunc.__init__, required resources={CPU: 1}, \
pid=20705, actual memory used=3.66GB, worker ID=0daa)
]
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
20705\t3.66\tray::ImplicitFunc.train
19799\t9.82\tanother
"""


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        (DIED + NODE, "preempted", "the node that it ran on is gone"),
        (DIED + KILLED, "crashed", "the worker process died (killed, or out of memory)"),
        (UNAVAILABLE, "preempted", "Ray lost touch with the worker"),
        (RAISED, "crashed", "PermissionError: [Errno 13] Permission denied: 'lock'"),
        ("", "crashed", "Ray does not say why"),
    ],
)
def test_why_a_worker_ended_is_read_from_rays_message(text, status, reason):
    assert what_happened(text) == (status, reason)
    assert not about_memory(text)


def test_who_held_the_most_is_to_blame_for_a_kill_for_memory_not_who_is_named_first():
    assert about_memory(MEMORY)
    assert held_the_most(MEMORY, ("here", 20705), {})
    assert not held_the_most(MEMORY, ("here", 20970), {})
    assert not held_the_most(MEMORY, None, {})
    assert not held_the_most(DIED, ("here", 20705), {})


def test_a_process_of_the_same_number_on_another_host_is_not_to_blame():
    hosts = {"87e7": "here", "91ab": "there"}
    assert held_the_most(MEMORY, ("here", 20705), hosts)
    assert not held_the_most(MEMORY, ("there", 20705), hosts)
    assert held_the_most(MEMORY, ("there", 20705), {"another": "here"})  # nobody knows where the node was
    assert held_the_most(MEMORY.replace("(IP: 127.0.0.1, ID: 87e7)", ""), ("there", 20705), hosts)

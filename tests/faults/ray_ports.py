"""What a process tree listens on, and calls to it by the protocols that Ray's ports speak, without Ray's own client."""

import http.client
import os
import socket
import struct
from pathlib import Path

UNAUTHENTICATED, UNKNOWN_METHOD = 16, 12  # gRPC's status codes
METHODS = (  # one of each service that Ray's processes offer
    "NodeInfoGcsService/GetAllNodeInfo",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/NumPendingTasks",
)


def processes_below(root):
    """A process and all that it started, directly or not."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def listening(processes):
    """(address, port) of every TCP socket that the processes listen on, as in Linux' /proc/net."""
    sockets = {name for process in processes for name in _open_sockets(process)}
    found = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                address, port = fields[1].split(":")
                words = [int(address[i : i + 8], 16).to_bytes(4, "little") for i in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


def _open_sockets(process):
    folder = f"/proc/{process}/fd"
    try:
        names = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]  # noqa: PTH115, PTH208
    except OSError:
        return []
    return [name[len("socket:[") : -1] for name in names if name.startswith("socket:[")]


def grpc_status(port, method, token=None):
    """Status of one gRPC call with an empty message; None where the port speaks something else."""
    header = {
        ":method": "POST", ":scheme": "http", ":path": f"/ray.rpc.{method}", ":authority": "localhost",
        "te": "trailers", "content-type": "application/grpc", **({"authorization": f"Bearer {token}"} if token else {}),
    }  # fmt: skip
    block = b"".join(b"\0" + _sized(name) + _sized(value) for name, value in header.items())
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.settimeout(5)
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"")
        connection.sendall(preface + _frame(1, 4, 1, block) + _frame(0, 1, 1, bytes(5)))
        for kind, flags, payload in _frames(connection):
            if kind == 1 and flags & 1:  # the last header of the answer: plain text but for lengths
                value = payload.partition(b"grpc-status")[2]
                return int(value[1 : 1 + value[0]])
    return None


def _sized(text):
    return bytes([len(text)]) + text.encode()


def _frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _frames(connection):
    data = b""
    while part := connection.recv(1 << 16):
        data += part
        while len(data) >= 9 and len(data) >= 9 + (length := int.from_bytes(data[:3], "big")):
            yield data[3], data[4], data[9 : 9 + length]
            data = data[9 + length :]


def http_status(port, path, token=None):
    """Status of one HTTP request with an empty body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST", path, body=b"", headers={"Authorization": f"Bearer {token}"} if token else {})
        return connection.getresponse().status
    finally:
        connection.close()

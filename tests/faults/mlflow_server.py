"""A real MLflow server, and an HTTP proxy before it that fails in chosen ways."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HANG_S = 60.0  # longer than any test waits
LATE_S = 3.0  # longer than the tests' client waits


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """The port of an MLflow server on SQLite, its files in `folder`."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(server, port, folder / "server.log")
            yield port
        finally:
            os.killpg(server.pid, 9)
            server.wait()


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
                connection.request("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0")  # the first takes long
                if connection.getresponse().status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


class Proxy:
    """Passes requests on to a port, except as `fault` says.

    `fault` is one of: None; refuse (the connection is cut); hang; drop (the request is passed on, its answer is not);
    late (the same, but passed on after the client has given up); a number (that status is the answer). It strikes
    requests whose path ends in `on`, at most `strikes` times; `delay_s` delays every answer.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.fault: str | int | None = None
        self.on, self.strikes, self.delay_s = "", 1_000_000, 0.0
        self.struck = self.landed = 0
        self.requests: Counter[str] = Counter()
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def heal(self) -> None:
        """From now on everything is passed on at once."""
        self.fault, self.on, self.strikes, self.delay_s = None, "", 1_000_000, 0.0

    def strike(self, fault: str | int, on: str = "", strikes: int = 1_000_000) -> None:
        """From now on requests fail."""
        self.struck = self.landed = 0
        self.on, self.strikes, self.fault = on, strikes, fault

    def close(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take_fault(self, path: str) -> str | int | None:
        self.requests[path.rpartition("/")[2]] += 1
        if self.fault is None or not path.endswith(self.on) or self.struck >= self.strikes:
            return None
        self.struck += 1
        return self.fault

    def answer(self, request: "Handler") -> None:
        """Pass one request on, or not."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self._take_fault(request.path.partition("?")[0])
        self._ended.wait({"hang": HANG_S, "late": LATE_S}.get(str(fault), self.delay_s))
        if fault in ("refuse", "hang"):
            return
        if isinstance(fault, int):
            request.reply(fault, b'{"error_code": "INTERNAL_ERROR", "message": "struck"}', "application/json")
            return
        try:
            status, content, kind = self._pass_on(request, body)
        except OSError:  # the server is gone: the test is over
            return
        if fault in ("drop", "late"):
            self.landed += 1
        else:
            request.reply(status, content, kind)

    def _pass_on(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes, str]:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in ("host", "connection")}
        with closing(http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)) as connection:
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.getheader("Content-Type") or "application/json"


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    proxy: Proxy

    def handle_any(self) -> None:
        self.close_connection = True
        self.proxy.answer(self)

    def reply(self, status: int, content: bytes, kind: str) -> None:
        with suppress(OSError):  # the client may have given up
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

"""The service as it is deployed: gunicorn with our gunicorn.conf.py, and a client on real sockets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.support import ROOT, eventually, free_port, logs, processes


class Service:
    """gunicorn with `workers` workers. What it prints is in `log`."""

    def __init__(self, env: Mapping[str, str], folder: Path, *, workers: int = 2, project: Path = ROOT) -> None:
        """`env`: the whole configuration; nothing of the test's own environment but PATH gets through.

        `project`: the checkout to serve.
        """
        self.project = project
        self.port = int(env.get("PORT") or free_port())
        self.log = folder / f"service-{self.port}.log"
        self.env = {"PATH": os.environ["PATH"], **env, "PORT": str(self.port), "WEB_CONCURRENCY": str(workers)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Service:
        """Start it and wait until it serves."""
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "wsgi:app"], cwd=self.project, env=self.env, stdout=file, stderr=file
            )
        eventually(self.serves, within=30)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it, and say what its exit status was. Outside development every line that it has printed is an event."""
        assert self.process
        self.process.send_signal(number)
        status = self.process.wait(30)
        self.process = None
        if self.env.get("APP_ENV") != "development":
            logs.read(self.log.read_text())
        return status

    def __enter__(self) -> Service:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.stop()

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def resident(self) -> int:
        """Bytes of memory that the workers hold."""
        return sum(map(processes.resident, self.workers()))

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Answer:
        """One request on a connection of its own; `body` goes out as JSON."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body)
            json_headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, data, {**json_headers, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def serves(self) -> bool:
        """Whether it answers: a worker listens only once it has loaded the application."""
        assert self.process
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.call("GET", "/v1/health", timeout=2).status == 200
        except (OSError, HTTPException):
            return False


@contextmanager
def unharmed(service: Service) -> Iterator[Service]:
    """Its workers must be the same, and well, at the end of the block."""
    workers = service.workers()
    yield service
    assert service.call("GET", "/v1/health/ready").status == 200
    assert service.workers() == workers
    assert '"event":"unhandled_error"' not in service.log.read_text()


class Answer:
    """What came back."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """As http.client gives it."""
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def cookie(self) -> str:
        """The session cookie that was set, as the Cookie header sends it back."""
        return self.headers["Set-Cookie"].partition(";")[0]

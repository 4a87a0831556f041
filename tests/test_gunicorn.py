"""gunicorn with our settings: stopping, losing a worker, sharing the load, and the lines of the Procfile."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from uuid import uuid4

import pytest

from tests.conftest import SECRET, ServiceFactory
from tests.support import ROOT, databases, eventually, logs, processes
from tests.support.gate import Gate
from tests.support.mailbox import Mailbox
from tests.support.service import Service
from tests.support.valkey import Valkey
from tests.test_config import PRODUCTION

LINK = "/v1/auth/request-link"


def answers(service: Service) -> bool:
    with suppress(OSError):
        return service.call("GET", "/v1/health", timeout=2).status == 200
    return False


# --- Stopping. ---


def test_a_request_in_flight_is_answered_before_the_service_stops(serve: ServiceFactory, mailbox: Mailbox) -> None:
    service = serve(workers=2)
    gate = Gate()
    mailbox.answer_rcpt = gate
    with ThreadPoolExecutor(1) as pool:
        in_flight = pool.submit(service.call, "POST", LINK, {"email": "ada@example.com"})
        assert gate.reached.wait(10)

        assert service.process
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: len(service.workers()) == 1)  # the idle one has gone
        gate.open()

        assert in_flight.result(10).status == 200
        assert service.process.wait(10) == 0
    assert mailbox.token_for("ada@example.com")


def test_an_idle_service_stops_at_once_and_with_status_0(serve: ServiceFactory) -> None:
    service = serve(workers=2)
    workers = service.workers()

    assert service.stop() == 0
    assert not any(Path(f"/proc/{worker}/exe").exists() for worker in workers)


# --- Workers. ---


def test_a_worker_that_is_killed_is_replaced(serve: ServiceFactory) -> None:
    service = serve(workers=2)
    eventually(lambda: len(service.workers()) == 2)
    lost, kept = service.workers()

    processes.kill(lost)

    eventually(lambda: len(service.workers()) == 2 and lost not in service.workers())
    assert kept in service.workers()
    eventually(lambda: all(answers(service) for _ in range(8)))


@pytest.fixture
def connections() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_two_workers_share_the_load(serve: ServiceFactory, connections: ExitStack) -> None:
    service = serve(workers=2)
    eventually(lambda: len(listeners(service)) == 2)

    for _ in range(64):
        connection = HTTPConnection("127.0.0.1", service.port, timeout=10)
        connections.callback(connection.close)
        connection.request("GET", "/v1/health")
        assert connection.getresponse().read()

    shares = [len(sockets(worker) & inodes(service.port, "01")) for worker in service.workers()]
    assert sum(shares) == 64
    assert min(shares) >= 14  # chance alone goes below that once in 100,000 times


def listeners(service: Service) -> list[int]:
    """The workers that accept connections."""
    return [worker for worker in service.workers() if sockets(worker) & inodes(service.port, "0A")]


def inodes(port: int, state: str) -> set[str]:
    """The sockets at `port` in a state, as /proc writes it: "01" is established, "0A" listens."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == state}


def sockets(pid: int) -> set[str]:
    """The sockets that a process has open."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    return found


# --- The Procfile, in production. ---


@pytest.fixture
def empty_database(postgres: str) -> str:
    name = f"empty_{uuid4().hex}"
    databases.query(postgres, f"create database {name}")
    return databases.url_of(postgres, name)


@pytest.fixture
def production(empty_database: str, mailbox: Mailbox, valkey: Valkey) -> dict[str, str]:
    """All that production needs. APP_ENV is not among it."""
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DATABASE_URL": empty_database,
        "REDIS_URL": valkey.url,
        "SMTP_URL": mailbox.url,
        "EMAIL_FROM": "hello@example.com",
        "AUTH_TOKEN_SECRETS": SECRET.replace(",", ""),
        "WEB_ORIGINS": "https://app.example.com",
        "TRUSTED_PROXY_HOPS": "1",
    }


def procfile(name: str) -> str:
    """The command of a line in the Procfile."""
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    return lines[name]


def release(env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", procfile("release")], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )


class Deployed(Service):
    """The Procfile's web line. In production it serves all the world; here, only this machine."""

    def start(self) -> Service:
        env = {**self.env, "GUNICORN_CMD_ARGS": f"--bind=127.0.0.1:{self.port}"}
        with self.log.open("ab") as file:
            command = ["sh", "-c", f"exec {procfile('web')}"]
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file)
        eventually(self.serves, within=30)
        return self


@pytest.fixture
def deployed(production: dict[str, str], tmp_path: Path) -> Iterator[Deployed]:
    """Not yet started."""
    service = Deployed(production, tmp_path)
    yield service
    if service.process:
        service.stop()


def test_the_procfile_migrates_and_serves_a_whole_sign_in(
    production: dict[str, str], deployed: Deployed, mailbox: Mailbox, valkey: Valkey
) -> None:
    assert logs.read(release(production).stdout)[0]["migration"] == "0001.create-users"
    service = deployed.start()

    forwarded = {"X-Forwarded-For": "203.0.113.7", "Origin": "https://app.example.com"}
    sent = service.call("POST", LINK, {"email": "ada@example.com"}, headers=forwarded)
    assert (sent.status, sent.json) == (200, {"status": "ok"})
    token = mailbox.token_for("ada@example.com")
    verified = service.call("POST", "/v1/auth/verify", {"token": token}, headers=forwarded)
    name, *attributes = verified.headers["Set-Cookie"].split("; ")
    assert name.startswith("__Host-lumen_session=")
    assert set(attributes) >= {"Secure", "HttpOnly", "Path=/", "SameSite=Lax", "Max-Age=43200"}
    who = service.call("GET", "/v1/auth/session", headers={"Cookie": verified.cookie})
    assert who.json["email"] == "ada@example.com"
    assert valkey.keys()
    assert service.stop() == 0


def test_a_second_release_changes_nothing_and_succeeds(production: dict[str, str]) -> None:
    assert release(production).returncode == 0

    again = release(production)

    assert again.returncode == 0
    assert [event["event"] for event in logs.read(again.stdout)] == ["database_up_to_date"]


def test_a_release_without_its_database_fails(production: dict[str, str]) -> None:
    done = release({**production, "DATABASE_URL": "postgresql://127.0.0.1:1/lumen"})

    assert done.returncode != 0


@pytest.mark.parametrize(
    ("app_env", "address"), [("production", "0.0.0.0"), ("test", "127.0.0.1"), ("development", "127.0.0.1")]
)
def test_only_production_serves_other_machines(monkeypatch: pytest.MonkeyPatch, app_env: str, address: str) -> None:
    for name, value in {**PRODUCTION, "APP_ENV": app_env, "PORT": "9000"}.items():
        monkeypatch.setenv(name, value)

    assert runpy.run_path(str(ROOT / "gunicorn.conf.py"))["bind"] == f"{address}:9000"

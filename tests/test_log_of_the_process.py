"""Everything that gunicorn and the service print is one JSON object a line, and no text of an exception is in it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServiceFactory
from tests.support import ROOT, eventually, free_port, logs, processes
from tests.support.service import Service

CANARY = "canary"
ENV = {
    "APP_ENV": "test",
    "DATABASE_URL": "postgresql://127.0.0.1:1/lumen",  # nothing here asks it
    "SMTP_URL": "smtp://127.0.0.1:1",
    "EMAIL_FROM": "hello@example.com",
    "AUTH_TOKEN_SECRETS": "a-secret-of-the-tests-long-enough-for-production",
    "WEB_ORIGINS": "https://app.example.com",
}


class Misbehaving(Service):
    """gunicorn with one worker, whose routes do what a program should not."""

    def start(self) -> Misbehaving:
        command = [sys.executable, "-m", "gunicorn", "tests.support.misbehaving:app"]
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=file, stderr=file)
        eventually(self.serves, within=30)
        return self

    def ask(self, path: str) -> list[dict[str, Any]]:
        """What is printed while `path` is answered, up to its request's line."""
        before = len(self.log.read_text())
        with suppress(HTTPException):
            self.call("GET", path)
        eventually(lambda: '"event":"request"' in self.log.read_text()[before:])
        printed = self.log.read_text()[before:]
        assert CANARY not in printed
        return logs.read(printed)


@pytest.fixture(scope="module")
def misbehaving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Misbehaving]:
    """One for all tests that leave it as it was."""
    service = Misbehaving(ENV, tmp_path_factory.mktemp("misbehaving"), workers=1)
    try:
        yield service.start()
    finally:
        assert service.process
        service.process.terminate()
        service.process.wait(30)


# --- What Python prints by itself. ---


def test_a_warning_at_import_is_an_event(misbehaving: Misbehaving) -> None:
    lines = [line for line in misbehaving.log.read_text().splitlines() if '"event":"warning"' in line]

    (warning,) = logs.read("\n".join(lines))
    assert warning["at"].startswith("tests/support/misbehaving.py:")
    assert CANARY not in misbehaving.log.read_text()


@pytest.mark.parametrize(
    ("path", "events"),
    [
        ("/warns", [("warning", "RuntimeWarning")]),
        ("/fails", [("unhandled_error", "ValueError")]),
        ("/fails_in_a_thread", [("unhandled_error", "ValueError")]),
        ("/fails_in_a_finalizer", [("unhandled_error", "ValueError")]),
        ("/fails_in_a_callback_from_c", [("unhandled_error", "ValueError")]),
        ("/exits_a_thread", []),  # that is how a thread ends itself
        ("/logs_with_wrong_arguments", [("library", None), ("library", None)]),
    ],
)
def test_what_python_would_print_is_an_event(
    misbehaving: Misbehaving, path: str, events: list[tuple[str, str | None]]
) -> None:
    *others, request = misbehaving.ask(path)

    assert [(line["event"], line.get("error_class")) for line in others] == events
    assert (request["event"], request["route"]) == ("request", path)


def test_a_stream_that_breaks_is_logged_with_its_error(misbehaving: Misbehaving) -> None:
    lines = misbehaving.ask("/breaks")
    eventually(lambda: '"error_class":"ValueError"' in misbehaving.log.read_text().splitlines()[-1])
    error = logs.read(misbehaving.log.read_text().splitlines()[-1])[0]

    assert [line["route"] for line in lines if line["event"] == "request"] == ["/breaks"]
    assert error["stack"][-1].endswith(":parts")


def test_a_stream_whose_caller_hangs_up_is_logged_once(misbehaving: Misbehaving) -> None:
    before = len(misbehaving.log.read_text())
    with socket.create_connection(("127.0.0.1", misbehaving.port), timeout=10) as connection:
        connection.sendall(b"GET /streams HTTP/1.1\r\nHost: x\r\nX-Request-Id: hangs-up\r\n\r\n")
        assert connection.recv(1000)
        assert "hangs-up" not in misbehaving.log.read_text()

    eventually(lambda: "hangs-up" in misbehaving.log.read_text())
    misbehaving.ask("/v1/account")
    lines = logs.read(misbehaving.log.read_text()[before:])
    assert [line["status"] for line in lines if line.get("request_id") == "hangs-up"] == [200]


# --- What gunicorn prints. ---


def templates(service: Service) -> set[str]:
    """What the libraries have said."""
    return {line.get("template", "") for line in logs.read(service.log.read_text())}


def test_the_life_of_a_service_is_lines_of_json(serve: ServiceFactory) -> None:
    service = serve(workers=2)
    eventually(lambda: len(service.workers()) == 2)
    lost, _ = service.workers()
    assert service.process

    processes.kill(lost)
    eventually(lambda: len(service.workers()) == 2 and lost not in service.workers())
    before = set(service.workers())
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(service.workers()) == 2 and not before & set(service.workers()))
    eventually(service.serves)

    assert service.stop() == 0
    assert templates(service) >= {
        "Starting gunicorn %s",
        "Booting worker with pid: %s",
        "Worker (pid:%s) was sent %s! Perhaps out of memory?",
        "Hang up: %s",
        "Handling signal: %s",
        "Shutting down: %s",
    }


def test_the_documented_example_of_a_librarys_line_is_a_real_one(serve: ServiceFactory) -> None:
    service = serve(workers=1)
    service.stop()
    (example,) = re.findall(r'{.*"event":"library".*}', (ROOT / "docs/observability.md").read_text())

    def kind(line: dict[str, Any]) -> dict[str, str]:
        file = line["at"].partition(":")[0]  # the line's number is another one in each version
        return {**{name: line.get(name) for name in ("level", "logger", "template")}, "file": file}

    assert kind(json.loads(example)) in [
        kind(line) for line in logs.read(service.log.read_text()) if line["event"] == "library"
    ]


def test_a_worker_that_hangs_is_replaced_with_a_line(tmp_path: Path) -> None:
    service = Misbehaving({**ENV, "GUNICORN_CMD_ARGS": "--timeout=3"}, tmp_path, workers=1)
    with service:
        (lost,) = service.workers()
        with suppress(HTTPException, OSError):
            service.call("GET", "/stops_everything")
        eventually(lambda: lost not in service.workers(), within=30)
        eventually(service.serves, within=30)

    assert CANARY not in service.log.read_text()
    assert "WORKER TIMEOUT (pid:%s)" in templates(service)
    assert "critical" in {line["level"] for line in logs.read(service.log.read_text())}


HOSTILE = [
    b"GET /canary HTTP/9.9\r\n\r\n",
    b"CANARY\r\n\r\n",
    b"GET /canary\x00 HTTP/1.1\r\nHost: canary\r\n\r\n",
    b"GET /canary HTTP/1.1\r\ncanary canary\r\n\r\n",
    b"GET /canary HTTP/1.1\r\nHost: x\r\nContent-Length: canary\r\n\r\n",
    b"POST /v1/auth/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n\r\n",
    b"POST /v1/auth/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\ncanary",
    b"GET /" + b"canary" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01canary",
]


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_no_garbage_on_the_wire_reaches_the_log(serve: ServiceFactory, level: str) -> None:
    service = serve(workers=1, LOG_LEVEL=level)

    for garbage in HOSTILE:
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    service.call("GET", "/v1/account", headers={"X-Request-Id": "the-last"})

    eventually(lambda: "the-last" in service.log.read_text())
    log = service.log.read_text()
    loggers = {line.get("logger") for line in logs.read(log)}
    assert "canary" not in log.lower()
    assert "127.0.0.1" not in log
    assert "gunicorn.access" not in loggers


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("DEBUG", {"debug", "info"}),
        ("INFO", {"info"}),
        ("ERROR", set()),
    ],
)
def test_the_level_decides_for_gunicorn_too(serve: ServiceFactory, level: str, written: set[str]) -> None:
    service = serve(workers=1, LOG_LEVEL=level)

    assert service.stop() == 0

    lines = logs.read(service.log.read_text())
    assert {line["level"] for line in lines if line.get("logger") == "gunicorn.error"} == written


def test_a_port_in_use_is_lines_of_json(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = Service({**ENV, "PORT": str(taken.getsockname()[1])}, tmp_path, workers=1)
        with service.log.open("ab") as file:
            command = [sys.executable, "-m", "gunicorn", "wsgi:app"]
            service.process = subprocess.Popen(command, cwd=ROOT, env=service.env, stdout=file, stderr=file)
        eventually(lambda: '"error"' in service.log.read_text())
        # A worker tries five times, for 5 s.
        processes.kill(service.process.pid, *service.workers())
        service.process.wait(10)

    lines = logs.read(service.log.read_text())
    assert "Connection in use: %s" in {line.get("template") for line in lines if line["level"] == "error"}
    assert "127.0.0.1" not in service.log.read_text()


# --- A service that does not start. ---


def gunicorn(folder: Path, module: str, source: str) -> subprocess.CompletedProcess[str]:
    """Start an application with our settings. It ends by itself."""
    (folder / "broken.py").write_text(source)
    env = {**ENV, "PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "PORT": str(free_port())}
    command = [sys.executable, "-m", "gunicorn", module]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("source", "error_class"),
    [
        (f"raise ValueError('{CANARY}')", "ValueError"),
        (f"import {CANARY}", "ModuleNotFoundError"),
        (f"app = {CANARY}(", "SyntaxError"),
        (
            f"import warnings\nwarnings.warn('{CANARY}')\nraise ExceptionGroup('{CANARY}', [OSError()])",
            "ExceptionGroup",
        ),
    ],
)
def test_an_application_that_does_not_start_is_lines_of_json(tmp_path: Path, source: str, error_class: str) -> None:
    done = gunicorn(tmp_path, "broken:app", source)

    assert (done.returncode, done.stderr) == (3, "")
    lines = logs.read(done.stdout)
    assert error_class in {line.get("error_class") for line in lines}
    assert CANARY not in done.stdout


def test_an_application_that_is_not_there_is_lines_of_json(tmp_path: Path) -> None:
    done = gunicorn(tmp_path, f"broken:{CANARY}", "")

    assert (done.returncode, done.stderr) == (4, "")
    assert "error" in {line["level"] for line in logs.read(done.stdout)}

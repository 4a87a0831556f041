"""How a newcomer starts the service: `flask run` or gunicorn, in a fresh copy of the project, with nothing set."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from flask.cli import run_command

from app import create_app
from tests.support import ROOT, databases, eventually, free_port, logs, processes

FLASK_RUN = ("-m", "flask", "run")
GUNICORN = ("-m", "gunicorn", "wsgi:app")
PARTS = (
    *("app.py", "config.py", "wsgi.py", "gunicorn.conf.py", ".flaskenv", "openapi.yaml"),
    *("clients", "lumen_api", "migrations"),
)


class Started:
    """The service as started by a command of a newcomer's."""

    def __init__(self, project: Path, command: tuple[str, ...], **env: str) -> None:
        self.project = project
        self.port = free_port()
        self.log = project / f"{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=project,
                env={"PATH": os.environ["PATH"], "PORT": str(self.port), **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # as a terminal would, for Ctrl-C
            )

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def serving(self) -> Started:
        eventually(self._answers, within=30)
        return self

    def control_c(self) -> None:
        """SIGINT for every process of the terminal."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.assert_gone()

    def terminate(self) -> None:
        """SIGTERM for the first process, as a process manager does."""
        self.process.terminate()
        self.assert_gone()

    def assert_gone(self) -> None:
        """Neither the service is there any more nor its PostgreSQL."""
        self.process.wait(30)
        eventually(lambda: processes.of(self.project) == {})

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def post(self, path: str, body: object) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.printed
        connection = HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/v1/health/ready")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


Start = Callable[..., Started]


def clone(folder: Path) -> Path:
    """What a clone holds, as far as it is needed to run."""
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone(tmp_path_factory.mktemp("project"))


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Runs a command in the project. `env`: what is set beside PATH and a free PORT."""
    running: list[Started] = []

    def begin(*command: str, **env: str) -> Started:
        running.append(Started(project, command, **env))
        return running[-1]

    yield begin
    for service in running:
        service.kill()
    eventually(lambda: processes.of(project) == {})


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """`flask run` in a fresh clone."""
    service = Started(clone(tmp_path_factory.mktemp("clone")), FLASK_RUN)
    try:
        yield service.serving()
    finally:
        service.control_c()


def journey(printed: str) -> str:
    """The lines that the greeting invites to paste."""
    _, _, rest = printed.partition("paste this into a terminal:\n\n")
    lines = rest.partition("\n\n")[0].splitlines()
    assert all(line.startswith("  ") for line in lines)
    return "\n".join(line[2:] for line in lines)


def pasted(lines: str, folder: Path) -> list[dict[str, Any]]:
    """The answers to the lines, pasted into a terminal in `folder`."""
    folder.mkdir()
    done = subprocess.run(
        ["bash", "-e"], input=lines, cwd=folder, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
        check=True, timeout=30,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_journey(service: Started, folder: Path) -> None:
    assert f"Lumen is at http://localhost:{service.port} " in service.printed
    verified, who, started, ended, listed = pasted(journey(service.printed), folder)

    assert verified == {"status": "ok"}
    assert who["email"] == "ada@example.com"
    assert started["session_id"] == ended["session_id"] == "first"
    assert listed["sessions"][0]["session_id"] == "first"
    assert listed["sessions"][0]["ended_at"] == ended["ended_at"]


@pytest.mark.full  # curl
def test_the_lines_that_flask_run_prints_sign_in_and_record_a_session(newcomer: Started, tmp_path: Path) -> None:
    assert_journey(newcomer, tmp_path / "terminal")


def test_the_service_of_a_newcomer_is_for_this_machine_only(newcomer: Started) -> None:
    assert listening_on(newcomer.port) == {"0100007F"}


def test_the_link_is_in_the_answer_and_the_terminal_and_the_address_is_not(newcomer: Started) -> None:
    link = newcomer.post("/v1/auth/request-link", {"email": "canary@example.com"})["magic_link"]

    assert link.startswith(f"http://localhost:{newcomer.port}/login/callback?token=")
    eventually(lambda: link in newcomer.printed)
    assert "canary" not in newcomer.printed


def test_flask_run_leaves_no_process_behind_and_starts_again_soon(start: Start) -> None:
    start(*FLASK_RUN).serving().control_c()

    began = monotonic()
    start(*FLASK_RUN).serving()

    assert monotonic() - began < 6  # 3 on an idle machine


def test_flask_run_answers_within_two_seconds(
    newcomer: Started, record_property: Callable[[str, object], None]
) -> None:
    # Beside one that serves: its PostgreSQL is there already.
    took = [9.0]
    while min(took) >= 2 and len(took) < 6:  # others use the machine, too
        began = monotonic()
        second = Started(newcomer.project, FLASK_RUN).serving()
        took.append(monotonic() - began)
        second.kill()

    record_property("flask run to its first answer", f"{min(took):.2f} s")
    assert min(took) < 2


@pytest.mark.full  # curl
@pytest.mark.parametrize(
    ("command", "environment", "end"),
    [
        ((*FLASK_RUN, "--debug"), {}, Started.control_c),
        (GUNICORN, {"APP_ENV": "development", "WEB_CONCURRENCY": "2"}, Started.terminate),
    ],
    ids=["flask run --debug", "gunicorn"],
)
def test_several_processes_share_one_postgres_and_end_with_it(
    start: Start,
    project: Path,
    command: tuple[str, ...],
    environment: dict[str, str],
    end: Callable[[Started], None],
    tmp_path: Path,
) -> None:
    service = start(*command, **environment).serving()

    assert children(service.process.pid)
    eventually(lambda: len(processes.keepers(project)) == 1)
    assert_journey(service, tmp_path / "terminal")
    end(service)


def test_the_reloader_starts_over_on_the_same_postgres(start: Start, project: Path) -> None:
    service = start(*FLASK_RUN, "--debug").serving()
    server = databases.postmaster(project / ".lumen")
    before = children(service.process.pid)

    (project / "app.py").touch()
    eventually(lambda: children(service.process.pid) not in ([], before))

    service.serving()
    assert databases.postmaster(project / ".lumen") == server
    assert service.printed.count("Lumen is at") == 1


@pytest.mark.parametrize(
    ("command", "environment"),
    [(GUNICORN, {}), (GUNICORN, {"APP_ENV": "test"}), (FLASK_RUN, {"APP_ENV": "production"})],
    ids=["gunicorn", "gunicorn in test", "flask run in production"],
)
def test_outside_development_nothing_starts_before_it_is_configured(
    start: Start, project: Path, command: tuple[str, ...], environment: dict[str, str]
) -> None:
    service = start(*command, **environment)

    assert service.process.wait(30) != 0
    if command == GUNICORN:
        listed = {event["variable"] for event in logs.read(service.printed)}
    else:
        listed = set(re.findall(r"^  ([A-Z_]+) ", service.printed.partition("problem(s):")[2], re.MULTILINE))
    assert listed >= {"DATABASE_URL", "SMTP_URL", "EMAIL_FROM"}
    assert "Traceback" not in service.printed
    assert processes.of(project) == {}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def listening_on(port: int) -> set[str]:
    """The local addresses of the sockets that listen on `port`, as /proc writes them."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()[1:]
    ]  # fmt: skip
    listening = "0A"
    return {row[1].partition(":")[0] for row in rows if row[3] == listening and row[1].endswith(f":{port:04X}")}


def test_the_port_of_the_command_line_is_the_one_in_links(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    for name, value in {"APP_ENV": "development", "DATABASE_URL": database, "PORT": "8080"}.items():
        monkeypatch.setenv(name, value)

    with run_command.make_context("run", ["--port", "8396"]):
        app = create_app()

    app.extensions["lumen.db"].close()
    assert app.extensions["lumen.magic_links"].base_url == "http://localhost:8396"

"""One PostgreSQL for the whole run, a migrated database for each pytest worker, and clean tables for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import trustme
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from config import Config
from lumen_api import migrations
from lumen_api.db import Database
from lumen_api.dev import embedded_postgres
from tests.support import databases
from tests.support.mailbox import Mailbox
from tests.support.migrating import empty_database
from tests.support.outages import Server
from tests.support.pools import PoolFactory, pools
from tests.support.service import Service
from tests.support.valkey import Valkey

SECRET = "a-secret-of-the-tests-long-enough-for-production"
ORIGIN = "https://app.example.com"
PLENTY = "100000/minute"

# `make test-full` installs what it needs.
collect_ignore = [] if find_spec("playwright") else ["test_browser.py", "test_browser_model.py"]

AppFactory = Callable[..., Flask]
ServiceFactory = Callable[..., Service]


def pytest_xdist_auto_num_workers() -> int:
    """Half of the time the tests wait for timeouts and processes."""
    return 2 * (os.cpu_count() or 1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have measured (pytest's `record_property`), as the rows of docs/reliability.md's table."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    measured = [report for report in reports if report.when == "call" and report.user_properties]
    if measured:
        terminalreporter.section("measured")
    for report in measured:
        promise = report.location[2].removeprefix("test_").replace("_", " ")
        figures = "; ".join(f"{name} {value}" for name, value in report.user_properties)
        terminalreporter.write_line(f"| {promise} | {figures} |")


@pytest.fixture(scope="session", autouse=True)
def _few_authorities(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Reading the system's 150 certificate authorities takes 20 ms for every app; no test needs one of them."""
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    os.environ["SSL_CERT_FILE"] = str(file)


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One folder for all pytest workers of this run."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def postgres(run_folder: Path) -> Iterator[str]:
    """The connection string of a PostgreSQL server that all tests share: do not stop this one."""
    dsn = embedded_postgres.start(run_folder / "shared-postgres")
    # Its data is worth nothing after the run.
    databases.query(dsn, "alter system set fsync = off")
    databases.query(dsn, "select pg_reload_conf()")
    yield dsn
    embedded_postgres.leave(run_folder / "shared-postgres")


@pytest.fixture(scope="session")
def _worker_database(postgres: str, worker_id: str) -> str:
    return databases.create(postgres, f"lumen_{worker_id}")


@pytest.fixture
def database(_worker_database: str) -> str:
    """The URL of a migrated database with empty tables."""
    databases.empty(_worker_database)
    return _worker_database


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "pg")
    yield server
    server.leave()


@pytest.fixture
def server(_server: Server) -> Server:
    """A PostgreSQL that a test may do anything to, up and with empty tables."""
    _server.clean()
    return _server


@pytest.fixture
def empty(postgres: str) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    with empty_database(postgres) as url:
        yield url


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations' folder, to which a test adds files. It is the one that is applied."""
    copy = tmp_path / "migrations"
    shutil.copytree(migrations.DIRECTORY, copy)
    monkeypatch.setattr(migrations, "DIRECTORY", copy)
    return copy


@pytest.fixture
def make_pool(database: str) -> Iterator[PoolFactory]:
    """Makes pools of database connections: make_pool(size=2)."""
    with pools(database) as make:
        yield make


@pytest.fixture
def pool(make_pool: PoolFactory) -> Database:
    """A pool of at most three connections."""
    return make_pool(size=3)


@pytest.fixture(scope="session")
def _worker_mailbox() -> Iterator[Mailbox]:
    with Mailbox() as mailbox:
        yield mailbox


@pytest.fixture
def mailbox(_worker_mailbox: Mailbox) -> Mailbox:
    """The SMTP server that the service sends through, without mails."""
    _worker_mailbox.clear()
    return _worker_mailbox


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey server for this test alone."""
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def env(database: str, mailbox: Mailbox) -> dict[str, str]:
    """A configuration to serve from, like production's but for limits that no test meets by accident."""
    return {
        "APP_ENV": "test",
        "DATABASE_URL": database,
        "SMTP_URL": mailbox.url,
        "EMAIL_FROM": "Lumen <hello@example.com>",
        "AUTH_TOKEN_SECRETS": SECRET,
        "WEB_ORIGINS": ORIGIN,
        "RATE_LIMIT_LINK_PER_IP": PLENTY,
        "RATE_LIMIT_LINK_PER_EMAIL": PLENTY,
        "RATE_LIMIT_VERIFY_PER_IP": PLENTY,
        "RATE_LIMIT_PER_USER": PLENTY,
    }


@pytest.fixture
def make_app(env: dict[str, str]) -> Iterator[AppFactory]:
    """Makes an app; its arguments are variables: make_app(SESSION_TTL="1h")."""
    apps: list[Flask] = []

    def make(**variables: str) -> Flask:
        app = create_app(Config.from_env({**env, **variables}))
        app.config["PREFERRED_URL_SCHEME"] = "https"  # the test client keeps Secure cookies
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.extensions["lumen.db"].close()
        app.extensions["lumen.model_calls"].close()


@pytest.fixture
def app(make_app: AppFactory) -> Flask:
    """The service."""
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A caller who is not signed in. It keeps cookies, as a browser does."""
    return app.test_client()


@pytest.fixture
def serve(env: dict[str, str], tmp_path: Path) -> Iterator[ServiceFactory]:
    """Serves with gunicorn; its arguments are variables: serve(workers=2, SESSION_TTL="1h")."""
    services: list[Service] = []

    def start(*, workers: int = 2, **variables: str) -> Service:
        service = Service({**env, **variables}, tmp_path, workers=workers)
        services.append(service)
        return service.start()

    yield start
    for service in services:
        if service.process:
            service.stop()

"""A crash between any two steps of a sign-in leaves either a good link or a session: never neither, never half."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from json import dumps

import psycopg2
import pytest
from flask import Flask

from lumen_api import db
from tests.conftest import AppFactory, ServiceFactory
from tests.support import databases, eventually
from tests.support.credentials import new_cookie, new_link
from tests.support.locks import held, waiting
from tests.support.outages import Server
from tests.support.service import Service

# The steps of a sign-in, each by the trigger that makes it wait. A deferred one waits in COMMIT.
STEPS = {
    "before the link goes": "before delete on auth_tokens",
    "before the user is made": "before insert on users",
    "before the session is made": "before insert on auth_sessions",
    "before the old session ends": "before delete on auth_sessions",
    "when everything is written": "after delete on auth_tokens",
    "before the commit": "after insert on auth_sessions deferrable initially deferred",
}
steps = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())

UNLIMITED = "&options=-c%20lock_timeout%3D0%20-c%20statement_timeout%3D0"
GATE = "select pg_advisory_xact_lock(1)"
Pause = Callable[[str], None]


@pytest.fixture
def patient(database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database's URL, without the limits to waiting: a slow machine may take its time to get to the step."""
    monkeypatch.setattr(db, "WORK_WITH_CONNECTION", 20.0)
    return database + UNLIMITED


@pytest.fixture
def pause(database: str) -> Iterator[Pause]:
    """pause("before insert on users"): from now on this step waits until nobody holds the gate."""
    yield lambda step: add_trigger(database, step)
    databases.query(database, "drop function if exists wait_at_the_gate cascade")


def add_trigger(url: str, step: str) -> None:
    kind = "constraint trigger" if "deferrable" in step else "trigger"
    databases.query(
        url,
        f"""
        create function wait_at_the_gate() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock(1);
            return coalesce(new, old);
        end $$;
        create {kind} wait_at_the_gate {step} for each row execute function wait_at_the_gate()
        """,
    )


@dataclass
class SigningIn:
    """Ada's first sign-in, by a browser where Bob is signed in."""

    app: Flask
    database: str

    def __post_init__(self) -> None:
        self.cookie = new_cookie(self.app, "bob@example.com")
        self.token, self.other_token = new_link(self.app), new_link(self.app)
        self.before = self.rows()

    def verify(self) -> int:
        client = self.app.test_client(use_cookies=False)
        return client.post("/v1/auth/verify", json={"token": self.token}, headers=self.cookie).status_code

    def rows(self) -> list[tuple[object, ...]]:
        """Everything that a sign-in changes."""
        return databases.query(
            self.database,
            """
            select 'link', email, encode(token_hash, 'hex') from auth_tokens union all
            select 'user', email, '' from users union all
            select 'session', email, encode(id_hash, 'hex') from auth_sessions join users using (user_id)
            order by 1, 2, 3
            """,
        )

    def assert_nothing_has_happened(self) -> None:
        assert self.rows() == self.before
        bob = self.app.test_client(use_cookies=False).get("/v1/auth/session", headers=self.cookie)
        assert (bob.status_code, bob.get_json()["email"]) == (200, "bob@example.com")

    def assert_all_has_happened(self) -> None:
        rows = [(kind, email) for kind, email, _ in self.rows()]
        assert rows == [("session", "ada@example.com"), ("user", "ada@example.com"), ("user", "bob@example.com")]


# --- The server process that runs the statement ends. ---


@steps
def test_a_sign_in_that_is_cut_off_has_not_happened_and_its_link_is_good(
    step: str, make_app: AppFactory, patient: str, database: str, pause: Pause
) -> None:
    sign_in = SigningIn(make_app(DATABASE_URL=patient), database)
    pause(step)
    with held(database, GATE), ThreadPoolExecutor(1) as browser:
        first = browser.submit(sign_in.verify)
        eventually(lambda: waiting(database))
        (pid,) = waiting(database)
        databases.query(database, "select pg_terminate_backend(%s)", pid)
        assert first.result(10) == 503

    sign_in.assert_nothing_has_happened()
    assert sign_in.verify() == 200
    sign_in.assert_all_has_happened()


@pytest.mark.parametrize(
    "lock",
    [
        "lock table auth_tokens in exclusive mode",
        "lock table auth_sessions in exclusive mode",
        "select from auth_tokens for update",
        "insert into users (email) values ('ada@example.com')",
        "select from auth_sessions for update",
    ],
)
def test_a_sign_in_that_is_cut_off_while_it_waits_for_somebody_else_has_not_happened(
    lock: str, make_app: AppFactory, patient: str, database: str
) -> None:
    sign_in = SigningIn(make_app(DATABASE_URL=patient), database)
    with held(database, lock), ThreadPoolExecutor(1) as browser:
        first = browser.submit(sign_in.verify)
        eventually(lambda: waiting(database))
        (pid,) = waiting(database)
        databases.query(database, "select pg_terminate_backend(%s)", pid)
        assert first.result(10) == 503

    sign_in.assert_nothing_has_happened()
    assert sign_in.verify() == 200
    sign_in.assert_all_has_happened()


def test_a_sign_in_that_takes_too_long_has_not_happened_and_its_link_is_good(
    app: Flask, database: str, pause: Pause
) -> None:
    sign_in = SigningIn(app, database)
    pause(STEPS["before the commit"])
    with held(database, GATE):
        assert sign_in.verify() == 503  # after the role's lock_timeout

    sign_in.assert_nothing_has_happened()
    assert sign_in.verify() == 200


# --- PostgreSQL itself crashes. ---


def test_after_a_crash_of_postgresql_the_link_is_good(make_app: AppFactory, server: Server) -> None:
    url = server.url
    sign_in = SigningIn(make_app(DATABASE_URL=url + UNLIMITED), url)
    add_trigger(url, STEPS["before the commit"])
    before = checkpointer(url)
    with ThreadPoolExecutor(1) as browser, held(url, GATE):
        first = browser.submit(sign_in.verify)
        eventually(lambda: waiting(url))
        os.kill(waiting(url)[0], signal.SIGKILL)  # PostgreSQL then ends all others, and recovers from its log
        assert first.result(10) == 503

    eventually(lambda: checkpointer(url) not in (None, before))
    sign_in.assert_nothing_has_happened()
    assert sign_in.verify() == 200
    sign_in.assert_all_has_happened()


def checkpointer(url: str) -> int | None:
    """The process id of the server's checkpointer, another one after each crash; None while nobody can connect."""
    try:
        rows = databases.query(url, "select pid from pg_stat_activity where backend_type = 'checkpointer'")
    except psycopg2.Error:
        return None
    return int(rows[0][0]) if rows else None


# --- The service crashes, or its caller goes away: PostgreSQL goes on with what it was told. ---


@pytest.mark.parametrize("step", ["before the user is made", "before the commit"])
def test_when_the_worker_is_killed_a_statement_that_gets_through_has_made_the_session(
    step: str, app: Flask, serve: ServiceFactory, patient: str, database: str, pause: Pause
) -> None:
    sign_in = SigningIn(app, database)
    service = serve(workers=1, DATABASE_URL=patient)
    pause(STEPS[step])
    with ThreadPoolExecutor(1) as browser:
        with held(database, GATE):
            answer = browser.submit(ask, service, sign_in)
            pid = kill_the_worker_while_it_waits(service, database)
        assert isinstance(answer.exception(10), (OSError, HTTPException))

    eventually(lambda: pid not in server_processes(database))
    sign_in.assert_all_has_happened()
    assert ask(service, sign_in) == 401


def test_when_the_worker_is_killed_a_statement_that_gives_up_has_left_the_link(
    app: Flask, serve: ServiceFactory, database: str, pause: Pause
) -> None:
    sign_in = SigningIn(app, database)
    service = serve(workers=1)
    pause(STEPS["before the commit"])
    with ThreadPoolExecutor(1) as browser:
        with held(database, GATE):
            answer = browser.submit(ask, service, sign_in)
            pid = kill_the_worker_while_it_waits(service, database)
            eventually(lambda: pid not in server_processes(database))  # after the role's lock_timeout
        assert isinstance(answer.exception(10), (OSError, HTTPException))

    sign_in.assert_nothing_has_happened()
    assert ask(service, sign_in) == 200
    sign_in.assert_all_has_happened()


def test_when_the_caller_goes_away_the_session_is_made_all_the_same(
    app: Flask, serve: ServiceFactory, patient: str, database: str, pause: Pause
) -> None:
    sign_in = SigningIn(app, database)
    service = serve(workers=1, DATABASE_URL=patient)
    pause(STEPS["before the commit"])
    with held(database, GATE):
        connection = HTTPConnection("127.0.0.1", service.port)
        headers = {"Content-Type": "application/json", **sign_in.cookie}
        connection.request("POST", "/v1/auth/verify", dumps({"token": sign_in.token}), headers)
        eventually(lambda: waiting(database))
        connection.close()

    eventually(lambda: sign_in.rows() != sign_in.before)
    sign_in.assert_all_has_happened()
    assert ask(service, sign_in) == 401
    assert service.call("POST", "/v1/auth/verify", {"token": new_link(app)}).status == 200


def ask(service: Service, sign_in: SigningIn) -> int:
    return service.call("POST", "/v1/auth/verify", {"token": sign_in.token}, headers=sign_in.cookie).status


def kill_the_worker_while_it_waits(service: Service, database: str) -> int:
    """Returns the server process that works for it, or did."""
    eventually(lambda: waiting(database))
    (pid,), (worker,) = waiting(database), service.workers()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: worker not in service.workers())
    eventually(lambda: serves(service))  # gunicorn has started another one
    return pid


def serves(service: Service) -> bool:
    try:
        return service.call("GET", "/v1/health", timeout=2).status == 200
    except (OSError, HTTPException):
        return False


def server_processes(database: str) -> list[int]:
    rows = databases.query(database, "select pid from pg_stat_activity where datname = current_database()")
    return [pid for (pid,) in rows]

"""How often a request asks the database: each round trip is time, and a place to fail in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2 import extensions

from lumen_api import db
from tests.conftest import AppFactory
from tests.support import databases
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.credentials import new_cookie, new_link
from tests.support.journeys import HASH, sign_in
from tests.support.llm import ask, signed_in
from tests.support.mailbox import Mailbox


@dataclass
class Traffic:
    """What has gone to the database. `statements`: what the code asked; `waits`: how often libpq waited for it.

    psycopg2 sends BEGIN and the like by itself and past every cursor, but it waits for their answers too.
    """

    statements: list[str] = field(default_factory=list)
    waits: int = 0

    @property
    def verbs(self) -> list[str]:
        """The first word of each statement."""
        return [statement.split()[0].lower() for statement in self.statements]

    def forget(self) -> None:
        """Count from here on."""
        self.statements.clear()
        self.waits = 0


@pytest.fixture
def traffic(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """What `app` sends on a connection that is open already; counted from the test's first line on."""
    traffic = Traffic()

    class Recording(extensions.cursor):
        def execute(self, query: Any, values: Any = None) -> None:
            traffic.statements.append(str(query))
            super().execute(query, values)

    def cursor(conn: extensions.connection, *args: Any, **kwargs: Any) -> Any:
        return extensions.connection.cursor(conn, *args, cursor_factory=Recording, **kwargs)

    def wait(conn: extensions.connection) -> None:
        traffic.waits += isinstance(conn, db.Connection)
        db._wait(conn)

    assert app.test_client().get("/v1/health/ready").status_code == 200
    monkeypatch.setattr(db.Connection, "cursor", cursor)
    extensions.set_wait_callback(wait)
    yield traffic
    extensions.set_wait_callback(db._wait)


@pytest.mark.parametrize(
    ("method", "path", "body", "verbs"),
    [
        ("POST", "/v1/auth/request-link", {"email": "ada@example.com"}, ["insert"]),
        ("POST", "/v1/auth/request-link", {"email": "stranger@example.com"}, ["insert"]),
        ("POST", "/v1/auth/verify", {"token": "(the link's)"}, ["with"]),
        ("GET", "/v1/auth/session", None, ["select"]),
        ("POST", "/v1/auth/logout", None, ["delete"]),
        ("POST", "/v1/auth/logout-all", None, ["select", "with"]),
        ("POST", "/v1/sessions/start", {"session_id": "one"}, ["select", "insert"]),
        ("POST", "/v1/sessions/end", {"session_id": "one", "transcript_hash": HASH}, ["select", "insert"]),
        ("GET", "/v1/sessions", None, ["select", "select"]),
        ("GET", "/v1/llm/usage", None, ["select", "with"]),
        ("DELETE", "/v1/account", None, ["select", "with"]),
    ],
)
def test_a_request_is_one_statement_besides_the_guard_and_no_transaction(
    method: str, path: str, body: dict[str, str] | None, verbs: list[str], app: Flask, traffic: Traffic
) -> None:
    cookie, token = new_cookie(app), new_link(app)
    json = {"token": token} if body and "token" in body else body
    traffic.forget()

    answer = app.test_client(use_cookies=False).open(path, method=method, json=json, headers=cookie)

    assert answer.status_code == 200
    assert (traffic.verbs, traffic.waits) == (verbs, len(verbs))


@pytest.fixture
def caller(make_app: AppFactory, mailbox: Mailbox) -> Iterator[FlaskClient]:
    """Signed in, on a connection that is open already, where a model answers."""
    with AnthropicServer() as provider:
        yield signed_in(make_app(LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=provider.url), mailbox)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_model_call_is_a_reservation_and_a_settlement_besides_the_guard(
    caller: FlaskClient, traffic: Traffic, stream: bool
) -> None:
    traffic.forget()

    answer = ask(caller, stream=stream)
    answer.get_data()
    answer.close()

    assert answer.status_code == 200
    # Both lock the user and count in one round trip.
    guard, reserve, settle = traffic.statements
    assert "auth_sessions" in guard
    assert "insert into llm_reservations" in reserve
    assert "delete from llm_reservations" in settle
    assert traffic.waits == 3


def test_a_transaction_that_is_needed_is_counted(app: Flask, traffic: Traffic) -> None:
    cookie = new_cookie(app)
    traffic.forget()

    app.test_client(use_cookies=False).get("/v1/account", headers=cookie)

    assert (traffic.verbs[0], traffic.verbs[1], traffic.verbs[-1]) == ("select", "begin", "commit")
    assert traffic.waits == len(traffic.verbs)


def test_a_hidden_begin_would_be_counted(app: Flask, traffic: Traffic) -> None:
    with app.app_context(), db.connection() as conn:
        conn.autocommit = False
        db.execute(conn, "select 1")
        conn.rollback()
        conn.autocommit = True

    assert (traffic.verbs, traffic.waits) == (["select"], 3)


def test_a_bad_link_costs_one_statement_and_a_forged_one_none(app: Flask, traffic: Traffic) -> None:
    client, token = app.test_client(), new_link(app)
    assert client.post("/v1/auth/verify", json={"token": token}).status_code == 200
    traffic.forget()

    assert client.post("/v1/auth/verify", json={"token": token}).status_code == 401
    assert client.post("/v1/auth/verify", json={"token": token[1:]}).status_code == 401
    assert traffic.waits == 1


def test_a_cookie_that_is_not_ours_costs_no_statement(app: Flask, traffic: Traffic) -> None:
    client = app.test_client(use_cookies=False)
    headers = {"Cookie": "__Host-lumen_session=nonsense"}

    statuses = [client.get(path, headers=headers).status_code for path in ("/v1/auth/session", "/v1/sessions")]
    statuses += [client.post("/v1/auth/logout", headers=headers).status_code]

    assert (statuses, traffic.waits) == ([401, 401, 200], 0)


def test_a_health_check_asks_nobody(app: Flask, traffic: Traffic) -> None:
    assert app.test_client().get("/v1/health").status_code == 200
    assert traffic.waits == 0


def connections(database: str) -> list[tuple[Any, ...]]:
    """The service's connections, as PostgreSQL sees them."""
    return databases.query(
        database,
        """
        select pid, backend_start from pg_stat_activity
         where datname = current_database() and application_name = 'lumen-api' order by pid
        """,
    )


def test_one_connection_serves_one_request_after_the_other(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    client.get("/v1/health/ready")
    first = connections(database)

    sign_in(client, mailbox)
    client.post("/v1/sessions/start", json={"session_id": "one"})
    client.get("/v1/account")
    client.post("/v1/auth/logout")

    assert len(first) == 1
    assert connections(database) == first


def test_a_statement_that_fails_leaves_its_connection_good(app: Flask, database: str) -> None:
    app.test_client().get("/v1/health/ready")
    first = connections(database)

    with app.app_context(), pytest.raises(psycopg2.Error), db.connection() as conn:
        db.execute(conn, "select 1 / 0")

    assert app.test_client().get("/v1/health/ready").status_code == 200
    assert connections(database) == first

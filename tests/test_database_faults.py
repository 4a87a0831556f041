"""PostgreSQL restarted, crashed, hanging, away or full: what callers hear, and that it ends with the fault."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from time import perf_counter

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import AppFactory, ServiceFactory
from tests.support import databases, eventually
from tests.support.journeys import sign_in
from tests.support.mailbox import Mailbox
from tests.support.outages import Server, backends

# Seconds, from the contract of the pool: waiting for a connection and working with it, together.
LONGEST_ANSWER = 3.0


@pytest.fixture
def app(make_app: AppFactory, server: Server) -> Flask:
    """The service on that server."""
    return make_app(DATABASE_URL=server.url)


@pytest.fixture
def client(app: Flask, mailbox: Mailbox) -> FlaskClient:
    """A caller who is signed in."""
    client = app.test_client()
    sign_in(client, mailbox)
    return client


def warm_up(app: Flask, server: Server, *, connections: int = 3) -> list[int]:
    """Open several pooled connections. Their backends."""
    with ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(app.extensions["lumen.db"].connection())
    pids = backends(server.url)
    assert len(pids) == connections
    return pids


def simultaneous(client: FlaskClient, count: int = 6) -> list[int]:
    """What `count` threads hear that ask at the same time, signed in as `client` is."""
    cookie = client.get_cookie("__Host-lumen_session")
    assert cookie is not None
    headers = {"Cookie": f"{cookie.key}={cookie.value}"}

    def ask(_: int) -> int:
        other = client.application.test_client(use_cookies=False)
        return other.get("/v1/auth/session", headers=headers).status_code

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(ask, range(count)))


def assert_unavailable(answer: TestResponse) -> None:
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (503, "database_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert error["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.parametrize("end", [Server.stop, Server.crash], ids=["stopped", "crashed"])
def test_after_a_restart_every_pooled_connection_serves_at_once(
    app: Flask, client: FlaskClient, server: Server, end: Callable[[Server], None]
) -> None:
    old = warm_up(app, server)

    end(server)
    server.start()

    assert simultaneous(client) == [200] * 6
    assert client.post("/v1/sessions/start", json={"session_id": "one"}).status_code == 200
    assert not set(old) & set(backends(server.url))


@pytest.mark.parametrize("end", [Server.stop, Server.crash], ids=["stopped", "crashed"])
def test_while_the_server_is_away_callers_are_told_and_then_served_at_once(
    app: Flask, client: FlaskClient, server: Server, end: Callable[[Server], None]
) -> None:
    warm_up(app, server)
    end(server)

    start = perf_counter()
    for _ in range(5):
        assert_unavailable(client.get("/v1/auth/session"))
    assert_unavailable(client.post("/v1/auth/request-link", json={"email": "ada@example.com"}))
    assert simultaneous(client) == [503] * 6
    assert perf_counter() - start < LONGEST_ANSWER

    server.start()
    assert simultaneous(client) == [200] * 6


def test_no_mail_is_sent_while_the_server_is_away(app: Flask, server: Server, mailbox: Mailbox) -> None:
    server.stop()

    assert_unavailable(app.test_client().post("/v1/auth/request-link", json={"email": "ada@example.com"}))
    assert mailbox.to("ada@example.com") == []


def test_a_link_survives_an_outage(app: Flask, server: Server, mailbox: Mailbox) -> None:
    client = app.test_client()
    client.post("/v1/auth/request-link", json={"email": "ada@example.com"})
    token = {"token": mailbox.token_for("ada@example.com")}

    server.crash()
    assert_unavailable(client.post("/v1/auth/verify", json=token))
    server.start()

    assert client.post("/v1/auth/verify", json=token).status_code == 200


def test_what_needs_no_database_is_answered_while_it_is_away(app: Flask, server: Server) -> None:
    client = app.test_client()
    server.stop()

    assert client.get("/v1/health").status_code == 200
    assert client.get("/v1/auth/session").status_code == 401  # there is no cookie to look up
    assert client.post("/v1/auth/verify", json={"token": "nonsense"}).status_code == 401
    assert client.post("/v1/auth/logout").status_code == 200


@pytest.mark.parametrize("connected", [True, False], ids=["pooled connection", "new connection"])
def test_a_hanging_server_is_given_up_within_three_seconds(
    app: Flask, client: FlaskClient, server: Server, connected: bool
) -> None:
    if not connected:
        app.extensions["lumen.db"].close()
    with server.paused():
        start = perf_counter()
        answer = client.get("/v1/auth/session")
        took = perf_counter() - start

    assert_unavailable(answer)
    assert took < LONGEST_ANSWER
    assert simultaneous(client) == [200] * 6


def test_when_all_connections_hang_the_others_are_answered_within_three_seconds_too(
    make_app: AppFactory, server: Server, mailbox: Mailbox
) -> None:
    app = make_app(DATABASE_URL=server.url, DATABASE_POOL_SIZE="2")
    client = app.test_client()
    sign_in(client, mailbox)
    with server.paused():
        start = perf_counter()
        answers = simultaneous(client)
        took = perf_counter() - start

    assert answers == [503] * 6
    assert took < LONGEST_ANSWER + 0.2
    assert simultaneous(client) == [200] * 6


def in_flight(client: FlaskClient, server: Server, thread: ThreadPoolExecutor) -> tuple[Future[TestResponse], int]:
    """A request that waits for a lock in the database, and the backend that waits for it."""
    waiting = "select pid from pg_stat_activity where application_name = 'lumen-api' and wait_event_type = 'Lock'"
    future = thread.submit(client.get, "/v1/auth/session")
    eventually(lambda: databases.query(server.url, waiting), within=2)
    ((pid,),) = databases.query(server.url, waiting)
    return future, pid


@pytest.mark.parametrize(
    ("end", "statuses"),
    [
        pytest.param(
            lambda server, pid: databases.query(server.url, f"select pg_terminate_backend({pid})"), {503}, id="ended"
        ),
        pytest.param(lambda _, pid: os.kill(pid, signal.SIGKILL), {200, 503}, id="killed"),
        pytest.param(lambda server, _: server.stop(), {200, 503}, id="server stopped"),
        pytest.param(lambda server, _: server.crash(), {200, 503}, id="server crashed"),
    ],
)
def test_a_request_in_flight_whose_connection_is_lost_is_told_so(
    client: FlaskClient, server: Server, end: Callable[[Server, int], None], statuses: set[int]
) -> None:
    # 200: where all connections are ended, the one that holds the lock may go first, and the request is served.
    locker = databases.connect(server.url)
    try:
        with ThreadPoolExecutor(1) as thread:
            locker.cursor().execute("begin; lock table auth_sessions in access exclusive mode")
            future, pid = in_flight(client, server, thread)
            end(server, pid)
            answer = future.result(5)
    finally:
        locker.close()

    assert answer.status_code in statuses
    if answer.status_code == 503:
        assert_unavailable(answer)
    server.start()
    eventually(lambda: client.get("/v1/health/ready").status_code == 200)  # a killed backend restarts them all
    assert simultaneous(client) == [200] * 6


def test_a_request_that_waits_for_a_lock_for_too_long_is_busy(client: FlaskClient, server: Server) -> None:
    locker = databases.connect(server.url)
    try:
        locker.cursor().execute("begin; lock table auth_sessions in access exclusive mode")
        answer = client.get("/v1/auth/session")
    finally:
        locker.close()

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "busy")
    assert answer.headers["Retry-After"] == "1"
    assert simultaneous(client) == [200] * 6


def test_connections_ended_while_idle_are_not_noticed(app: Flask, client: FlaskClient, server: Server) -> None:
    pids = warm_up(app, server)
    databases.query(server.url, "select pg_terminate_backend(pid, 5000) from unnest(%s) pid", pids)

    assert simultaneous(client) == [200] * 6


def test_a_server_without_room_is_unavailable_until_there_is_some(make_app: AppFactory, server: Server) -> None:
    databases.query(server.url, "create role few login connection limit 2")
    databases.query(server.url, "grant all on all tables in schema public to few")
    as_few = server.url.replace("//lumen@", "//few@")
    with ExitStack() as stack:
        for _ in range(2):
            stack.callback(databases.connect(as_few).close)
        client = make_app(DATABASE_URL=as_few).test_client()
        answers = [client.post("/v1/auth/request-link", json={"email": "a@example.com"}) for _ in range(3)]

    for answer in answers:
        assert_unavailable(answer)
    eventually(lambda: client.get("/v1/health/ready").status_code == 200)


def test_a_server_that_may_only_be_read_is_unavailable(make_app: AppFactory, server: Server) -> None:
    databases.query(server.url, "drop database if exists replica")
    replica = databases.create(server.dsn, "replica")
    databases.query(replica, "alter database replica set default_transaction_read_only = on")
    client = make_app(DATABASE_URL=replica).test_client()

    assert_unavailable(client.post("/v1/auth/request-link", json={"email": "ada@example.com"}))


def test_the_service_starts_while_its_database_is_away(serve: ServiceFactory, server: Server) -> None:
    server.stop()
    service = serve(workers=1, DATABASE_URL=server.url)

    assert service.call("GET", "/v1/health").status == 200
    assert service.call("GET", "/v1/health/ready").status == 503
    server.start()
    assert service.call("GET", "/v1/health/ready").status == 200

"""The service on pgbouncer in transaction mode, as docs/deploy.md says it may run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask

from lumen_api import migrations
from lumen_api.db import Database, fetch_all, fetch_one
from tests.conftest import AppFactory, ServiceFactory
from tests.support import databases, eventually, logs
from tests.support.journeys import HASH, request_link, sign_in
from tests.support.mailbox import Mailbox
from tests.support.outages import Server
from tests.support.pgbouncer import PgBouncer

pytestmark = pytest.mark.full

YESTERDAY = "created_at = now() - interval '2 days', expires_at = now() - interval '1 day'"
ROLE_TIMEOUTS = ["1500ms", "1s", "5s"]  # of migration 0005
SETTINGS = """
    select pg_backend_pid(), current_setting('statement_timeout'), current_setting('lock_timeout'),
           current_setting('idle_in_transaction_session_timeout')
"""


@pytest.fixture
def bouncer(database: str, tmp_path: Path) -> Iterator[PgBouncer]:
    with PgBouncer(database, tmp_path) as bouncer:
        yield bouncer


@pytest.fixture
def app(make_app: AppFactory, bouncer: PgBouncer) -> Flask:
    """The service on pgbouncer."""
    return make_app(DATABASE_URL=bouncer.url)


def test_the_whole_journey_works(app: Flask, mailbox: Mailbox) -> None:
    client, phone = app.test_client(), app.test_client()
    sign_in(client, mailbox)
    sign_in(phone, mailbox)
    session = {"session_id": "one"}
    end = {**session, "transcript_hash": HASH}

    answers = [
        client.post("/v1/sessions/start", json=session),
        client.post("/v1/sessions/end", json=end),
        client.get("/v1/sessions"),
        client.get("/v1/account"),
        client.get("/v1/health/ready"),
        phone.post("/v1/auth/logout-all"),
    ]

    assert [answer.status_code for answer in answers] == [200] * 6
    assert answers[2].get_json()["sessions"] == answers[3].get_json()["sessions"] != []
    assert answers[5].get_json()["revoked"] == 2
    assert client.get("/v1/auth/session").status_code == 401


def test_an_account_is_deleted_in_one_transaction(app: Flask, database: str, mailbox: Mailbox) -> None:
    client = app.test_client()
    sign_in(client, mailbox)
    client.post("/v1/sessions/start", json={"session_id": "one"})

    assert client.delete("/v1/account").status_code == 200
    assert databases.query(database, "select (select count(*) from users), (select count(*) from sessions)") == [(0, 0)]


def test_a_link_signs_in_one_of_many(app: Flask, mailbox: Mailbox) -> None:
    token = {"token": request_link(app.test_client(), mailbox)}

    def verify(_: int) -> int:
        return app.test_client().post("/v1/auth/verify", json=token).status_code

    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(verify, range(24)))

    assert (answers.count(200), answers.count(401)) == (1, 23)


def test_migrations_are_applied_and_undone(postgres: str, tmp_path: Path, worker_id: str) -> None:
    name = f"bounced_{worker_id}"
    databases.query(postgres, f"create database {name}")
    with PgBouncer(databases.url_of(postgres, name), tmp_path) as bouncer:
        applied = migrations.apply(bouncer.url)
        assert applied == [migration for migration, _ in migrations.status(bouncer.url)] != []
        assert migrations.apply(bouncer.url) == []
        assert len(migrations.rollback(bouncer.url, len(applied))) == len(applied)
        assert len(migrations.apply(bouncer.url)) == len(applied)


def test_migrations_leave_no_settings_on_a_connection_that_is_lent_to_the_service(
    make_app: AppFactory, postgres: str, tmp_path: Path, worker_id: str
) -> None:
    url = databases.create(postgres, f"lent_{worker_id}")
    with PgBouncer(url, tmp_path, default_pool_size=2) as bouncer:
        pool = make_app(DATABASE_URL=bouncer.url).extensions["lumen.db"]
        before = settings_of_two(pool)
        migrations.rollback(bouncer.url)
        after = settings_of_two(pool)

    # pgbouncer drops the one that held the lock, because that transaction is never committed.
    kept = [connection for connection in after if connection[0] in {pid for pid, *_ in before}]
    assert [timeouts for _, *timeouts in kept] == [ROLE_TIMEOUTS]


def settings_of_two(pool: Database) -> list[tuple[object, ...]]:
    """Two server connections in use at once, each with its process id and what bounds its statements."""
    with pool.transaction() as one, pool.transaction() as other:
        return sorted(fetch_all(one, SETTINGS) + fetch_all(other, SETTINGS))


def test_the_timeouts_are_in_force(app: Flask) -> None:
    assert [timeouts for _, *timeouts in settings_of_two(app.extensions["lumen.db"])] == [ROLE_TIMEOUTS] * 2


def test_the_purge_works(app: Flask, database: str, mailbox: Mailbox) -> None:
    sign_in(app.test_client(), mailbox)
    request_link(app.test_client(), mailbox)
    for table in ("auth_tokens", "auth_sessions"):
        databases.query(database, f"update {table} set {YESTERDAY}")

    with logs.recorded() as events:
        app.test_cli_runner().invoke(args=["purge"])

    rows = {event["table"]: event["rows"] for event in events}
    assert rows == dict.fromkeys(("auth_tokens", "auth_sessions"), 1) | dict.fromkeys(
        ("llm_usage", "llm_reservations"), 0
    )


def test_forty_clients_at_once_are_served_by_three_connections(
    serve: ServiceFactory, bouncer: PgBouncer, mailbox: Mailbox
) -> None:
    service = serve(workers=5, DATABASE_URL=bouncer.url)
    service.call("POST", "/v1/auth/request-link", {"email": "ada@example.com"})
    token = {"token": mailbox.token_for("ada@example.com")}
    cookie = {"Cookie": service.call("POST", "/v1/auth/verify", token).cookie}

    def conversation(number: int) -> list[int]:
        session = {"session_id": f"number-{number}"}
        end = {**session, "transcript_hash": HASH}
        return [
            service.call("POST", "/v1/sessions/start", session, headers=cookie).status,
            service.call("POST", "/v1/sessions/end", end, headers=cookie).status,
            service.call("GET", "/v1/account", headers=cookie).status,
        ]

    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(conversation, range(40)))

    assert answers == [[200, 200, 200]] * 40


def test_no_more_server_connections_are_used_than_pgbouncer_allows(make_app: AppFactory, bouncer: PgBouncer) -> None:
    pool = make_app(DATABASE_URL=bouncer.url, DATABASE_POOL_SIZE="40").extensions["lumen.db"]

    def use(_: int) -> int:
        with pool.connection() as conn:
            row = fetch_one(conn, "select pg_backend_pid() from pg_sleep(0.01)")
            assert row is not None
            return int(row[0])

    with ThreadPoolExecutor(40) as threads:
        pids = list(threads.map(use, range(200)))

    assert len(set(pids)) == 3


def test_a_restart_of_the_server_behind_it_costs_no_request_afterwards(
    make_app: AppFactory, mailbox: Mailbox, tmp_path: Path
) -> None:
    server = Server(tmp_path / "pg")
    try:
        with PgBouncer(server.url, tmp_path) as bouncer:
            client = make_app(DATABASE_URL=bouncer.url).test_client()
            sign_in(client, mailbox)
            for end in (server.stop, server.crash):
                end()
                server.start()
                assert [client.get("/v1/auth/session").status_code for _ in range(5)] == [200] * 5
    finally:
        server.leave()


def test_while_the_server_behind_it_is_away_callers_are_told_and_served_again(
    make_app: AppFactory, mailbox: Mailbox, tmp_path: Path
) -> None:
    server = Server(tmp_path / "pg")
    try:
        with PgBouncer(server.url, tmp_path) as bouncer:
            client = make_app(DATABASE_URL=bouncer.url).test_client()
            sign_in(client, mailbox)
            server.stop()
            answer = client.get("/v1/auth/session")
            assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "database_unavailable")
            server.start()
            eventually(lambda: client.get("/v1/auth/session").status_code == 200)
    finally:
        server.leave()

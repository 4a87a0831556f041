"""No request waits for ever for the database: not for a statement, a lock or a connection."""

from __future__ import annotations

import socket
from time import monotonic

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import parse_dsn

from lumen_api import db
from lumen_api.errors import DatabaseUnavailable
from tests.support.journeys import HASH, sign_in
from tests.support.locks import held
from tests.support.mailbox import Mailbox


def test_a_fresh_connection_of_the_role_has_the_timeouts(database: str) -> None:
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    pool = db.Database(database, size=1)

    with pool.connection() as conn:
        found = [db.fetch_one(conn, f"show {name}") for name in names]
    pool.close()

    assert found == [("1500ms",), ("1s",), ("5s",)]


def test_no_start_up_option_carries_them(database: str) -> None:
    # pgbouncer refuses a connection with `options`.
    assert "options" not in parse_dsn(db.Database(database, size=1).dsn)


def test_whoever_waits_too_long_for_a_lock_is_told_to_come_back(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    sign_in(client, mailbox)
    body = {"session_id": "one", "transcript_hash": HASH}
    with held(database, "lock table sessions"):
        began = monotonic()
        answer = client.post("/v1/sessions/end", json=body)
        took = monotonic() - began

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "busy")
    assert int(answer.headers["Retry-After"]) >= 1
    assert took < 2.5
    assert client.post("/v1/sessions/end", json=body).status_code == 200


@pytest.mark.usefixtures("app")  # waiting with a deadline is what an app's start arranges
def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pool = db.Database(f"postgresql://lumen@127.0.0.1:{silent.getsockname()[1]}/lumen", size=1)
        began = monotonic()
        with pytest.raises(DatabaseUnavailable), pool.connection():
            pass

    assert monotonic() - began < 3

"""What a copy of the database, or the database's log, tells its finder: no way in, and in the log no address."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient

from lumen_api.dev import embedded_postgres
from tests.support import databases, eventually
from tests.support.journeys import HASH, request_link, sign_in
from tests.support.locks import held
from tests.support.mailbox import Mailbox

COOKIE = "__Host-lumen_session"


def dump(database: str) -> str:
    """The whole database as text, as a backup would have it."""
    done = subprocess.run(
        [embedded_postgres.binaries() / "pg_dump", "--dbname", database], check=True, capture_output=True, text=True
    )
    return done.stdout


def forms(credential: str) -> Iterator[str]:
    """How `credential` could be in a dump: its parts as they are, encoded, decoded, or hashed without a secret."""
    for part in credential.split("."):
        yield part
        for data in (part.encode(), base64.urlsafe_b64decode(part + "="), credential.encode()):
            yield from encoded(data)
            for algorithm in ("md5", "sha1", "sha256"):
                yield from encoded(hashlib.new(algorithm, data).digest())


def encoded(data: bytes) -> Iterator[str]:
    yield data.hex()
    yield base64.b64encode(data).decode()
    yield base64.urlsafe_b64encode(data).decode()


def pieces(text: str) -> Iterator[str]:
    """Everything that is long enough to be no chance: half a token would be too much as well."""
    return (text[start : start + 16] for start in range(max(1, len(text) - 15)))


@pytest.fixture
def credentials(app: Flask, mailbox: Mailbox) -> list[str]:
    """The tokens and cookies of a database in use: good, used, voided, ended and refused ones."""
    client, other = app.test_client(), app.test_client()
    found = [request_link(client, mailbox) for _ in range(3)]
    client.post("/v1/auth/verify", json={"token": found[0]})
    found.append(cookie_of(client))
    for token in found:
        other.post("/v1/auth/verify", json={"token": token})
    sign_in(other, mailbox)
    found += [mailbox.token_for("ada@example.com"), cookie_of(other)]
    other.post("/v1/auth/logout")
    sign_in(other, mailbox, "bob@example.com")
    found += [mailbox.token_for("bob@example.com"), cookie_of(other)]
    for body in ({"session_id": "one"}, {"session_id": "two"}):
        client.post("/v1/sessions/start", json=body)
    client.post("/v1/sessions/end", json={"session_id": "one", "transcript_hash": HASH})
    found.append(request_link(client, mailbox))
    return found


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    return cookie.value


def test_a_dump_holds_no_token_and_no_cookie_in_any_form(credentials: list[str], database: str) -> None:
    text = dump(database)

    found = [
        piece for credential in credentials for form in forms(credential) for piece in pieces(form) if piece in text
    ]
    assert found == []


def test_a_dump_holds_the_digests_of_what_is_good(app: Flask, credentials: list[str], database: str) -> None:
    links, cookie = app.extensions["lumen.magic_links"], app.extensions["lumen.session_cookie"]
    text = dump(database)

    good = [digest.hex() for digest in map(links.tokens.digest, credentials) if digest and digest.hex() in text]
    good += [digest.hex() for digest in map(cookie.ids.digest, credentials) if digest and digest.hex() in text]

    assert "ada@example.com" in text
    assert "bob@example.com" in text
    assert len(good) == 3  # one link, and a session each


def test_what_a_dump_holds_signs_nobody_in(app: Flask, credentials: list[str], database: str) -> None:
    client = app.test_client(use_cookies=False)
    rows = databases.query(database, "select token_hash from auth_tokens union select id_hash from auth_sessions")
    digests = [bytes(digest) for (digest,) in rows]
    stolen = [digest.hex() for digest in digests]
    stolen += [base64.urlsafe_b64encode(digest).decode().rstrip("=") for digest in digests]
    # With the signature of a token that a finder may rightly have: their own.
    stolen += [f"{text}.{credentials[0].partition('.')[2]}" for text in stolen]

    statuses = {client.post("/v1/auth/verify", json={"token": text}).status_code for text in stolen}
    statuses |= {client.get("/v1/auth/session", headers={"Cookie": f"{COOKIE}={text}"}).status_code for text in stolen}

    assert len(stolen) == 12
    assert statuses == {401}


# --- PostgreSQL's own log. ---


class Log:
    """What the tests' PostgreSQL server has written since this object was made; it serves other tests too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size

    def text(self) -> str:
        with self._path.open("rb") as file:
            file.seek(self._start)
            return file.read().decode(errors="replace")

    def of(self, pid: int) -> str:
        """What was written by the server process `pid`."""
        return "\n".join(line for line in self.text().splitlines() if f"[{pid}]" in line)


@pytest.fixture
def log(run_folder: Path, postgres: str) -> Log:  # noqa: ARG001  (it must run)
    """The server's log from here on."""
    return Log(run_folder / "shared-postgres" / "postgres.log")


ERRORS = {
    "a CHECK violation": ("insert into users (email) values ('CANARY@Example.com')", "violates check constraint"),
    "a duplicate": (
        "insert into users (email) values ('canary@example.com'), ('canary@example.com')",
        "violates unique constraint",
    ),
    "a missing user": (
        "insert into sessions values ('ca4a0000-0000-4000-8000-000000000000', 'canary', now())",
        "violates foreign key constraint",
    ),
    "a statement that takes too long": (
        "set statement_timeout = 20; select pg_sleep(5), 'canary@example.com'",
        "canceling statement due to statement timeout",
    ),
    "a mistake in the statement": ("select 'canary@example.com' as email frm users", "syntax error"),
}


@pytest.mark.parametrize(("statement", "problem"), ERRORS.values(), ids=ERRORS.keys())
def test_a_failed_statement_is_not_in_the_log(statement: str, problem: str, database: str, log: Log) -> None:
    with closing(databases.connect(database)) as conn:
        pid = conn.info.backend_pid
        with pytest.raises(psycopg2.Error, match=problem):
            conn.cursor().execute(statement)

    assert log.of(pid) == ""
    assert "canary" not in log.text().lower()
    assert "ca4a0000" not in log.text()


def test_a_connection_that_is_ended_is_in_the_log_without_its_statement(database: str, log: Log) -> None:
    with held(database, "select 'canary@example.com'") as conn:
        pid = conn.info.backend_pid
        databases.query(database, "select pg_terminate_backend(%s)", pid)
        eventually(lambda: "terminating connection" in log.of(pid))

    assert "canary" not in log.text()


def test_the_log_of_a_deadlock_holds_no_value(database: str, log: Log) -> None:
    statement = "select pg_advisory_xact_lock(%s), 'canary@example.com'"
    with held(database, statement, 1) as one, held(database, statement, 2) as two, ThreadPoolExecutor(1) as thread:
        pid = two.info.backend_pid
        waits = "select 1 from pg_locks where not granted and pid = %s"
        waiting = thread.submit(one.cursor().execute, statement, [2])
        eventually(lambda: databases.query(database, waits, one.info.backend_pid))
        with pytest.raises(psycopg2.errors.DeadlockDetected):
            two.cursor().execute("set local deadlock_timeout = 10; " + statement, [1])
        waiting.result(10)

    assert log.of(pid) == ""
    assert "canary" not in log.text()


def test_the_log_of_a_sign_in_that_fails_holds_no_address(client: FlaskClient, database: str, log: Log) -> None:
    with held(database, "lock table auth_tokens in exclusive mode"):
        answer = client.post("/v1/auth/request-link", json={"email": "canary@example.com"})

    assert answer.status_code == 503
    assert "canary" not in log.text()

"""Attacks on links and cookies beyond test_tokens.py: guesses that are nearly right, replay, what is looked for."""

from __future__ import annotations

from secrets import token_urlsafe
from typing import Any

import pytest
from flask import Flask
from psycopg2 import extensions
from werkzeug.test import TestResponse

from lumen_api import db
from tests.conftest import SECRET, AppFactory, ServiceFactory
from tests.support import databases
from tests.support.attackers import post
from tests.support.contract import error_of
from tests.support.credentials import new_cookie, new_link
from tests.support.raw_http import talk

VERIFY, SESSION = "/v1/auth/verify", "/v1/auth/session"
INVALID = (401, "invalid_token")


def verify(app: Flask, token: object) -> TestResponse:
    """Try to sign in, as somebody new."""
    return app.test_client(use_cookies=False).post(VERIFY, json={"token": token})


def session(app: Flask, cookie: str) -> int:
    """What a caller with this cookie gets."""
    headers = {"Cookie": f"__Host-lumen_session={cookie}"}
    return app.test_client(use_cookies=False).get(SESSION, headers=headers).status_code


# --- Guesses. ---


def near_misses(good: str, other: str) -> list[str]:
    """Guesses of somebody who knows how tokens are made, and all of `other` but not all of `good`."""
    (random, signature), (other_random, other_signature) = good.split("."), other.split(".")
    guesses = [good[:length] for length in range(len(good))]
    guesses += [good[length:] for length in range(1, len(good))]
    guesses += [good + extra for extra in ("A", "=", ".", "\n", " ", "%00", ".A", good)]
    guesses += [good[:at] + char + good[at + 1 :] for at in range(len(good)) for char in "AQgw_" if good[at] != char]
    guesses += [good.swapcase(), good.upper(), good.lower(), good[::-1]]
    guesses += [f"{random}.{other_signature}", f"{other_random}.{signature}", f"{random}.", random, f".{signature}"]
    guesses += [f"{random}.{token_urlsafe(32)}" for _ in range(100)] + [token_urlsafe(64) for _ in range(100)]
    return guesses


def test_no_guess_that_is_nearly_a_link_signs_in_or_uses_the_link_up(app: Flask) -> None:
    good = new_link(app)
    guesses = near_misses(good, new_link(app, "attacker@example.com"))

    answers = {guess: error_of(verify(app, guess)) for guess in guesses}

    # An empty one is missing.
    assert {guess: answer for guess, answer in answers.items() if answer != INVALID and guess} == {}
    assert verify(app, good).status_code == 200


def test_no_guess_that_is_nearly_a_cookie_is_signed_in(app: Flask) -> None:
    good = new_cookie(app)["Cookie"].partition("=")[2]
    other = new_cookie(app, "attacker@example.com")["Cookie"].partition("=")[2]
    # What HTTP cuts off around a value is no part of a guess.
    guesses = [guess for guess in near_misses(good, other) if guess.strip() == guess]

    assert {guess for guess in guesses if session(app, guess) != 401} == set()
    assert session(app, good) == 200


def test_no_guess_reaches_the_limit_of_another_place(make_app: AppFactory) -> None:
    app = make_app(RATE_LIMIT_VERIFY_PER_IP="30/hour")
    client, good = app.test_client(), new_link(app)
    guesses = [
        client.post(VERIFY, json={"token": token_urlsafe(64)}, environ_base={"REMOTE_ADDR": "203.0.113.1"})
        for _ in range(100)
    ]

    assert [answer.status_code for answer in guesses] == [401] * 30 + [429] * 70
    victim = client.post(VERIFY, json={"token": good}, environ_base={"REMOTE_ADDR": "203.0.113.2"})
    assert victim.status_code == 200


def test_nothing_that_the_database_holds_of_a_link_or_a_cookie_is_one(app: Flask, database: str) -> None:
    new_link(app), new_cookie(app, "bob@example.com")
    ((link,),) = databases.query(database, "select token_hash from auth_tokens")
    ((cookie,),) = databases.query(database, "select id_hash from auth_sessions")

    for digest in (bytes(link), bytes(cookie)):
        for text in (digest.hex(), digest.decode("latin-1"), f"{digest.hex()}.{digest.hex()}"):
            assert error_of(verify(app, text)) in (INVALID, (400, "missing_token"))
            assert session(app, digest.hex()) == 401


# --- Other purposes, other secrets. ---


def test_what_is_signed_for_anything_else_is_neither_link_nor_cookie(app: Flask, make_app: AppFactory) -> None:
    other = make_app(AUTH_TOKEN_SECRETS="another secret of the tests, long enough for production")
    link, foreign_link = new_link(app), new_link(other, "bob@example.com")
    cookie = new_cookie(app, "carol@example.com")["Cookie"].partition("=")[2]
    foreign_cookie = new_cookie(other, "dave@example.com")["Cookie"].partition("=")[2]

    assert [error_of(verify(app, token)) for token in (cookie, foreign_link, foreign_cookie, SECRET)] == [INVALID] * 4
    assert [session(app, value) for value in (link, foreign_link, foreign_cookie, SECRET)] == [401] * 4
    # The other service's rows are in the same database: it is the secret that keeps them apart.
    assert verify(other, foreign_link).status_code == 200
    assert verify(app, link).status_code == 200


# --- Replay. ---


def test_a_sign_in_that_is_sent_twice_on_one_connection_happens_once(
    serve: ServiceFactory, app: Flask, database: str
) -> None:
    service = serve(workers=1)
    whole = post(VERIFY, {"token": new_link(app)})
    first = whole.replace(b"Connection: close\r\n", b"")

    answers = talk(service.port, first + first + whole)

    assert [answer.status for answer in answers] == [200, 401, 401]
    assert databases.query(database, "select count(*) from auth_sessions") == [(1,)]


@pytest.mark.parametrize("end", ["/v1/auth/logout", "/v1/auth/logout-all", "/v1/account"])
def test_a_cookie_is_worth_nothing_after_its_end_however_often_it_is_sent(app: Flask, end: str) -> None:
    cookie = new_cookie(app)
    client = app.test_client(use_cookies=False)
    method = "DELETE" if end == "/v1/account" else "POST"

    assert client.open(end, method=method, headers=cookie).status_code == 200

    replays = [client.get(path, headers=cookie).status_code for path in (SESSION, "/v1/account", "/v1/sessions") * 3]
    assert replays == [401] * 9
    assert client.delete("/v1/account", headers=cookie).status_code == 401


# --- What the database is asked. ---


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The SQL that goes to the database, its values filled in."""
    statements: list[bytes] = []

    class Recording(extensions.cursor):
        def execute(self, query: Any, values: Any = None) -> None:
            statements.append(self.mogrify(query, values))
            super().execute(query, values)

    def cursor(conn: extensions.connection, *args: Any, **kwargs: Any) -> Any:
        return extensions.connection.cursor(conn, *args, cursor_factory=Recording, **kwargs)

    monkeypatch.setattr(db.Connection, "cursor", cursor)
    return statements


def test_the_database_is_asked_for_a_hash_and_never_for_what_the_caller_sent(app: Flask, asked: list[bytes]) -> None:
    link, cookie = new_link(app), new_cookie(app, "bob@example.com")["Cookie"].partition("=")[2]
    asked.clear()

    assert session(app, cookie) == verify(app, link).status_code == 200

    sign_ins, links = app.extensions["lumen.session_cookie"].ids, app.extensions["lumen.magic_links"].tokens
    assert len(asked) == 2
    # So how long an index takes tells about the hash, of which a caller can choose no bit.
    for statement, digest in zip(asked, (sign_ins.digest(cookie), links.digest(link)), strict=True):
        assert digest.hex().encode() in statement
    for part in (*link.split("."), *cookie.split(".")):
        assert not any(part.encode() in statement for statement in asked)

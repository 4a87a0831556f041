"""The session cookie: its attributes, its life, and that every sign-in has an id of its own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import AppFactory
from tests.support import databases
from tests.support.journeys import request_link, sign_in
from tests.support.mailbox import Mailbox

NAME = "__Host-lumen_session"


def verified(client: FlaskClient, mailbox: Mailbox, email: str = "ada@example.com") -> TestResponse:
    """The answer to a sign-in."""
    return client.post("/v1/auth/verify", json={"token": request_link(client, mailbox, email)})


def taken_apart(answer: TestResponse) -> tuple[str, str, dict[str, str]]:
    """Name, value and attributes of the one cookie that was set."""
    (header,) = answer.headers.getlist("Set-Cookie")
    (name, value), *attributes = (part.partition("=")[::2] for part in header.split("; "))
    assert len(dict(attributes)) == len(attributes)
    return name, value, dict(attributes)


def status_with(app: Flask, cookie: str, name: str = NAME) -> int:
    """What a caller with this cookie gets."""
    caller = app.test_client(use_cookies=False)  # with its own jar it would send nothing else
    return caller.get("/v1/auth/session", headers={"Cookie": f"{name}={cookie}"}).status_code


# --- Attributes. ---


def test_the_cookie_has_exactly_these_attributes(client: FlaskClient, mailbox: Mailbox) -> None:
    name, value, attributes = taken_apart(verified(client, mailbox))

    assert name == "__Host-lumen_session"
    # Werkzeug adds Expires, for browsers that are older than Max-Age.
    assert attributes.keys() - {"Expires"} == {"Secure", "HttpOnly", "SameSite", "Path", "Max-Age"}
    assert [attributes[key] for key in ("SameSite", "Path", "Max-Age")] == ["Lax", "/", "43200"]
    assert len(value) > 43


def test_in_development_the_cookie_works_on_plain_http(make_app: AppFactory, mailbox: Mailbox) -> None:
    app = make_app(APP_ENV="development")

    name, _, attributes = taken_apart(verified(app.test_client(), mailbox))

    assert name == "lumen_session"
    assert attributes.keys() - {"Expires"} == {"HttpOnly", "SameSite", "Path", "Max-Age"}
    assert [attributes[key] for key in ("SameSite", "Path", "Max-Age")] == ["Lax", "/", "43200"]


def test_the_cookie_lives_as_long_as_the_session(make_app: AppFactory, mailbox: Mailbox) -> None:
    client = make_app(SESSION_TTL="90m").test_client()

    _, _, attributes = taken_apart(verified(client, mailbox))

    expires_at = datetime.fromisoformat(client.get("/v1/auth/session").get_json()["expires_at"])
    assert attributes["Max-Age"] == "5400"
    assert 5340 < (expires_at - datetime.now(UTC)).total_seconds() <= 5401


def test_another_name_can_be_configured(make_app: AppFactory, mailbox: Mailbox) -> None:
    app = make_app(AUTH_COOKIE_NAME="__Host-other")

    name, value, _ = taken_apart(verified(app.test_client(), mailbox))

    assert name == "__Host-other"
    assert [status_with(app, value, other) for other in ("__Host-other", NAME, "lumen_session")] == [200, 401, 401]


def test_only_a_sign_in_sets_a_cookie(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    answers = [
        client.post("/v1/auth/request-link", json={"email": "ada@example.com"}),
        client.get("/v1/auth/session"),
        client.post("/v1/sessions/start", json={"session_id": "first"}),
        client.get("/v1/sessions"),
        client.get("/v1/account"),
        client.get("/v1/health"),
    ]

    assert [answer.status_code for answer in answers] == [200] * 6
    assert not any("Set-Cookie" in answer.headers for answer in answers)


# --- The life of a session. ---


def test_an_expired_session_is_no_session(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    sign_in(client, mailbox)
    databases.query(
        database,
        "update auth_sessions set created_at = now() - interval '13 hours', expires_at = now() - interval '1 second'",
    )

    answer = client.get("/v1/auth/session")

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "unauthorized")


def test_using_a_session_does_not_prolong_it(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    first, *later = (client.get("/v1/auth/session").get_json()["expires_at"] for _ in range(3))

    assert later == [first, first]


def test_a_session_says_who_is_signed_in(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    user_id = sign_in(client, mailbox)

    body = client.get("/v1/auth/session").get_json()

    assert list(body) == ["status", "user_id", "email", "expires_at"]
    assert databases.query(database, "select user_id::text, email from users") == [(user_id, "ada@example.com")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/auth/session"),
        ("POST", "/v1/auth/logout-all"),
        ("POST", "/v1/sessions/start"),
        ("POST", "/v1/sessions/end"),
        ("GET", "/v1/sessions"),
        ("GET", "/v1/account"),
        ("DELETE", "/v1/account"),
    ],
)
def test_without_a_session_a_signed_in_route_is_closed(method: str, path: str, client: FlaskClient) -> None:
    answer = client.open(path, method=method)

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "unauthorized")


# --- A new id for each sign-in. ---


def test_each_sign_in_has_a_new_id(client: FlaskClient, mailbox: Mailbox) -> None:
    ids = {taken_apart(verified(client, mailbox))[1] for _ in range(3)}

    assert len(ids) == 3


def test_signing_in_ends_the_session_whose_cookie_came_along(app: Flask, mailbox: Mailbox, database: str) -> None:
    client = app.test_client()
    old = taken_apart(verified(client, mailbox))[1]

    new = taken_apart(verified(client, mailbox))[1]

    assert [status_with(app, cookie) for cookie in (old, new)] == [401, 200]
    assert databases.query(database, "select count(*) from auth_sessions") == [(1,)]


def test_signing_in_as_another_user_ends_the_session_whose_cookie_came_along(app: Flask, mailbox: Mailbox) -> None:
    client = app.test_client()
    ada = taken_apart(verified(client, mailbox))[1]

    bob = taken_apart(verified(client, mailbox, "bob@example.com"))[1]

    assert [status_with(app, cookie) for cookie in (ada, bob)] == [401, 200]


def test_signing_in_leaves_other_devices_signed_in(app: Flask, mailbox: Mailbox) -> None:
    laptop, phone = app.test_client(), app.test_client()
    sign_in(laptop, mailbox)
    sign_in(phone, mailbox)

    assert [device.get("/v1/auth/session").status_code for device in (laptop, phone)] == [200, 200]


@pytest.mark.parametrize("bad", ["used", "nonsense", "expired"])
def test_a_bad_link_leaves_its_caller_signed_in(bad: str, client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    token = request_link(client, mailbox)
    client.post("/v1/auth/verify", json={"token": token})
    if bad == "expired":
        token = request_link(client, mailbox)
        databases.query(
            database,
            "update auth_tokens set created_at = now() - interval '1 hour', expires_at = now() - interval '1 second'",
        )

    answer = client.post("/v1/auth/verify", json={"token": "nonsense" if bad == "nonsense" else token})

    assert answer.status_code == 401
    assert client.get("/v1/auth/session").status_code == 200


def test_a_cookie_that_was_planted_is_not_taken_over(app: Flask, mailbox: Mailbox) -> None:
    attacker, victim = app.test_client(), app.test_client(use_cookies=False)
    planted = taken_apart(verified(attacker, mailbox, "attacker@example.com"))[1]
    token = request_link(victim, mailbox)

    answer = victim.post("/v1/auth/verify", json={"token": token}, headers={"Cookie": f"{NAME}={planted}"})

    assert taken_apart(answer)[1] != planted
    assert status_with(app, planted) == 401

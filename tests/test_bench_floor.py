"""The floor that the service is measured against: the same work for the same answers, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2 import extensions
from werkzeug.test import TestResponse

from bench.floor import app as floor_app
from bench.floor import bare, plain
from bench.floor.app import REDIS_COMMANDS
from lumen_api import db
from tests.conftest import AppFactory
from tests.support.credentials import new_cookie, new_link
from tests.support.journeys import HASH
from tests.support.mailbox import Mailbox
from tests.support.valkey import Valkey

EMAIL = "ada@example.com"
ROUTES: dict[str, tuple[str, str, dict[str, str] | None]] = {
    "health": ("GET", "/v1/health", None),
    "session": ("GET", "/v1/auth/session", None),
    "request-link": ("POST", "/v1/auth/request-link", {"email": "guest@example.com"}),
    "verify": ("POST", "/v1/auth/verify", {"token": "(a new link's)"}),
    "start": ("POST", "/v1/sessions/start", {"session_id": "one"}),
    "end": ("POST", "/v1/sessions/end", {"session_id": "one", "transcript_hash": HASH}),
    "list": ("GET", "/v1/sessions", None),
}
every_route = pytest.mark.parametrize("route", ROUTES)


@pytest.fixture
def service(make_app: AppFactory, valkey: Valkey) -> Flask:
    """The service, which counts in Redis."""
    return make_app(REDIS_URL=valkey.url)


@pytest.fixture
def floor(env: dict[str, str], valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """The floor, on the same servers; it sends three Redis commands for a session check."""
    for name, value in {**env, "REDIS_URL": valkey.url, REDIS_COMMANDS: '{"session": 3}'}.items():
        monkeypatch.setenv(name, value)
    app = floor_app.create_app()
    yield app
    app.extensions["lumen.db"].close()


@pytest.fixture
def cookie(service: Flask) -> dict[str, str]:
    """The header of somebody with more conversations than a page holds."""
    cookie = new_cookie(service, EMAIL)
    caller = service.test_client(use_cookies=False)
    for number in range(25):
        assert caller.post("/v1/sessions/start", json={"session_id": f"s-{number}"}, headers=cookie).status_code == 200
    return cookie


def ask(app: Flask, service: Flask, route: str, cookie: dict[str, str]) -> TestResponse:
    """The answer of `app`; where a link is needed, it is a new one of the service."""
    method, path, body = ROUTES[route]
    json = {"token": new_link(service)} if route == "verify" else body
    headers = {} if route in ("health", "request-link", "verify") else cookie
    caller: FlaskClient = app.test_client(use_cookies=False)
    return caller.open(path, method=method, json=json, headers=headers)


@every_route
def test_the_floor_answers_what_the_service_answers(
    route: str, service: Flask, floor: Flask, cookie: dict[str, str]
) -> None:
    answers = [ask(app, service, route, cookie) for app in (service, floor)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].data == answers[1].data


def test_who_signs_in_at_the_floor_gets_a_cookie_like_the_service_s(service: Flask, floor: Flask) -> None:
    cookies = [ask(app, service, "verify", {}).headers["Set-Cookie"] for app in (service, floor)]
    names = [cookie.partition("=")[0] for cookie in cookies]
    attributes = [{part for part in cookie.split("; ")[1:] if not part.startswith("Expires")} for cookie in cookies]

    assert names[0] == names[1]
    assert attributes[0] == attributes[1]
    assert ask(floor, service, "session", {"Cookie": cookies[1].partition(";")[0]}).status_code == 200


def test_the_floor_mails_a_link_that_signs_in(service: Flask, floor: Flask, mailbox: Mailbox) -> None:
    ask(floor, service, "request-link", {})
    token = mailbox.messages[0].get_content().strip().partition("token=")[2]

    assert floor.test_client().post("/v1/auth/verify", json={"token": token}).status_code == 200


@every_route
def test_the_floor_runs_the_statements_of_the_service(
    route: str, service: Flask, floor: Flask, cookie: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []

    class Recording(extensions.cursor):
        def execute(self, query: Any, values: Any = None) -> None:
            sent.append(str(query))
            super().execute(query, values)

    def cursor(conn: extensions.connection, *args: Any, **kwargs: Any) -> Any:
        return extensions.connection.cursor(conn, *args, cursor_factory=Recording, **kwargs)

    monkeypatch.setattr(db.Connection, "cursor", cursor)
    statements = []
    for app in (service, floor):
        assert ask(app, service, route, cookie).status_code == 200
        # A new link's is not the route's.
        statements.append(sent[1:] if route == "verify" else sent[:])
        sent.clear()

    assert statements[0] == statements[1]
    assert bool(statements[0]) == (route != "health")


def test_the_floor_sends_as_many_redis_commands_as_it_is_told(
    service: Flask, floor: Flask, cookie: dict[str, str], valkey: Valkey
) -> None:
    ask(floor, service, "session", cookie)

    with valkey.client() as client:
        assert client.get("floor") == b"3"


def test_bare_flask_and_bare_wsgi_answer_health_as_the_service_does(service: Flask) -> None:
    said = service.test_client().get("/v1/health").data

    assert bare.create_app().test_client().get("/v1/health").data == said
    assert b"".join(plain.app({}, lambda _status, _headers: None)) == said

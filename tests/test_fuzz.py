"""Input that nobody thought of: whatever comes, the answer is a success or the envelope of a 4xx."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_from_bytes

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import Client, EnvironBuilder, TestResponse

from lumen_api.blueprints.sessions import write_cursor
from lumen_api.repositories.sessions import Position
from lumen_api.rfc3339 import parse
from tests.conftest import AppFactory
from tests.support import contract, databases
from tests.support.contract import JSON_ROUTES, JSON_TYPE, LLM, error_of
from tests.support.journeys import HASH, sign_in
from tests.support.mailbox import Mailbox
from tests.support.openapi import EVENTS

provider, env = contract.provider, contract.env_with_a_model


def often(examples: int) -> settings:
    """The same `examples` in every run. The fixtures may be shared by them: each example stands for itself."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@pytest.fixture
def caller(client: FlaskClient, mailbox: Mailbox) -> FlaskClient:
    """Signed in."""
    sign_in(client, mailbox)
    return client


def check(answer: TestResponse) -> None:
    """Fail unless it is a success that says ok or is the model's, or a 4xx with the envelope."""
    assert answer.status_code in (200, 400, 401, 403, 404, 405, 409, 413, 415), answer.text
    if answer.status_code == 200:
        assert answer.mimetype == EVENTS or {"status": "ok", "type": "message"}.items() & answer.get_json().items()
    else:
        assert error_of(answer)[1] != "no error"
    assert answer.headers["X-Request-Id"].isascii()


# Everything that JSON can say, NUL and lone surrogates included.
ANY_TEXT = st.text(st.characters(), max_size=50)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=8,
)
MEMBERS = ["email", "token", "session_id", "transcript_hash", "started_at", "ended_at"]
MEMBERS += ["model", "messages", "max_tokens", "system", "temperature", "stop_sequences", "stream"]
ROUTES = st.sampled_from(sorted(JSON_ROUTES))


@often(100)
@given(path=ROUTES, body=ANY_JSON)
def test_any_json_is_answered(caller: FlaskClient, path: str, body: object) -> None:
    check(caller.post(path, json=body))


@often(100)
@given(path=ROUTES, members=st.dictionaries(st.sampled_from(MEMBERS), ANY_JSON))
def test_any_value_of_any_member_is_answered(caller: FlaskClient, path: str, members: dict[str, Any]) -> None:
    check(caller.post(path, json={**JSON_ROUTES[path], **members}))


@often(100)
@given(path=ROUTES, body=st.binary(max_size=200), content_type=st.sampled_from([JSON_TYPE, "text/plain", ""]))
def test_any_bytes_are_answered(caller: FlaskClient, path: str, body: bytes, content_type: str) -> None:
    check(caller.post(path, data=body, content_type=content_type))


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """Good JSON with some bytes of it changed: nearer to the parser's edges than any random bytes."""
    body = bytearray(json.dumps({**JSON_ROUTES["/v1/sessions/end"], "email": "é@example.com", "n": [1.5e3]}).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body) - 1))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(body)


@often(200)
@given(path=ROUTES, body=mangled())
def test_json_with_some_bytes_changed_is_answered(caller: FlaskClient, path: str, body: bytes) -> None:
    check(caller.post(path, data=body, content_type=JSON_TYPE))


# What is nearly a call of the model.
BLOCKS = st.lists(st.fixed_dictionaries({"type": st.just("text") | ANY_JSON, "text": ANY_JSON}) | ANY_JSON, max_size=3)
ROLES = st.sampled_from(["user", "assistant"]) | ANY_JSON
TURNS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": BLOCKS | ANY_JSON}) | ANY_JSON, max_size=3)
CALL: dict[str, st.SearchStrategy[Any]] = {
    "messages": TURNS,
    "max_tokens": st.integers(1, 30) | ANY_JSON,
    "system": BLOCKS | ANY_JSON,
    "temperature": st.floats(0, 1) | ANY_JSON,
    "stop_sequences": st.lists(ANY_TEXT | ANY_JSON, max_size=5),
    "stream": st.booleans() | ANY_JSON,
}


@often(200)
@given(members=st.fixed_dictionaries({}, optional=CALL), rest=st.dictionaries(ANY_TEXT, ANY_JSON, max_size=2))
def test_any_call_of_the_model_is_answered(caller: FlaskClient, members: dict[str, Any], rest: dict[str, Any]) -> None:
    answer = caller.post(LLM, json={**rest, **JSON_ROUTES[LLM], **members})

    check(answer)
    assert answer.status_code in (200, 400), answer.text


# Addresses that are nearly right, and some that are.
LOCAL_PARTS = st.one_of(
    st.text(st.sampled_from("aZ0.+-_=?'\"% é\u0430\uff41\r\n\x00@<>()"), max_size=12),
    st.integers(60, 70).map(lambda length: "a" * length),
    # RFC 2047 spells other characters in ASCII: a header that decodes them names somebody else.
    st.builds(
        "=?{}?q?{}?=".format, st.sampled_from(["utf-8", "x"]), st.sampled_from(["bob", "bob=40b.example", "=3e", "_"])
    ),
)
DOMAINS = st.one_of(
    st.text(st.sampled_from("aZ0.-é\u0430\uff41\u3002ßi\u0307\u200d"), max_size=12),
    st.lists(st.integers(58, 64).map(lambda length: "b" * length), min_size=1, max_size=4).map(".".join),
)
ADDRESSES = st.builds(
    "{}@{}.{}".format, LOCAL_PARTS, DOMAINS, st.sampled_from(["com", "COM", "ｃｏｍ", "рф", "test", "1"])
)


@often(100)
@given(email=ADDRESSES)
def test_whatever_address_is_mailed_is_the_one_that_is_stored(
    client: FlaskClient, mailbox: Mailbox, database: str, email: str
) -> None:
    databases.query(database, "truncate auth_tokens")
    recipients: list[str] = []
    mailbox.clear()
    mailbox.answer_rcpt = recipients.append

    answer = client.post("/v1/auth/request-link", json={"email": email})

    check(answer)
    mailed = [str(message["To"]) for message in mailbox.messages]
    stored = [address for (address,) in databases.query(database, "select email from auth_tokens")]
    assert mailed == recipients == stored
    assert len(stored) == (answer.status_code == 200)


@often(100)
@given(limit=ANY_TEXT | st.integers().map(str), cursor=ANY_TEXT, raw=st.binary(max_size=20))
def test_any_query_is_answered(caller: FlaskClient, limit: str, cursor: str, raw: bytes) -> None:
    for query in (f"limit={quote(limit, errors='replace')}", f"cursor={quote(cursor, errors='replace')}"):
        check(caller.get(f"/v1/sessions?{query}&{quote_from_bytes(raw, safe='&=%+;')}"))


@often(100)
@given(data=st.data())
def test_a_cursor_with_some_characters_changed_is_answered(caller: FlaskClient, data: st.DataObject) -> None:
    cursor = write_cursor(Position(parse("2026-01-31T08:30:00Z"), data.draw(st.sampled_from(["a", "ab", "abc"]))))
    at = data.draw(st.integers(0, len(cursor)))
    changed = cursor[:at] + data.draw(st.text(max_size=3)) + cursor[at + data.draw(st.integers(0, 3)) :]

    check(caller.get(f"/v1/sessions?cursor={quote(changed, errors='replace')}"))


# --- Headers and addresses: bytes, which WSGI hands over as Latin-1. ---

# Without what ends a header for every server.
LATIN_1 = st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0"), max_size=40)
HEADERS = [
    "CONTENT_TYPE",
    "QUERY_STRING",
    "HTTP_ACCEPT",
    "HTTP_ACCESS_CONTROL_REQUEST_HEADERS",
    "HTTP_ACCESS_CONTROL_REQUEST_METHOD",
    "HTTP_AUTHORIZATION",
    "HTTP_CONTENT_ENCODING",
    "HTTP_COOKIE",
    "HTTP_HOST",
    "HTTP_IF_NONE_MATCH",
    "HTTP_ORIGIN",
    "HTTP_RANGE",
    "HTTP_REFERER",
    "HTTP_SEC_FETCH_SITE",
    "HTTP_TRACEPARENT",
    "HTTP_USER_AGENT",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_REQUEST_ID",
]


def send(app: Flask, method: str, path: str, changes: dict[str, str]) -> TestResponse:
    """What `app` answers to a WSGI environment with `changes`; the test client itself would fail on some of them."""
    environ = EnvironBuilder(path, method=method, data=b"{}", content_type=JSON_TYPE).get_environ()
    # The client reads PATH_INFO and HTTP_HOST of the environment for itself, so it sees others than the app does.
    return Client(lambda seen, start: app({**seen, **changes}, start), use_cookies=False).open(environ)


@pytest.fixture
def proxied(make_app: AppFactory) -> Flask:
    """Behind a proxy: X-Forwarded-For is read too."""
    return make_app(TRUSTED_PROXY_HOPS="1")


ANY_ROUTE = st.sampled_from(
    [("GET", "/v1/health"), ("GET", "/v1/auth/session"), ("POST", "/v1/auth/verify"), ("POST", "/v1/auth/logout")]
)


@often(200)
@given(route=ANY_ROUTE, headers=st.dictionaries(st.sampled_from(HEADERS), LATIN_1, min_size=1))
def test_any_headers_are_answered(proxied: Flask, route: tuple[str, str], headers: dict[str, str]) -> None:
    check(send(proxied, *route, headers))


COOKIES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["__Host-lumen_session=", "__Host-lumen_session", "x=y; __Host-lumen_session=", ""]),
    st.sampled_from(["", '"', "=", ";", "a.b", HASH, "." * 100]),
    LATIN_1,
)
FORWARDED = st.lists(
    st.ip_addresses().map(str) | LATIN_1 | st.sampled_from(["[::1]:80", "::1%eth0", "1.2.3.4:x", "::ffff:1.2.3.4", "["])
).map(",".join)


@often(100)
@given(cookie=COOKIES, forwarded=FORWARDED)
def test_any_cookie_from_any_address_is_answered(proxied: Flask, cookie: str, forwarded: str) -> None:
    headers = {"HTTP_COOKIE": cookie, "HTTP_X_FORWARDED_FOR": forwarded}

    assert send(proxied, "POST", "/v1/auth/verify", headers).status_code == 400
    assert send(proxied, "GET", "/v1/auth/session", headers).status_code == 401
    assert send(proxied, "POST", "/v1/auth/logout", headers).status_code == 200


METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "X" * 100, "get"])


@often(200)
@given(
    method=METHODS,
    path=st.builds("{}{}".format, st.sampled_from(["", "/", "/v1/", "/v1/sessions/", "/v1/health"]), LATIN_1),
    query=LATIN_1,
)
def test_any_address_is_answered(app: Flask, method: str, path: str, query: str) -> None:
    answer = send(app, method, "/", {"PATH_INFO": path, "QUERY_STRING": query})

    if method == "OPTIONS" and answer.status_code == 200:
        assert answer.data == b""
    else:
        check(answer)

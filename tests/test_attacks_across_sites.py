"""Attacks by a page of another site, in the browser of somebody who is signed in."""

from __future__ import annotations

import json
from itertools import product

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.conftest import ORIGIN, ServiceFactory
from tests.support import databases
from tests.support.attackers import post
from tests.support.contract import LLM, error_of, routes
from tests.support.credentials import new_cookie, new_link
from tests.support.journeys import HASH
from tests.support.llm import ASKED
from tests.support.mailbox import Mailbox
from tests.support.raw_http import talk

REFUSED = (403, "origin_not_allowed")

# What a browser says for a page that is not ours.
SIGNS: dict[str, dict[str, str]] = {
    "an origin": {"Origin": "https://evil.example"},
    "an origin, and the site": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "the neighbour's origin": {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "same-site"},
    "null, of a sandboxed frame": {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    "null, of a redirect": {"Origin": "null"},
    "no origin, but the site": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    "no origin, but the neighbour": {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
    "a whole set that lies about the site": {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
}
# What a form, a script without a preflight, or one with it can send.
TYPES: dict[str, str | None] = {
    "text/plain": "text/plain",
    "text/plain with JSON in it": "text/plain; x=application/json",
    "a form": "application/x-www-form-urlencoded",
    "a multipart form": "multipart/form-data; boundary=x",
    "none": None,
    "empty": "",
    "a blob": "application/octet-stream",
    "JSON": "application/json",
    "JSON with a charset": "application/json; charset=utf-8",
    "JSON in capitals": "APPLICATION/JSON",
    "a beacon of JSON": "application/json;charset=UTF-8",
    "a report": "application/csp-report",
    "reports": "application/reports+json",
    "several": "text/plain, application/json",
}
# A form cannot send these without a preflight, but a page of ours does.
OURS = ("JSON", "JSON with a charset", "JSON in capitals", "a beacon of JSON")

TABLES = ("users", "auth_tokens", "auth_sessions", "sessions")


def counts(database: str) -> list[int]:
    """How many rows each table has."""
    return [databases.query(database, f"select count(*) from {table}")[0][0] for table in TABLES]


def bodies(link: str) -> dict[tuple[str, str], bytes]:
    """What each changing route would act on."""
    found: dict[tuple[str, str], object] = {
        ("POST", "/v1/auth/request-link"): {"email": "bob@example.com"},
        ("POST", "/v1/auth/verify"): {"token": link},
        ("POST", "/v1/sessions/start"): {"session_id": "forged"},
        ("POST", "/v1/sessions/end"): {"session_id": "forged", "transcript_hash": HASH},
        ("POST", "/v1/auth/logout"): {},
        ("POST", "/v1/auth/logout-all"): {},
        ("DELETE", "/v1/account"): {},
        ("POST", LLM): ASKED,
    }
    return {route: json.dumps(body).encode() for route, body in found.items()}


def test_every_route_that_changes_something_is_attacked(app: Flask) -> None:
    assert set(bodies("")) == {(method, path) for method, path in routes(app) if method != "GET"}


def send(app: Flask, route: tuple[str, str], body: bytes, kind: str, headers: dict[str, str]) -> TestResponse:
    """The answer to a request with a content type of TYPES."""
    method, path = route
    content_type = TYPES[kind]
    with_type = headers if content_type is None else {**headers, "Content-Type": content_type}
    return app.test_client(use_cookies=False).open(path, method=method, data=body, headers=with_type)


@pytest.mark.parametrize("sign", SIGNS)
def test_no_content_type_lets_a_foreign_page_change_anything(
    app: Flask, database: str, mailbox: Mailbox, sign: str
) -> None:
    cookie = new_cookie(app)
    routes_with_bodies = bodies(new_link(app, "attacker@example.com"))
    before = counts(database)

    answers = {
        (route, kind): error_of(send(app, route, body, kind, {**cookie, **SIGNS[sign]}))
        for (route, body), kind in product(routes_with_bodies.items(), TYPES)
    }
    empty = {route: error_of(send(app, route, b"", "none", {**cookie, **SIGNS[sign]})) for route in routes_with_bodies}

    assert {what: answer for what, answer in (*answers.items(), *empty.items()) if answer != REFUSED} == {}
    assert counts(database) == before
    assert mailbox.messages == []


def test_where_a_browser_says_nothing_no_body_that_a_form_can_send_is_read(
    app: Flask, database: str, mailbox: Mailbox
) -> None:
    # A browser too old for Origin and Sec-Fetch-Site; SameSite=Lax keeps the cookie back in all but the oldest.
    cookie = new_cookie(app)
    routes_with_bodies = bodies(new_link(app, "attacker@example.com"))
    before = counts(database)

    kinds = [kind for kind in TYPES if kind not in OURS]
    answers = {
        (route, kind): error_of(send(app, route, body, kind, cookie))
        for (route, body), kind in product(routes_with_bodies.items(), kinds)
    }

    assert answers == dict.fromkeys(answers, (415, "unsupported_media_type"))
    assert counts(database) == before
    assert mailbox.messages == []


def test_no_get_changes_anything(app: Flask, database: str, mailbox: Mailbox) -> None:
    # The one kind of request of another site that SameSite=Lax sends the cookie with.
    client = app.test_client(use_cookies=False)
    cookie = new_cookie(app)
    link = new_link(app)
    query = f"?token={link}&email=bob@example.com&session_id=forged&transcript_hash={HASH}&_method=DELETE"
    before = counts(database)

    for _, path in routes(app):
        for method in ("GET", "HEAD", "OPTIONS"):
            answer = client.open(path + query, method=method, headers={**cookie, "Sec-Fetch-Site": "cross-site"})
            assert "Set-Cookie" not in answer.headers, (method, path)

    assert counts(database) == before
    assert mailbox.messages == []
    assert client.get("/v1/auth/session", headers=cookie).status_code == 200


# --- Login CSRF: the visitor is signed in as the attacker, and writes into the attacker's account. ---


def test_no_foreign_page_signs_its_visitor_in_as_somebody_else(app: Flask) -> None:
    cookie = new_cookie(app)
    link = new_link(app, "attacker@example.com")
    disguises = {
        # A form's only field, which is JSON with its "=" in a member that is ignored.
        "text/plain": json.dumps({"token": link, "x": "="}).encode() + b"\r\n",
        "a form": f"token={link}".encode(),
        "a multipart form": f'--x\r\nContent-Disposition: form-data; name="token"\r\n\r\n{link}\r\n--x--'.encode(),
        "JSON": json.dumps({"token": link}).encode(),
    }

    for headers in (*SIGNS.values(), {}):
        for kind, body in disguises.items():
            if headers or kind != "JSON":  # which needs a preflight, and a browser with one says whose page it is
                answer = send(app, ("POST", "/v1/auth/verify"), body, kind, {**cookie, **headers})
                assert answer.status_code in (403, 415), (kind, headers)
                assert "Set-Cookie" not in answer.headers

    caller = app.test_client(use_cookies=False)
    assert caller.get("/v1/auth/session", headers=cookie).get_json()["email"] == "ada@example.com"
    assert caller.post("/v1/auth/verify", json={"token": link}).status_code == 200


# --- Two origins, on the wire. ---


ODD = [
    [f"Origin: {ORIGIN}", "Origin: https://evil.example"],
    ["Origin: https://evil.example", f"Origin: {ORIGIN}"],
    [f"Origin: {ORIGIN}", "Origin: null"],
    ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: cross-site"],
    ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: none"],
    ["Origin: https://evil.example", f"Origin : {ORIGIN}"],
    [f"Origin: https://evil.example\r\n {ORIGIN}"],
    [f"Origin:\x0b{ORIGIN}", "Sec-Fetch-Site: cross-site"],
    ["Sec-Fetch-Site: cross-site", "Sec_Fetch_Site: none", f"Origin_: {ORIGIN}"],
    ["Origin: https://evil.example", f"X-Forwarded-Origin: {ORIGIN}", f"X-Origin: {ORIGIN}", f"Referer: {ORIGIN}/"],
]


def test_an_origin_that_is_said_twice_or_oddly_is_not_ours(serve: ServiceFactory, app: Flask) -> None:
    service = serve(workers=1)
    cookie = new_cookie(app)["Cookie"]

    for lines in ODD:
        (answer,) = talk(service.port, post("/v1/auth/logout", {}, f"Cookie: {cookie}", *lines))
        assert (answer.status, answer.code) in (REFUSED, (400, "")), lines
        assert "access-control-allow-origin" not in answer.headers, lines
    assert service.call("GET", "/v1/auth/session", headers={"Cookie": cookie}).status == 200

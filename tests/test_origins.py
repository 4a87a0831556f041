"""Which web pages may change something or read an answer: those of the configured origins, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import ORIGIN, AppFactory
from tests.support import contract
from tests.support.answers import asks_for_every_answer
from tests.support.contract import BODILESS_ROUTES, LLM, error_of, good_bodies, routes, says
from tests.support.journeys import sign_in
from tests.support.mailbox import Mailbox

provider, env = contract.provider, contract.env_with_a_model

REFUSED = (403, "origin_not_allowed")
LOGOUT = "/v1/auth/logout"

# None of them is ORIGIN, https://app.example.com.
FOREIGN = [
    "",
    " ",
    "null",
    "*",
    "https://evil.example",
    "https://app.example.com.evil.example",
    "https://app.example.comx",
    "https://xapp.example.com",
    "https://evil.example/https://app.example.com",
    "https://evil.example?https://app.example.com",
    "https://evil.example#https://app.example.com",
    "https://app.example.com@evil.example",
    "https://app.example.com:443",
    "https://app.example.com:8443",
    "http://app.example.com",
    "https://www.app.example.com",
    "https://example.com",
    "https://appXexample.com",
    "https://app.example.com/",
    "https://app.example.com/login",
    "https://app.example.com.",
    "HTTPS://APP.EXAMPLE.COM",
    "https://App.example.com",
    "//app.example.com",
    "app.example.com",
    "https:app.example.com",
    "https://app.example.com https://evil.example",
    "https://app.example.com, https://evil.example",
    "https://evil.example, https://app.example.com",
    "https://app.example.com, https://app.example.com",
    "https://app.example.com\x0b",
    "https://app.example.com\u00a0",
    "https://app.example.c\u00f6m",
    "http://localhost",
    "http://localhost:3000",
    "http://localhost:8080",
    "http://127.0.0.1:8080",
    "file://",
    "chrome-extension://app.example.com",
]


def state_changing(app: Flask) -> list[tuple[str, str]]:
    """Every route that is no mere question."""
    found = [(method, path) for method, path in routes(app) if method != "GET"]
    assert {("POST", path) for path in ("/v1/auth/verify", "/v1/sessions/end", LLM, LOGOUT)} <= set(found)
    assert ("DELETE", "/v1/account") in found
    return found


def test_a_page_of_another_origin_changes_nothing(client: FlaskClient) -> None:
    answers = {origin: error_of(client.post(LOGOUT, headers={"Origin": origin})) for origin in FOREIGN}

    assert answers == dict.fromkeys(FOREIGN, REFUSED)


def test_every_route_that_changes_something_refuses_a_foreign_page(client: FlaskClient, mailbox: Mailbox) -> None:
    bodies = good_bodies(client, mailbox)
    stranger = client.application.test_client()
    signs: list[dict[str, str]] = [{"Origin": "https://evil.example"}, {"Origin": "null"}]
    signs += [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]

    for method, path in state_changing(client.application):
        # What a form sends, a JSON call, a bare call and one without a content type.
        requests: list[dict[str, Any]] = [{"data": {"a": "b"}}, {"json": bodies.get(path, {})}, {}, {"data": b"{}"}]
        for headers in signs:
            for request in requests:
                for caller in (client, stranger):
                    answer = caller.open(path, method=method, headers=headers, **request)
                    assert error_of(answer) == REFUSED, (method, path, headers)
    # None of them did anything.
    assert client.get("/v1/auth/session").status_code == 200
    assert client.get("/v1/sessions").get_json()["sessions"] == []


def test_every_route_that_changes_something_answers_the_web_app(client: FlaskClient, mailbox: Mailbox) -> None:
    for headers in ({"Origin": ORIGIN}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}):
        # Those that end the sign-in come last.
        for path, body in good_bodies(client, mailbox).items():
            assert client.post(path, json=body, headers=headers).status_code == 200, (path, headers)
        for method, path in BODILESS_ROUTES:
            sign_in(client, mailbox)
            assert client.open(path, method=method, headers=headers).status_code == 200, (path, headers)


@pytest.mark.parametrize("site", ["", "cross-site", "same-site", "Same-Origin", "NONE", "same-origin, none", "x"])
def test_without_an_origin_the_browser_must_say_that_the_page_is_ours(client: FlaskClient, site: str) -> None:
    assert error_of(client.post(LOGOUT, headers={"Sec-Fetch-Site": site})) == REFUSED


def test_with_an_origin_of_ours_it_does_not_matter_what_site_it_is(client: FlaskClient) -> None:
    for site in ("cross-site", "same-site", "same-origin", "none", "x"):
        headers = {"Origin": ORIGIN, "Sec-Fetch-Site": site}
        assert client.post(LOGOUT, headers=headers).status_code == 200, site


def test_a_foreign_origin_is_refused_whatever_the_browser_says_of_the_site(client: FlaskClient) -> None:
    for site in ("same-origin", "none"):
        headers = {"Origin": "https://evil.example", "Sec-Fetch-Site": site}
        assert error_of(client.post(LOGOUT, headers=headers)) == REFUSED, site


def test_the_host_header_makes_no_origin_ours(client: FlaskClient) -> None:
    for host in (
        "evil.example",
        "evil.example:443",
        "localhost",
        "localhost:8080",
        "127.0.0.1:8080",
        "app.example.com",
    ):
        for scheme in ("http", "https"):
            headers = {"Host": host, "X-Forwarded-Host": host, "Forwarded": f"host={host}", "Referer": f"{ORIGIN}/"}
            origin = f"{scheme}://{host}"
            answer = client.post(LOGOUT, headers={**headers, "Origin": origin})
            assert answer.status_code == (200 if origin == ORIGIN else 403), origin


# --- Which origins are ours. ---


def accepted(app: Flask, *origins: str) -> list[str]:
    """Those of the `origins` whose pages may change something and read the answer."""
    client = app.test_client()
    answers = {origin: client.post(LOGOUT, headers={"Origin": origin}) for origin in origins}
    readable = [origin for origin in origins if answers[origin].headers.get("Access-Control-Allow-Origin") == origin]
    assert readable == [origin for origin in origins if answers[origin].status_code == 200]
    return readable


def test_each_of_the_web_origins_is_ours(make_app: AppFactory) -> None:
    app = make_app(WEB_ORIGINS="https://a.example.com, https://b.example.com:8443,http://[::1]:3000")

    ours = ["https://a.example.com", "https://b.example.com:8443", "http://[::1]:3000"]
    assert accepted(app, *ours, ORIGIN, "https://b.example.com", "http://[::1]", "http://[::2]:3000") == ours


def test_the_origin_of_app_url_is_ours(make_app: AppFactory) -> None:
    app = make_app(WEB_ORIGINS="https://a.example.com", APP_URL="https://login.example.com/app/")

    ours = ["https://a.example.com", "https://login.example.com"]
    assert accepted(app, *ours, "https://login.example.com/app", "https://app.example.com") == ours


def test_an_origin_is_compared_in_the_form_in_which_browsers_send_it(make_app: AppFactory) -> None:
    app = make_app(WEB_ORIGINS="HTTPS://A.Example.com:443/,http://b.example.com:80")

    ours = ["https://a.example.com", "http://b.example.com"]
    assert accepted(app, *ours, "https://a.example.com:443", "http://b.example.com:80") == ours


def test_in_development_this_server_is_ours_under_both_of_its_names(make_app: AppFactory) -> None:
    app = make_app(APP_ENV="development", PORT="9123")

    ours = ["http://localhost:9123", "http://127.0.0.1:9123"]
    foreign = [
        "http://localhost:8080",
        "http://127.0.0.1",
        "https://localhost:9123",
        "http://[::1]:9123",
        "http://0.0.0.0:9123",
    ]
    assert accepted(app, ORIGIN, *ours, *foreign) == [ORIGIN, *ours]


def test_outside_development_this_server_is_not_ours(make_app: AppFactory) -> None:
    assert accepted(make_app(PORT="9123"), "http://localhost:9123", "http://127.0.0.1:9123") == []


# --- Who may read the answer (CORS). ---

EXPOSED = {"X-Request-Id", "Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}


def test_a_foreign_page_may_ask_but_not_read(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    for origin in FOREIGN:
        for method in ("GET", "HEAD", "OPTIONS", "POST"):
            answer = client.open("/v1/auth/session", method=method, headers={"Origin": origin})
            assert answer.status_code == (405 if method == "POST" else 200), (method, origin)
            assert not says(answer, "Access-Control-"), (method, origin)


def test_the_web_app_may_read_every_answer_and_its_headers(make_app: AppFactory, mailbox: Mailbox) -> None:
    for name, ask in asks_for_every_answer(make_app, mailbox).items():
        headers = ask(headers={"Origin": ORIGIN}).headers
        assert headers.getlist("Access-Control-Allow-Origin") == [ORIGIN], name
        assert headers.getlist("Access-Control-Allow-Credentials") == ["true"], name
        assert set(headers["Access-Control-Expose-Headers"].split(", ")) == EXPOSED, name
        assert "Origin" in headers["Vary"], name


def test_without_an_origin_no_answer_speaks_of_origins(make_app: AppFactory, mailbox: Mailbox) -> None:
    for name, ask in asks_for_every_answer(make_app, mailbox).items():
        assert not says(ask(), "Access-Control-"), name


def preflight(client: FlaskClient, path: str, origin: str, method: str, *headers: str) -> dict[str, str]:
    """What a browser learns before it lets a page of `origin` send such a request."""
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    asked |= {"Access-Control-Request-Headers": ",".join(headers)} if headers else {}
    answer = client.options(path, headers=asked)
    assert (answer.status_code, answer.data) == (200, b"")
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control-")}


def test_a_preflight_allows_the_web_app_what_the_routes_need(client: FlaskClient) -> None:
    for method, path in routes(client.application):
        allowed = preflight(client, path, ORIGIN, method, "content-type", "x-request-id", "traceparent")
        assert allowed["Access-Control-Allow-Origin"] == ORIGIN, path
        assert allowed["Access-Control-Allow-Credentials"] == "true", path
        assert method in allowed["Access-Control-Allow-Methods"].split(", "), (method, path)
        headers = set(allowed["Access-Control-Allow-Headers"].lower().split(", "))
        assert headers == {"content-type", "x-request-id", "traceparent"}, path
        assert int(allowed["Access-Control-Max-Age"]) <= 86400


def test_a_preflight_allows_no_other_headers_or_methods(client: FlaskClient) -> None:
    allowed = preflight(client, "/v1/auth/verify", ORIGIN, "POST", "content-type", "x-evil", "authorization", "*")
    assert allowed["Access-Control-Allow-Headers"].lower() == "content-type"
    assert set(allowed["Access-Control-Allow-Methods"].split(", ")) == {"GET", "POST", "DELETE"}

    for method in ("PUT", "PATCH", "TRACE", "*", ""):
        assert "Access-Control-Allow-Methods" not in preflight(client, "/v1/auth/verify", ORIGIN, method)


def test_a_preflight_of_a_foreign_page_allows_nothing(client: FlaskClient) -> None:
    for origin in FOREIGN:
        assert preflight(client, "/v1/auth/verify", origin, "POST", "content-type") == {}, origin


def test_a_preflight_reaches_no_limit_and_needs_no_sign_in(make_app: AppFactory) -> None:
    client = make_app(RATE_LIMIT_LINK_PER_IP="1/hour", RATE_LIMIT_VERIFY_PER_IP="1/hour").test_client()

    for _ in range(3):
        for method, path in routes(client.application):
            assert preflight(client, path, ORIGIN, method)["Access-Control-Allow-Origin"] == ORIGIN
    assert client.post("/v1/auth/request-link", json={}).status_code == 400

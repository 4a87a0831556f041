"""The link: where it leads, who gets to see it, and that looking at it uses nothing up."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import AppFactory
from tests.support.journeys import request_link
from tests.support.mailbox import Mailbox, text_of


@pytest.fixture
def development(make_app: AppFactory) -> Flask:
    """The service as a developer runs it."""
    return make_app(APP_ENV="development")


def ask(app: Flask, *, peer: str = "127.0.0.1", **request: Any) -> dict[str, Any]:
    """The answer to a request for a link by a caller whose address is `peer`."""
    answer = app.test_client().post(
        "/v1/auth/request-link",
        json={"email": "ada@example.com"},
        environ_base={"REMOTE_ADDR": peer},
        **request,
    )
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.get_json()
    return body


# --- Where it leads. ---


def test_a_link_leads_to_the_app(make_app: AppFactory, mailbox: Mailbox) -> None:
    app = make_app(APP_URL="https://lumen.example.org/app")

    token = request_link(app.test_client(), mailbox)

    assert f"https://lumen.example.org/app/login/callback?token={token}" in text_of(mailbox.messages[-1]).split()


def test_without_app_url_a_link_leads_to_the_first_origin(make_app: AppFactory, mailbox: Mailbox) -> None:
    app = make_app(WEB_ORIGINS="https://one.example.com,https://two.example.com")

    token = request_link(app.test_client(), mailbox)

    assert f"https://one.example.com/login/callback?token={token}" in text_of(mailbox.messages[-1]).split()


def test_in_development_a_link_leads_to_this_server(make_app: AppFactory) -> None:
    app = make_app(APP_ENV="development", PORT="9000")

    assert ask(app)["magic_link"].startswith("http://localhost:9000/login/callback?token=")


@pytest.mark.parametrize("header", ["Host", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "X-Original-Host"])
def test_no_header_says_where_a_link_leads(header: str, make_app: AppFactory, mailbox: Mailbox) -> None:
    app = make_app(TRUSTED_PROXY_HOPS="1")

    ask(app, headers={header: "evil.example"})

    assert "evil.example" not in mailbox.messages[-1].as_string()
    assert "https://app.example.com/login/callback?token=" in text_of(mailbox.messages[-1])


# --- Who gets to see it. ---


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
def test_in_development_the_answer_holds_the_link_that_was_mailed(
    peer: str, development: Flask, mailbox: Mailbox
) -> None:
    body = ask(development, peer=peer)

    assert body["magic_link"].partition("?token=")[2] == mailbox.token_for("ada@example.com")
    assert body["status"] == "ok"


@pytest.mark.parametrize("peer", ["192.168.1.7", "10.0.0.1", "203.0.113.9", "2001:db8::1", "127.0.0.1.example", ""])
def test_in_development_no_other_machine_sees_the_link(peer: str, development: Flask) -> None:
    assert ask(development, peer=peer) == {"status": "ok"}


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-For", ""),
        ("Forwarded", "for=203.0.113.9"),
        ("Forwarded", "for=127.0.0.1"),
    ],
)
def test_in_development_nobody_behind_a_tunnel_sees_the_link(header: str, value: str, development: Flask) -> None:
    assert ask(development, headers={header: value}) == {"status": "ok"}


def test_in_development_nobody_behind_a_trusted_proxy_sees_the_link(make_app: AppFactory) -> None:
    app = make_app(APP_ENV="development", TRUSTED_PROXY_HOPS="1")

    assert ask(app, headers={"X-Forwarded-For": "127.0.0.1"}) == {"status": "ok"}


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1"])
def test_outside_development_nobody_sees_the_link(peer: str, app: Flask) -> None:
    assert ask(app, peer=peer) == {"status": "ok"}


# --- Looking at it uses nothing up. ---


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT"])
@pytest.mark.parametrize("path", ["/v1/auth/verify", "/login/callback"])
def test_a_mail_scanner_uses_nothing_up(method: str, path: str, client: FlaskClient, mailbox: Mailbox) -> None:
    token = request_link(client, mailbox)

    scanned = client.open(f"{path}?token={token}", method=method)

    assert "Set-Cookie" not in scanned.headers
    assert client.get("/v1/auth/session").status_code == 401
    assert client.post("/v1/auth/verify", json={"token": token}).status_code == 200


def test_a_token_in_the_query_signs_nobody_in(client: FlaskClient, mailbox: Mailbox) -> None:
    token = request_link(client, mailbox)

    answer = client.post(f"/v1/auth/verify?token={token}", json={})

    assert answer.get_json()["error"]["code"] == "missing_token"


def test_a_link_survives_a_verify_from_a_foreign_page(client: FlaskClient, mailbox: Mailbox) -> None:
    token = request_link(client, mailbox)

    foreign = client.post("/v1/auth/verify", json={"token": token}, headers={"Origin": "https://evil.example"})

    assert foreign.status_code == 403
    assert client.post("/v1/auth/verify", json={"token": token}).status_code == 200

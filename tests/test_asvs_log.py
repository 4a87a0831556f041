"""Every attempt that a control stops is in the log with its reason: OWASP ASVS 5.0.0, 16.3.2 to 16.3.4."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trustme
from flask.testing import FlaskClient

from tests.conftest import AppFactory
from tests.support import logs
from tests.support.mailbox import Mailbox

LINK, VERIFY = "/v1/auth/request-link", "/v1/auth/verify"
FOREIGN = {"Origin": "https://evil.example"}

ATTEMPTS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "unauthorized": ("GET", "/v1/account", {}, 401),
    "invalid_token": ("POST", VERIFY, {"json": {"token": "guessed"}}, 401),
    "origin_not_allowed": ("POST", VERIFY, {"json": {"token": "guessed"}, "headers": FOREIGN}, 403),
    "not_found": ("GET", "/.git/config", {}, 404),
    "method_not_allowed": ("TRACE", "/v1/account", {}, 405),
    "invalid_email": ("POST", LINK, {"json": {"email": "ada@example.com\r\nBcc: bob@example.com"}}, 400),
    "invalid_json": ("POST", LINK, {"data": b"{", "content_type": "application/json"}, 400),
    "payload_too_large": ("POST", LINK, {"data": b" " * 70_000, "content_type": "application/json"}, 413),
    "unsupported_media_type": ("POST", LINK, {"data": {"email": "ada@example.com"}}, 415),
    "rate_limited": ("POST", LINK, {"json": {}}, 429),
}


def line_of(client: FlaskClient, capfd: pytest.CaptureFixture[str], method: str, path: str, **request: Any) -> Any:
    """The line of one request in the log."""
    capfd.readouterr()
    client.open(path, method=method, **request)
    (line,) = [event for event in logs.read(capfd.readouterr().out) if event["event"] == "request"]
    return line


@pytest.mark.parametrize("code", ATTEMPTS)
def test_what_a_control_refuses_is_logged_with_its_code(
    make_app: AppFactory, capfd: pytest.CaptureFixture[str], code: str
) -> None:
    client = make_app(RATE_LIMIT_LINK_PER_IP="1/hour").test_client()
    if code == "rate_limited":
        client.post(LINK, json={})
    method, path, request, status = ATTEMPTS[code]

    line = line_of(client, capfd, method, path, **request)

    assert (line["status"], line["error_code"], line["level"]) == (status, code, "info")


def test_a_server_that_cannot_prove_who_it_is_is_logged_as_that(
    make_app: AppFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)  # of an authority that nobody trusts
    with Mailbox(tls=context) as mailbox:
        client = make_app(SMTP_URL=f"smtps://localhost:{mailbox.port}").test_client()
        line = line_of(client, capfd, "POST", LINK, json={"email": "ada@example.com"})

    assert (line["level"], line["error_code"]) == ("error", "email_unavailable")
    assert line["error_class"] == "SSLCertVerificationError"

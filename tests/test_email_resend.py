"""Mail through Resend: the request on the wire, and what each answer of theirs means for ours."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import pytest
import trustme
from flask import Flask
from werkzeug.test import TestResponse

from config import WORKER_THREADS
from lumen_api import email as mail
from lumen_api.email.resend import API, Resend
from tests.conftest import AppFactory
from tests.support import databases, eventually, free_port
from tests.support.mailbox import token_in
from tests.support.raw_server import RawServer, dripping, hang_up, script, silent
from tests.support.resend import API_KEY, ResendServer

AppOn = Callable[..., Flask]


@pytest.fixture
def resend() -> Iterator[ResendServer]:
    with ResendServer() as server:
        yield server


@pytest.fixture
def app_on(make_app: AppFactory) -> Iterator[AppOn]:
    """Makes an app that sends through Resend at another address than theirs."""
    providers: list[Resend] = []

    def make(url: str, key: str = API_KEY, sender: str = "Lumen <hello@example.com>") -> Flask:
        app = make_app(SMTP_URL="", RESEND_API_KEY=key)
        provider = Resend(key, sender=sender, api=url)
        providers.append(provider)
        ttl = app.extensions["lumen.magic_links"].ttl
        mail.init_app(app, mail.Mailer(provider, link_ttl=ttl, at_once=WORKER_THREADS // 2))
        return app

    yield make
    for provider in providers:
        provider._http.clear()


def ask(app: Flask) -> TestResponse:
    return app.test_client().post("/v1/auth/request-link", json={"email": "ada@example.com"})


def assert_unavailable(answer: TestResponse, database: str) -> None:
    """503, and nothing that could be redeemed."""
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "email_unavailable")
    assert databases.query(database, "select from auth_tokens") == []


def test_resend_gets_the_mail_as_its_documentation_asks_for_it(app_on: AppOn, resend: ResendServer) -> None:
    app = app_on(resend.url)

    assert ask(app).status_code == 200

    ((request, headers),) = resend.seen
    assert request == "POST /emails"
    assert headers["Authorization"] == f"Bearer {API_KEY}"
    assert headers["User-Agent"]  # Resend answers 403 without one
    (sent,) = resend.mails
    assert sent.keys() == {"from", "to", "subject", "text", "html", "headers"}  # and no tracking
    assert (sent["from"], sent["to"]) == ("Lumen <hello@example.com>", ["ada@example.com"])
    assert sent["headers"] == {"Auto-Submitted": "auto-generated"}
    assert token_in(sent["text"]) in sent["html"]


def test_the_link_in_a_mail_through_resend_signs_in(app_on: AppOn, resend: ResendServer) -> None:
    app = app_on(resend.url)
    ask(app)

    answer = app.test_client().post("/v1/auth/verify", json={"token": token_in(resend.mails[0]["text"])})

    assert answer.status_code == 200


def test_the_key_goes_to_resend_over_https() -> None:
    assert API == "https://api.resend.com/emails"


@pytest.mark.parametrize(
    ("status", "name", "message"),
    [
        (400, "validation_error", "Something about the request is wrong."),
        (400, "invalid_idempotency_key", "The key must be between 1-256 chars."),
        (401, "missing_api_key", "Missing API key in the authorization header."),
        (401, "restricted_api_key", "This API key is restricted to only send emails."),
        (403, "invalid_api_key", "API key is invalid."),
        (403, "validation_error", "The example.com domain is not verified. Invalid `to` field."),
        (404, "not_found", "The requested endpoint does not exist."),
        (422, "validation_error", "Invalid `from` field."),
        (422, "missing_required_field", "Missing `to` field."),
        (429, "daily_quota_exceeded", "You have reached your daily email sending quota."),
        (429, "rate_limit_exceeded", "Too many requests."),
        (500, "application_error", "An unexpected error occurred."),
        (503, "service_unavailable", "Try again later."),
    ],
)
def test_an_error_of_resend_is_a_failure(
    app_on: AppOn, resend: ResendServer, database: str, status: int, name: str, message: str
) -> None:
    resend.error(status, name, message)

    assert_unavailable(ask(app_on(resend.url)), database)


def test_a_wrong_key_is_a_failure(app_on: AppOn, resend: ResendServer, database: str) -> None:
    assert_unavailable(ask(app_on(resend.url, key="re_wrong")), database)
    assert resend.mails == []


@pytest.mark.parametrize("status", [400, 422])
def test_a_recipient_that_resend_refuses_is_answered_like_any_other(
    app_on: AppOn, resend: ResendServer, database: str, capfd: pytest.CaptureFixture[str], status: int
) -> None:
    app = app_on(resend.url)
    taken = ask(app)
    databases.query(database, "truncate auth_tokens")
    resend.error(status, "validation_error", "Invalid `to` field. The email address needs to follow the format.")

    refused = ask(app)

    assert (refused.status_code, refused.data) == (taken.status_code, taken.data)
    assert databases.query(database, "select from auth_tokens") == []
    printed = "".join(capfd.readouterr())
    assert '"outcome":"recipient_refused"' in printed
    assert "ada@" not in printed


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>Bad Gateway</html>", b"\xff\xfe", b"[]", b"null", b'"`to`"', b'{"name":"validation_error"}'],
    ids=["empty", "HTML", "not UTF-8", "list", "null", "text", "no message"],
)
@pytest.mark.parametrize("status", [200, 422, 502])
def test_an_answer_in_no_shape_of_resends_is_a_failure(
    app_on: AppOn, resend: ResendServer, database: str, status: int, body: bytes
) -> None:
    resend.answer = (status, body, {})

    assert_unavailable(ask(app_on(resend.url)), database)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_does_not_follow_a_redirect(app_on: AppOn, resend: ResendServer, database: str, status: int) -> None:
    with ResendServer() as elsewhere:
        resend.answer = (status, b"", {"Location": elsewhere.url})

        assert_unavailable(ask(app_on(resend.url)), database)
        assert elsewhere.seen == []


def test_a_connection_that_resend_has_closed_is_opened_again(app_on: AppOn, resend: ResendServer) -> None:
    app = app_on(resend.url)
    resend.close_after_answer = True
    ask(app)
    eventually(lambda: len(resend.mails) == 1)

    assert ask(app).status_code == 200
    assert len(resend.connections) == 2


def test_a_connection_is_kept_between_mails(app_on: AppOn, resend: ResendServer) -> None:
    app = app_on(resend.url)
    for _ in range(3):
        assert ask(app).status_code == 200

    assert len(resend.connections) == 1


def server_certificate(ca: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("name", "trusted", "status"),
    [("localhost", True, 200), ("localhost", False, 503), ("api.resend.com", True, 503)],
    ids=["good", "nobody vouches for it", "another host's"],
)
def test_the_certificate_is_checked(
    app_on: AppOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool, status: int
) -> None:
    ca = trustme.CA()
    (ca if trusted else trustme.CA()).cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    with ResendServer(tls=server_certificate(ca, name)) as server:
        app = app_on(server.url)
        assert ask(app).status_code == status
        assert len(server.seen) == (status == 200)


def test_resend_being_away_is_a_failure(app_on: AppOn, database: str) -> None:
    assert_unavailable(ask(app_on(f"http://localhost:{free_port()}/emails")), database)


@pytest.mark.parametrize(
    "reply",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"220 mail.example.com ESMTP\r\n"],
    ids=["nothing", "half a status line", "half a body", "SMTP"],
)
def test_a_connection_that_breaks_is_a_failure(app_on: AppOn, database: str, reply: bytes) -> None:
    with RawServer(script(b"", reply, then=hang_up)) as server:
        assert_unavailable(ask(app_on(f"http://localhost:{server.port}/emails")), database)


def test_an_answer_that_hangs_or_drips_is_a_failure_within_five_seconds(app_on: AppOn, database: str) -> None:
    late = script(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", then=dripping(b"x"))

    def timed(app: Flask) -> tuple[TestResponse, float]:
        began = monotonic()
        return ask(app), monotonic() - began

    with RawServer(silent) as hanging, RawServer(late) as drips, ThreadPoolExecutor() as pool:
        apps = [app_on(f"http://localhost:{server.port}/emails") for server in (hanging, drips)]
        answers = list(pool.map(timed, apps))

    for answer, seconds in answers:
        assert_unavailable(answer, database)
        assert seconds < 6  # five, and one for a busy machine

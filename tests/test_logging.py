"""The log: one JSON line a request, auth events, and nothing about a person."""

from __future__ import annotations

import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import AppFactory
from tests.support import free_port, logs
from tests.support.mailbox import Mailbox

CANARY = "canary"
FIELDS = {
    *("ts", "level", "env", "event", "request_id", "method", "route", "status", "latency_ms"),
    *("error_class", "error_code"),
}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quiet_mailbox() -> Iterator[None]:
    """The tests' own SMTP server is in this process, and logs into the same stream."""
    logger = logging.getLogger("mail.log")
    logger.setLevel("WARNING")
    yield
    logger.setLevel("NOTSET")


def records(capfd: Capture) -> list[dict[str, Any]]:
    """Every line that was printed since the last call: all of them events of the schema."""
    printed = capfd.readouterr()
    assert printed.err == ""
    return logs.read(printed.out)


def requests(capfd: Capture) -> list[dict[str, Any]]:
    return [record for record in records(capfd) if record["event"] == "request"]


# --- The line of a request. ---


def test_a_request_is_one_line_with_exactly_these_fields(make_app: AppFactory, capfd: Capture) -> None:
    client = make_app().test_client()

    client.get("/v1/auth/session", headers={"X-Request-Id": "mine-1"})

    (line,) = requests(capfd)
    assert line.keys() == FIELDS
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("ts"))
    assert 0 < line.pop("latency_ms") < 60_000
    assert line == {
        "level": "info",
        "env": "test",
        "event": "request",
        "request_id": "mine-1",
        "method": "GET",
        "route": "/v1/auth/session",
        "status": 401,
        "error_class": "Unauthorized",
        "error_code": "unauthorized",
    }


def test_a_success_has_no_error(make_app: AppFactory, capfd: Capture) -> None:
    make_app().test_client().post("/v1/auth/logout")

    (line,) = requests(capfd)
    assert (line["status"], line["error_class"], line["error_code"]) == (200, None, None)


@pytest.mark.parametrize(
    ("method", "path", "status", "level", "method_logged", "route"),
    [
        ("POST", "/v1/auth/logout", 200, "info", "POST", "/v1/auth/logout"),
        ("OPTIONS", "/v1/auth/logout", 200, "info", "OPTIONS", "/v1/auth/logout"),
        ("POST", "/v1/auth/verify", 400, "info", "POST", "/v1/auth/verify"),
        ("GET", "/v1/account", 401, "info", "GET", "/v1/account"),
        ("GET", f"/{CANARY}", 404, "info", "GET", "unmatched"),
        ("PUT", "/v1/account", 405, "info", "PUT", "unmatched"),
        (CANARY.upper(), "/v1/account", 405, "info", "_OTHER", "unmatched"),
    ],
)
def test_the_line_says_what_became_of_the_request(
    make_app: AppFactory,
    capfd: Capture,
    method: str,
    path: str,
    status: int,
    level: str,
    method_logged: str,
    route: str,
) -> None:
    make_app().test_client().open(path, method=method)

    (line,) = requests(capfd)
    assert (line["status"], line["level"], line["method"], line["route"]) == (status, level, method_logged, route)


def test_a_failure_of_ours_is_an_error_with_its_cause(make_app: AppFactory, capfd: Capture) -> None:
    client = make_app(DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/lumen").test_client()

    client.post("/v1/auth/request-link", json={"email": "ada@example.com"})

    (line,) = requests(capfd)
    assert (line["status"], line["level"]) == (503, "error")
    assert (line["error_class"], line["error_code"]) == ("OperationalError", "database_unavailable")


def test_a_failing_mail_provider_is_an_error_of_ours(make_app: AppFactory, mailbox: Mailbox, capfd: Capture) -> None:
    mailbox.answer_rcpt = lambda address: f"451 4.3.0 no {address}"

    make_app().test_client().post("/v1/auth/request-link", json={"email": "ada@example.com"})

    (line,) = requests(capfd)
    assert (line["status"], line["level"], line["error_code"]) == (503, "error", "email_unavailable")


@pytest.mark.parametrize("path", ["/v1/health", "/v1/health/ready"])
def test_a_health_check_is_worth_no_line(make_app: AppFactory, capfd: Capture, path: str) -> None:
    make_app().test_client().get(path)
    assert requests(capfd) == []

    make_app(LOG_LEVEL="DEBUG").test_client().get(path)
    assert [(line["level"], line["route"]) for line in requests(capfd)] == [("debug", path)]


def test_a_health_check_that_fails_is_an_error(make_app: AppFactory, capfd: Capture) -> None:
    make_app(DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/lumen").test_client().get("/v1/health/ready")

    assert [(line["level"], line["error_code"]) for line in requests(capfd)] == [("error", "not_ready")]


@pytest.mark.parametrize(
    ("level", "written"),
    [("DEBUG", ["debug", "info", "error"]), ("INFO", ["info", "error"]), ("WARNING", ["error"]), ("ERROR", ["error"])],
)
def test_the_level_decides_what_is_written(
    make_app: AppFactory, capfd: Capture, level: str, written: list[str]
) -> None:
    client = make_app(LOG_LEVEL=level, DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/lumen").test_client()

    client.get("/v1/health")
    client.get("/v1/account")
    client.get("/v1/health/ready")

    assert [line["level"] for line in records(capfd)] == written


# --- Auth events. ---

AUTH_FIELDS = {"ts", "level", "env", "event", "request_id", "outcome"}


def auth_event(capfd: Capture) -> tuple[str, str]:
    """The one auth event that was logged, and its outcome. It comes before its request's line and is told by its id."""
    event, line = records(capfd)
    assert event.keys() == AUTH_FIELDS
    assert (event["level"], line["event"]) == ("info", "request")
    assert event["request_id"] == line["request_id"]
    return event["event"], event["outcome"]


@pytest.mark.parametrize(
    ("refusal", "outcome"),
    [
        (None, "sent"),
        ("550 5.1.1 no such user", "recipient_refused"),
        ("451 4.3.0 later", "email_unavailable"),
    ],
)
def test_a_link_that_was_asked_for_is_logged_with_its_outcome(
    make_app: AppFactory, mailbox: Mailbox, capfd: Capture, refusal: str | None, outcome: str
) -> None:
    if refusal:
        mailbox.answer_rcpt = lambda _: refusal

    make_app().test_client().post("/v1/auth/request-link", json={"email": "ada@example.com"})

    assert auth_event(capfd) == ("auth_request", outcome)


def test_a_link_that_was_tried_is_logged_with_its_outcome(
    make_app: AppFactory, mailbox: Mailbox, capfd: Capture
) -> None:
    client = make_app().test_client()
    client.post("/v1/auth/request-link", json={"email": "ada@example.com"})
    body = {"token": mailbox.token_for("ada@example.com")}
    capfd.readouterr()

    client.post("/v1/auth/verify", json=body)
    assert auth_event(capfd) == ("auth_verify", "signed_in")
    client.post("/v1/auth/verify", json=body)
    assert auth_event(capfd) == ("auth_verify", "invalid_token")
    client.post("/v1/auth/verify", json={"token": CANARY})
    assert auth_event(capfd) == ("auth_verify", "invalid_token")


def test_nothing_else_about_signing_in_is_an_event(make_app: AppFactory, mailbox: Mailbox, capfd: Capture) -> None:
    client = make_app(RATE_LIMIT_LINK_PER_IP="2/hour").test_client()
    client.post("/v1/auth/request-link", json={"email": "ada@example.com"})
    client.post("/v1/auth/verify", json={"token": mailbox.token_for("ada@example.com")})
    capfd.readouterr()

    client.get("/v1/auth/session")
    client.post("/v1/auth/request-link", json={"email": "no address"})
    client.post("/v1/auth/request-link", json={"email": "ada@example.com"})
    client.post("/v1/auth/verify", json={"token": None})
    client.post("/v1/auth/logout-all")
    client.post("/v1/auth/logout")

    lines = records(capfd)
    assert {line["event"] for line in lines} == {"request"}
    assert [line["status"] for line in lines] == [200, 400, 429, 400, 200, 200]


# --- Nothing about a person. ---


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_nothing_that_the_caller_sent_is_written(make_app: AppFactory, capfd: Capture, level: str) -> None:
    client = make_app(LOG_LEVEL=level, TRUSTED_PROXY_HOPS="1").test_client()
    client.set_cookie("__Host-lumen_session", CANARY)
    headers = {
        "User-Agent": CANARY,
        "Referer": f"https://example.com/{CANARY}",
        "X-Forwarded-For": "203.0.113.99",
        "X-Request-Id": f"{CANARY} with a space",
        "Authorization": f"Bearer {CANARY}",
        "Origin": f"https://{CANARY}.example.com",
    }
    plain = {name: value for name, value in headers.items() if name != "Origin"}

    client.get(f"/v1/{CANARY}?q={CANARY}", headers=headers)
    client.get(f"/v1/sessions?cursor={CANARY}", headers=headers)
    client.post("/v1/auth/request-link", json={"email": f"{CANARY}@example.com"}, headers=headers)
    client.post("/v1/auth/request-link", json={"email": f"{CANARY}@example.com"}, headers=plain)
    client.post("/v1/auth/request-link", json={"email": f"{CANARY}@@"}, headers=plain)
    client.post("/v1/auth/verify", json={"token": CANARY}, headers=plain)
    client.post("/v1/auth/verify", data=CANARY, headers={**plain, "Content-Type": f"text/{CANARY}"})
    client.post("/v1/sessions/start", json={"session_id": CANARY}, headers=plain)
    client.open("/v1/account", method=CANARY.upper(), headers=plain)

    printed = "".join(capfd.readouterr())
    assert printed.count('"event":"request"') == 9
    assert CANARY not in printed.lower()
    assert "203.0.113.99" not in printed


def test_a_good_request_id_is_kept_and_another_is_not(make_app: AppFactory, capfd: Capture) -> None:
    client = make_app().test_client()
    for given in ("Mine-1._", "two\twords", "x" * 65, "ä"):
        client.get("/v1/account", headers={"X-Request-Id": given})

    first, *others = [line["request_id"] for line in requests(capfd)]
    assert first == "Mine-1._"
    assert all(re.fullmatch(r"[0-9a-f]{32}", made) for made in others)


# --- Whose process it is. ---


def test_an_app_of_somebody_elses_process_leaves_python_as_it_is(make_app: AppFactory) -> None:
    def hooks() -> list[object]:
        return [sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning]

    before = hooks()

    make_app()

    assert hooks() == before

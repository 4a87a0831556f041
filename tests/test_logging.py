"""The log: one JSON line a request, with what an operator needs and nothing about a person."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from tests.conftest import AppFactory, ServiceFactory
from tests.support import eventually, free_port

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
    """Every line that was printed since the last call: all of them JSON."""
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


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


def test_a_health_check_is_worth_no_line_unless_it_fails(make_app: AppFactory, capfd: Capture) -> None:
    make_app().test_client().get("/v1/health")
    assert requests(capfd) == []

    make_app(LOG_LEVEL="DEBUG").test_client().get("/v1/health")
    assert [line["level"] for line in requests(capfd)] == ["debug"]

    make_app(DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/lumen").test_client().get("/v1/health/ready")
    assert [line["level"] for line in requests(capfd)] == ["error"]


def test_the_level_decides_what_is_written(make_app: AppFactory, capfd: Capture) -> None:
    client = make_app(LOG_LEVEL="ERROR").test_client()

    client.get("/v1/account")

    assert records(capfd) == []


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


def test_an_unexpected_error_is_written_without_its_text(make_app: AppFactory, capfd: Capture) -> None:
    app = make_app()

    def fail() -> NoReturn:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise ValueError(f"{CANARY}@example.com") from error

    app.add_url_rule("/fails", view_func=fail)
    answer = app.test_client().get("/fails")

    assert answer.status_code == 500
    assert CANARY not in answer.text
    event, line = records(capfd)
    assert (event["event"], event["level"], event["error_class"]) == ("unhandled_error", "error", "ValueError")
    assert event["request_id"] == line["request_id"] == answer.headers["X-Request-Id"]
    assert (line["level"], line["error_class"], line["error_code"]) == ("error", "ValueError", "internal_error")
    assert CANARY not in json.dumps([event, line])


def test_a_stack_names_lines_and_nothing_of_the_machine(make_app: AppFactory, capfd: Capture) -> None:
    app = make_app()

    def fail() -> NoReturn:
        raise ValueError

    app.add_url_rule("/fails", view_func=fail)
    app.test_client().get("/fails")

    stack = records(capfd)[0]["stack"]
    assert all(re.fullmatch(r"[\w.-][\w./-]*\.py:\d+:\S+", frame) for frame in stack)
    assert any(frame.startswith("flask/app.py:") for frame in stack)
    assert re.fullmatch(r"tests/test_logging\.py:\d+:fail", stack[-1])


@pytest.mark.parametrize("name", ["gunicorn.error", "werkzeug", "yoyo", "urllib3.connectionpool", "mail.log"])
def test_another_librarys_text_is_never_written(make_app: AppFactory, capfd: Capture, name: str) -> None:
    make_app()
    logger = logging.getLogger(name)

    logger.warning("Invalid request from ip=1.2.3.4")
    logger.error("%s at %(missing)s", CANARY)
    try:
        raise ValueError(CANARY)
    except ValueError:
        logger.exception("connection to %s failed", CANARY)

    out, err = capfd.readouterr()
    assert CANARY not in out + err
    assert "1.2.3.4" not in out + err
    written = [json.loads(line) for line in out.splitlines()]
    assert [(line["event"], line["logger"], line["level"]) for line in written] == [
        ("library", name, "warning"),
        ("library", name, "error"),
        ("library", name, "error"),
    ]
    assert all(re.fullmatch(r"test_logging:\d+", line["at"]) for line in written)
    assert written[-1]["error_class"] == "ValueError"


def test_gunicorn_writes_no_log_of_addresses_beside_ours(make_app: AppFactory, capfd: Capture) -> None:
    make_app(LOG_LEVEL="DEBUG")

    logging.getLogger("gunicorn.access").info("127.0.0.1 GET /canary")

    assert capfd.readouterr() == ("", "")


# --- The same, as it is deployed. ---


HOSTILE = [
    b"GET /canary HTTP/9.9\r\n\r\n",
    b"CANARY\r\n\r\n",
    b"GET /canary\x00 HTTP/1.1\r\nHost: canary\r\n\r\n",
    b"GET /canary HTTP/1.1\r\ncanary canary\r\n\r\n",
    b"GET /canary HTTP/1.1\r\nHost: x\r\nContent-Length: canary\r\n\r\n",
    b"POST /v1/auth/verify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\ncanary\r\n\r\n",
    b"POST /v1/auth/verify HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\ncanary",
    b"GET /" + b"canary" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01canary",
]


def test_no_garbage_on_the_wire_reaches_the_log(serve: ServiceFactory) -> None:
    service = serve(workers=1)

    for garbage in HOSTILE:
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    service.call("GET", "/v1/account", headers={"X-Request-Id": "the-last"})

    eventually(lambda: "the-last" in service.log.read_text())
    log = service.log.read_text()
    assert all(json.loads(line) for line in log.splitlines())
    assert "canary" not in log.lower()
    assert "127.0.0.1" not in log

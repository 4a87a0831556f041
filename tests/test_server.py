"""The worker itself: it hands over whole requests, and refuses what is too much without a thread."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from lumen_api.server import worker
from tests.conftest import ORIGIN, ServiceFactory
from tests.support import eventually
from tests.support.outages import Server
from tests.support.raw_http import RawAnswer, answers_in, request, talk
from tests.support.service import Service

REQUESTS = 32  # that a worker takes at once: gunicorn.conf.py

HEALTH, SESSION, LINK = "/v1/health", "/v1/auth/session", "/v1/auth/request-link"


@pytest.fixture
def service(serve: ServiceFactory) -> Service:
    """One worker."""
    return serve(workers=1)


def ask(service: Service, path: str, *headers: str) -> tuple[RawAnswer, float]:
    """The answer, and after how many seconds it came."""
    start = monotonic()
    (answer,) = talk(service.port, request("GET", path, *headers))
    return answer, monotonic() - start


def test_a_request_may_come_byte_by_byte(service: Service) -> None:
    body = b'{"email":"ada@example.com"}'
    data = request("POST", LINK, "Content-Type: application/json", f"Content-Length: {len(body)}") + body

    (answer,) = talk(service.port, *(bytes([byte]) for byte in data))

    assert answer.status == 200


def test_requests_that_come_together_are_answered_one_after_the_other(service: Service) -> None:
    one = request("GET", HEALTH, close=False)
    other = request("GET", "/nowhere", close=False)

    answers = talk(service.port, one + other + one[:-3], one[-3:] + request("GET", HEALTH))

    assert [answer.status for answer in answers] == [200, 404, 200, 200]


def test_a_client_that_expects_to_be_asked_is_asked_for_its_body(service: Service) -> None:
    body = b'{"email":"ada@example.com"}'
    head = request(
        "POST", LINK, "Content-Type: application/json", f"Content-Length: {len(body)}", "Expect: 100-continue"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(head)
        assert client.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.sendall(body)
        received = b""
        while data := client.recv(65536):
            received += data

    assert answers_in(received)[-1].status == 200


def test_headers_that_never_end_are_refused_in_the_envelope(service: Service) -> None:
    (answer,) = talk(service.port, b"GET / HTTP/1.1\r\nX: ", b"a" * (worker.MAX_HEAD + 1))

    assert (answer.status, answer.code) == (431, "headers_too_large")
    assert answer.headers["connection"] == "close"


@pytest.fixture
def stuck(serve: ServiceFactory, server: Server, env: dict[str, str]) -> Iterator[Service]:
    """One worker, whose database hangs while it has as many requests as it takes."""
    env["DATABASE_URL"] = server.url
    service = serve(workers=1)
    assert service.call("GET", "/v1/health/ready").status == 200
    body = b'{"email":"ada@example.com"}'
    call = request("POST", LINK, "Content-Type: application/json", f"Content-Length: {len(body)}") + body
    with ThreadPoolExecutor(3 * REQUESTS) as pool, server.paused():
        asked = [pool.submit(talk, service.port, call, timeout=30) for _ in range(3 * REQUESTS)]
        eventually(lambda: sum(future.done() for future in asked) >= REQUESTS)
        yield service


def test_what_is_too_much_is_refused_at_once(stuck: Service) -> None:
    answer, after = ask(stuck, SESSION, "X-Request-Id: mine")

    assert json.loads(answer.body)["error"] == {
        "code": "busy",
        "message": "The service is busy. Try again in a moment.",
        "request_id": "mine",
    }
    assert (answer.status, answer.headers["retry-after"], answer.headers["x-request-id"]) == (503, "1", "mine")
    assert after < 1


def test_health_is_answered_when_all_else_is_refused(stuck: Service) -> None:
    answer, after = ask(stuck, HEALTH)

    assert answer.status == 200
    assert after < 1


def test_a_refusal_has_the_headers_of_any_other_error(stuck: Service) -> None:
    refused, _ = ask(stuck, SESSION, f"Origin: {ORIGIN}")
    usual, _ = ask(stuck, f"{HEALTH}/nowhere", f"Origin: {ORIGIN}")

    own = {"date", "server", "x-request-id", "content-length", "retry-after"}
    assert (refused.code, usual.code) == ("busy", "not_found")
    assert "access-control-allow-origin" in refused.headers
    assert {name: value for name, value in refused.headers.items() if name not in own} == {
        name: value for name, value in usual.headers.items() if name not in own
    }


def test_a_refusal_is_for_pages_of_the_app_alone(stuck: Service) -> None:
    refused, _ = ask(stuck, SESSION, "Origin: https://evil.example")

    assert refused.code == "busy"
    assert not [name for name in refused.headers if name.startswith("access-control")]


def test_a_refusal_ends_a_connection_unless_it_has_been_of_use(stuck: Service) -> None:
    (answer,) = talk(stuck.port, request("GET", SESSION, close=False))
    assert (answer.code, answer.headers["connection"]) == ("busy", "close")

    kept = request("GET", SESSION, close=False)
    with socket.create_connection(("127.0.0.1", stuck.port), timeout=10) as client:
        client.sendall(request("GET", HEALTH, close=False))
        assert answers_in(client.recv(65536))[0].status == 200
        for _ in range(2):
            client.sendall(kept)
            (answer,) = answers_in(client.recv(65536))
            assert (answer.code, answer.headers["connection"]) == ("busy", "keep-alive")


def test_refusals_are_logged_by_their_number(stuck: Service) -> None:
    ask(stuck, SESSION)

    def counted() -> int:
        lines = [json.loads(line) for line in stuck.log.read_text().splitlines()]
        return sum(line["count"] for line in lines if line["event"] == "refused")

    eventually(lambda: counted() > REQUESTS)


def test_a_connection_without_a_request_does_not_hold_a_thread(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as silent:
        assert ask(service, HEALTH)[0].status == 200
        silent.settimeout(worker.REQUEST_TIMEOUT + 5)
        assert silent.recv(1) == b""  # it is ended, without an answer to what was not asked

"""The worker itself: it hands over whole requests, and refuses what is too much without a thread."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event
from time import monotonic

import pytest

from lumen_api.server import worker
from lumen_api.server.framing import head_of
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
    over = Event()

    def ask_on_and_on() -> None:
        while not over.wait(0.1):
            talk(service.port, call, timeout=30)

    with ThreadPoolExecutor(2 * REQUESTS) as pool, server.paused():
        for _ in range(2 * REQUESTS):
            pool.submit(ask_on_and_on)
        try:
            eventually(lambda: ask(service, SESSION)[0].code == "busy")
            yield service
        finally:
            over.set()


def refused(service: Service, *headers: str) -> tuple[RawAnswer, float]:
    """A refusal, and after how many seconds it came. (Now and then a thread is free, and there is another answer.)"""
    found: list[tuple[RawAnswer, float]] = []
    eventually(lambda: found.append(ask(service, SESSION, *headers)) or found[-1][0].code == "busy")  # type: ignore[func-returns-value]
    return found[-1]


def kept(service: Service, method: str, *, tries: int = 50) -> str:
    """What a refusal of SESSION says of its connection, which has been of use before."""
    for _ in range(tries):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
            client.sendall(request("GET", HEALTH, close=False))
            assert b" 200 OK" in client.recv(65536)
            client.sendall(request(method, SESSION, close=False))
            answer = client.recv(65536)
            if b" 503 " in answer:
                return next(line.decode() for line in answer.split(b"\r\n") if line.startswith(b"Connection"))
    raise AssertionError("never refused")


def test_what_is_too_much_is_refused_at_once(stuck: Service) -> None:
    answers = []
    for _ in range(6):
        Event().wait(0.25)  # just after a sweep there is room in the queue
        answers.append(refused(stuck, "X-Request-Id: mine"))
    answer, _ = answers[0]

    assert json.loads(answer.body)["error"] == {
        "code": "busy",
        "message": "The service is busy. Try again in a moment.",
        "request_id": "mine",
    }
    assert (answer.status, answer.headers["retry-after"], answer.headers["x-request-id"]) == (503, "1", "mine")
    assert min(after for _, after in answers) < 0.5
    assert max(after for _, after in answers) < 4  # which has waited for a thread, for 1 s and until the next sweep


def test_health_is_answered_when_all_else_is_refused(stuck: Service) -> None:
    answer, after = ask(stuck, HEALTH)

    assert answer.status == 200
    assert after < 2


def test_a_refusal_has_the_headers_of_any_other_error(stuck: Service) -> None:
    answer, _ = refused(stuck, f"Origin: {ORIGIN}")
    usual, _ = ask(stuck, f"{HEALTH}/nowhere", f"Origin: {ORIGIN}")

    own = {"date", "server", "x-request-id", "content-length", "retry-after"}
    assert usual.code == "not_found"
    assert "access-control-allow-origin" in answer.headers
    assert {name: value for name, value in answer.headers.items() if name not in own} == {
        name: value for name, value in usual.headers.items() if name not in own
    }


def test_a_refusal_is_for_pages_of_the_app_alone(stuck: Service) -> None:
    answer, _ = refused(stuck, "Origin: https://evil.example")

    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_refusal_keeps_a_connection_that_has_been_of_use(stuck: Service) -> None:
    # One that has waited for a thread in vain ends its connection; so does not one that got no place in the queue.
    eventually(lambda: kept(stuck, "GET") == "Connection: keep-alive")


def test_a_refusal_of_head_ends_the_connection(stuck: Service) -> None:
    assert kept(stuck, "HEAD") == "Connection: close"


def test_refusals_are_logged_by_their_number(stuck: Service) -> None:
    refused(stuck)

    def counted() -> int:
        lines = [json.loads(line) for line in stuck.log.read_text().splitlines()]
        return sum(line["count"] for line in lines if line["event"] == "refused")

    eventually(lambda: counted() > REQUESTS)


def test_a_connection_without_a_request_does_not_hold_a_thread(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as silent:
        assert ask(service, HEALTH)[0].status == 200
        silent.settimeout(worker.REQUEST_TIMEOUT + 5)
        assert silent.recv(1) == b""  # it is ended, without an answer to what was not asked


def test_who_leaves_answers_unread_and_asks_on_and_on_is_dropped(service: Service) -> None:
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(15)
        client.connect(("127.0.0.1", service.port))
        asked = request("GET", "/v1/openapi.json", close=False) * 1000
        with pytest.raises((ConnectionError, TimeoutError)):
            client.sendall(asked * 400)  # 30 MB

    assert service.resident() < 150_000_000


def test_a_thousand_idle_connections_keep_nobody_out(service: Service) -> None:
    with ExitStack() as stack:
        for _ in range(1100):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10))
            idle.sendall(request("GET", HEALTH, close=False))
        eventually(lambda: ask(service, HEALTH)[0].status == 200)


@pytest.mark.parametrize(
    "path", ["/v1/%6clm/messages", "http://lumen/v1/llm/messages", "//v1/llm/messages", "/v1/llm/"]
)
def test_a_path_is_known_in_whatever_form_it_is_given(path: str) -> None:
    head = head_of(bytearray(request("POST", path)))

    assert head
    assert head.path.startswith(b"/v1/llm")


def test_a_client_is_asked_for_its_body_once(service: Service) -> None:
    head = request("POST", LINK, "Content-Type: application/json", "Content-Length: 2", "Expect: 100-continue")
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
        client.sendall(head)
        began = monotonic()
        eventually(lambda: monotonic() > began + 3 * worker.SWEEP)
        client.sendall(b"{}")
        received = b""
        while data := client.recv(65536):
            received += data

    # Once by the worker, and once more by gunicorn when it has the request.
    assert [answer.status for answer in answers_in(received)] == [100, 100, 400]

"""A client that reads slowly, or never, costs a bounded piece of memory and its own time, and nobody else's."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from time import monotonic

import pytest
from flask import Flask

from tests.conftest import ServiceFactory
from tests.support import contract, eventually
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import DEAF, Answer, stream
from tests.support.anthropic_events import text
from tests.support.credentials import new_cookie
from tests.support.llm import ASKED, body_of, outcomes
from tests.support.llm_callers import begin, usage
from tests.support.raw_http import talk
from tests.support.service import Service

provider, env = contract.provider, contract.env_with_a_model

STREAMED = {"stream": True}
LARGE = 40_000_000  # bytes: more than the sockets on the way hold, and than the service may take
BOUND = 30_000_000  # bytes


@pytest.fixture
def cookie(app: Flask) -> dict[str, str]:
    return new_cookie(app)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def arrived(provider: AnthropicServer, calls: int) -> None:
    """Wait until the provider has them."""
    eventually(lambda: len(provider.requests) == calls)


def peak(service: Service) -> int:
    """The most memory that the worker has had, in bytes."""
    (worker,) = service.workers()
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{worker}/status").read_text())
    return int(kilobytes) * 1024


def read(service: Service, cookie: Mapping[str, str]) -> bytes:
    """A whole stream."""
    with closing(begin(service, cookie, **STREAMED)) as connection:
        return connection.getresponse().read()


def flows(service: Service, cookie: Mapping[str, str], said: Answer) -> bool:
    """Whether a stream comes whole, and never later than half a second after what came before it."""
    with closing(begin(service, cookie, **STREAMED)) as connection:
        response = connection.getresponse()
        longest, seen, last = 0.0, b"", monotonic()
        while data := response.read1(65536):
            now = monotonic()
            longest, seen, last = max(longest, now - last), seen + data, now
    assert longest < 0.5
    return seen == body_of(said)


LONG = [
    pytest.param(stream(3).after("content_block_delta", text("x" * LARGE)), id="one line"),
    pytest.param(stream(3).after("message_start", text("x" * LARGE)), id="one line, first"),
    pytest.param(stream(3, word="x" * (LARGE // 3)).newlines("\r\n"), id="three lines, CRLF"),
    pytest.param(stream(400, word="x" * (LARGE // 400)).at_once(), id="many"),
]


@pytest.mark.parametrize("said", LONG)
def test_what_is_very_long_passes_in_bounded_memory_byte_for_byte(
    serve: ServiceFactory, cookie: dict[str, str], provider: AnthropicServer, said: Answer
) -> None:
    service = serve(workers=1)
    provider.behave(stream(3))
    read(service, cookie)
    before = peak(service)
    provider.behave(said)

    passed = read(service, cookie)

    assert passed == body_of(said)
    assert peak(service) - before < BOUND


def test_a_client_that_reads_slowly_gets_all_of_it_in_bounded_memory(
    serve: ServiceFactory, cookie: dict[str, str], provider: AnthropicServer, stack: ExitStack
) -> None:
    service = serve(workers=1)
    said = stream(400, word="x" * 100_000)
    provider.behave(said)
    before = peak(service)
    connection = begin(service, cookie, **STREAMED)
    stack.callback(connection.close)
    response = connection.getresponse()
    passed = response.read(1)
    # The service is held up: the provider cannot get rid of more.
    eventually(lambda: provider.requests[0].served_output > 0)
    for _ in range(40):
        passed += response.read(1_000_000)
        assert service.call("GET", "/v1/health").status == 200

    assert passed + response.read() == body_of(said)
    assert peak(service) - before < BOUND


def test_twenty_clients_that_never_read_are_cut_by_the_total_timeout_and_nobody_else_waits_for_them(
    serve: ServiceFactory, app: Flask, provider: AnthropicServer, stack: ExitStack
) -> None:
    service = serve(workers=1, LLM_TOTAL_TIMEOUT="2s")
    provider.behave(stream(2000, word="x" * 50_000))
    cookies = [new_cookie(app, f"user{number}@example.com") for number in range(20)]
    before = peak(service)
    connections = [begin(service, cookie, **STREAMED) for cookie in cookies]
    began = monotonic()
    for connection in connections:
        stack.callback(connection.close)

    slowest = 0.0
    while len(outcomes(service)) < 20:
        asked = monotonic()
        assert asked - began < 15
        assert service.call("GET", "/v1/health").status == 200
        slowest = max(slowest, monotonic() - asked)
    for _ in range(20):  # and while the server closes their connections
        asked = monotonic()
        service.call("GET", "/v1/health")
        slowest = max(slowest, monotonic() - asked)

    assert outcomes(service) == [(504, "ProviderTimeout")] * 20
    assert slowest < 1
    assert peak(service) - before < BOUND
    assert {seen.end for seen in provider.finished()} == {"client_gone"}
    eventually(lambda: provider.open == 0)
    assert all(usage(service, cookie)[1] == 0 for cookie in cookies)


def test_a_client_that_never_reads_does_not_keep_a_stream_beside_it_waiting(
    serve: ServiceFactory, app: Flask, provider: AnthropicServer, stack: ExitStack
) -> None:
    service = serve(workers=1)
    full, fast = stream(2000, word="x" * 50_000), stream(50, every=0.02)
    provider.behave(full, full, fast)
    for number in range(2):
        connection = begin(service, new_cookie(app, f"user{number}@example.com"), **STREAMED)
        stack.callback(connection.close)
        arrived(provider, number + 1)

    assert flows(service, new_cookie(app), fast)


def test_a_client_with_the_smallest_buffers_that_never_reads_does_not_keep_others_waiting(
    serve: ServiceFactory, app: Flask, provider: AnthropicServer, stack: ExitStack
) -> None:
    """Its socket is full after the first words."""
    service = serve(workers=1)
    full, fast = stream(200, word="x" * 50_000, every=0.02), stream(50, every=0.02)
    provider.behave(full, fast)
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    sock.connect(("127.0.0.1", service.port))
    slow = HTTPConnection("127.0.0.1", service.port)
    slow.sock = sock
    body = json.dumps({**ASKED, **STREAMED})
    headers = {**new_cookie(app, "slow@example.com"), "Content-Type": "application/json"}
    slow.request("POST", "/v1/llm/messages", body, headers)
    eventually(lambda: provider.requests)

    assert flows(service, new_cookie(app), fast)


def test_streams_of_a_provider_that_hangs_end_without_keeping_others_waiting(
    serve: ServiceFactory, app: Flask, provider: AnthropicServer, stack: ExitStack
) -> None:
    """It does not even notice that the service gives up, so that the service lingers on its connections."""
    service = serve(workers=1, LLM_IDLE_TIMEOUT="1s")
    hanging, fast = stream().until("content_block_delta", DEAF), stream(100, every=0.02)
    provider.behave(*[hanging] * 10, fast)
    for number in range(10):
        connection = begin(service, new_cookie(app, f"user{number}@example.com"), **STREAMED)
        stack.callback(connection.close)
        arrived(provider, number + 1)
    assert flows(service, new_cookie(app), fast)
    assert outcomes(service).count((504, "ProviderTimeout")) == 10


def test_a_client_of_http_1_0_gets_the_stream_up_to_the_end_of_the_connection(
    serve: ServiceFactory, cookie: dict[str, str], provider: AnthropicServer
) -> None:
    service = serve(workers=1)
    said = stream(10, every=0.02)
    provider.behave(said)
    body = json.dumps({**ASKED, **STREAMED}).encode()
    head = f"POST /v1/llm/messages HTTP/1.0\r\nCookie: {cookie['Cookie']}\r\nContent-Type: application/json\r\n"

    (answer,) = talk(service.port, f"{head}Content-Length: {len(body)}\r\n\r\n".encode(), body)

    assert (answer.status, answer.body) == (200, body_of(said))
    assert "transfer-encoding" not in answer.headers
    assert usage(service, cookie) == (35, 0)


def test_a_connection_carries_call_after_call(
    serve: ServiceFactory, cookie: dict[str, str], provider: AnthropicServer
) -> None:
    service = serve(workers=1)
    connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
    for streamed in (True, False, True, True, False):
        body = json.dumps({**ASKED, "stream": streamed})
        connection.request("POST", "/v1/llm/messages", body, {**cookie, "Content-Type": "application/json"})
        assert connection.getresponse().read()
        connection.request("GET", "/v1/health")
        assert json.loads(connection.getresponse().read()) == {"status": "ok"}
    connection.close()

    assert {seen.connection for seen in provider.finished()} == {1}

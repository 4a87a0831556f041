"""A client that goes away takes its call along within a second, whatever the provider does, and pays for its part."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from time import monotonic

import pytest
from flask import Flask

from tests.conftest import ServiceFactory
from tests.support import contract, eventually
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import FOREVER, Answer, error, message, stream
from tests.support.anthropic_events import text
from tests.support.credentials import new_cookie
from tests.support.llm import outcomes, reserved
from tests.support.llm_callers import begin, usage
from tests.support.raw_http import request
from tests.support.service import Service

provider, env = contract.provider, contract.env_with_a_model

STREAMED = {"stream": True}


@pytest.fixture
def service(serve: ServiceFactory) -> Service:
    return serve(workers=1)


@pytest.fixture
def cookie(app: Flask) -> dict[str, str]:
    return new_cookie(app)


def read_until(sock: socket.socket, what: bytes) -> None:
    """Read on until `what` has come."""
    seen = b""
    while what not in seen:
        data = sock.recv(65536)
        assert data, seen
        seen += data


def gone_within_a_second(provider: AnthropicServer, left: float) -> None:
    """The provider has seen the end of the first call, in time."""
    (seen,) = provider.finished()
    assert seen.end == "client_gone"
    assert seen.left is not None
    assert seen.left - left < 1
    eventually(lambda: provider.open == 0)


def settled(service: Service, cookie: Mapping[str, str], provider: AnthropicServer) -> None:
    """Nothing is reserved any more, and what was served is paid for."""
    eventually(lambda: usage(service, cookie)[1] == 0)
    assert provider.served <= usage(service, cookie)[0] <= reserved(provider)


# Where the provider falls silent, and what its client has read by then.
PLACES = [
    pytest.param(stream().until("request", FOREVER), b"", id="before the headers"),
    pytest.param(stream().until("head", FOREVER), b"", id="before the first event"),
    pytest.param(stream().until("message_start", FOREVER), b"", id="before the content"),
    pytest.param(stream().until("content_block_start", FOREVER), b"content_block_start", id="at the first byte"),
    pytest.param(stream().until("content_block_delta", FOREVER, nth=5), b"text_delta", id="in the middle"),
    pytest.param(stream().until("message_delta", FOREVER), b"message_delta", id="before the end"),
    pytest.param(stream(10_000, every=0.01), b"text_delta", id="while it talks"),
]


@pytest.mark.parametrize("reset", [False, True], ids=["", "with a reset"])
@pytest.mark.parametrize(("said", "seen"), PLACES)
def test_a_client_that_leaves_takes_the_provider_along_within_a_second(
    service: Service, cookie: dict[str, str], provider: AnthropicServer, said: Answer, seen: bytes, reset: bool
) -> None:
    provider.behave(said)
    connection = begin(service, cookie, **STREAMED)
    eventually(lambda: provider.requests)
    read_until(connection.sock, seen) if seen else None
    if reset:
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    left = monotonic()

    gone_within_a_second(provider, left)
    settled(service, cookie, provider)


@pytest.mark.parametrize("said", [message().after("request", FOREVER), message().after("head", FOREVER)])
def test_a_client_that_leaves_before_a_whole_answer_is_noticed_too_and_pays_what_was_reserved(
    service: Service, cookie: dict[str, str], provider: AnthropicServer, said: Answer
) -> None:
    provider.behave(said)
    connection = begin(service, cookie)
    eventually(lambda: provider.requests)
    connection.close()
    left = monotonic()

    gone_within_a_second(provider, left)
    eventually(lambda: usage(service, cookie) == (reserved(provider), 0))


@pytest.mark.parametrize("place", ["request", "content_block_delta"])
def test_a_client_that_has_sent_more_than_its_request_is_noticed_when_it_leaves(
    service: Service, cookie: dict[str, str], provider: AnthropicServer, place: str
) -> None:
    """What it has sent lies before its FIN: to look at the next byte would not show that it has left."""
    provider.behave(stream().until(place, FOREVER))
    connection = begin(service, cookie, **STREAMED)
    connection.sock.sendall(request("GET", "/v1/health", close=False) * 3)
    eventually(lambda: provider.requests)
    if place != "request":
        read_until(connection.sock, b"text_delta")
    connection.close()
    left = monotonic()

    gone_within_a_second(provider, left)
    settled(service, cookie, provider)


def test_a_client_that_has_sent_more_than_its_request_gets_its_whole_answer_and_the_next(
    service: Service, cookie: dict[str, str], provider: AnthropicServer
) -> None:
    provider.behave(stream(5, every=0.05))
    connection = begin(service, cookie, **STREAMED)
    connection.sock.sendall(request("GET", "/v1/health"))

    seen = b"".join(iter(lambda: connection.sock.recv(65536), b""))
    connection.close()

    assert seen.count(b"message_stop") == 2  # the name and the data
    assert seen.endswith(b'{"status":"ok"}\n')
    assert usage(service, cookie) == (30, 0)


def test_a_client_that_does_not_read_is_noticed_when_it_leaves(
    service: Service, cookie: dict[str, str], provider: AnthropicServer
) -> None:
    """The sockets on the way are full, and the service waits for the client."""
    provider.behave(stream().after("content_block_delta", text("x" * 50_000_000), FOREVER))
    connection = begin(service, cookie, **STREAMED)
    eventually(lambda: len(connection.sock.recv(100_000, socket.MSG_PEEK)) == 100_000)
    assert provider.requests[0].end is None
    connection.close()
    left = monotonic()

    gone_within_a_second(provider, left)
    eventually(lambda: usage(service, cookie)[1] == 0)
    # What was begun is estimated by its length, and is never more than `max_tokens`.
    assert usage(service, cookie)[0] == 25 + 100


def test_a_client_that_says_that_it_sends_no_more_has_left(
    service: Service, cookie: dict[str, str], provider: AnthropicServer
) -> None:
    """A FIN is all that TCP tells of a client that has gone."""
    provider.behave(stream().until("content_block_delta", FOREVER))
    connection = begin(service, cookie, **STREAMED)
    read_until(connection.sock, b"text_delta")
    connection.sock.shutdown(socket.SHUT_WR)
    left = monotonic()

    gone_within_a_second(provider, left)
    settled(service, cookie, provider)
    connection.close()


def test_a_client_that_leaves_during_the_pause_before_the_second_try_is_not_asked_for_again(
    service: Service, cookie: dict[str, str], provider: AnthropicServer
) -> None:
    provider.behave(error(529), stream())
    connection = begin(service, cookie, **STREAMED)
    eventually(lambda: provider.requests)
    connection.close()

    eventually(lambda: usage(service, cookie) == (0, 0))
    assert len(provider.finished()) == 1


def test_twenty_clients_that_leave_at_once_leave_nothing_behind(
    service: Service, app: Flask, provider: AnthropicServer
) -> None:
    provider.behave(stream().until("content_block_delta", FOREVER))
    cookies = [new_cookie(app, f"user{number}@example.com") for number in range(20)]
    connections = [begin(service, cookie, **STREAMED) for cookie in cookies]
    for connection in connections:
        read_until(connection.sock, b"text_delta")
    for connection in connections:
        connection.close()
    left = monotonic()

    assert len(provider.finished()) == 20
    assert max(seen.left or 0 for seen in provider.requests) - left < 1
    eventually(lambda: provider.open == 0)
    eventually(lambda: all(usage(service, cookie)[1] == 0 for cookie in cookies))
    assert outcomes(service) == [(499, "ClientGone")] * 20

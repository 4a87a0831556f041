"""A process that is told to stop ends its calls in time: each is told so and settled, or comes to its own end."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from time import monotonic

import pytest
from flask import Flask

from tests.conftest import ServiceFactory
from tests.support import contract, databases, eventually
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import FOREVER, message, stream
from tests.support.credentials import new_cookie
from tests.support.llm import ASKED, body_of, gunicorn_with, outcomes
from tests.support.llm_callers import begin
from tests.support.service import Service

provider, env = contract.provider, contract.env_with_a_model

STREAMED = {"stream": True}


@pytest.fixture
def service(serve: ServiceFactory, tmp_path: Path) -> Service:
    """One that gives its calls one second."""
    return serve(workers=1, GUNICORN_CMD_ARGS=gunicorn_with(tmp_path, "MODEL_CALLS_GRACE = 1"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def called(stack: ExitStack, service: Service, app: Flask, number: int, **members: object) -> HTTPConnection:
    """A call by a user of its own."""
    cookie = new_cookie(app, f"user{number}@example.com")
    return stack.enter_context(closing(begin(service, cookie, **members)))


def error_at_its_end(response: HTTPResponse) -> tuple[int, dict[str, str]]:
    """The status and the envelope, from a body or a stream's last event."""
    body = response.read()
    envelope: dict[str, str] = json.loads(body.rpartition(b"event: error\ndata: ")[2])["error"]
    assert envelope["request_id"] == response.headers["X-Request-Id"]
    return response.status, envelope


def reservations(database: str) -> int:
    ((count,),) = databases.query(database, "select count(*) from llm_reservations")
    return int(count)


def charged(database: str) -> int:
    ((tokens,),) = databases.query(database, "select coalesce(sum(tokens), 0) from llm_totals")
    return int(tokens)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_every_call_under_way_is_told_and_settled_before_the_process_ends_with_status_0(
    service: Service,
    app: Flask,
    provider: AnthropicServer,
    database: str,
    stack: ExitStack,
    number: signal.Signals,
) -> None:
    places = ["request", "head", "message_start", "content_block_delta"]
    provider.behave(*(stream().until(place, FOREVER) for place in places), message().after("request", FOREVER))
    connections: list[HTTPConnection] = []
    for place in [*places, "whole"]:
        connections.append(called(stack, service, app, len(connections), stream=place != "whole"))
        eventually(lambda: len(provider.requests) == len(connections))

    assert service.process
    service.process.send_signal(number)
    began = monotonic()
    ends = [error_at_its_end(connection.getresponse()) for connection in connections]
    assert 0.9 < monotonic() - began < 4
    assert service.process.wait(10) == 0
    assert monotonic() - began < 8

    assert [status for status, _ in ends] == [503, 503, 503, 200, 503]
    assert {envelope["code"] for _, envelope in ends} == {"busy"}
    assert sorted(outcomes(service)) == [(503, "Restarting")] * 5
    assert {seen.end for seen in provider.finished()} == {"client_gone"}
    assert reservations(database) == 0
    assert charged(database) >= provider.served


def test_whoever_is_told_before_the_first_byte_is_told_when_to_come_back(
    service: Service, app: Flask, provider: AnthropicServer, stack: ExitStack
) -> None:
    provider.behave(stream().until("request", FOREVER))
    connection = called(stack, service, app, 0, **STREAMED)
    eventually(lambda: provider.requests)

    service.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]

    assert connection.getresponse().headers["Retry-After"] == "1"


def test_a_call_that_ends_by_itself_in_time_is_complete(
    service: Service, app: Flask, provider: AnthropicServer, database: str, stack: ExitStack
) -> None:
    said, whole = stream(20, every=0.02), message(20, after=0.4)
    provider.behave(said, whole)
    streamed = called(stack, service, app, 0, **STREAMED)
    eventually(lambda: provider.requests)
    other = called(stack, service, app, 1)
    eventually(lambda: len(provider.requests) == 2)

    assert service.process
    service.process.send_signal(signal.SIGTERM)

    assert streamed.getresponse().read() == body_of(said)
    assert other.getresponse().read() == body_of(whole)
    assert service.process.wait(10) == 0
    assert outcomes(service) == [(200, None)] * 2
    assert (reservations(database), charged(database)) == (0, 90)


def test_a_client_that_never_reads_does_not_keep_the_process_from_ending(
    service: Service, app: Flask, provider: AnthropicServer, database: str, stack: ExitStack
) -> None:
    provider.behave(stream(2000, word="x" * 50_000))
    for number in range(5):
        called(stack, service, app, number, **STREAMED)
    eventually(lambda: len(provider.requests) == 5)

    began = monotonic()
    assert service.process
    service.process.send_signal(signal.SIGTERM)

    assert service.process.wait(15) == 0
    assert monotonic() - began < 8
    assert outcomes(service) == [(503, "Restarting")] * 5
    assert reservations(database) == 0


def test_a_reload_lets_calls_end_and_answers_others_meanwhile(
    service: Service, app: Flask, provider: AnthropicServer, database: str, stack: ExitStack
) -> None:
    said = stream(40, every=0.02)
    provider.behave(said, stream().until("content_block_delta", FOREVER), stream(1))
    old = service.workers()
    ends = called(stack, service, app, 0, **STREAMED)
    eventually(lambda: provider.requests)
    hangs = called(stack, service, app, 1, **STREAMED)
    eventually(lambda: len(provider.requests) == 2)

    assert service.process
    service.process.send_signal(signal.SIGHUP)

    assert ends.getresponse().read() == body_of(said)
    assert error_at_its_end(hangs.getresponse())[1]["code"] == "busy"
    eventually(lambda: len(service.workers()) == 1 and service.workers() != old)
    body, cookie = {**ASKED, **STREAMED}, new_cookie(app)
    assert b"message_stop" in service.call("POST", "/v1/llm/messages", body, headers=cookie).body
    assert reservations(database) == 0
    assert service.stop() == 0


@pytest.mark.full
def test_a_call_has_15_seconds(
    serve: ServiceFactory, app: Flask, provider: AnthropicServer, database: str, stack: ExitStack
) -> None:
    service = serve(workers=1)
    provider.behave(stream().until("content_block_delta", FOREVER))
    connection = called(stack, service, app, 0, **STREAMED)
    eventually(lambda: provider.requests)

    began = monotonic()
    assert service.process
    service.process.send_signal(signal.SIGTERM)

    assert error_at_its_end(connection.getresponse())[1]["code"] == "busy"
    assert 14.5 < monotonic() - began < 18
    assert service.process.wait(10) == 0
    assert reservations(database) == 0

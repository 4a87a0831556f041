"""Streams as gunicorn serves them, many on one worker: as they come, each for itself, beside everything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from time import monotonic

import pytest
from flask import Flask

from tests.conftest import PLENTY, ServiceFactory
from tests.support import contract, eventually
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import FOREVER, Wait, message, stream
from tests.support.credentials import new_cookie
from tests.support.llm import ASKED, body_of, gunicorn_with, outcomes
from tests.support.llm_callers import begin, usage
from tests.support.service import Service
from tests.test_llm_streams import AS_THEY_COME, COMMENT

provider, env = contract.provider, contract.env_with_a_model

STREAMED = {"stream": True}


@pytest.fixture
def cookie(app: Flask) -> dict[str, str]:
    return new_cookie(app)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def read(service: Service, cookie: dict[str, str]) -> bytes:
    """A whole stream."""
    with closing(begin(service, cookie, **STREAMED)) as connection:
        return connection.getresponse().read()


def test_what_has_come_is_passed_on_while_the_provider_is_silent_and_no_byte_of_it_is_changed(
    serve: ServiceFactory, cookie: dict[str, str], provider: AnthropicServer
) -> None:
    service = serve(workers=1, LLM_DAILY_TOKENS="99999999", LLM_TOTAL_DAILY_TOKENS="99999999")
    for case in AS_THEY_COME:
        (said,) = case.values
        provider.behave(said)  # type: ignore[arg-type]
        expected, seen = body_of(said), b""  # type: ignore[arg-type]
        with closing(begin(service, cookie, **STREAMED)) as connection:
            response = connection.getresponse()
            while len(seen) < len(expected) and expected.startswith(seen):
                seen += response.read1(65536)
        assert seen == expected, case.id
        eventually(lambda: usage(service, cookie)[1] == 0)

    assert {seen.end for seen in provider.finished()} == {"client_gone"}


def test_silence_is_broken_by_comments_wherever_it_is(
    serve: ServiceFactory, cookie: dict[str, str], provider: AnthropicServer, tmp_path: Path
) -> None:
    lines = ["from lumen_api.llm import anthropic", "anthropic.SILENCE = 0.3"]
    service = serve(workers=1, GUNICORN_CMD_ARGS=gunicorn_with(tmp_path, *lines))
    for place in ("request", "head", "message_start", "content_block_delta", "message_delta"):
        said = stream(3)
        provider.behave(said.after(place, Wait(1.1)))

        before = b"" if place in ("request", "head") else body_of(said.until(place))
        assert read(service, cookie) == before + COMMENT * 3 + body_of(said)[len(before) :], place


def test_a_hundred_streams_at_once_are_each_their_own(
    serve: ServiceFactory, app: Flask, provider: AnthropicServer
) -> None:
    service = serve(workers=1)
    provider.behave(lambda request: stream(20, every=0.02, word=f"{request.headers['x-request-id']} "))
    cookies = [new_cookie(app, f"user{number}@example.com") for number in range(50)] * 2
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda cookie: read_with_id(service, cookie), cookies))

    assert all(body.count(f'"text":"{name} "'.encode()) == 20 for name, body in answers)
    assert all(body.count(b"text_delta") == 20 and b"message_stop" in body for _, body in answers)
    assert outcomes(service) == [(200, None)] * 100
    assert provider.open <= 16  # idle ones that are kept


def read_with_id(service: Service, cookie: dict[str, str]) -> tuple[str, bytes]:
    with closing(begin(service, cookie, **STREAMED)) as connection:
        response = connection.getresponse()
        return response.headers["X-Request-Id"], response.read()


BUG = """
from lumen_api.llm import anthropic

_count = anthropic._count


def _fails(event, account):
    if b"bug" in event.raw:
        raise KeyError("a bug")
    return _count(event, account)


anthropic._count = _fails
"""


def test_a_bug_in_one_stream_is_an_error_event_and_no_other_stream_notices(
    serve: ServiceFactory, app: Flask, provider: AnthropicServer, tmp_path: Path, stack: ExitStack
) -> None:
    service = serve(workers=1, GUNICORN_CMD_ARGS=gunicorn_with(tmp_path, BUG))
    good, bad = stream(50, every=0.02), stream(3, every=0.02, word="bug ")
    provider.behave(good, bad, good)
    first = stack.enter_context(closing(begin(service, new_cookie(app, "one@example.com"), **STREAMED)))
    eventually(lambda: provider.requests)

    name, broken = read_with_id(service, new_cookie(app, "two@example.com"))

    passed_on, _, data = broken.rpartition(b"event: error\ndata: ")
    assert passed_on == body_of(bad.until("ping"))
    assert json.loads(data)["error"] == {
        "code": "internal_error",
        "message": "Something went wrong on our side.",
        "request_id": name,
    }
    assert first.getresponse().read() == body_of(good)
    assert read(service, new_cookie(app, "one@example.com")) == body_of(good)
    lines = [line for line in map(json.loads, service.log.read_text().splitlines()) if line.get("request_id") == name]
    assert [line["event"] for line in lines] == ["unhandled_error", "llm_call", "request"]
    assert usage(service, new_cookie(app, "two@example.com"))[1] == 0


# --- Beside everything else. ---


def test_calls_hold_no_connection_to_the_database_while_the_provider_works(
    serve: ServiceFactory, cookie: dict[str, str], provider: AnthropicServer, stack: ExitStack
) -> None:
    service = serve(workers=1, DATABASE_POOL_SIZE="1")
    provider.behave(stream().until("content_block_delta", FOREVER), message().after("request", FOREVER))
    streamed = stack.enter_context(closing(begin(service, cookie, **STREAMED)))
    assert streamed.getresponse().status == 200
    stack.enter_context(closing(begin(service, cookie)))
    eventually(lambda: len(provider.requests) == 2)

    for _ in range(5):
        assert service.call("GET", "/v1/auth/session", headers=cookie, timeout=5).status == 200


def test_a_worker_without_a_free_slot_is_busy_for_calls_and_answers_everything_else_at_once(
    serve: ServiceFactory, app: Flask, provider: AnthropicServer, stack: ExitStack
) -> None:
    service = serve(workers=1, LLM_CALLS_PER_WORKER="1")
    provider.behave(stream().until("content_block_delta", FOREVER))
    stack.enter_context(closing(begin(service, new_cookie(app), **STREAMED)))
    eventually(lambda: provider.requests)
    other = new_cookie(app, "grace@example.com")

    for streamed in (True, False) * 10:
        answer = service.call("POST", "/v1/llm/messages", {**ASKED, "stream": streamed}, headers=other)
        assert (answer.status, answer.json["error"]["code"], answer.headers["Retry-After"]) == (503, "busy", "1")
    began = monotonic()
    for _ in range(20):
        assert service.call("GET", "/v1/auth/session", headers=other).status == 200
    assert monotonic() - began < 5
    assert usage(service, other) == (0, 0)
    assert len(provider.requests) == 1


def test_a_slot_is_free_again_however_a_call_has_ended(
    serve: ServiceFactory, app: Flask, provider: AnthropicServer
) -> None:
    service = serve(workers=1, LLM_CALLS_PER_WORKER="1", RATE_LIMIT_LLM_PER_USER=PLENTY, LLM_IDLE_TIMEOUT="1s")
    cookie = new_cookie(app)
    for said in (stream(3), stream(3).until("message_start"), stream().until("head", FOREVER), stream(3).gzipped()):
        provider.behave(said)
        read(service, cookie)
    provider.behave(stream().until("content_block_delta", FOREVER))
    for place in (b"", b"text_delta"):
        with closing(begin(service, cookie, **STREAMED)) as leaving:
            while place not in leaving.sock.recv(65536):
                pass
        eventually(lambda: usage(service, cookie)[1] == 0)
    provider.behave(message())

    assert service.call("POST", "/v1/llm/messages", ASKED, headers=cookie).status == 200

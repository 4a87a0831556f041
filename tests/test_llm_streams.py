"""A stream passes as it comes: each event at once, no byte of it changed, and a comment where there is silence."""

from __future__ import annotations

from contextlib import closing

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lumen_api.llm import anthropic
from lumen_api.llm import provider as providers
from lumen_api.llm.sse import MAX_EVENT
from tests.conftest import AppFactory
from tests.support import contract
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import CUT, FOREVER, Answer, Framing, Raw, Step, Wait, stream
from tests.support.anthropic_events import COMMENT as THEIR_COMMENT
from tests.support.anthropic_events import PING, Data, error_event, event, text
from tests.support.llm import ask, body_of, broken_off, failure, signed_in, usage
from tests.support.mailbox import Mailbox

provider, env = contract.provider, contract.env_with_a_model

SILENCE = 0.2
COMMENT = b": the model is still at work\n\n"


@pytest.fixture
def app(make_app: AppFactory) -> Flask:
    """A provider that is silent for three seconds has failed: what is held back comes as an error then."""
    return make_app(LLM_IDLE_TIMEOUT="3s")


@pytest.fixture
def caller(app: Flask, mailbox: Mailbox) -> FlaskClient:
    return signed_in(app, mailbox)


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fraction of a second is silence."""
    monkeypatch.setattr(anthropic, "SILENCE", SILENCE)


def until(expected: bytes, answer: TestResponse) -> bytes:
    """What comes, until it is what is expected or can no longer become that."""
    seen = b""
    parts = answer.iter_encoded()
    while expected.startswith(seen) and seen != expected:
        seen += next(parts)
    return seen


# --- As it comes. ---

HALF = stream(20).until("content_block_delta", FOREVER, nth=10)
LONG = text("word " * 100_000)

AS_THEY_COME = [
    pytest.param(HALF, id="as Anthropic writes"),
    pytest.param(HALF.writes_of(1), id="one byte at a time"),
    pytest.param(HALF.chunks_of(1), id="one byte in a chunk"),
    pytest.param(
        stream(20, word="Grüße 🦊 ").until("content_block_delta", FOREVER, nth=10).chunks_of(1), id="cut in UTF-8"
    ),
    pytest.param(HALF.at_once(), id="ten in one read"),
    pytest.param(HALF.at_once().chunks_of(100), id="cut anywhere"),
    pytest.param(HALF.newlines("\r\n"), id="CRLF"),
    pytest.param(HALF.newlines("\r\n").writes_of(1), id="CRLF, one byte at a time"),
    pytest.param(HALF.newlines("\r"), id="CR"),
    pytest.param(HALF.framed("close"), id="without a length"),
    pytest.param(HALF.framed("close").writes_of(1), id="without a length, one byte at a time"),
    pytest.param(HALF.after("content_block_delta", PING, THEIR_COMMENT, event("news"), nth=5), id="unknown events"),
    pytest.param(HALF.after("head", PING, THEIR_COMMENT, event("news")), id="unknown events first"),
    pytest.param(HALF.after("content_block_delta", LONG, nth=5), id="a long line"),
    pytest.param(HALF.after("content_block_delta", LONG, nth=5).newlines("\r\n").chunks_of(999), id="a long line, cut"),
    pytest.param(HALF.after("message_start", LONG), id="a long line first"),
    pytest.param(stream(0).until("content_block_stop", FOREVER), id="no words"),
    pytest.param(stream(5).until("message_delta", FOREVER), id="all but the end"),
]


@pytest.mark.parametrize("said", AS_THEY_COME)
def test_what_has_come_is_passed_on_while_the_provider_is_silent_and_no_byte_of_it_is_changed(
    caller: FlaskClient, provider: AnthropicServer, said: Answer
) -> None:
    provider.behave(said)

    with closing(ask(caller, stream=True)) as answer:
        assert answer.status_code == 200
        assert until(body_of(said), answer) == body_of(said)
        assert provider.requests[0].end is None

    assert provider.finished()[0].end == "client_gone"


@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_a_stream_is_over_with_its_last_event_even_where_the_connection_is_not(
    caller: FlaskClient, provider: AnthropicServer, framing: Framing
) -> None:
    said = stream(5)
    provider.behave(said.after("message_stop", FOREVER).framed(framing))

    answer = ask(caller, stream=True)

    assert answer.data == body_of(said)
    assert usage(caller) == (30, 0)


@pytest.mark.parametrize("end", [CUT, Raw(b"nonsense\r\n")], ids=["cut", "not a chunk"])
def test_what_goes_wrong_behind_the_last_event_is_no_failure(
    caller: FlaskClient, provider: AnthropicServer, end: Step
) -> None:
    said = stream(5)
    provider.behave(said.after("message_stop", end, CUT))

    assert ask(caller, stream=True).data == body_of(said)
    assert usage(caller) == (30, 0)


# --- Silence. ---

QUIET = Wait(3.5 * SILENCE)
SILENT = [
    pytest.param("request", "", id="before the headers"),
    pytest.param("head", "", id="before the first event"),
    pytest.param("message_start", "message_start", id="behind the first event"),
    pytest.param("ping", "ping", id="behind a ping"),
    pytest.param("content_block_delta", "content_block_delta", id="in the middle"),
    pytest.param("message_delta", "message_delta", id="before the last event"),
]


@pytest.mark.parametrize(("place", "last"), SILENT)
@pytest.mark.usefixtures("short_silence")
def test_silence_is_broken_by_comments_between_two_events(
    caller: FlaskClient, provider: AnthropicServer, place: str, last: str
) -> None:
    said = stream(3)
    provider.behave(said.after(place, QUIET))

    answer = ask(caller, stream=True)

    before = body_of(said.until(place)) if last else b""
    assert answer.data == before + COMMENT * 3 + body_of(said)[len(before) :]
    assert usage(caller) == (28, 0)


def test_silence_is_15_seconds() -> None:
    assert providers.SILENCE == 15


@pytest.mark.usefixtures("short_silence")
def test_no_comment_comes_where_there_is_no_silence(caller: FlaskClient, provider: AnthropicServer) -> None:
    said = stream(10, every=0.05)
    provider.behave(said)

    assert ask(caller, stream=True).data == body_of(said)


@pytest.mark.parametrize("size", [1000, 2 * MAX_EVENT], ids=["short", "long"])
@pytest.mark.usefixtures("short_silence")
def test_no_comment_comes_inside_an_event(caller: FlaskClient, provider: AnthropicServer, size: int) -> None:
    """One of ordinary length is passed on when it is whole, so that the comments come before it."""
    said = text("x" * size).data
    begun = stream(3).after("content_block_delta", Data(said[:-500]), QUIET, Data(said[-500:]))
    provider.behave(begun)

    seen = ask(caller, stream=True).data

    assert said in seen
    assert seen.replace(COMMENT, b"") == body_of(begun)
    assert seen.count(COMMENT) == (0 if size > MAX_EVENT else 3)


@pytest.mark.usefixtures("short_silence")
def test_an_overload_behind_a_comment_is_an_event_and_not_asked_again(
    caller: FlaskClient, provider: AnthropicServer
) -> None:
    """The caller has had its first byte."""
    provider.behave(stream().until("head", QUIET, error_event()))

    answer = ask(caller, stream=True)

    assert answer.status_code == 200
    passed_on, envelope = broken_off(answer)
    assert (passed_on, envelope["code"]) == (COMMENT * 3, "provider_overloaded")
    assert len(provider.finished()) == 1


# --- An overload inside a 200. ---


@pytest.mark.parametrize("place", ["head", "message_start"])
@pytest.mark.parametrize("before", [(), (PING, THEIR_COMMENT)], ids=["", "with a ping before it"])
def test_an_overload_before_the_content_is_asked_again_and_the_caller_sees_nothing_of_it(
    caller: FlaskClient, provider: AnthropicServer, place: str, before: tuple[Data, ...]
) -> None:
    said = stream(5)
    provider.behave(stream(5).until(place, *before, error_event()), said)

    answer = ask(caller, stream=True)

    assert (answer.status_code, answer.data) == (200, body_of(said))
    assert len(provider.finished()) == 2


def test_an_overload_that_comes_twice_before_the_content_is_503(caller: FlaskClient, provider: AnthropicServer) -> None:
    provider.behave(stream(5).until("message_start", error_event()))

    assert failure(ask(caller, stream=True)) == (503, "provider_overloaded", "30")
    assert len(provider.finished()) == 2


INSIDE = [
    ("invalid_request_error", (400, "provider_rejected", None)),
    ("request_too_large", (400, "provider_rejected", None)),
    ("authentication_error", (502, "provider_error", None)),
    ("permission_error", (502, "provider_error", None)),
    ("rate_limit_error", (503, "provider_overloaded", "30")),
    ("api_error", (502, "provider_error", None)),
    ("timeout_error", (502, "provider_error", None)),
    ("an_error_of_the_future", (502, "provider_error", None)),
]


@pytest.mark.parametrize(("kind", "heard"), INSIDE)
def test_any_other_error_before_the_content_has_its_status_and_is_not_asked_again(
    caller: FlaskClient, provider: AnthropicServer, kind: str, heard: tuple[int, str, str | None]
) -> None:
    provider.behave(stream().until("head", error_event(kind)))

    assert failure(ask(caller, stream=True)) == heard
    assert len(provider.finished()) == 1


def test_an_error_that_is_no_json_is_an_error(caller: FlaskClient, provider: AnthropicServer) -> None:
    said = stream(5).until("content_block_delta")
    provider.behave(said.after("content_block_delta", Data(b"event: error\ndata: {\n\n")))

    passed_on, envelope = broken_off(ask(caller, stream=True))

    assert (passed_on, envelope["code"]) == (body_of(said), "provider_error")

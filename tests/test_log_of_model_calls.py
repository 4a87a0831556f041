"""A call of the model has one line in the log, at its end, with its numbers and not a word of what was said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from flask.testing import FlaskClient

from lumen_api.llm import anthropic
from tests.conftest import AppFactory
from tests.support import databases, free_port, logs
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import CUT, FOREVER, Answer, error, message, stream
from tests.support.anthropic_events import error_event
from tests.support.llm import ask, signed_in
from tests.support.mailbox import Mailbox
from tests.support.outages import Server
from tests.support.rows import add_usage

CallerFactory = Callable[..., FlaskClient]
Capture = pytest.CaptureFixture[str]
Line = dict[str, Any]
# As tests.support.anthropic_answers says it, without being told otherwise.
INPUT = 25


@pytest.fixture
def provider() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


@pytest.fixture
def make_caller(make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer) -> CallerFactory:
    """Makes a signed-in client of a service with variables."""

    def make(**variables: str) -> FlaskClient:
        key = {"LLM_PROVIDER_KEY": API_KEY, "LLM_PROVIDER_URL": provider.url}
        return signed_in(make_app(**{**key, **variables}), mailbox)

    return make


def of_calls(capfd: Capture) -> list[Line]:
    """The lines about calls of the model and their requests. All that was logged is as the schema says."""
    lines = logs.read(capfd.readouterr().out)
    return [line for line in lines if line["event"] == "llm_call" or line.get("route") == "/v1/llm/messages"]


def numbers(line: Line) -> tuple[int, str | None, int | None, int, int | None]:
    """How a call ended, and its tokens: of input, of output, and charged."""
    return (
        line["status"],
        line["error_class"],
        line["input_tokens"],
        line["output_tokens"],
        line["charged_tokens"],
    )


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_call_is_one_line_before_the_one_of_its_request(
    make_caller: CallerFactory, provider: AnthropicServer, capfd: Capture, streamed: bool
) -> None:
    provider.behave(stream(20) if streamed else message(20))

    with closing(ask(make_caller(), stream=streamed)) as answer:
        answer.get_data()

    call, request = of_calls(capfd)
    assert (call["event"], request["event"]) == ("llm_call", "request")
    assert (call["model"], call["stream"], call["level"]) == ("claude-sonnet-5-5", streamed, "info")
    assert numbers(call) == (200, None, INPUT, 20, INPUT + 20)
    assert call["request_id"] == request["request_id"] == answer.headers["X-Request-Id"]
    assert str(call["provider_request_id"]).startswith("req_")
    assert (call["ttft_ms"] is not None) == streamed
    assert (call["ttft_ms"] or 0) <= call["duration_ms"] <= request["latency_ms"]


def test_a_stream_has_no_line_before_its_end(
    make_caller: CallerFactory, provider: AnthropicServer, capfd: Capture
) -> None:
    provider.behave(stream(20))
    with closing(ask(make_caller(), stream=True)) as answer:
        next(answer.iter_encoded())
        assert of_calls(capfd) == []

    assert [line["event"] for line in of_calls(capfd)] == ["llm_call", "request"]


ENDS = [
    pytest.param(error(401), (502, "KeyRefused", None, 0, 0), "error", id="key refused"),
    pytest.param(error(400), (400, "ProviderRejected", None, 0, 0), "info", id="request refused"),
    pytest.param(error(529), (503, "ProviderOverloaded", None, 0, 0), "error", id="overloaded"),
    pytest.param(
        stream(20).until("message_start", CUT), (502, "ConnectionError", INPUT, 1, INPUT + 1), "error", id="cut off"
    ),
    pytest.param(
        stream(20).until("head", error_event()), (503, "ProviderOverloaded", None, 0, 0), "error", id="error within 200"
    ),
]


@pytest.mark.parametrize(("said", "end", "level"), ENDS)
def test_a_call_that_fails_is_one_line_with_what_came_of_it(
    make_caller: CallerFactory,
    provider: AnthropicServer,
    capfd: Capture,
    said: Answer,
    end: tuple[int, str, int | None, int, int],
    level: str,
) -> None:
    provider.behave(said)

    with closing(ask(make_caller(), stream=True)) as answer:
        answer.get_data()

    call, request = of_calls(capfd)
    assert (numbers(call), call["level"]) == (end, level)
    # The caller gets the code in an event where the status has gone out already; the log has it all the same.
    assert (request["error_class"], request["status"]) == (call["error_class"], answer.status_code)


def test_a_provider_that_is_not_there_is_a_line_with_the_class_of_the_cause(
    make_caller: CallerFactory, capfd: Capture
) -> None:
    assert ask(make_caller(LLM_PROVIDER_URL=f"http://127.0.0.1:{free_port()}")).status_code == 502

    call, _ = of_calls(capfd)
    assert numbers(call) == (502, "ConnectionRefusedError", None, 0, 0)
    assert call["provider_request_id"] is None


def test_a_caller_who_leaves_is_no_error(
    make_caller: CallerFactory, provider: AnthropicServer, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anthropic, "SILENCE", 0.2)
    provider.behave(stream(20).until("message_start", FOREVER))
    answer = ask(make_caller(), stream=True)
    next(answer.iter_encoded())

    answer.close()

    call, _ = of_calls(capfd)
    assert (numbers(call), call["level"]) == ((499, "ClientGone", INPUT, 1, INPUT + 1), "info")


def test_a_call_that_cannot_be_settled_is_a_line_without_a_charge(
    make_caller: CallerFactory, provider: AnthropicServer, server: Server, capfd: Capture
) -> None:
    provider.behave(stream(20, every=0.02))
    with closing(ask(make_caller(DATABASE_URL=server.url), stream=True)) as answer:
        body = answer.iter_encoded()
        next(body)
        server.stop()
        assert b"message_stop" in b"".join(body)

    call, _ = of_calls(capfd)
    assert numbers(call) == (200, None, INPUT, 20, None)


def test_what_is_refused_before_the_provider_is_a_request_alone(
    make_caller: CallerFactory, database: str, capfd: Capture
) -> None:
    caller = make_caller(LLM_DAILY_TOKENS="5000")
    ((user_id,),) = databases.query(database, "select user_id::text from users")
    add_usage(database, user_id, used=4990)

    codes = [
        ask(caller, **members).get_json()["error"]["code"]
        for members in ({"model": "claude-opus-4-1"}, {"max_tokens": 0}, {"max_tokens": 100})
    ]

    assert codes == ["model_not_allowed", "invalid_request", "quota_exceeded"]
    assert [(line["event"], line["error_code"]) for line in of_calls(capfd)] == [("request", code) for code in codes]

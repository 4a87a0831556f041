"""The connections to the provider: kept, replaced, encrypted, and whatever comes on them that is no good HTTP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest
from flask.testing import FlaskClient

from lumen_api.llm import http
from lumen_api.llm.anthropic import MAX_ANSWER
from lumen_api.llm.watch import Watch
from tests.conftest import AppFactory
from tests.support import contract, eventually, free_port
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import (
    CUT,
    EARLY_HINTS,
    FOREVER,
    JSON,
    RESET,
    Answer,
    Head,
    Raw,
    error,
    message,
    stream,
)
from tests.support.anthropic_events import Data, error_members, to_json
from tests.support.llm import ask, body_of, failure, reserved, signed_in, usage
from tests.support.mailbox import Mailbox
from tests.support.outages import refusal

provider, env = contract.provider, contract.env_with_a_model

ERROR = (502, "provider_error", None)
TIMEOUT = (504, "provider_timeout", None)
both = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])

CallerFactory = Callable[..., FlaskClient]


@pytest.fixture
def make_caller(make_app: AppFactory, mailbox: Mailbox) -> CallerFactory:
    """Makes a signed-in client of a service with variables."""
    return lambda **variables: signed_in(make_app(**variables), mailbox)


@pytest.fixture
def caller(make_caller: CallerFactory) -> FlaskClient:
    return make_caller(LLM_IDLE_TIMEOUT="2s")


# --- Kept. ---


def test_ten_calls_one_after_the_other_take_one_connection(caller: FlaskClient, provider: AnthropicServer) -> None:
    for number in range(10):
        assert ask(caller, stream=bool(number % 2)).data

    assert [request.connection for request in provider.finished()] == [1] * 10
    assert provider.connections == 1


@pytest.mark.parametrize(
    "said",
    [stream().at_once(), stream().chunks_of(7), stream().framed("length"), message(20_000)],
    ids=["at once", "in small chunks", "with a length", "large"],
)
def test_a_connection_is_kept_after_any_answer_that_was_read_to_its_end(
    caller: FlaskClient, provider: AnthropicServer, said: Answer
) -> None:
    provider.behave(said, message())

    assert ask(caller, stream=said.headers != JSON).data
    assert ask(caller).data

    assert provider.connections == 1


@pytest.mark.parametrize(
    "said",
    [
        stream(3).with_headers(connection="close"),
        stream(3).framed("close"),
        stream(20).until("content_block_delta", CUT),
        stream(3).after("message_stop", FOREVER),
        message().with_headers(connection="close"),
        error(413).without_reading(),
    ],
    ids=["close", "no length", "cut", "an end that does not come", "close, whole", "too early"],
)
def test_a_connection_that_cannot_be_trusted_any_more_is_not_kept(
    caller: FlaskClient, provider: AnthropicServer, said: Answer
) -> None:
    provider.behave(said, message())

    assert ask(caller, stream=said.headers.get("content-type") != JSON["content-type"]).data
    assert ask(caller).status_code == 200

    assert provider.connections == 2
    eventually(lambda: provider.open == 1)


def test_a_connection_that_the_provider_has_closed_meanwhile_is_replaced(
    caller: FlaskClient, provider: AnthropicServer
) -> None:
    for _ in range(3):
        assert ask(caller, stream=True).data
        provider.close_idle()
        eventually(lambda: provider.open == 0)

    assert (provider.connections, len(provider.finished())) == (3, 3)


@pytest.mark.parametrize("end", [CUT, RESET], ids=["closed", "reset"])
@both
def test_a_connection_that_ends_as_the_request_arrives_is_replaced(
    caller: FlaskClient, provider: AnthropicServer, end: object, streamed: bool
) -> None:
    assert ask(caller).status_code == 200
    said = stream() if streamed else message()
    provider.behave(said.until("request", end), said)  # type: ignore[arg-type]

    answer = ask(caller, stream=streamed)

    assert (answer.status_code, answer.data) == (200, body_of(said))
    assert [request.connection for request in provider.finished()] == [1, 1, 2]


def test_a_connection_that_was_idle_for_long_is_not_used_again(
    caller: FlaskClient, provider: AnthropicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "KEEP_IDLE", 0.0)

    assert [ask(caller).status_code for _ in range(3)] == [200] * 3

    assert provider.connections == 3
    eventually(lambda: provider.open == 1)


@pytest.mark.parametrize("together", [True, False], ids=["in the same read", "later"])
def test_an_answer_that_nobody_asked_for_is_nobodys(
    caller: FlaskClient, provider: AnthropicServer, together: bool
) -> None:
    """The next caller would get it."""
    said, other = message(1, word="mine"), message(1, word="another's")
    stray = Raw(b"".join(step.data for step in other.on_the_wire() if isinstance(step, Raw)))
    whole = Raw(b"".join(step.data for step in said.on_the_wire() if isinstance(step, Raw)))
    sent = Answer((Raw(whole.data + stray.data),)) if together else said.after("message", stray)
    provider.behave(sent, message(1, word="mine"))

    for _ in range(3):
        assert b"mine" in ask(caller).data
    assert [request.connection for request in provider.finished()] == [1, 2, 2]


# --- Refused, and again. ---


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before a second try, in seconds; they take no time."""
    seen: list[float] = []
    monkeypatch.setattr(Watch, "pause", lambda _, seconds: seen.append(seconds))
    return seen


@both
def test_a_refused_connection_is_tried_once_more(
    make_caller: CallerFactory, pauses: list[float], streamed: bool
) -> None:
    with refusal() as port:
        caller = make_caller(LLM_PROVIDER_URL=f"http://127.0.0.1:{port}")
        assert failure(ask(caller, stream=streamed)) == ERROR

    assert pauses == [0.5]
    assert usage(caller) == (0, 0)


def test_a_provider_that_is_back_for_the_second_try_answers(
    make_caller: CallerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    caller = make_caller(LLM_PROVIDER_URL=f"http://127.0.0.1:{port}")
    with ExitStack() as stack:
        monkeypatch.setattr(Watch, "pause", lambda *_: stack.enter_context(AnthropicServer(port=port)))

        assert ask(caller).status_code == 200


def test_a_name_that_is_not_known_is_an_error(make_caller: CallerFactory, pauses: list[float]) -> None:
    caller = make_caller(LLM_PROVIDER_URL="http://no-such-host.invalid")

    assert failure(ask(caller)) == ERROR
    assert len(pauses) == 1


def test_a_url_with_a_path_is_kept(make_caller: CallerFactory, provider: AnthropicServer) -> None:
    ask(make_caller(LLM_PROVIDER_URL=f"{provider.url}/gateway"))
    assert [request.path for request in provider.finished()] == ["/gateway/v1/messages"]


# --- What is no good answer. ---


@pytest.mark.parametrize("hints", [EARLY_HINTS, EARLY_HINTS * 3], ids=["103", "103 three times"])
@both
def test_interim_answers_are_skipped(
    caller: FlaskClient, provider: AnthropicServer, hints: bytes, streamed: bool
) -> None:
    said = stream() if streamed else message()
    provider.behave(said.after("request", Raw(hints)))

    assert ask(caller, stream=streamed).data == body_of(said)


WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
NO_ANSWERS = [
    pytest.param(b"HTTP/1.1 200 OK\r\n" + b"x-long: " + b"x" * 1_000_000 + b"\r\n\r\n", id="an endless header"),
    pytest.param(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000 + b"\r\n", id="endless headers"),
    pytest.param(EARLY_HINTS * 10_000, id="interim answers without end"),
    pytest.param(WHOLE + b"content-length: many\r\n\r\n{}", id="no length"),
    pytest.param(WHOLE + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", id="two lengths"),
    pytest.param(WHOLE + b"content-length: -2\r\n\r\n{}", id="a negative length"),
    pytest.param(WHOLE + b"transfer-encoding: chunked\r\n\r\n-1\r\n{}", id="a negative chunk"),
    pytest.param(WHOLE + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}", id="an endless chunk"),
    pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="a status of four digits"),
    pytest.param(b"HTTP/2 200 OK\r\n\r\n", id="HTTP/2"),
    pytest.param(WHOLE + b"content-length: 2\r\n\r\n{}", id="no message"),
    pytest.param(WHOLE + b"content-length: 3\r\n\r\n\xff\xfe\xfd", id="no UTF-8"),
    pytest.param(WHOLE + b"content-length: 200000\r\n\r\n" + b"[" * 200_000, id="nested without end"),
    pytest.param(WHOLE + b"content-length: 0\r\n\r\n", id="empty"),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="204"),
]


@pytest.mark.parametrize("sent", NO_ANSWERS)
def test_what_is_no_answer_is_an_error_and_what_follows_works(
    caller: FlaskClient, provider: AnthropicServer, sent: bytes
) -> None:
    provider.behave(Answer((Raw(sent), CUT)), message())

    assert failure(ask(caller)) == ERROR
    assert usage(caller)[1] == 0
    assert ask(caller).status_code == 200
    assert [request.connection for request in provider.finished()] == [1, 2]


def test_an_answer_larger_than_any_message_is_an_error_and_not_collected(
    caller: FlaskClient, provider: AnthropicServer
) -> None:
    provider.behave(message(1, word="x" * (2 * MAX_ANSWER)))

    assert failure(ask(caller)) == ERROR
    assert provider.finished()[0].end == "client_gone"
    assert usage(caller) == (reserved(provider), 0)


@both
def test_a_good_answer_of_the_wrong_kind_costs_what_was_reserved(
    caller: FlaskClient, provider: AnthropicServer, streamed: bool
) -> None:
    """Streamed though nobody asked for it, or whole though somebody asked for a stream: the model has worked."""
    provider.behave(message() if streamed else stream())

    assert failure(ask(caller, stream=streamed)) == ERROR
    assert usage(caller) == (reserved(provider), 0)


def test_an_overload_in_a_200_that_is_not_streamed_is_as_good_as_529(
    caller: FlaskClient, provider: AnthropicServer
) -> None:
    overload = Data(to_json(error_members("overloaded_error", "Overloaded")))
    provider.behave(Answer((Head(), overload), headers=JSON))

    assert failure(ask(caller)) == (503, "provider_overloaded", "30")
    assert len(provider.finished()) == 2
    assert usage(caller) == (0, 0)


LARGE = [{"role": "user", "content": "x" * 1_900_000}]


@both
def test_a_refusal_that_comes_before_a_large_request_has_been_sent_is_heard(
    make_caller: CallerFactory, provider: AnthropicServer, streamed: bool
) -> None:
    caller = make_caller(LLM_DAILY_TOKENS="999999")
    provider.behave(error(413).without_reading())

    assert failure(ask(caller, stream=streamed, messages=LARGE)) == (400, "provider_rejected", None)
    assert usage(caller) == (0, 0)


def test_a_large_request_arrives_whole(make_caller: CallerFactory, provider: AnthropicServer) -> None:
    assert ask(make_caller(LLM_DAILY_TOKENS="999999"), messages=LARGE).status_code == 200
    assert provider.finished()[0].json["messages"] == LARGE

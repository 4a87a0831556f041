"""What ends a call on our side: its time is over, a bug, the end of the process. The caller is told, and it settles."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import closing
from itertools import count

import pytest
from flask import Flask
from flask.testing import FlaskClient

from lumen_api.llm import anthropic
from lumen_api.llm.http import Connection
from lumen_api.llm.provider import Account
from lumen_api.llm.sse import Event
from lumen_api.llm.watch import Stop
from tests.conftest import AppFactory
from tests.support import contract, logs
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import FOREVER, Wait, message, stream
from tests.support.llm import ask, body_of, broken_off, failure, signed_in, usage
from tests.support.mailbox import Mailbox

provider, env = contract.provider, contract.env_with_a_model


@pytest.fixture
def caller(app: Flask, mailbox: Mailbox) -> FlaskClient:
    return signed_in(app, mailbox)


def test_a_stream_that_never_ends_is_ended_after_the_longest_time_of_a_call(
    make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer
) -> None:
    caller = signed_in(make_app(LLM_TOTAL_TIMEOUT="1s"), mailbox)
    provider.behave(stream(10_000, every=0.01))

    answer = ask(caller, stream=True)

    assert broken_off(answer)[1]["code"] == "provider_timeout"
    (request,) = provider.finished()
    assert request.end == "client_gone"
    assert provider.served <= usage(caller)[0] < 1000


def test_an_answer_that_never_comes_is_504_after_the_longest_time_of_a_call(
    make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer
) -> None:
    caller = signed_in(make_app(LLM_TOTAL_TIMEOUT="1s"), mailbox)
    provider.behave(message(1000).chunks_of(10).after("head", Wait(0.1)).writes_of(1).after("request", FOREVER))

    assert failure(ask(caller)) == (504, "provider_timeout", None)
    assert provider.finished()[0].end == "client_gone"


def test_a_connection_that_a_collection_of_garbage_has_closed_is_not_used_again(
    caller: FlaskClient, provider: AnthropicServer
) -> None:
    assert ask(caller).data
    (kept,) = (found for found in gc.get_objects() if isinstance(found, Connection) and found.quiet())
    kept.sock.close()

    assert ask(caller).status_code == 200
    assert provider.connections == 2


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Lets the relay fail at the n-th event from now on."""
    original = anthropic._count

    def at(number: int) -> None:
        calls = count(1)

        def fails(event: Event, account: Account) -> str:
            if next(calls) == number:
                raise KeyError("a bug")
            return original(event, account)

        monkeypatch.setattr(anthropic, "_count", fails)

    return at


def test_a_bug_in_the_middle_of_a_stream_is_an_error_event_logged_with_the_requests_id_and_settled(
    caller: FlaskClient, provider: AnthropicServer, bug: Callable[[int], None]
) -> None:
    bug(10)
    provider.behave(stream(20, every=0.01))

    with logs.recorded() as lines, closing(ask(caller, stream=True)) as answer:
        _, envelope = broken_off(answer)

    assert (answer.status_code, envelope["code"]) == (200, "internal_error")
    assert envelope["request_id"] == answer.headers["X-Request-Id"]
    assert usage(caller)[1] == 0
    assert [line["event"] for line in lines] == ["unhandled_error", "llm_call", "request"]
    assert {line["request_id"] for line in lines} == {envelope["request_id"]}
    assert [line["error_class"] for line in lines[1:]] == ["KeyError"] * 2
    provider.behave(message())
    assert ask(caller).status_code == 200


def test_a_bug_before_the_first_event_is_500(
    caller: FlaskClient, provider: AnthropicServer, bug: Callable[[int], None]
) -> None:
    bug(1)

    assert failure(ask(caller, stream=True)) == (500, "internal_error", None)
    assert usage(caller)[1] == 0
    assert len(provider.finished()) == 1


@pytest.mark.parametrize("place", ["request", "head", "content_block_delta"])
def test_calls_of_a_process_that_ends_are_told_so_and_settled(
    app: Flask, caller: FlaskClient, provider: AnthropicServer, place: str
) -> None:
    stop: Stop = app.extensions["lumen.model_calls"].stop
    provider.behave(stream(5).until(place, FOREVER))
    stop.begin(0.3)

    answer = ask(caller, stream=True)

    if place == "content_block_delta":
        envelope = broken_off(answer)[1]
    else:
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        envelope = answer.get_json()["error"]
    assert (envelope["code"], "restarted" in envelope["message"]) == ("busy", True)
    assert provider.finished()[0].end == "client_gone"
    assert usage(caller)[1] == 0


def test_a_call_that_ends_by_itself_while_the_process_ends_is_complete(
    app: Flask, caller: FlaskClient, provider: AnthropicServer
) -> None:
    said = stream(10, every=0.05)
    provider.behave(said)
    app.extensions["lumen.model_calls"].stop.begin(5)

    assert ask(caller, stream=True).data == body_of(said)
    assert usage(caller) == (35, 0)

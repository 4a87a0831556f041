"""What a provider that breaks off, hangs or is not there means for the caller, and what of it is charged."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from time import monotonic

import pytest
from flask.testing import FlaskClient

from lumen_api.llm import http
from tests.conftest import AppFactory, ServiceFactory
from tests.support import eventually, free_port
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import CUT, FOREVER, RESET, Answer, Raw, error, html, message, stream
from tests.support.anthropic_events import error_event
from tests.support.llm import ASKED, ask, body_of, broken_off, failure, reserved, signed_in, usage
from tests.support.mailbox import Mailbox
from tests.support.raw_server import RawServer, silent

ERROR = (502, "provider_error", None)
BUSY = (503, "provider_overloaded", "30")
TIMEOUT = (504, "provider_timeout", None)


@pytest.fixture
def provider() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


@pytest.fixture
def caller(make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer) -> FlaskClient:
    """A signed-in client of a service that waits one second for the provider."""
    return signed_in(make_app(LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=provider.url, LLM_IDLE_TIMEOUT="1s"), mailbox)


# --- Nobody there. ---


@pytest.mark.parametrize("streamed", [False, True])
def test_a_provider_that_refuses_connections_is_an_error_that_costs_nothing(
    make_app: AppFactory, mailbox: Mailbox, streamed: bool
) -> None:
    app = make_app(LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=f"http://127.0.0.1:{free_port()}")
    client = signed_in(app, mailbox)

    assert failure(ask(client, stream=streamed)) == ERROR
    assert usage(client) == (0, 0)


def test_a_provider_that_does_not_take_connections_is_a_timeout_after_5_seconds(
    make_app: AppFactory, mailbox: Mailbox
) -> None:
    with ExitStack() as sockets, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        sockets.enter_context(socket.create_connection(full.getsockname()))
        app = make_app(LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=f"http://127.0.0.1:{full.getsockname()[1]}")
        client = signed_in(app, mailbox)
        started = monotonic()

        assert failure(ask(client)) == TIMEOUT
        assert 4.9 < monotonic() - started < 9
    assert usage(client) == (0, 0)


def test_a_provider_that_never_finishes_the_tls_handshake_is_a_timeout(
    make_app: AppFactory, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECT", 0.3)
    with RawServer(silent) as server:
        app = make_app(LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=f"https://localhost:{server.port}")
        client = signed_in(app, mailbox)

        assert failure(ask(client)) == TIMEOUT
        assert server.connections == 1
    assert usage(client) == (0, 0)


# --- Before the first byte for the caller. ---

BEFORE = [
    pytest.param(lambda said: said.until("request", CUT), ERROR, 2, id="closed before a byte"),
    pytest.param(lambda said: said.until("request", RESET), ERROR, 2, id="reset before a byte"),
    pytest.param(
        lambda said: said.until("request", Raw(b"HTTP/1.1 200 OK\r\ncont"), CUT), ERROR, 1, id="cut in the headers"
    ),
    pytest.param(lambda said: said.after("head", CUT), ERROR, 1, id="cut after the headers"),
    pytest.param(lambda said: said.after("head", RESET), ERROR, 1, id="reset after the headers"),
    pytest.param(lambda said: said.until("request", Raw(b"SSH-2.0-OpenSSH_9.6\r\n"), CUT), ERROR, 1, id="not HTTP"),
    pytest.param(lambda said: said.until("request", FOREVER), TIMEOUT, 1, id="silent before the headers"),
    pytest.param(lambda said: said.after("head", FOREVER), TIMEOUT, 1, id="silent after the headers"),
    pytest.param(lambda said: said.gzipped(), ERROR, 1, id="compressed"),
    pytest.param(lambda _: html(200), ERROR, 1, id="HTML with 200"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("change", "heard", "requests"), BEFORE)
def test_a_provider_that_fails_before_the_first_byte_is_answered_with_a_status(
    caller: FlaskClient,
    provider: AnthropicServer,
    change: Callable[[Answer], Answer],
    heard: tuple[int, str, str | None],
    requests: int,
    streamed: bool,
) -> None:
    provider.behave(change(stream() if streamed else message()))

    assert failure(ask(caller, stream=streamed)) == heard
    assert len(provider.finished()) == requests
    used, still_reserved = usage(caller)
    assert still_reserved == 0
    assert provider.served <= used <= requests * reserved(provider)


def test_a_whole_answer_that_breaks_off_costs_what_was_reserved(caller: FlaskClient, provider: AnthropicServer) -> None:
    provider.behave(message().with_headers(content_length="500").until("head", Raw(b'{"id":"msg_'), CUT))

    assert failure(ask(caller)) == ERROR
    assert usage(caller) == (reserved(provider), 0)


def test_an_overload_as_the_first_event_is_as_good_as_529(caller: FlaskClient, provider: AnthropicServer) -> None:
    provider.behave(stream().until("head", error_event()))

    assert failure(ask(caller, stream=True)) == BUSY
    assert len(provider.finished()) == 2
    assert usage(caller)[1] == 0


@pytest.mark.parametrize(
    "first",
    [error(529), stream().until("request", RESET), stream().until("head", error_event())],
    ids=["529", "reset", "overload inside a 200"],
)
def test_what_works_the_second_time_is_an_answer_like_any_other(
    caller: FlaskClient, provider: AnthropicServer, first: Answer
) -> None:
    said = stream()
    provider.behave(first, said)

    answer = ask(caller, stream=True)

    assert (answer.status_code, answer.data) == (200, body_of(said))
    assert [request.body for request in provider.finished()] == [provider.requests[0].body] * 2
    assert usage(caller)[0] >= provider.served


# --- After it. ---

# Ten words are 50 bytes of text, which are counted as 17 tokens.
MIDDLE = [
    pytest.param((CUT,), "provider_error", id="cut"),
    pytest.param((RESET,), "provider_error", id="reset"),
    pytest.param((), "provider_error", id="ends without message_stop"),
    pytest.param((Raw(b"nonsense\r\n"),), "provider_error", id="not a chunk"),
    pytest.param((Raw(b"40\r\nevent: con"), CUT), "provider_error", id="cut in a chunk"),
    pytest.param((error_event(),), "provider_overloaded", id="overload"),
    pytest.param((error_event("api_error"),), "provider_error", id="error"),
    pytest.param((FOREVER,), "provider_timeout", id="silence"),
]


@pytest.mark.parametrize(("then", "code"), MIDDLE)
def test_a_stream_that_fails_half_way_ends_with_one_error_and_is_charged_for_its_half(
    caller: FlaskClient, provider: AnthropicServer, then: tuple[Raw, ...], code: str
) -> None:
    said = stream(20)
    provider.behave(said.until("content_block_delta", *then, nth=10))

    answer = ask(caller, stream=True)

    assert answer.status_code == 200
    passed_on, envelope = broken_off(answer)
    assert passed_on == body_of(said.until("content_block_delta", nth=10))
    assert (envelope["code"], envelope["request_id"]) == (code, answer.headers["X-Request-Id"])
    assert "Overloaded" not in envelope["message"]
    assert len(provider.finished()) == 1
    assert usage(caller) == (25 + 17, 0)


@pytest.mark.parametrize("place", ["request", "head", "message_start", "content_block_delta"])
def test_a_caller_who_leaves_takes_the_provider_along_within_a_second(
    serve: ServiceFactory, mailbox: Mailbox, provider: AnthropicServer, place: str
) -> None:
    service = serve(workers=1, LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=provider.url)
    service.call("POST", "/v1/auth/request-link", {"email": "ada@example.com"})
    token = mailbox.token_for("ada@example.com")
    cookie = {"Cookie": service.call("POST", "/v1/auth/verify", {"token": token}).cookie}
    provider.behave(stream().until(place, FOREVER))

    with closing(HTTPConnection("127.0.0.1", service.port, timeout=10)) as leaving:
        body = json.dumps({**ASKED, "stream": True})
        leaving.request("POST", "/v1/llm/messages", body, {**cookie, "Content-Type": "application/json"})
        eventually(lambda: provider.requests)
        if place == "content_block_delta":
            response = leaving.getresponse()
            while b"text_delta" not in response.readline():
                pass
    left = monotonic()

    (request,) = provider.finished()
    assert request.left is not None
    assert request.left - left < 1
    eventually(lambda: provider.open == 0)
    eventually(lambda: service.call("GET", "/v1/llm/usage", headers=cookie).json["reserved"] == 0)
    used = service.call("GET", "/v1/llm/usage", headers=cookie).json["used"]
    assert provider.served <= used <= reserved(provider)

"""Each row of the table in the proxy's design: what happens at the provider, what the caller hears, what is charged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from flask.testing import FlaskClient

from lumen_api.llm import anthropic
from tests.conftest import AppFactory
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import FOREVER, Answer, error, html, message, redirect, stream
from tests.support.llm import MESSAGES, ask, body_of, failure, signed_in, usage
from tests.support.mailbox import Mailbox

CallerFactory = Callable[..., FlaskClient]


@pytest.fixture
def provider() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


@pytest.fixture
def make_caller(make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer) -> CallerFactory:
    """Makes a signed-in client of a service with variables: make_caller(LLM_DAILY_TOKENS="5000")."""

    def make(**variables: str) -> FlaskClient:
        return signed_in(make_app(LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=provider.url, **variables), mailbox)

    return make


@pytest.fixture
def caller(make_caller: CallerFactory) -> FlaskClient:
    return make_caller()


# --- What works. ---


@pytest.mark.parametrize(
    ("said", "content_type"),
    [(message(20), "application/json; charset=utf-8"), (stream(20), "text/event-stream")],
    ids=["whole", "streamed"],
)
def test_what_the_provider_says_comes_back_byte_for_byte_and_is_charged(
    caller: FlaskClient, provider: AnthropicServer, said: Answer, content_type: str
) -> None:
    provider.behave(said)

    answer = ask(caller, stream=said.framing == "chunked")

    assert (answer.status_code, answer.data) == (200, body_of(said))
    assert answer.headers["Content-Type"] == content_type
    assert usage(caller) == (45, 0)
    assert len(provider.finished()) == provider.connections == 1


# --- What is decided before the provider hears of it. ---


def test_without_a_key_there_is_no_model(make_app: AppFactory, mailbox: Mailbox) -> None:
    assert failure(ask(signed_in(make_app(), mailbox)))[:2] == (503, "llm_not_configured")


def test_a_model_that_is_not_listed_is_refused(caller: FlaskClient, provider: AnthropicServer) -> None:
    assert failure(ask(caller, model="claude-opus-4-1"))[:2] == (400, "model_not_allowed")
    assert (provider.connections, usage(caller)) == (0, (0, 0))


def test_a_request_of_a_wrong_shape_is_refused_with_the_members_name(
    caller: FlaskClient, provider: AnthropicServer
) -> None:
    answer = ask(caller, messages=[*MESSAGES, {"role": "secret", "content": "Hello"}])

    assert failure(answer)[:2] == (400, "invalid_request")
    assert answer.get_json()["error"]["message"] == "messages[1].role must be user or assistant."
    assert (provider.connections, usage(caller)) == (0, (0, 0))


@pytest.mark.parametrize("budget", ["LLM_DAILY_TOKENS", "LLM_TOTAL_DAILY_TOKENS"])
def test_a_spent_budget_is_429_until_the_day_ends(
    make_caller: CallerFactory, provider: AnthropicServer, budget: str
) -> None:
    caller = make_caller(LLM_MAX_OUTPUT_TOKENS="150", **{budget: "200"})
    provider.behave(message(20, input=100))
    assert ask(caller).status_code == 200

    status, code, retry_after = failure(ask(caller))

    assert (status, code) == (429, "quota_exceeded")
    assert 0 < int(retry_after or 0) <= 86400
    assert len(provider.requests) == 1
    assert usage(caller) == (120, 0)


def test_calls_of_one_user_are_limited_by_the_minute(make_caller: CallerFactory, provider: AnthropicServer) -> None:
    caller = make_caller(RATE_LIMIT_LLM_PER_USER="1/minute")
    assert ask(caller).status_code == 200

    status, code, retry_after = failure(ask(caller))

    assert (status, code) == (429, "rate_limited")
    assert 0 < int(retry_after or 0) <= 60
    assert len(provider.requests) == 1


@pytest.fixture
def _little_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream begins with its first content, or when this much time has passed."""
    monkeypatch.setattr(anthropic, "SILENCE", 0.2)


@pytest.mark.usefixtures("_little_silence")
def test_the_third_call_at_once_of_one_user_is_refused(caller: FlaskClient, provider: AnthropicServer) -> None:
    provider.behave(stream().until("message_start", FOREVER))
    with closing(ask(caller, stream=True)) as one, closing(ask(caller, stream=True)) as two:
        assert (one.status_code, two.status_code) == (200, 200)

        status, code, retry_after = failure(ask(caller, stream=True))

        assert (status, code) == (429, "too_many_streams")
        assert int(retry_after or 0) > 0
        assert len(provider.requests) == 2
    provider.behave(message())
    assert ask(caller).status_code == 200


@pytest.mark.usefixtures("_little_silence")
def test_a_worker_without_a_free_slot_is_busy_for_calls_alone(
    make_caller: CallerFactory, provider: AnthropicServer, mailbox: Mailbox
) -> None:
    caller = make_caller(LLM_CALLS_PER_WORKER="1")
    other = signed_in(caller.application, mailbox, "grace@example.com")
    provider.behave(stream().until("message_start", FOREVER))
    with closing(ask(caller, stream=True)):
        status, code, retry_after = failure(ask(other))

        assert (status, code) == (503, "busy")
        assert int(retry_after or 0) > 0
        assert len(provider.requests) == 1
        assert usage(other) == (0, 0)
        assert other.get("/v1/auth/session").status_code == 200


# --- What the provider refuses. ---

REFUSALS = [
    pytest.param(error(400), (400, "provider_rejected", None), 1, id="400"),
    pytest.param(error(413), (400, "provider_rejected", None), 1, id="413"),
    pytest.param(error(413).without_reading(), (400, "provider_rejected", None), 1, id="413 at once"),
    pytest.param(error(401), (502, "provider_error", None), 1, id="401"),
    pytest.param(error(403), (502, "provider_error", None), 1, id="403"),
    pytest.param(error(404), (502, "provider_error", None), 1, id="404"),
    pytest.param(error(429, retry_after="7"), (503, "provider_overloaded", "7"), 1, id="429 with Retry-After"),
    pytest.param(error(429), (503, "provider_overloaded", "30"), 1, id="429 of a spend cap"),
    pytest.param(error(529), (503, "provider_overloaded", "30"), 2, id="529"),
    pytest.param(error(529, retry_after="9"), (503, "provider_overloaded", "9"), 2, id="529 with Retry-After"),
    pytest.param(error(500), (502, "provider_error", None), 1, id="500"),
    pytest.param(html(502), (502, "provider_error", None), 1, id="HTML with 502"),
    pytest.param(redirect("http://127.0.0.1:1"), (502, "provider_error", None), 1, id="redirect"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("said", "heard", "requests"), REFUSALS)
def test_a_refusal_of_the_provider_has_its_answer_and_costs_nothing(
    caller: FlaskClient,
    provider: AnthropicServer,
    said: Answer,
    heard: tuple[int, str, str | None],
    requests: int,
    streamed: bool,
) -> None:
    provider.behave(said)

    answer = ask(caller, stream=streamed)

    assert failure(answer) == heard
    assert "It did not work" not in answer.text
    assert len(provider.finished()) == requests
    assert usage(caller) == (0, 0)


def test_a_redirect_is_not_followed(caller: FlaskClient, provider: AnthropicServer) -> None:
    with AnthropicServer() as elsewhere:
        provider.behave(redirect(elsewhere.url))

        assert failure(ask(caller))[:2] == (502, "provider_error")
        assert elsewhere.connections == 0

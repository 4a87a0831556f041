"""What may be asked of the model, what of it reaches the provider, and what of the answer comes back."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from lumen_api import headers as own_headers
from tests.conftest import AppFactory
from tests.support import contract
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import HEADERS, error, message, stream
from tests.support.contract import JSON_TYPE, LLM, MAX_LLM_BODY, error_of, says
from tests.support.llm import ASKED, ask, signed_in, usage
from tests.support.mailbox import Mailbox

provider, env = contract.provider, contract.env_with_a_model

CANARY = "zq7canary"
USER = {"role": "user", "content": "Hello"}
TEXT = {"type": "text", "text": "Hello"}


@pytest.fixture
def caller(make_app: AppFactory, mailbox: Mailbox) -> FlaskClient:
    """Signed in."""
    return signed_in(make_app(), mailbox)


# --- Its shape. ---


def said(*content: object) -> list[dict[str, Any]]:
    """Messages of the user with this content."""
    return [{"role": "user", "content": part} for part in content]


NO_TEXTS: list[Any] = [1, True, 1.5, {}, {CANARY: 1}, {"type": "text", "text": CANARY}]
BAD_TEXTS = ["\0", f"{CANARY}\0", "\ud800", f"{CANARY}\udfff", "\udc00\ud800"]
TEXTS = "must be a text or a list of text blocks"
CHARACTER = "holds a character that no text has"
LIST = "must be a list of 1 to 500 messages"
WHOLE = "must be a whole number from 1 to 4096"
BLOCK = 'must be a block of type "text"'

# A wrong member, what the answer says of it, and its values. None: the member is null.
WRONG: list[tuple[str, str, list[Any]]] = [
    ("model", "must be a text", [None, [CANARY], *NO_TEXTS]),
    ("model", "must not be empty", [""]),
    ("model", CHARACTER, BAD_TEXTS),
    ("messages", LIST, [None, [], {}, CANARY, 1, True, {"0": USER}, [USER] * 501]),
    ("max_tokens", WHOLE, [None, 0, -1, 4097, 10**400, -(10**400), 1.0, 1.5, 1e300, True, False, "1", CANARY, [1], {}]),
    ("system", TEXTS, NO_TEXTS),
    ("system", "must not be empty", ["", []]),
    ("system", CHARACTER, BAD_TEXTS),
    ("temperature", "must be a number from 0 to 1", [-0.1, 1.1, -1, 2, 10**400, 1e300, True, False, "0.5", [], {}]),
    ("stop_sequences", "must be a list of at most 4 texts", [CANARY, 1, True, {}, {"0": CANARY}, ["a"] * 5]),
    ("stream", "must be true or false", [0, 1, 1.0, "true", CANARY, [], {}, [True]]),
]
# The same deeper down: the members that make the request, and the place that the answer names.
DEEP: list[tuple[dict[str, Any], str]] = [
    ({"messages": [CANARY]}, "messages[0] must be an object"),
    ({"messages": [None]}, "messages[0] must be an object"),
    ({"messages": [USER, [USER]]}, "messages[1] must be an object"),
    ({"messages": [USER] * 499 + [CANARY]}, "messages[499] must be an object"),
    ({"messages": [{}]}, "messages[0].role must be user or assistant"),
    ({"messages": [USER, USER, USER, {"role": CANARY, "content": ""}]}, "messages[3].role must be user or assistant"),
    ({"messages": [{"role": "system", "content": CANARY}]}, "messages[0].role must be user or assistant"),
    ({"messages": [{"role": "User", "content": CANARY}]}, "messages[0].role must be user or assistant"),
    ({"messages": [{"role": ["user"], "content": CANARY}]}, "messages[0].role must be user or assistant"),
    ({"messages": [{"role": {"user": 1}, "content": CANARY}]}, "messages[0].role must be user or assistant"),
    ({"messages": [{"role": "assistant", "content": CANARY}, USER]}, "messages[0].role must be user"),
    ({"messages": [{"role": "user"}]}, f"messages[0].content {TEXTS}"),
    ({"messages": said(None)}, f"messages[0].content {TEXTS}"),
    ({"messages": said(TEXT)}, f"messages[0].content {TEXTS}"),
    ({"messages": said(CANARY, 7)}, f"messages[1].content {TEXTS}"),
    ({"messages": said(CANARY, "")}, "messages[1].content must not be empty"),
    ({"messages": said(CANARY, [])}, "messages[1].content must not be empty"),
    ({"messages": said(f"{CANARY}\0")}, f"messages[0].content {CHARACTER}"),
    ({"messages": said([TEXT, CANARY])}, f"messages[0].content[1] {BLOCK}"),
    ({"messages": said([None])}, f"messages[0].content[0] {BLOCK}"),
    ({"messages": said([{"text": CANARY}])}, f"messages[0].content[0] {BLOCK}"),
    ({"messages": said([TEXT, {"type": "image", "source": CANARY}])}, f"messages[0].content[1] {BLOCK}"),
    ({"messages": said([{"type": ["text"], "text": CANARY}])}, f"messages[0].content[0] {BLOCK}"),
    ({"messages": said([TEXT, {"type": "text"}])}, "messages[0].content[1].text must be a text"),
    ({"messages": said([TEXT, {"type": "text", "text": [CANARY]}])}, "messages[0].content[1].text must be a text"),
    ({"messages": said([{"type": "text", "text": ""}])}, "messages[0].content[0].text must not be empty"),
    ({"messages": said("a", [TEXT, {"type": "text", "text": "\ud800"}])}, f"messages[1].content[1].text {CHARACTER}"),
    ({"system": [TEXT, {"type": "text", "text": 1}]}, "system[1].text must be a text"),
    ({"system": [{"type": "image", "text": CANARY}]}, f"system[0] {BLOCK}"),
    ({"stop_sequences": [CANARY, 1]}, "stop_sequences[1] must be a text"),
    ({"stop_sequences": [""]}, "stop_sequences[0] must not be empty"),
    ({"stop_sequences": ["a", "b", "\0"]}, f"stop_sequences[2] {CHARACTER}"),
    # Of several wrong ones, the first.
    ({"messages": [USER, {"role": CANARY}, {"role": 2}, 3]}, "messages[1].role must be user or assistant"),
    ({"messages": said([TEXT, {"type": CANARY}, {"type": 2}])}, f"messages[0].content[1] {BLOCK}"),
    ({"model": 1, "messages": 1, "max_tokens": CANARY, "system": 1}, "model must be a text"),
    ({"messages": [], "max_tokens": CANARY, "stream": 1}, f"messages {LIST}"),
    ({"max_tokens": CANARY, "stream": 1}, f"max_tokens {WHOLE}"),
]
DEEP += [({name: value}, f"{name} {rule}") for name, rule, values in WRONG for value in values]


def test_a_wrong_member_is_named_with_what_it_must_be_and_never_with_its_value(
    caller: FlaskClient, provider: AnthropicServer
) -> None:
    for members, named in DEEP:
        answer = ask(caller, **members)
        assert error_of(answer) == (400, "invalid_request"), (ascii(members)[:100], answer.text)
        assert answer.get_json()["error"]["message"] == f"{named}."
        assert not says(answer, CANARY)
    assert (provider.connections, usage(caller)) == (0, (0, 0))


def test_a_member_that_is_absent_is_named(caller: FlaskClient) -> None:
    for name, rule in (("model", "must be a text"), ("messages", LIST), ("max_tokens", WHOLE)):
        without = {other: value for other, value in ASKED.items() if other != name}
        answer = caller.post(LLM, json={**without, name.upper(): ASKED[name]})
        assert answer.get_json()["error"]["message"] == f"{name} {rule}."


def test_numbers_that_no_json_has_are_refused_before_any_member_is_looked_at(caller: FlaskClient) -> None:
    for number in ("NaN", "Infinity", "-Infinity"):
        body = json.dumps({**ASKED, "temperature": "?"}).replace('"?"', number)
        assert error_of(caller.post(LLM, data=body, content_type=JSON_TYPE)) == (400, "invalid_json"), number
    for number in ("1e999", "-1e999"):  # above every float, and so is read as infinite
        body = json.dumps({**ASKED, "temperature": "?"}).replace('"?"', number)
        assert error_of(caller.post(LLM, data=body, content_type=JSON_TYPE)) == (400, "invalid_request"), number


def test_the_first_model_that_is_not_offered_is_refused_letter_by_letter(caller: FlaskClient) -> None:
    for model in (CANARY, "CLAUDE-SONNET-5-5", " claude-sonnet-5-5", "claude-sonnet-5-5\n", "claude", "é" * 100_000):
        answer = ask(caller, model=model)
        assert error_of(answer) == (400, "model_not_allowed"), model[:20]
        assert not says(answer, CANARY)


@pytest.mark.parametrize(("size", "status"), [(MAX_LLM_BODY, 200), (MAX_LLM_BODY + 1, 413), (2 * MAX_LLM_BODY, 413)])
def test_a_body_has_2_mib_at_most_whether_it_says_its_size_or_not(
    caller: FlaskClient, provider: AnthropicServer, size: int, status: int
) -> None:
    body = json.dumps(ASKED).encode().ljust(size)
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}

    declared = caller.post(LLM, data=body, content_type=JSON_TYPE)
    streamed = caller.post(LLM, input_stream=BytesIO(body), content_type=JSON_TYPE, environ_overrides=chunked)

    assert (declared.status_code, streamed.status_code) == (status, status)
    assert len(provider.finished()) == (2 if status == 200 else 0)


# --- What reaches the provider. ---

RIGHT: dict[str, dict[str, Any]] = {
    "no more than needed": {},
    "500 messages": {"messages": [USER, {"role": "assistant", "content": "Hi"}] * 250},
    "the user twice": {"messages": [USER, USER]},
    "the assistant last": {"messages": [USER, {"role": "assistant", "content": "{"}]},
    "text blocks": {"messages": said([TEXT, {"type": "text", "text": " "}])},
    "a system": {"system": "Be brief."},
    "a system of blocks": {"system": [TEXT, TEXT]},
    "the warmest": {"temperature": 1},
    "the coldest": {"temperature": 0},
    "in between": {"temperature": 0.1},
    "no stop sequence": {"stop_sequences": []},
    "four stop sequences": {"stop_sequences": ["a", "\n", "é", "\u2028"]},
    "streamed": {"stream": True},
    "not streamed": {"stream": False},
    "the smallest": {"max_tokens": 1},
    "the largest": {"max_tokens": 4096},
    "Unicode": {"messages": said('é 漢字 🙂 \u200d\u2028 a\u0308 \ufeff \uffff \x7f \\u0041 " < > & \r\n\t', "🏳️‍🌈")},
    "other models": {"model": "claude-haiku-5-5"},
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_reaches_the_provider_as_it_is(caller: FlaskClient, provider: AnthropicServer, name: str) -> None:
    answer = ask(caller, **RIGHT[name])

    assert answer.status_code == 200, answer.text
    assert answer.data
    (request,) = provider.finished()
    assert (request.method, request.path) == ("POST", "/v1/messages")
    assert request.json == {**ASKED, **RIGHT[name]}


def test_text_is_sent_as_utf_8_however_it_was_written(caller: FlaskClient, provider: AnthropicServer) -> None:
    text = "é 漢字 🙂"

    ask(caller, messages=said(text))  # which is all escapes here

    (request,) = provider.finished()
    assert text.encode() in request.body
    assert b"\\u" not in request.body


def test_null_is_as_good_as_absent(caller: FlaskClient, provider: AnthropicServer) -> None:
    nothing = dict.fromkeys(("system", "temperature", "stop_sequences", "stream", "metadata"))

    assert ask(caller, **nothing).status_code == 200

    assert provider.finished()[0].json == ASKED


def test_what_is_not_known_is_left_out_wherever_it_is(caller: FlaskClient, provider: AnthropicServer) -> None:
    more: dict[str, Any] = {CANARY: CANARY, "cache_control": {"type": "ephemeral", "ttl": CANARY}, "": CANARY}
    beside = {"metadata": {"user_id": CANARY}, "tools": [{"name": CANARY}], "tool_choice": {"type": "any"}, "top_k": 1}
    beside |= {"top_p": 0.5, "thinking": {"type": "enabled"}, "service_tier": CANARY, "container": CANARY, "betas": []}
    blocks = [{**TEXT, **more, "citations": [CANARY]}]

    answer = ask(
        caller, messages=[{**more, "name": CANARY, **USER, "content": blocks}], system=blocks, **more, **beside
    )

    assert answer.status_code == 200
    (request,) = provider.finished()
    assert CANARY.encode() not in request.body
    assert request.json == {**ASKED, "messages": said([TEXT]), "system": [TEXT]}


def test_of_the_callers_headers_only_the_request_id_reaches_the_provider(
    caller: FlaskClient, provider: AnthropicServer
) -> None:
    names = ["X-Api-Key", "Authorization", "Anthropic-Beta", "Anthropic-Version", "X-Forwarded-For", "Forwarded", "Via"]
    names += ["User-Agent", "Referer", "Accept", "Accept-Language", "X-Forwarded-Host", "X-Real-Ip", "Traceparent"]
    headers = {**dict.fromkeys(names, CANARY), "X-Request-Id": "request.42", "Host": f"{CANARY}.example.com"}
    sign_in = caller.get_cookie("__Host-lumen_session")
    assert sign_in
    headers["Cookie"] = f"other={CANARY}; __Host-lumen_session={sign_in.value}"

    other_host = caller.application.test_client(use_cookies=False)
    assert other_host.post(f"{LLM}?{CANARY}=1", json=ASKED, headers=headers).status_code == 200

    (request,) = provider.finished()
    assert {name.lower(): value for name, value in request.headers.items()} == {
        "host": f"127.0.0.1:{provider.port}",
        "x-api-key": API_KEY,
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
        "content-length": str(len(request.body)),
        "accept-encoding": "identity",
        "user-agent": "lumen-api",
        "x-request-id": "request.42",
    }
    assert request.path == "/v1/messages"


# --- What comes back. ---


@pytest.mark.parametrize(
    "answered", [message(), stream(), error(400), error(429, retry_after="7"), error(500)], ids=lambda a: str(a.status)
)
def test_no_header_of_the_provider_comes_back_but_what_we_say_ourselves(
    caller: FlaskClient, provider: AnthropicServer, answered: Any
) -> None:
    provider.behave(answered.with_headers(x_canary=CANARY, x_request_id=CANARY, x_ratelimit_limit=CANARY))

    answer = ask(caller, stream=answered.framing == "chunked")

    assert answer.data
    ours = {"Content-Type", "Content-Length", "X-Request-Id", *own_headers.of(caller.application)}
    ours |= {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
    own = {"X-Accel-Buffering"} if answered.framing == "chunked" else set()
    own |= {"Retry-After"} if answer.status_code == 503 else set()
    assert {name for name, _ in answer.headers} - {"Content-Length"} == (ours | own) - {"Content-Length"}
    assert answer.headers["Strict-Transport-Security"] != HEADERS["strict-transport-security"]
    ours_too = {"strict-transport-security"}
    assert not {name.lower() for name, _ in answer.headers} & (HEADERS.keys() - ours_too)
    assert CANARY not in str(answer.headers)
    assert answered.request_id not in str(answer.headers)


@pytest.mark.parametrize(
    "said_to_wait", ["0", "00", "-1", "1.5", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 30, ""]
)
def test_whatever_the_provider_says_of_waiting_the_caller_is_told_a_whole_number_above_0(
    caller: FlaskClient, provider: AnthropicServer, said_to_wait: str
) -> None:
    provider.behave(error(429, retry_after=said_to_wait))

    answer = ask(caller)

    assert error_of(answer) == (503, "provider_overloaded")
    assert 0 < int(answer.headers["Retry-After"]) < 100_000

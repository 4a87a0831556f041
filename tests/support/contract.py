"""What the contract says of every route, for the tests that go over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.journeys import HASH, request_link, sign_in
from tests.support.llm import ASKED
from tests.support.mailbox import Mailbox

JSON_TYPE = "application/json"
MAX_BODY = 64 * 1024
MAX_LLM_BODY = 2 * 1024 * 1024
LLM = "/v1/llm/messages"

# Every route that reads a body, with one that it understands. (No token is ever this one.)
JSON_ROUTES: dict[str, dict[str, Any]] = {
    "/v1/auth/request-link": {"email": "ada@example.com"},
    "/v1/auth/verify": {"token": "no-token-of-ours"},
    "/v1/sessions/start": {"session_id": "first"},
    "/v1/sessions/end": {"session_id": "first", "transcript_hash": HASH},
    LLM: ASKED,
}

# Every route that changes something and needs no body.
BODILESS_ROUTES = (("POST", "/v1/auth/logout"), ("POST", "/v1/auth/logout-all"), ("DELETE", "/v1/account"))


@pytest.fixture
def provider() -> Iterator[AnthropicServer]:
    """Who answers calls of the model."""
    with AnthropicServer() as server:
        yield server


@pytest.fixture
def env_with_a_model(env: dict[str, str], provider: AnthropicServer) -> dict[str, str]:
    """For a module whose every route shall work: `env = env_with_a_model` takes the place of conftest's."""
    model = {"LLM_PROVIDER_KEY": API_KEY, "LLM_PROVIDER_URL": provider.url}
    return {**env, **model, "RATE_LIMIT_LLM_PER_USER": env["RATE_LIMIT_PER_USER"]}


def max_body(path: str) -> int:
    """How many bytes a request to `path` may have."""
    return MAX_LLM_BODY if path.startswith("/v1/llm/") else MAX_BODY


def good_bodies(client: FlaskClient, mailbox: Mailbox) -> dict[str, dict[str, Any]]:
    """Sign `client` in, and give for each route with a body one that it answers with 200."""
    sign_in(client, mailbox)
    return {**JSON_ROUTES, "/v1/auth/verify": {"token": request_link(client, mailbox)}}


def error_of(answer: TestResponse) -> tuple[int, str]:
    """Status and code of an error, having seen that it is the envelope with nothing beside it."""
    assert answer.headers.getlist("Content-Type") == ["application/json; charset=utf-8"], answer.text
    body = answer.get_json()
    if "error" not in body:
        return answer.status_code, "no error"
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert sorted(error) == ["code", "message", "request_id"]
    assert error["request_id"] == answer.headers["X-Request-Id"]
    return answer.status_code, error["code"]


def says(answer: TestResponse, text: str) -> bool:
    """Whether `text` is anywhere in the answer."""
    return text in answer.get_data(as_text=True) or text in str(answer.headers)


def routes(app: Flask) -> list[tuple[str, str]]:
    """Every method and path of the API that a caller can name without knowing an id."""
    return [
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/v1/") and not rule.arguments
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]

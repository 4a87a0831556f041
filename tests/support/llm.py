"""Calls of the model, as a signed-in user makes them."""

from __future__ import annotations

import json
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support import ROOT
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import Answer
from tests.support.anthropic_events import Data
from tests.support.journeys import sign_in
from tests.support.mailbox import Mailbox
from tests.support.service import Service

MESSAGES = [{"role": "user", "content": "Hello"}]
ASKED = {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": MESSAGES}


def signed_in(app: Flask, mailbox: Mailbox, email: str = "ada@example.com") -> FlaskClient:
    """A client of `app` who may call."""
    client = app.test_client()
    sign_in(client, mailbox, email)
    return client


def ask(client: FlaskClient, **members: object) -> TestResponse:
    """One call, answered at its first byte. Whoever wants the rest of a stream reads on."""
    return client.post("/v1/llm/messages", json={**ASKED, **members}, buffered=False)


def failure(answer: TestResponse) -> tuple[int, str, str | None]:
    """Status, code and Retry-After."""
    return answer.status_code, answer.get_json()["error"]["code"], answer.headers.get("Retry-After")


def broken_off(answer: TestResponse) -> tuple[bytes, dict[str, str]]:
    """A stream that ends with our error event: what came before it, and the error."""
    before, event, data = answer.data.rpartition(b"event: error\ndata: ")
    assert event
    assert data.endswith(b"\n\n")
    envelope: dict[str, str] = json.loads(data)["error"]
    return before, envelope


def usage(client: FlaskClient) -> tuple[int, int]:
    """Tokens used, and reserved."""
    seen = client.get("/v1/llm/usage").get_json()
    return seen["used"], seen["reserved"]


def reserved(provider: AnthropicServer) -> int:
    """The tokens that were set aside for the first call that the provider has seen."""
    request = provider.requests[0]
    return -(-len(request.body) // 3) + int(request.json["max_tokens"])


def body_of(answer: Answer) -> bytes:
    """All that the provider says with it."""
    return b"".join(step.data for step in answer.steps if isinstance(step, Data))


def outcomes(service: Service) -> list[tuple[int, str | None]]:
    """How the calls have ended, by the log: status and class of the error."""
    lines = map(json.loads, service.log.read_text().splitlines())
    return [(line["status"], line["error_class"]) for line in lines if line["event"] == "llm_call"]


def gunicorn_with(folder: Path, *lines: str) -> str:
    """GUNICORN_CMD_ARGS for our settings with `lines` behind them, which run before the workers start."""
    config = folder / "gunicorn.conf.py"
    config.write_text("\n".join([(ROOT / "gunicorn.conf.py").read_text(), *lines]))
    return f"--config={config}"

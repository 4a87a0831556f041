"""For each answer that `openapi.yaml` promises, a request that gets it."""

from __future__ import annotations

import io
from contextlib import ExitStack
from functools import cached_property
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lumen_api.auth import TokenSigner
from tests.conftest import SECRET, AppFactory
from tests.support.anthropic import AnthropicServer, honest
from tests.support.anthropic_answers import FOREVER, Answer, error, message, stream
from tests.support.contract import JSON_ROUTES, JSON_TYPE, LLM, MAX_LLM_BODY
from tests.support.journeys import HASH, OTHER_HASH, request_link, sign_in
from tests.support.llm import ASKED
from tests.support.mailbox import Mailbox
from tests.support.openapi import EVENTS, JSON, Operation
from tests.support.rows import spend_budget

COOKIE = "__Host-lumen_session"
LIMITS = ("LINK_PER_IP", "LINK_PER_EMAIL", "VERIFY_PER_IP", "PER_USER", "LLM_PER_USER")

# What is wrong with a member, or the query, by the code of the answer.
WRONG_MEMBERS: dict[str, dict[str, Any]] = {
    "invalid_email": {"email": "nobody"},
    "missing_token": {"token": ""},
    "invalid_token": {"token": "no-token-of-ours"},
    "missing_session_id": {"session_id": None},
    "invalid_session_id": {"session_id": "a b"},
    "missing_transcript_hash": {"transcript_hash": None},
    "invalid_transcript_hash": {"transcript_hash": "abc"},
    "invalid_timestamp": {"started_at": "yesterday", "ended_at": "yesterday"},
    "session_already_ended": {"transcript_hash": OTHER_HASH},
    "invalid_request": {"messages": []},
    "model_not_allowed": {"model": "another"},
}
WRONG_QUERIES = {"invalid_limit": "limit=0", "invalid_cursor": "cursor=x"}
# What is wrong with the request itself.
WRONG_REQUESTS: dict[str, dict[str, Any]] = {
    "invalid_json": {"data": b"[", "content_type": JSON_TYPE},
    "unsupported_media_type": {"data": b"{}", "content_type": "text/plain"},
    "payload_too_large": {"data": b" " * (MAX_LLM_BODY + 1), "content_type": JSON_TYPE},
    "origin_not_allowed": {"headers": {"Sec-Fetch-Site": "cross-site"}},
}
# What the model's provider says.
PROVIDER_SAYS: dict[str, Answer] = {
    "provider_rejected": error(400),
    "provider_error": error(500),
    "provider_overloaded": error(429),
    "provider_timeout": message().until("request", FOREVER),
}
# Variables of a service that answers so.
VARIABLES: dict[str, dict[str, str]] = {
    "llm_not_configured": {"LLM_PROVIDER_KEY": ""},
}


class Torn(io.BytesIO):
    """A body of a caller that goes away before it has sent any of it."""

    def read(self, *_: object) -> bytes:
        raise OSError

    def readinto(self, *_: object) -> int:
        raise OSError


class Asker:
    """Asks for the answers of one operation. Every attribute is made when it is first needed."""

    def __init__(self, operation: Operation, make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer) -> None:
        """As the fixtures give them."""
        self.operation = operation
        self.make_app = make_app
        self.mailbox = mailbox
        self.provider = provider

    def succeed(self, content_type: str = JSON) -> TestResponse:
        """The success, whose body is of this type."""
        self.provider.behave(honest)
        streamed = {"stream": True} if content_type == EVENTS else {}
        return self._send(self.client, **({"json": {**self.body, **streamed}} if self.operation.body else {}))

    def ask(self, code: str) -> TestResponse:
        """The answer with this code."""
        self.provider.behave(honest)
        if code in WRONG_MEMBERS:
            return self._send(self.client, json={**self.body, **WRONG_MEMBERS[code]})
        if code in WRONG_QUERIES:
            return self._send(self.client, query_string=WRONG_QUERIES[code])
        if code in WRONG_REQUESTS:
            return self._send(self.client, **WRONG_REQUESTS[code])
        if code in PROVIDER_SAYS:
            self.provider.behave(PROVIDER_SAYS[code])
            return self._send(self._same_caller(self.make_app(LLM_IDLE_TIMEOUT="1s")), **self._right)
        if code in VARIABLES:
            return self._send(self._same_caller(self.make_app(**VARIABLES[code])), **self._right)
        special = {
            "bad_request": self._break_off,
            "unauthorized": self._without_a_cookie,
            "rate_limited": self._too_often,
            "internal_error": self._with_a_mistake,
            "email_unavailable": self._without_mail,
            "busy": self._without_a_free_connection,
            "database_unavailable": self._without_a_database,
            "not_ready": self._without_a_database,
            "too_many_streams": self._beside_two_streams,
            "quota_exceeded": self._with_a_spent_budget,
        }
        return special[code]()

    @cached_property
    def client(self) -> FlaskClient:
        """Signed in, with an ended session and a link that is not used yet."""
        client = self.make_app().test_client()
        sign_in(client, self.mailbox)
        for name in ("first", "second"):
            client.post("/v1/sessions/end", json={"session_id": name, "transcript_hash": HASH})
        request_link(client, self.mailbox)
        return client

    @property
    def body(self) -> dict[str, Any]:
        """What is sent when it shall succeed."""
        if self.operation.id == "verify":
            return {"token": request_link(self.client, self.mailbox)}
        return JSON_ROUTES.get(self.operation.path, {})

    def _send(self, client: FlaskClient, **request: Any) -> TestResponse:
        return client.open(self.operation.path, method=self.operation.method, buffered=True, **request)

    @property
    def _right(self) -> dict[str, Any]:
        return {"json": self.body} if self.operation.body else {}

    def _with_a_spent_budget(self) -> TestResponse:
        client = self.make_app().test_client()
        sign_in(client, self.mailbox, "spender@example.com")
        spend_budget(client.application.extensions["lumen.db"].dsn, "spender@example.com")
        return self._send(client, **self._right)

    def _break_off(self) -> TestResponse:
        return self._send(self.client, input_stream=Torn(b"{}"), content_type=JSON_TYPE)

    def _without_a_cookie(self) -> TestResponse:
        return self._send(self.make_app().test_client(), **self._right)

    def _too_often(self) -> TestResponse:
        limited = self._same_caller(self.make_app(**{f"RATE_LIMIT_{name}": "1/hour" for name in LIMITS}))
        self._send(limited, **WRONG_REQUESTS["unsupported_media_type"])  # counts too, and does nothing
        return self._send(limited)

    def _with_a_mistake(self) -> TestResponse:
        def mistaken() -> str:
            raise ZeroDivisionError

        app = self.make_app()
        endpoint, _ = app.url_map.bind("").match(self.operation.path, method=self.operation.method)
        app.view_functions[endpoint] = mistaken
        return self._send(app.test_client(), **self._right)

    def _without_mail(self) -> TestResponse:
        client, request = self.client, self._right
        self.mailbox.answer_rcpt = lambda _: "451 try again later"
        return self._send(client, **request)

    def _without_a_free_connection(self) -> TestResponse:
        """Needs a short db.WAIT_FOR_CONNECTION."""
        app = self.make_app(DATABASE_POOL_SIZE="1")
        with app.extensions["lumen.db"].connection():
            return self._send_signed(self._same_caller(app))

    def _without_a_database(self) -> TestResponse:
        return self._send_signed(self._same_caller(self.make_app(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")))

    def _beside_two_streams(self) -> TestResponse:
        self.provider.behave(stream().until("content_block_delta", FOREVER))
        with ExitStack() as under_way:
            for _ in range(2):
                under_way.enter_context(self.client.post(LLM, json={**ASKED, "stream": True}, buffered=False))
            return self._send(self.client, **self._right)

    def _send_signed(self, client: FlaskClient) -> TestResponse:
        """What reaches the database, which nothing but a signed token does."""
        token = TokenSigner((SECRET,), purpose="magic link").new().text
        body = {"token": token} if self.operation.id == "verify" else self.body
        return self._send(client, **({"json": body} if body else {}))

    def _same_caller(self, app: Flask) -> FlaskClient:
        cookie = self.client.get_cookie(COOKIE)
        assert cookie
        client = app.test_client()
        client.set_cookie(COOKIE, cookie.value, secure=True)
        return client

"""The service answers as `openapi.yaml` says: for every operation each status and code, each header, each member."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lumen_api import db
from tests.conftest import AppFactory
from tests.support import contract
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import CUT, FOREVER, stream
from tests.support.documented_answers import Asker
from tests.support.llm import ask, signed_in
from tests.support.mailbox import Mailbox
from tests.support.openapi import DOCUMENT, EVENTS, JSON, OPERATIONS, Answer, Operation, closed, problems, resolved

provider, env = contract.provider, contract.env_with_a_model

BY_ID = [pytest.param(operation, id=operation.id) for operation in OPERATIONS]
AskerFactory = Callable[[Operation], Asker]
UNLIMITED = {"health", "ready", "openapi", "logout"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "WAIT_FOR_CONNECTION", 0.01)


@pytest.fixture
def make_asker(make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer) -> AskerFactory:
    """Makes what asks for the answers of an operation."""
    return lambda operation: Asker(operation, make_app, mailbox, provider)


def headers_of(answer: TestResponse) -> set[str]:
    """Without those that describe the body."""
    return {name for name, _ in answer.headers} - {"Content-Type", "Content-Length"}


@pytest.mark.parametrize("operation", BY_ID)
def test_every_documented_answer_is_given_with_its_members_and_headers(
    operation: Operation, make_asker: AskerFactory, mailbox: Mailbox
) -> None:
    failing = make_asker(operation)  # none of these ends the sign-in, as a success may
    for status, documented in operation.answers.items():
        seen: set[str] = set()
        for code in documented.codes:
            answer = failing.ask(code)
            mailbox.clear()
            assert answer.get_json()["error"]["code"] == code, (operation.id, status, code, answer.text)
            assert_documented(answer, status, documented, (operation.id, status, code))
            seen |= headers_of(answer)
        for content_type in documented.content if status == 200 else ():
            answer = make_asker(operation).succeed(content_type)
            mailbox.clear()
            assert answer.mimetype == content_type
            assert_documented(answer, status, documented, (operation.id, status, content_type))
            seen |= headers_of(answer)
        assert seen == documented.headers.keys(), (operation.id, status)


def assert_documented(answer: TestResponse, status: int, documented: Answer, what: object) -> None:
    assert answer.status_code == status, (what, answer.text)
    if answer.mimetype == JSON:
        assert answer.headers["Content-Type"] == "application/json; charset=utf-8", what
        schema = documented.schema if "openapi" in documented.schema.get("required", ()) else closed(documented.schema)
        assert problems(answer.get_json(), schema) == [], what
    assert_headers(answer, documented, what)


# The last two are the server's, before the application hears of the request: test_server.py.
OF_NO_OPERATION = {"not_found", "method_not_allowed", "request_timeout", "headers_too_large"}


@pytest.mark.parametrize("operation", BY_ID)
def test_whatever_goes_wrong_at_an_operation_is_documented_there(
    operation: Operation, make_asker: AskerFactory, mailbox: Mailbox
) -> None:
    asker = make_asker(operation)
    for code in sorted(DOCUMENT["components"]["examples"].keys() - OF_NO_OPERATION):
        answer = asker.ask(code)
        mailbox.clear()
        if answer.status_code == 200:
            asker = make_asker(operation)  # that may have ended the sign-in
        else:
            assert answer.status_code in operation.answers, (operation.id, answer.text)
            assert answer.get_json()["error"]["code"] in operation.answers[answer.status_code].codes, operation.id


def assert_headers(answer: TestResponse, documented: Answer, what: object) -> None:
    required = {name for name, header in documented.headers.items() if header.get("required")}
    assert required <= headers_of(answer) <= documented.headers.keys(), what
    for name in headers_of(answer):
        schema, text = documented.headers[name]["schema"], answer.headers[name]
        assert problems(int(text) if schema.get("type") == "integer" else text, schema) == [], (what, name)


def test_the_answers_to_unknown_addresses_and_methods_are_as_documented(client: FlaskClient) -> None:
    asked = {"NotFound": client.get("/v1/nothing"), "MethodNotAllowed": client.put("/v1/health")}

    for name, answer in asked.items():
        documented = Answer(resolved(DOCUMENT["components"]["responses"][name]))
        assert documented.codes == [answer.get_json()["error"]["code"]]
        assert problems(answer.get_json(), closed(documented.schema)) == []
        assert headers_of(answer) == documented.headers.keys()


def test_the_link_in_the_answer_is_the_only_member_that_is_not_always_there(make_app: AppFactory) -> None:
    answer = (
        make_app(APP_ENV="development", SMTP_URL="")
        .test_client()
        .post("/v1/auth/request-link", json={"email": "ada@example.com"})
    )
    (request_link,) = [operation for operation in OPERATIONS if operation.id == "requestLink"]

    schema = closed(request_link.answers[200].schema)
    assert problems(answer.get_json(), {**schema, "required": [*schema["properties"]]}) == []
    optional = [
        name for operation in OPERATIONS for answer in operation.answers.values() for name in optional_of(answer.schema)
    ]
    assert optional == ["magic_link"]


def optional_of(schema: Any) -> list[str]:
    """The members, however deep, that an answer may lack."""
    if isinstance(schema, list):
        return [name for item in schema for name in optional_of(item)]
    if not isinstance(schema, dict):
        return []
    own = (
        sorted(schema["properties"].keys() - set(schema["required"]))
        if schema.get("type") == "object" and "properties" in schema
        else []
    )
    return own + optional_of(list(schema.values()))


def test_what_is_counted_is_what_is_said_to_be(make_asker: AskerFactory) -> None:
    limited = {operation.id for operation in OPERATIONS if 429 in operation.answers}

    assert {operation.id for operation in OPERATIONS} - limited == UNLIMITED
    for operation in OPERATIONS:
        if operation.id in UNLIMITED:
            assert not {name for name in headers_of(make_asker(operation).succeed()) if name.startswith("X-RateLimit")}
            assert "Not limited." in operation.definition["description"]


# --- The model. ---


def events_of(text: str) -> list[str]:
    """The names of the events, one for those that repeat."""
    return list(dict.fromkeys(re.findall(r"(?m)^event: (.*)$", text)))


def test_a_stream_has_the_events_of_its_examples(
    make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer
) -> None:
    (operation,) = [operation for operation in OPERATIONS if EVENTS in operation.answers[200].content]
    complete, failed = (example["value"] for example in operation.answers[200].content[EVENTS]["examples"].values())
    client = signed_in(make_app(), mailbox)

    assert events_of(ask(client, stream=True).text) == events_of(complete)

    provider.behave(stream().until("content_block_delta", CUT))
    answer = ask(client, stream=True)
    request_id = answer.headers["X-Request-Id"]
    assert answer.text.replace(request_id, "0fa7bbd4c54e4fe6bbcc73bbba1dbb99").endswith(f"\n\n{failed}")


def test_an_account_with_a_call_under_way_is_as_documented(
    make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer
) -> None:
    (operation,) = [operation for operation in OPERATIONS if operation.id == "exportAccount"]
    client = signed_in(make_app(), mailbox)
    assert ask(client).status_code == 200
    provider.behave(stream().until("content_block_delta", FOREVER))

    with ask(client, stream=True):
        account = client.get("/v1/account").get_json()

    assert (len(account["usage"]), len(account["reservations"])) == (1, 1)
    assert problems(account, closed(operation.answers[200].schema)) == []

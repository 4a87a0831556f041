"""The service answers as `openapi.yaml` says: for every operation each status and code, each header, each member."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lumen_api import db
from tests.conftest import AppFactory
from tests.support.documented_answers import Asker
from tests.support.mailbox import Mailbox
from tests.support.openapi import DOCUMENT, OPERATIONS, Answer, Operation, closed, problems, resolved

BY_ID = [pytest.param(operation, id=operation.id) for operation in OPERATIONS]
UNLIMITED = {"health", "ready", "openapi", "logout"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(db, "WAIT_FOR_CONNECTION", 0.01)


def headers_of(answer: TestResponse) -> set[str]:
    """Without those that describe the body."""
    return {name for name, _ in answer.headers} - {"Content-Type", "Content-Length"}


@pytest.mark.parametrize("operation", BY_ID)
def test_every_documented_answer_is_given_with_its_members_and_headers(
    operation: Operation, make_app: AppFactory, mailbox: Mailbox
) -> None:
    failing = Asker(operation, make_app, mailbox)  # none of these ends the sign-in, as a success may
    for status, documented in operation.answers.items():
        seen: set[str] = set()
        codes: list[str | None] = [*documented.codes]
        for code in codes or [None]:
            answer = (failing if code else Asker(operation, make_app, mailbox)).ask(code)
            mailbox.clear()
            what = (operation.id, status, code)
            assert answer.status_code == status, (what, answer.text)
            assert code is None or answer.get_json()["error"]["code"] == code, (what, answer.text)
            assert answer.headers["Content-Type"] == "application/json; charset=utf-8", what
            if operation.id != "openapi" or code:
                assert problems(answer.get_json(), closed(documented.schema)) == [], what
            assert_headers(answer, documented, what)
            seen |= headers_of(answer)
        assert seen == documented.headers.keys(), (operation.id, status)


@pytest.mark.parametrize("operation", BY_ID)
def test_whatever_goes_wrong_at_an_operation_is_documented_there(
    operation: Operation, make_app: AppFactory, mailbox: Mailbox
) -> None:
    asker = Asker(operation, make_app, mailbox)
    for code in sorted(DOCUMENT["components"]["examples"].keys() - {"not_found", "method_not_allowed"}):
        answer = asker.ask(code)
        mailbox.clear()
        if answer.status_code == 200:
            asker = Asker(operation, make_app, mailbox)  # that may have ended the sign-in
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


def test_what_is_counted_is_what_is_said_to_be(make_app: AppFactory, mailbox: Mailbox) -> None:
    limited = {operation.id for operation in OPERATIONS if 429 in operation.answers}

    assert {operation.id for operation in OPERATIONS} - limited == UNLIMITED
    for operation in OPERATIONS:
        if operation.id in UNLIMITED:
            asker = Asker(operation, make_app, mailbox)
            assert not {name for name in headers_of(asker.ask(None)) if name.startswith("X-RateLimit")}
            assert "Not limited." in operation.definition["description"]

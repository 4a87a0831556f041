"""`openapi.yaml` is OpenAPI 3.1, and says of routes, errors, members and limits what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask, Request, request
from flask.testing import FlaskClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.datastructures import ImmutableMultiDict

from config import Config
from lumen_api import validation
from lumen_api.errors import ApiError
from lumen_api.llm import policy
from lumen_api.llm.errors import ClientGone
from lumen_api.llm.provider import SILENCE
from lumen_api.llm.request import MAX_MESSAGES, MAX_STOP_SEQUENCES, ROLES, InvalidRequest
from lumen_api.server import refusals
from tests.support import contract
from tests.support.contract import good_bodies, routes
from tests.support.journeys import sign_in
from tests.support.mailbox import Mailbox
from tests.support.openapi import DOCUMENT, JSON, OPERATIONS, Answer, Operation, examples, problems, resolved

provider, env = contract.provider, contract.env_with_a_model

RESPONSES = {name: Answer(resolved(response)) for name, response in DOCUMENT["components"]["responses"].items()}
ANSWERS = [answer for operation in OPERATIONS for answer in operation.answers.values()]
WITH_BODY = [pytest.param(operation, id=operation.id) for operation in OPERATIONS if operation.body]


def errors(base: type[ApiError] = ApiError) -> Iterator[type[ApiError]]:
    """Those that somebody hears, the general ones before the special."""
    assert refusals  # which has some, and which no other module imports
    for error in base.__subclasses__():
        if error.__module__.startswith("lumen_api.") and error is not ClientGone:
            yield error
        yield from errors(error)


# --- The document itself. ---


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


def test_the_document_is_served_as_json_to_anybody(client: FlaskClient) -> None:
    answer = client.get("/v1/openapi.json")

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert json.loads(answer.data) == DOCUMENT


def test_every_component_is_used_but_for_the_answers_that_belong_to_no_operation() -> None:
    text = json.dumps(DOCUMENT)
    names = [f"#/components/{kind}/{name}" for kind, parts in DOCUMENT["components"].items() for name in parts]

    assert {name for name in names if f'"{name}"' not in text} == {
        "#/components/responses/NotFound",
        "#/components/responses/MethodNotAllowed",
        "#/components/responses/RequestTimeout",
        "#/components/responses/HeadersTooLarge",
        "#/components/securitySchemes/cookie",
    }
    assert {
        name
        for operation in OPERATIONS
        for rule in operation.definition.get("security", DOCUMENT["security"])
        for name in rule
    } == {"cookie"}


def test_every_example_is_one() -> None:
    for operation in OPERATIONS:
        described = list(operation.definition.get("parameters", []))
        described += [header for answer in ANSWERS for header in answer.headers.values()]
        described += [operation.definition["requestBody"]["content"][JSON]] if operation.body else []
        described += [content for answer in operation.answers.values() for content in answer.content.values()]
        for content in described:
            for name, example in examples(content).items():
                assert problems(example, content["schema"]) == [], (operation.id, name)


@pytest.mark.parametrize("operation", WITH_BODY)
def test_every_example_of_a_request_is_accepted(operation: Operation, client: FlaskClient, mailbox: Mailbox) -> None:
    given = examples(operation.definition["requestBody"]["content"][JSON])
    assert given

    for name, body in given.items():
        sign_in(client, mailbox)
        with client.open(operation.path, method=operation.method, json=body) as answer:
            # Nobody is given a link that works.
            assert answer.status_code == (401 if operation.id == "verify" else 200), (
                name,
                answer.get_data(as_text=True),
            )


def test_every_link_names_an_operation_and_what_it_takes() -> None:
    by_id = {operation.id: operation for operation in OPERATIONS}
    assert len(by_id) == len(OPERATIONS)

    links = [(name, link) for answer in ANSWERS for name, link in answer.definition.get("links", {}).items()]
    assert {name for name, _ in links} >= {"verify", "startSession", "endSession", "listSessions"}
    for _, link in links:
        target = by_id[link["operationId"]]
        assert link.get("parameters", {}).keys() <= {
            parameter["name"] for parameter in target.definition.get("parameters", [])
        }
        assert "requestBody" not in link or link["requestBody"].keys() >= set(target.body["required"])


# --- Routes and errors. ---


def test_the_document_has_the_routes_that_the_service_has(app: Flask) -> None:
    assert sorted((operation.method, operation.path) for operation in OPERATIONS) == sorted(routes(app))


def test_the_document_has_the_errors_that_the_service_has() -> None:
    documented = [code for answer in [*ANSWERS, *RESPONSES.values()] for code in answer.codes]

    assert set(documented) == {error.code for error in errors()}


def test_every_error_is_documented_with_its_status_and_message() -> None:
    by_code: dict[str, type[ApiError]] = {}
    for known in errors():
        by_code.setdefault(known.code, known)
    # The one message that says what is wrong with this very request.
    special = {"invalid_request": InvalidRequest("messages[3].role", "must be user or assistant").message}

    assert DOCUMENT["components"]["examples"].keys() == by_code.keys()
    for code, example in DOCUMENT["components"]["examples"].items():
        error = example["value"]["error"]
        assert (error["code"], error["message"]) == (code, special.get(code, by_code[code].message))
    for operation in OPERATIONS:
        for status, answer in operation.answers.items():
            assert {by_code[code].status for code in answer.codes} <= {status}, operation.id
            assert (status == 200) == (answer.codes == []), operation.id


def test_every_code_of_an_answer_has_its_example() -> None:
    for answer in [*ANSWERS, *RESPONSES.values()]:
        if answer.codes:
            assert {name: body["error"]["code"] for name, body in answer.examples.items()} == {
                code: code for code in answer.codes
            }
        else:
            assert answer.examples


def test_what_needs_no_cookie_has_no_401_for_it(client: FlaskClient) -> None:
    for operation in OPERATIONS:
        needed = operation.definition.get("security", DOCUMENT["security"]) == [{"cookie": []}]
        codes = [code for answer in operation.answers.values() for code in answer.codes]
        assert needed == ("unauthorized" in codes), operation.id
        answer = client.open(operation.path, method=operation.method)
        assert needed == (answer.status_code == 401), operation.id


# --- Members of requests. ---


class Members(dict[str, Any]):
    """A body that knows which of its members were read."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


@pytest.mark.parametrize("operation", WITH_BODY)
def test_the_members_of_a_body_are_those_that_are_read(
    operation: Operation, client: FlaskClient, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = good_bodies(client, mailbox)
    members = Members(bodies[operation.path])
    monkeypatch.setattr(validation, "read_json", lambda: members)

    assert client.open(operation.path, method=operation.method, json={}).status_code == 200
    assert members.read == operation.body["properties"].keys()


@pytest.mark.parametrize("operation", WITH_BODY)
def test_a_member_is_required_if_a_request_without_it_is_refused(
    operation: Operation, client: FlaskClient, mailbox: Mailbox
) -> None:
    for name in operation.body["properties"]:
        body = dict(good_bodies(client, mailbox)[operation.path])
        body.pop(name, None)
        refused = client.open(operation.path, method=operation.method, json=body).status_code == 400
        assert refused == (name in operation.body["required"]), name


def test_the_parameters_of_a_query_are_those_that_are_read(app: Flask, mailbox: Mailbox) -> None:
    read: set[str] = set()

    class Arguments(ImmutableMultiDict[str, str]):
        def get(self, name: str, *rest: Any, **more: Any) -> Any:  # type: ignore[override]
            if self is request.args:
                read.add(name)
            return super().get(name, *rest, **more)

    class Reading(Request):
        parameter_storage_class = Arguments

    app.request_class = Reading
    client = app.test_client()
    for operation in OPERATIONS:
        bodies = good_bodies(client, mailbox)
        read.clear()
        answer = client.open(operation.path, method=operation.method, json=bodies.get(operation.path, {}))
        assert answer.status_code == 200, answer.text
        assert read == {parameter["name"] for parameter in operation.definition.get("parameters", [])}, operation.id


# --- Limits. ---


def test_patterns_and_sizes_are_those_of_the_code() -> None:
    schemas, parameters = (
        DOCUMENT["components"]["schemas"],
        {p["name"]: p for o in OPERATIONS for p in o.definition.get("parameters", [])},
    )
    default, maximum = validation.limit.__defaults__ or ()

    assert schemas["SessionId"]["pattern"] == f"^{validation._SESSION_ID.pattern}$"
    assert schemas["TranscriptHash"]["pattern"] == f"^{validation._TRANSCRIPT_HASH.pattern}$"
    for description in (DOCUMENT["info"]["description"], RESPONSES["PayloadTooLarge"].definition["description"]):
        for size in (validation.MAX_BODY_BYTES, validation.MAX_BYTES_OF_BLUEPRINT["llm"]):
            assert f"{size:,}" in description
    assert parameters["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": maximum, "default": default}


def test_rate_limits_and_lifetimes_are_the_default_settings() -> None:
    default = Config.from_env({"APP_ENV": "development"})
    said = {operation.id: operation.definition["description"] for operation in OPERATIONS}

    def limits(rule: str) -> str:
        return default.rate_limits[rule].replace(";", " and ")

    assert (
        f"{limits('link_per_ip')} by IP address, invalid requests included; {limits('link_per_email')} by email"
        in flat(said["requestLink"])
    )
    assert f"{limits('verify_per_ip')} by IP address" in said["verify"]
    for operation in OPERATIONS:
        by_user = f"{limits('per_user')} by user" in said[operation.id]
        assert by_user == ("unauthorized" in [code for answer in operation.answers.values() for code in answer.codes])
    assert f"{limits('llm_per_user')} by user of these calls alone" in said["createMessage"]
    assert f"works for {default.auth_token_ttl.seconds // 60} minutes" in said["requestLink"]
    assert f"Max-Age={int(default.session_ttl.total_seconds())};" in json.dumps(DOCUMENT)
    production = replace(default, app_env="production")
    assert DOCUMENT["components"]["securitySchemes"]["cookie"]["name"] == production.session_cookie_name


def test_what_a_call_of_the_model_may_be_is_what_the_code_and_the_default_settings_say() -> None:
    default = Config.from_env({"APP_ENV": "development"})
    (operation,) = [operation for operation in OPERATIONS if operation.id == "createMessage"]
    members, said = operation.body["properties"], json.dumps(operation.definition)

    assert all(f"`{model}`" in members["model"]["description"] for model in default.llm_models)
    assert members["max_tokens"]["maximum"] == default.llm_max_output_tokens
    assert members["messages"]["maxItems"] == MAX_MESSAGES
    assert tuple(members["messages"]["items"]["properties"]["role"]["enum"]) == ROLES
    assert members["stop_sequences"]["maxItems"] == MAX_STOP_SEQUENCES
    assert f"{default.llm_daily_tokens:,} by default" in said
    assert f"have {policy.Limits.calls_at_once} calls under way" in said
    assert policy.BYTES_PER_TOKEN == 3
    assert "a third of the request's bytes" in said
    assert f"comment after {SILENCE:.0f} s" in flat(operation.answers[200].definition["description"])
    waits = operation.answers[504].definition["description"]
    assert f"for {default.llm_idle_timeout.seconds} seconds" in waits
    assert f"more than {default.llm_total_timeout.seconds // 60} minutes" in waits


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)

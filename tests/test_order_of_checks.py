"""A request with two things wrong is answered for the one that is checked first.

404 or 405, 403 origin, 413, 429 by IP, 401, 429 by user, 415, 400, 429 by email, then 409 or 503. A call of the
model is refused for its budget, and by its provider, last of all.
"""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.conftest import AppFactory
from tests.support import contract, databases
from tests.support.anthropic import AnthropicServer
from tests.support.anthropic_answers import FOREVER, error, stream
from tests.support.contract import JSON_ROUTES, JSON_TYPE, LLM, MAX_LLM_BODY, error_of
from tests.support.journeys import HASH, OTHER_HASH, request_link, sign_in
from tests.support.llm import ask
from tests.support.mailbox import Mailbox
from tests.support.rows import spend_budget

provider, env = contract.provider, contract.env_with_a_model

LINK, VERIFY, START, END = "/v1/auth/request-link", "/v1/auth/verify", "/v1/sessions/start", "/v1/sessions/end"
ADA = {"email": "ada@example.com"}

NOT_FOUND, WRONG_METHOD = (404, "not_found"), (405, "method_not_allowed")
FOREIGN_ORIGIN, TOO_LARGE = (403, "origin_not_allowed"), (413, "payload_too_large")
LIMITED, UNAUTHORIZED = (429, "rate_limited"), (401, "unauthorized")
UNSUPPORTED, INVALID_JSON = (415, "unsupported_media_type"), (400, "invalid_json")

# What is wrong with a request, as arguments of the test client.
FOREIGN: dict[str, Any] = {"headers": {"Origin": "https://evil.example"}}
LARGE: dict[str, Any] = {"data": b" " * (MAX_LLM_BODY + 1), "content_type": JSON_TYPE}
TEXT: dict[str, Any] = {"data": b"{", "content_type": "text/plain"}
BROKEN: dict[str, Any] = {"data": b"{", "content_type": JSON_TYPE}
EMPTY: dict[str, Any] = {"json": {}}
UNKNOWN_TOKEN: dict[str, Any] = {"json": {"token": "no-token-of-ours"}}


@pytest.fixture
def no_more(make_app: AppFactory, mailbox: Mailbox) -> FlaskClient:
    """Signed in, and above every limit: by IP, by user, and by email for ada@example.com."""
    client = make_app(
        RATE_LIMIT_LINK_PER_IP="2/hour", RATE_LIMIT_VERIFY_PER_IP="1/hour", RATE_LIMIT_PER_USER="2/hour"
    ).test_client()
    sign_in(client, mailbox)
    assert client.post(LINK, json=ADA).status_code == 200
    assert client.post(END, json={"session_id": "ended", "transcript_hash": HASH}).status_code == 200
    for method, path in (("POST", LINK), ("POST", VERIFY), ("GET", "/v1/auth/session")):
        assert error_of(client.open(path, method=method)) == LIMITED, path
    return client


@pytest.fixture
def no_more_mails(make_app: AppFactory) -> FlaskClient:
    """Above the limit of mails to ada@example.com, and of nothing else."""
    client = make_app(RATE_LIMIT_LINK_PER_EMAIL="1/hour").test_client()
    assert client.post(LINK, json=ADA).status_code == 200
    assert error_of(client.post(LINK, json=ADA)) == LIMITED
    return client


@pytest.fixture
def homeless(make_app: AppFactory) -> FlaskClient:
    """Without a database."""
    return make_app(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none").test_client()


def test_an_unknown_address_is_said_before_a_foreign_origin_and_a_large_body(client: FlaskClient) -> None:
    for wrong in (FOREIGN, LARGE, {**FOREIGN, **LARGE}, TEXT):
        assert error_of(client.post("/v1/nothing", **wrong)) == NOT_FOUND


def test_a_wrong_method_is_said_before_a_foreign_origin_and_a_large_body(no_more: FlaskClient) -> None:
    for path in (VERIFY, START, LLM):
        for wrong in (FOREIGN, LARGE, {**FOREIGN, **LARGE}, TEXT):
            assert error_of(no_more.put(path, **wrong)) == WRONG_METHOD


def test_a_foreign_origin_is_said_before_a_large_body(no_more: FlaskClient) -> None:
    for path in (LINK, VERIFY, START, END, LLM, "/v1/auth/logout"):
        assert error_of(no_more.post(path, **FOREIGN, **LARGE)) == FOREIGN_ORIGIN


def test_a_foreign_origin_is_said_before_any_limit_and_counts_for_none(make_app: AppFactory) -> None:
    client = make_app(RATE_LIMIT_LINK_PER_IP="1/hour").test_client()

    for _ in range(2):
        assert error_of(client.post(LINK, json=ADA, **FOREIGN)) == FOREIGN_ORIGIN
    assert client.post(LINK, json=ADA).status_code == 200
    assert error_of(client.post(LINK, json=ADA, **FOREIGN)) == FOREIGN_ORIGIN


def test_a_large_body_is_said_before_the_limit_by_ip_and_does_not_count(make_app: AppFactory) -> None:
    client = make_app(RATE_LIMIT_LINK_PER_IP="1/hour").test_client()

    for _ in range(2):
        assert error_of(client.post(LINK, **LARGE)) == TOO_LARGE
    assert client.post(LINK, json=ADA).status_code == 200
    assert error_of(client.post(LINK, **LARGE)) == TOO_LARGE
    assert error_of(client.post(LINK, json=ADA)) == LIMITED


def test_a_large_body_is_said_before_a_missing_sign_in_and_the_limit_by_user(
    client: FlaskClient, no_more: FlaskClient
) -> None:
    for path in (START, LLM):
        assert error_of(client.post(path, **LARGE)) == TOO_LARGE
        assert error_of(no_more.post(path, **LARGE)) == TOO_LARGE


def test_the_limit_by_ip_is_said_before_what_is_wrong_with_a_token_or_a_body(no_more: FlaskClient) -> None:
    for wrong in (UNKNOWN_TOKEN, TEXT, BROKEN, EMPTY):
        assert error_of(no_more.post(VERIFY, **wrong)) == LIMITED
        assert error_of(no_more.post(LINK, **wrong)) == LIMITED


def test_bad_input_counts_by_ip(make_app: AppFactory) -> None:
    for wrong in (TEXT, BROKEN, EMPTY):
        client = make_app(RATE_LIMIT_LINK_PER_IP="1/hour").test_client()
        assert error_of(client.post(LINK, **wrong))[0] in (400, 415)
        assert error_of(client.post(LINK, json=ADA)) == LIMITED


def test_a_missing_sign_in_is_said_before_what_is_wrong_with_the_body(client: FlaskClient) -> None:
    for path in (START, END, LLM):
        for wrong in (TEXT, BROKEN, EMPTY):
            assert error_of(client.post(path, **wrong)) == UNAUTHORIZED
    assert error_of(client.post("/v1/auth/logout-all", **TEXT)) == UNAUTHORIZED
    assert error_of(client.delete("/v1/account", **TEXT)) == UNAUTHORIZED
    assert error_of(client.get("/v1/sessions?limit=x&cursor=x")) == UNAUTHORIZED


def test_a_missing_sign_in_is_said_before_the_limit_of_its_former_user(no_more: FlaskClient) -> None:
    cookie = no_more.get_cookie("__Host-lumen_session")
    assert cookie is not None
    assert no_more.post("/v1/auth/logout").status_code == 200
    no_more.set_cookie("__Host-lumen_session", cookie.value)

    for path in (START, END, LLM):
        assert error_of(no_more.post(path, json={})) == UNAUTHORIZED


def test_the_limit_by_user_is_said_before_what_is_wrong_with_the_body(no_more: FlaskClient) -> None:
    for path in (START, END, LLM):
        for wrong in (TEXT, BROKEN, EMPTY):
            assert error_of(no_more.post(path, **wrong)) == LIMITED
    assert error_of(no_more.post("/v1/auth/logout-all", **TEXT)) == LIMITED
    assert error_of(no_more.delete("/v1/account", **TEXT)) == LIMITED
    assert error_of(no_more.get("/v1/sessions?limit=x&cursor=x")) == LIMITED


def test_the_limit_by_user_is_said_before_a_conflict(no_more: FlaskClient) -> None:
    assert error_of(no_more.post(END, json={"session_id": "ended", "transcript_hash": OTHER_HASH})) == LIMITED


def test_the_content_type_is_said_before_what_is_wrong_with_the_body(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    for path in (LINK, VERIFY, START, END, LLM, "/v1/auth/logout"):
        assert error_of(client.post(path, **TEXT)) == UNSUPPORTED
        assert error_of(client.post(path, data=b"[]")) == UNSUPPORTED


def test_that_a_body_is_no_json_is_said_before_the_limit_by_email(no_more_mails: FlaskClient, mailbox: Mailbox) -> None:
    body = b'{"email": "ada@example.com"'

    assert error_of(no_more_mails.post(LINK, data=body, content_type=JSON_TYPE)) == INVALID_JSON
    assert error_of(no_more_mails.post(LINK, data=body + b"}", content_type="text/plain")) == UNSUPPORTED
    assert len(mailbox.messages) == 1


def test_a_wrong_address_counts_for_no_other(make_app: AppFactory) -> None:
    client = make_app(RATE_LIMIT_LINK_PER_EMAIL="1/hour").test_client()
    body = b'{"email": "ada@example.com", "unknown": NaN}'

    for _ in range(2):
        assert error_of(client.post(LINK, json={"email": "ada@example.com,"})) == (400, "invalid_email")
        assert error_of(client.post(LINK, data=body, content_type=JSON_TYPE)) == INVALID_JSON
    assert client.post(LINK, json=ADA).status_code == 200


def test_the_limit_by_email_is_said_before_mail_that_does_not_go(no_more_mails: FlaskClient, mailbox: Mailbox) -> None:
    mailbox.answer_rcpt = lambda _: "451 try again later"

    assert error_of(no_more_mails.post(LINK, json={"email": "bob@example.com"})) == (503, "email_unavailable")
    assert error_of(no_more_mails.post(LINK, json=ADA)) == LIMITED


def test_the_limit_by_email_is_said_before_a_lost_database(make_app: AppFactory) -> None:
    client = make_app(
        RATE_LIMIT_LINK_PER_EMAIL="1/hour", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none"
    ).test_client()
    assert error_of(client.post(LINK, json=ADA)) == (503, "database_unavailable")

    assert error_of(client.post(LINK, json=ADA)) == LIMITED


def test_bad_input_is_said_before_a_conflict(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)
    client.post(END, json={"session_id": "ended", "transcript_hash": HASH})
    conflict = {"session_id": "ended", "transcript_hash": OTHER_HASH}

    assert error_of(client.post(END, json={**conflict, "ended_at": "yesterday"})) == (400, "invalid_timestamp")
    assert error_of(client.post(END, json=conflict)) == (409, "session_already_ended")


def test_what_can_be_told_without_the_database_is_told_without_it(homeless: FlaskClient) -> None:
    assert error_of(homeless.post("/v1/nothing")) == NOT_FOUND
    assert error_of(homeless.put(LINK)) == WRONG_METHOD
    assert error_of(homeless.post(LINK, json=ADA, **FOREIGN)) == FOREIGN_ORIGIN
    assert error_of(homeless.post(LINK, **LARGE)) == TOO_LARGE
    assert error_of(homeless.post(START, json={})) == UNAUTHORIZED
    assert error_of(homeless.post(LINK, **TEXT)) == UNSUPPORTED
    assert error_of(homeless.post(LINK, **BROKEN)) == INVALID_JSON
    assert error_of(homeless.post(LINK, json={"email": "x"})) == (400, "invalid_email")
    assert error_of(homeless.post(VERIFY, json={})) == (400, "missing_token")
    assert error_of(homeless.post(VERIFY, json={"token": "no-token-of-ours"})) == (401, "invalid_token")


def test_a_good_token_and_a_lost_database_are_a_503_and_cost_nothing(
    client: FlaskClient, homeless: FlaskClient, mailbox: Mailbox
) -> None:
    token = request_link(client, mailbox)

    assert error_of(homeless.post(VERIFY, json={"token": token})) == (503, "database_unavailable")
    assert client.post(VERIFY, json={"token": token}).status_code == 200


# --- Calls of the model. ---


def test_the_limit_of_calls_is_said_before_what_is_wrong_with_the_body_and_bad_input_counts(
    make_app: AppFactory, mailbox: Mailbox
) -> None:
    for wrong in (TEXT, BROKEN, EMPTY):
        client = make_app(RATE_LIMIT_LLM_PER_USER="1/hour").test_client()
        sign_in(client, mailbox)
        assert error_of(client.post(LLM, **wrong))[0] in (400, 415)
        for second in (wrong, {"json": JSON_ROUTES[LLM]}):
            assert error_of(client.post(LLM, **second)) == LIMITED


def test_what_is_wrong_with_a_call_is_said_before_the_model_and_the_model_before_that_there_is_none(
    make_app: AppFactory, mailbox: Mailbox
) -> None:
    client = make_app(LLM_PROVIDER_KEY="").test_client()
    sign_in(client, mailbox)

    assert error_of(ask(client, model="another", stream="yes")) == (400, "invalid_request")
    assert error_of(ask(client, model="another")) == (400, "model_not_allowed")
    assert error_of(ask(client)) == (503, "llm_not_configured")


def test_the_calls_under_way_are_said_after_what_is_wrong_with_one_more(
    client: FlaskClient, mailbox: Mailbox, provider: AnthropicServer
) -> None:
    sign_in(client, mailbox)
    provider.behave(stream().until("content_block_delta", FOREVER))

    with ask(client, stream=True), ask(client, stream=True):
        assert error_of(ask(client, stream="yes")) == (400, "invalid_request")
        assert error_of(ask(client, model="another")) == (400, "model_not_allowed")
        assert error_of(ask(client)) == (429, "too_many_streams")


def test_the_budget_is_said_after_what_is_wrong_with_a_call_and_before_the_provider_is_asked(
    make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer
) -> None:
    app = make_app()
    client = app.test_client()
    sign_in(client, mailbox)
    spend_budget(app.extensions["lumen.db"].dsn)
    provider.behave(error(500))

    assert error_of(ask(client, stream="yes")) == (400, "invalid_request")
    assert error_of(ask(client, model="another")) == (400, "model_not_allowed")
    assert error_of(ask(client)) == (429, "quota_exceeded")
    assert provider.connections == 0
    databases.query(app.extensions["lumen.db"].dsn, "truncate llm_usage")
    assert error_of(ask(client)) == (502, "provider_error")

"""What every answer carries, whatever its status: a request id, three headers, one envelope, and no more."""

from __future__ import annotations

import json
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import AppFactory
from tests.support import contract
from tests.support.answers import CANARY, LINK, Asks, asks_for_every_answer, break_
from tests.support.contract import JSON_ROUTES, LLM, error_of, good_bodies, routes, says
from tests.support.journeys import sign_in
from tests.support.mailbox import Mailbox

provider, env = contract.provider, contract.env_with_a_model


@pytest.fixture
def asks(make_app: AppFactory, mailbox: Mailbox) -> Asks:
    """A request for every kind of answer."""
    return asks_for_every_answer(make_app, mailbox)


def test_every_kind_of_answer_has_the_status_that_it_should(asks: Asks) -> None:
    assert {name: ask().status_code for name, ask in asks.items()} == {name: int(name[:3]) for name in asks}


def test_every_answer_has_a_new_request_id(asks: Asks) -> None:
    ids = [ask().headers.getlist("X-Request-Id") for ask in [*asks.values(), *asks.values()]]

    assert [given for given in ids if len(given) != 1 or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given[0])] == []
    assert len({given for (given,) in ids}) == len(ids)


def test_every_answer_keeps_the_callers_request_id(asks: Asks) -> None:
    for given in ("a", "0", ".", "-._", "A.b_c-9", "f47ac10b-58cc-4372-a567-0e02b2c3d479", "x" * 64):
        for name, ask in asks.items():
            answer = ask(headers={"X-Request-Id": given})
            assert answer.headers.getlist("X-Request-Id") == [given], name
            if answer.status_code >= 400 and answer.data:
                assert answer.get_json()["error"]["request_id"] == given, name


BAD_IDS = [
    "",
    "x" * 65,
    "x" * 4000,
    "a b",
    " a",
    "a ",
    "a/b",
    "a:b",
    "a;b",
    "a,b",
    "a+b",
    "a=b",
    '"a"',
    "{}",
    "%41",
    "a\tb",
]
BAD_IDS += ["é", "１", "ａ", "a\u200b", "\u212a", "a\x7f", "<script>", "${jndi:ldap://x}", "a\x85b", "\xa0"]


def test_a_request_id_of_another_form_is_replaced(client: FlaskClient) -> None:
    for given in BAD_IDS:
        # As WSGI hands a header over: bytes, read as Latin-1.
        header = {"HTTP_X_REQUEST_ID": given.encode().decode("latin-1")}
        answer = client.get("/v1/nothing", environ_overrides=header)
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-Id"]), given
        assert error_of(answer) == (404, "not_found"), given


def test_every_answer_may_not_be_stored_or_taken_for_another_type(asks: Asks) -> None:
    for name, ask in asks.items():
        answer = ask()
        assert answer.headers.getlist("Cache-Control") == ["no-store"], name
        assert answer.headers.getlist("X-Content-Type-Options") == ["nosniff"], name


def test_every_answer_is_nothing_to_run_to_frame_or_to_embed_elsewhere(asks: Asks) -> None:
    for name, ask in asks.items():
        answer = ask()
        (policy,) = answer.headers.getlist("Content-Security-Policy")
        assert policy == "default-src 'none'; base-uri 'none'; frame-ancestors 'none'", name
        assert answer.headers.getlist("Referrer-Policy") == ["no-referrer"], name
        assert answer.headers.getlist("Cross-Origin-Resource-Policy") == ["same-site"], name


def test_every_answer_with_a_body_is_json(asks: Asks) -> None:
    for name, ask in asks.items():
        answer = ask()
        if "OPTIONS" not in name or answer.data:
            assert answer.headers.getlist("Content-Type") == ["application/json; charset=utf-8"], name
        if answer.data:
            assert isinstance(answer.get_json(), dict), name


def test_every_error_has_the_envelope(asks: Asks) -> None:
    errors = {name: ask for name, ask in asks.items() if int(name[:3]) >= 400 and "HEAD" not in name}
    del errors["503 of a readiness check"]  # has its checks beside it

    codes = {name: error_of(ask())[1] for name, ask in errors.items()}

    assert codes == {
        "400": "invalid_email",
        "401": "unauthorized",
        "403": "origin_not_allowed",
        "404": "not_found",
        "404 of an OPTIONS": "not_found",
        "405": "method_not_allowed",
        "409": "session_already_ended",
        "413": "payload_too_large",
        "415": "unsupported_media_type",
        "429": "rate_limited",
        "500": "internal_error",
        "503": "database_unavailable",
    }


def test_every_error_has_a_sentence_for_a_person(asks: Asks) -> None:
    for name, ask in asks.items():
        answer = ask()
        if answer.status_code >= 400 and answer.data:
            message = answer.get_json()["error"]["message"]
            assert re.fullmatch(r"[A-Z][^\n{}<>]{10,120}\.", message), name


def test_429_and_503_say_when_to_come_back_and_no_other_answer_does(asks: Asks) -> None:
    for name, ask in asks.items():
        given = ask().headers.getlist("Retry-After")
        if name[:3] in ("429", "503"):
            assert len(given) == 1, name
            assert re.fullmatch(r"[1-9][0-9]*", given[0]), name
        else:
            assert given == [], name


def test_a_mail_that_does_not_go_says_when_to_come_back(client: FlaskClient, mailbox: Mailbox) -> None:
    mailbox.answer_rcpt = lambda _: "451 try again later"

    answer = client.post(LINK, json=JSON_ROUTES[LINK])

    assert error_of(answer) == (503, "email_unavailable")
    assert re.fullmatch(r"[1-9][0-9]*", answer.headers["Retry-After"])


def test_limited_routes_say_how_much_is_left(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)
    limited = [("POST", LINK), ("POST", "/v1/auth/verify"), ("GET", "/v1/auth/session"), ("GET", "/v1/sessions")]
    limited += [("POST", "/v1/sessions/start"), ("POST", "/v1/sessions/end"), ("GET", "/v1/account")]
    limited += [("POST", LLM), ("GET", "/v1/llm/usage")]

    for method, path in limited:
        # Right or wrong: both count.
        for body in (None, JSON_ROUTES.get(path)):
            answer = client.open(path, method=method, json=body)
            for name in ("Limit", "Remaining", "Reset"):
                (given,) = answer.headers.getlist(f"X-RateLimit-{name}")
                assert given.isdecimal(), (path, name)


def test_a_429_says_that_nothing_is_left(asks: Asks) -> None:
    answer = asks["429"]()

    assert (answer.headers["X-RateLimit-Limit"], answer.headers["X-RateLimit-Remaining"]) == ("1", "0")


def test_successes_say_ok(client: FlaskClient, mailbox: Mailbox) -> None:
    bodies = good_bodies(client, mailbox)
    for method, path in [*(("POST", path) for path in bodies), *routes(client.application)]:
        if path in (LLM, "/v1/openapi.json"):
            continue  # have forms of their own
        sign_in(client, mailbox)
        body = good_bodies(client, mailbox)[path] if path in bodies else None
        answer = client.open(path, method=method, json=body)
        assert (answer.status_code, answer.get_json()["status"]) == (200, "ok"), (method, path)


# --- Addresses and methods. ---

NO_ADDRESS = ["/", "/v1", "/v1/", "/v2/health", "/health", "/favicon.ico", "/robots.txt", "/.env", "/.git/config", "//"]
NO_ADDRESS += [
    "/v1/health/",
    "//v1/health",
    "/v1//health",
    "/v1/./health",
    "/v1/auth/../health",
    "/V1/health",
    "/v1/Health",
]
NO_ADDRESS += [
    "/v1/auth/verify/",
    "/v1/sessions/",
    "/v1/sessions/first",
    "/v1/health%2F",
    "/v1/health%00",
]
NO_ADDRESS += [
    "/v1/%ff",
    "/v1/health;x=1",
    "/v1/health.json",
    "/v1/health%20",
    "/v1/ｈealth",
    "/static/x",
    "/" + "a/" * 2000,
]


def test_an_unknown_address_is_not_found_and_leads_nowhere_else(client: FlaskClient) -> None:
    for path in NO_ADDRESS:
        for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS"):
            answer = client.open(path, method=method)
            assert error_of(answer) == (404, "not_found"), (method, path)
            assert "Location" not in answer.headers


def test_a_wrong_method_is_answered_with_the_right_ones(client: FlaskClient) -> None:
    right: dict[str, set[str]] = {}
    for rule in client.application.url_map.iter_rules():
        right.setdefault(rule.rule, set()).update(rule.methods or ())

    for path in {path for _, path in routes(client.application)}:
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"} - right[path]:
            answer = client.open(path, method=method)
            assert error_of(answer) == (405, "method_not_allowed"), (method, path)
            assert set(answer.headers["Allow"].split(", ")) == right[path], (method, path)


def test_head_is_a_get_without_its_body(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)
    for method, path in routes(client.application):
        if method == "GET":
            get, head = client.get(path), client.head(path)
            assert (head.status_code, head.data) == (get.status_code, b""), path
            same = ("Content-Type", "Content-Length", "Cache-Control")
            assert [head.headers[name] for name in same] == [get.headers[name] for name in same], path


# --- What nobody foresaw. ---


def test_an_unforeseen_error_tells_the_caller_nothing(app: Flask) -> None:
    break_(app)

    answer = app.test_client().get("/v1/broken")

    assert error_of(answer) == (500, "internal_error")
    for word in (CANARY, "Broken", "Error", "Traceback", ".py", "line"):
        assert not says(answer, word), word


def test_an_unforeseen_error_is_logged_by_its_class_and_frames_alone(
    capfd: pytest.CaptureFixture[str], make_app: AppFactory
) -> None:
    app = make_app()
    break_(app)

    app.test_client().get("/v1/broken", headers={"X-Request-Id": "seen"})

    out, err = capfd.readouterr()
    assert CANARY not in out + err
    (event,) = [entry for line in out.splitlines() if (entry := json.loads(line))["event"] == "unhandled_error"]
    assert set(event) == {"ts", "level", "env", "event", "request_id", "error_class", "stack"}
    assert (event["error_class"], event["request_id"]) == ("Broken", "seen")
    assert event["stack"][-1].startswith("tests/support/answers.py:")
    assert all(re.fullmatch(r"[\w/.-]+\.py:\d+:[\w<>]+", frame) for frame in event["stack"]), event["stack"]

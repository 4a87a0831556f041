"""Bodies that are no JSON object: every route that reads one refuses them, and does nothing."""

from __future__ import annotations

import json

import pytest
from flask.testing import FlaskClient

from tests.support import contract, databases
from tests.support.contract import (
    BODILESS_ROUTES,
    JSON_ROUTES,
    JSON_TYPE,
    LLM,
    MAX_LLM_BODY,
    error_of,
    good_bodies,
    max_body,
    routes,
)
from tests.support.journeys import sign_in
from tests.support.mailbox import Mailbox

provider, env = contract.provider, contract.env_with_a_model

GOOD = '{"email": "ada@example.com", "token": "t", "session_id": "first"}'

NOT_JSON = {
    "nothing": b"",
    "spaces": b" \t\r\n",
    "a word": b"hello",
    "a form": b"email=ada%40example.com",
    "single quotes": b"{'email': 'ada@example.com'}",
    "a name without quotes": b'{email: "ada@example.com"}',
    "a comma at the end": b'{"email": "ada@example.com",}',
    "a comment": b'{"email": "ada@example.com"} // hello',
    "cut off": GOOD[:-5].encode(),
    "a word behind it": GOOD.encode() + b" x",
    "a second object behind it": GOOD.encode() * 2,
    "NUL behind it": GOOD.encode() + b"\x00",
    "NUL alone": b"\x00",
    "a raw NUL in a string": b'{"email": "ada\x00@example.com"}',
    "a raw newline in a string": b'{"email": "ada\n@example.com"}',
    "an unknown escape": rb'{"email": "\x61"}',
    "half an escape": rb'{"email": "\u00"}',
    "NaN": b'{"unknown": NaN}',
    "Infinity": b'{"unknown": Infinity}',
    "minus Infinity": b'{"unknown": [-Infinity]}',
    "a number with a leading zero": b'{"unknown": 01}',
    "a number that ends with its point": b'{"unknown": 1.}',
    "a number of 5,000 digits": b'{"unknown": ' + b"7" * 5000 + b"}",
    "a negative number of 60,000 digits": b'{"unknown": -' + b"7" * 60_000 + b"}",
}

NOT_AN_OBJECT = {
    "an array": b"[]",
    "an array of what is wanted": f"[{GOOD}]".encode(),
    "an array of pairs": b'[["email", "ada@example.com"]]',
    "null": b"null",
    "true": b"true",
    "a string": b'"email"',
    "a string that holds JSON": json.dumps(GOOD).encode(),
    "a number": b"1",
    "NaN alone": b"NaN",
}

NOT_UTF_8 = {
    "Latin-1": '{"unknown": "é"}'.encode("latin-1"),
    "a stray continuation byte": b'{"unknown": "\x80"}',
    "a byte that UTF-8 never has": b'{"unknown": "\xff"}',
    "a slash spelled with two bytes": b'{"unknown": "\xc0\xaf"}',
    "a surrogate": b'{"unknown": "\xed\xa0\x80"}',
    "a letter cut in two": b'{"unknown": "\xc3',
    "UTF-8 with a byte order mark": GOOD.encode("utf-8-sig"),
    "UTF-16 with a byte order mark": GOOD.encode("utf-16"),
    "UTF-16 without one": GOOD.encode("utf-16-le"),
    "UTF-32": GOOD.encode("utf-32"),
}

TOO_DEEP = {
    "opening brackets": b"[" * 60_000,
    "opening braces": b'{"a":' * 13_000,
    "arrays": b"[" * 30_000 + b"]" * 30_000,
    "objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "arrays in an unknown member": b'{"unknown": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "objects in an unknown member": b'{"unknown": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    "arrays in a known member": b'{"email": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
}

INVALID_JSON = (400, "invalid_json")
UNSUPPORTED = (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "bodies", [NOT_JSON, NOT_AN_OBJECT, NOT_UTF_8, TOO_DEEP], ids=["not JSON", "no object", "not UTF-8", "too deep"]
)
def test_what_is_no_json_object_is_refused_by_every_route(
    client: FlaskClient, mailbox: Mailbox, bodies: dict[str, bytes]
) -> None:
    sign_in(client, mailbox)

    answers = {
        (path, name): error_of(client.post(path, data=body, content_type=JSON_TYPE))
        for path in JSON_ROUTES
        for name, body in bodies.items()
    }

    assert answers == dict.fromkeys(answers, INVALID_JSON)


def test_a_route_that_needs_a_body_misses_it_whatever_the_content_type(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    for path in JSON_ROUTES:
        for content_type in (None, "text/plain", JSON_TYPE):
            assert error_of(client.post(path, content_type=content_type)) == INVALID_JSON, (path, content_type)


@pytest.mark.parametrize(("method", "path"), BODILESS_ROUTES)
def test_a_route_that_needs_no_body_refuses_one_that_is_no_json_object(
    client: FlaskClient, mailbox: Mailbox, method: str, path: str
) -> None:
    sign_in(client, mailbox)

    for body in (b"{", b"[]", b'"x"', b"null", b"\xff"):
        answer = client.open(path, method=method, data=body, content_type=JSON_TYPE)
        assert error_of(answer) == INVALID_JSON, body
    assert client.get("/v1/auth/session").status_code == 200


def test_a_refused_body_leaves_no_trace(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    sign_in(client, mailbox)
    mailbox.clear()

    # Understood to the last byte but one: whoever acts while he reads would have acted.
    for path, body in JSON_ROUTES.items():
        assert client.post(path, data=json.dumps(body) + "!", content_type=JSON_TYPE).status_code == 400

    assert mailbox.messages == []
    tables = "select from auth_tokens union all select from sessions union all select from llm_usage"
    assert databases.query(database, tables) == []


def test_unknown_members_are_ignored(client: FlaskClient, mailbox: Mailbox) -> None:
    unknown = {"": "", "é": "é", "__proto__": {}, "user_id": "somebody else's", "list": [[{}]], "big": 10**4000}

    for path, body in good_bodies(client, mailbox).items():
        assert client.post(path, json={**unknown, **body}).status_code == 200, path


def test_a_number_above_any_float_is_ignored_in_an_unknown_member(client: FlaskClient) -> None:
    body = b'{"unknown": [1e999999, -1e999999, 1e-999999], "email": "ada@example.com"}'

    assert client.post("/v1/auth/request-link", data=body, content_type=JSON_TYPE).status_code == 200


def test_of_a_member_that_comes_twice_one_is_used_for_everything(client: FlaskClient, mailbox: Mailbox) -> None:
    body = b'{"email": "ada@example.com", "email": "bob@example.com"}'

    assert client.post("/v1/auth/request-link", data=body, content_type=JSON_TYPE).status_code in (200, 400)

    assert [message["To"] for message in mailbox.messages] in ([], ["ada@example.com"], ["bob@example.com"])


def test_an_escaped_name_is_the_same_name(client: FlaskClient, mailbox: Mailbox) -> None:
    body = rb'{"\u0065mail": "\u0061da@example.com"}'

    assert client.post("/v1/auth/request-link", data=body, content_type=JSON_TYPE).status_code == 200

    assert len(mailbox.to("ada@example.com")) == 1


# --- The content type. ---


NOT_JSON_TYPES = [
    "",
    "text/plain",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "application/json+x",
    "application/problem+json",
    "application/jsonp",
    "application/x-json",
    "xapplication/json",
    "application",
    "application/",
    "json",
    "*/*",
    "application/*",
    "application/json, text/plain",
    "text/plain; application/json",
    "text/plain; type=application/json",
    "application／json",
]


def test_a_body_of_another_content_type_is_refused_by_every_route(client: FlaskClient, mailbox: Mailbox) -> None:
    bodies = {("POST", path): body for path, body in good_bodies(client, mailbox).items()}
    bodies |= {route: {} for route in BODILESS_ROUTES}

    answers = {
        # As WSGI hands a header over: bytes, read as Latin-1.
        (path, name): error_of(client.open(path, method=method, data=json.dumps(body), environ_overrides=header))
        for (method, path), body in bodies.items()
        for name in [None, *NOT_JSON_TYPES]
        for header in [{} if name is None else {"CONTENT_TYPE": name.encode().decode("latin-1")}]
    }

    assert answers == dict.fromkeys(answers, UNSUPPORTED)
    # None of them did anything.
    assert client.get("/v1/auth/session").status_code == 200


def test_json_is_understood_however_its_content_type_is_written(client: FlaskClient) -> None:
    body = json.dumps(JSON_ROUTES["/v1/auth/request-link"])
    for content_type in (
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        'application/json ; charset="utf-8"',
        "application/json;",
        "APPLICATION/JSON",
        "Application/Json; profile=x",
    ):
        answer = client.post("/v1/auth/request-link", data=body, content_type=content_type)
        assert answer.status_code == 200, content_type


def test_a_compressed_body_is_refused_by_every_route(client: FlaskClient, mailbox: Mailbox) -> None:
    answers = {
        (path, coding): error_of(client.post(path, json=body, headers={"Content-Encoding": coding}))
        for path, body in good_bodies(client, mailbox).items()
        for coding in ("gzip", "deflate", "br", "zstd", "gzip, identity", "x")
    }

    assert answers == dict.fromkeys(answers, UNSUPPORTED)


def test_the_coding_identity_is_no_coding(client: FlaskClient) -> None:
    body = JSON_ROUTES["/v1/auth/request-link"]

    assert client.post("/v1/auth/request-link", json=body, headers={"Content-Encoding": "identity"}).status_code == 200


@pytest.mark.parametrize(("method", "path"), BODILESS_ROUTES)
def test_a_route_that_needs_no_body_needs_no_content_type(
    client: FlaskClient, mailbox: Mailbox, method: str, path: str
) -> None:
    for content_type in (None, "text/plain", "application/json"):
        sign_in(client, mailbox)
        assert client.open(path, method=method, content_type=content_type).status_code == 200, content_type


@pytest.mark.parametrize(("method", "path"), BODILESS_ROUTES)
def test_a_route_that_needs_no_body_takes_an_object(
    client: FlaskClient, mailbox: Mailbox, method: str, path: str
) -> None:
    sign_in(client, mailbox)

    assert client.open(path, method=method, json={"unknown": 1}).status_code == 200


# --- The size. ---


def test_a_body_of_64_kib_or_2_mib_for_the_model_is_read_by_every_route(client: FlaskClient, mailbox: Mailbox) -> None:
    for path, body in good_bodies(client, mailbox).items():
        text = json.dumps(body).encode().ljust(max_body(path))
        assert client.post(path, data=text, content_type=JSON_TYPE).status_code == 200, path


def test_a_body_of_one_byte_more_is_refused_by_every_route(client: FlaskClient, mailbox: Mailbox) -> None:
    bodies = good_bodies(client, mailbox)

    for method, path in routes(client.application):
        text = json.dumps(bodies.get(path, {})).encode().ljust(max_body(path) + 1)
        answer = client.open(path, method=method, data=text, content_type=JSON_TYPE)
        assert error_of(answer) == (413, "payload_too_large"), (method, path)
    # None of them did anything.
    assert client.get("/v1/auth/session").status_code == 200


def test_a_body_for_the_model_may_be_as_bad_as_it_is_large(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)
    half = MAX_LLM_BODY // 2

    for body in (
        b"[" * half + b"]" * half,
        b'{"a":' * (MAX_LLM_BODY // 5),
        b'{"messages":' + b"[" * (half - 20) + b"]" * (half - 20) + b"}",
        b'{"max_tokens":' + b"7" * (MAX_LLM_BODY - 20) + b"}",
        b'{"system":"' + b"\xff" * (MAX_LLM_BODY - 20) + b'"}',
    ):
        answer = client.post(LLM, data=body, content_type=JSON_TYPE)
        assert error_of(answer) == INVALID_JSON, body[:20]

"""Members and query parameters that are wrong: each has its own code, and nothing of them comes back."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from tests.support.answers import CANARY, LINK, VERIFY
from tests.support.contract import JSON_ROUTES, LLM, error_of, says
from tests.support.journeys import HASH, sign_in
from tests.support.mailbox import Mailbox


class Member(NamedTuple):
    """One member of one route: a value that it may have, and the codes for none and for a wrong one."""

    path: str
    name: str
    good: str
    missing: str | None  # None: it is optional
    invalid: str


MEMBERS = [
    Member("/v1/auth/request-link", "email", "ada@example.com", "invalid_email", "invalid_email"),
    Member("/v1/auth/verify", "token", "no-token-of-ours", "missing_token", "missing_token"),
    Member("/v1/sessions/start", "session_id", "first", "missing_session_id", "invalid_session_id"),
    Member("/v1/sessions/start", "started_at", "2026-01-31T08:30:00Z", None, "invalid_timestamp"),
    Member("/v1/sessions/end", "session_id", "first", "missing_session_id", "invalid_session_id"),
    Member("/v1/sessions/end", "transcript_hash", HASH, "missing_transcript_hash", "invalid_transcript_hash"),
    Member("/v1/sessions/end", "ended_at", "2026-01-31T08:30:00Z", None, "invalid_timestamp"),
]

WRONG_TYPES: list[Any] = [
    0,
    1,
    -1,
    1.5,
    1e300,
    10**4000,
    True,
    False,
    [],
    ["ada@example.com"],
    {},
    {"email": "x"},
    [[]],
]


def answer_to(client: FlaskClient, path: str, name: str, value: object) -> tuple[int, str]:
    """What `path` answers to a body that is good but for one member."""
    return error_of(client.post(path, json={**JSON_ROUTES[path], name: value}))


def unrefused(client: FlaskClient, values: Callable[[Member], list[Any]]) -> list[tuple[Member, str, tuple[int, str]]]:
    """Those of the `values` of each member that get another answer than 400 with its code for a wrong one."""
    return [
        (member, ascii(value)[:80], answer)
        for member in MEMBERS
        for value in values(member)
        if (answer := answer_to(client, member.path, member.name, value)) != (400, member.invalid)
    ]


def test_a_member_of_another_type_is_refused_as_a_wrong_value(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    assert unrefused(client, lambda member: [*WRONG_TYPES, [member.good], {member.name: member.good}]) == []


def test_nul_and_surrogates_are_refused_as_a_wrong_value(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    def values(member: Member) -> list[str]:
        good = member.good
        return [
            text
            for bad in ("\x00", "\ud800", "\udfff", "\udc00\ud800", "\ud83d")
            for text in (bad, bad + good, good + bad, good[:2] + bad + good[2:])
        ]

    assert unrefused(client, values) == []


def test_an_empty_text_is_refused_as_a_wrong_value(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    assert unrefused(client, lambda _: [""]) == []


def test_a_text_of_60000_characters_is_refused_as_a_wrong_value(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    def values(member: Member) -> list[str]:
        # Any text is a token of the right type: it is just none of ours.
        return [] if member.name == "token" else [(text * 60_000)[:60_000] for text in ("a", ".", "0", member.good)]

    assert unrefused(client, values) == []


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: f"{member.path} {member.name}")
def test_an_absent_member_is_missing_and_so_is_null(client: FlaskClient, mailbox: Mailbox, member: Member) -> None:
    sign_in(client, mailbox)
    without = {name: value for name, value in JSON_ROUTES[member.path].items() if name != member.name}
    expected = (400, member.missing) if member.missing else (200, "no error")

    assert error_of(client.post(member.path, json=without)) == expected
    assert answer_to(client, member.path, member.name, None) == expected
    # Names are compared letter by letter.
    look_alikes = {member.name.upper(): member.good, f" {member.name}": member.good}
    assert error_of(client.post(member.path, json={**without, **look_alikes})) == expected


BAD_SESSION_IDS = {
    "129 characters": "a" * 129,
    "a newline at the end": "first\n",
    "a newline in front": "\nfirst",
    "a space": "fir st",
    "a space at the end": "first ",
    "a slash": "a/b",
    "a plus": "a+b",
    "a percent sign": "a%20b",
    "a quote": "a'b",
    "a backslash": "a\\b",
    "a tab": "a\tb",
    "DEL": "a\x7fb",
    "an accent": "é",
    "Arabic digits": "١٢٣",
    "full-width letters": "ａｂｃ",
    "the Kelvin sign": "\u212a",
    "a long s": "ſ",
    "a zero-width space": "a\u200bb",
    "an emoji": "🙂",
    "a line separator at the end": "first\u2028",
}


def test_a_session_id_of_other_characters_is_refused(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    answers = {
        (path, name): answer_to(client, path, "session_id", session_id)
        for path in ("/v1/sessions/start", "/v1/sessions/end")
        for name, session_id in BAD_SESSION_IDS.items()
    }

    assert answers == dict.fromkeys(answers, (400, "invalid_session_id"))
    assert client.get("/v1/sessions").get_json()["sessions"] == []


def test_a_session_id_may_be_any_128_of_its_characters(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)
    for session_id in ("A", ".", "..", ":", "-", "_", "0", "aZ09._:-" * 16):
        answer = client.post("/v1/sessions/start", json={"session_id": session_id})
        assert (answer.status_code, answer.get_json()["session_id"]) == (200, session_id)


def test_a_transcript_hash_is_64_lower_case_hexadecimal_digits(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)
    wrong = [HASH.upper(), HASH[:-1], HASH + "0", HASH + "\n", "\n" + HASH, " " + HASH, HASH[:-1] + " "]
    wrong += [HASH[:-1] + "g", HASH[:-1] + "F", "0x" + HASH[2:], "-" + HASH[1:], "１" * 64, "٠" * 64, "ａ" * 64]

    for value in wrong:
        answer = answer_to(client, "/v1/sessions/end", "transcript_hash", value)
        assert answer == (400, "invalid_transcript_hash"), value
    assert client.get("/v1/sessions").get_json()["sessions"] == []


def test_any_other_text_is_an_invalid_token(client: FlaskClient) -> None:
    for value in (
        "x",
        " ",
        "\n",
        ".",
        "..",
        "a.b",
        "a.b.c",
        "é",
        "🙂",
        "\u2028",
        "null",
        "%00",
        "'",
        "\x7f",
        "=" * 43,
        "a" * 60_000,
    ):
        assert answer_to(client, "/v1/auth/verify", "token", value) == (401, "invalid_token"), value


# --- The query of the list. ---

BAD_LIMITS = ["", "0", "101", "-1", "+1", "abc", "1.5", "1.0", "1e1", "0x1", "1_0", "1 ", " 1", "1\n", "１", "²", "٣"]
BAD_LIMITS += ["1\x00", "9" * 5000, "null", "true", "1,2", "[1]", "\xff", "∞", "NaN", "-0", "٠"]


def test_a_limit_that_is_no_whole_number_from_1_to_100_is_refused(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    for value in BAD_LIMITS:
        assert error_of(client.get(f"/v1/sessions?limit={quote(value)}")) == (400, "invalid_limit"), value
    for raw in ("%ff", "%", "%zz", "+1", "1+", "%00"):
        assert error_of(client.get(f"/v1/sessions?limit={raw}")) == (400, "invalid_limit"), raw


def test_a_limit_from_1_to_100_is_fine(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    for limit in ("1", "20", "100"):
        assert client.get(f"/v1/sessions?limit={limit}").status_code == 200, limit


def encoded(text: str | bytes) -> str:
    """`text` as a cursor spells it."""
    data = text.encode() if isinstance(text, str) else text
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def cursor_of(client: FlaskClient) -> str:
    """A cursor that the list gives out."""
    for session_id in ("a", "b"):
        assert client.post("/v1/sessions/start", json={"session_id": session_id}).status_code == 200
    cursor: str = client.get("/v1/sessions?limit=1").get_json()["next_cursor"]
    return cursor


def test_a_cursor_that_the_list_never_gave_out_is_refused(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)
    moment = "2026-01-31T08:30:00.000000Z"
    bad = ["", " ", "x", "-", "=", "====", "!!!!", "null", "0", "é", "🙂", "\x00", "\xff", "a" * 60_000, "..", "_" * 40]
    texts = ["", " ", moment, f"{moment} ", f" {moment} a", f"{moment}  a", f"{moment} a ", f"{moment} a\n"]
    texts += [f"{moment} a b", f"{moment} é", f"{moment} a\x00", f"{moment} " + "a" * 129, f"{moment}\ta", "a b"]
    texts += ["2026-01-31T08:30:00Z a", "2026-01-31T08:30:00.000000+00:00 a", "2026-01-31T09:30:00.000000+01:00 a"]
    texts += [moment.lower() + " a", "2026-01-31T08:30:00.000000 a", "2026-02-30T08:30:00.000000Z a"]
    texts += ["0001-01-01T00:00:00.000000Z a", "0000-01-01T00:00:00.000000Z a", '{"a":1}', "[]", f'["{moment}","a"]']

    for value in [*bad, *map(encoded, texts), encoded(b"\xff\xfe"), encoded(moment.encode("utf-16") + b" a")]:
        assert error_of(client.get(f"/v1/sessions?cursor={quote(value)}")) == (400, "invalid_cursor"), value[:80]


def test_a_cursor_has_one_spelling(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)
    good = cursor_of(client)
    assert client.get(f"/v1/sessions?cursor={good}").status_code == 200
    # The last character has two bits that decoding drops.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = good[:-1] + alphabet[alphabet.index(good[-1]) ^ 1]
    assert base64.urlsafe_b64decode(twin + "=") == base64.urlsafe_b64decode(good + "=")

    wrong = [twin, good + "=", good + "==", good + "A", good[:-1], good[:10], good[1:], good + "\n", "\n" + good]
    wrong += [good[:8] + between + good[8:] for between in " \n"]
    wrong += [good + "\x00", good.swapcase(), good + "é", good * 2]
    for value in wrong:
        assert error_of(client.get(f"/v1/sessions?cursor={quote(value)}")) == (400, "invalid_cursor"), value


# --- Nothing that was sent comes back. ---

ECHOES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "an address": ("POST", LINK, {"json": {"email": f"{CANARY}@@example.com"}}),
    "an address of another type": ("POST", LINK, {"json": {"email": [CANARY]}}),
    "an unknown member": ("POST", LINK, {"json": {CANARY: CANARY}}),
    "a token": ("POST", VERIFY, {"json": {"token": CANARY}}),
    "a token of another type": ("POST", VERIFY, {"json": {"token": {CANARY: 1}}}),
    "a session_id": ("POST", "/v1/sessions/start", {"json": {"session_id": f"{CANARY}/"}}),
    "a time": ("POST", "/v1/sessions/start", {"json": {"session_id": "a", "started_at": CANARY}}),
    "a hash": ("POST", "/v1/sessions/end", {"json": {"session_id": "a", "transcript_hash": CANARY}}),
    "a model": ("POST", LLM, {"json": {**JSON_ROUTES[LLM], "model": CANARY}}),
    "a limit": ("GET", f"/v1/sessions?limit={CANARY}", {}),
    "a cursor": ("GET", f"/v1/sessions?cursor={CANARY}", {}),
    "a body that is no JSON": ("POST", VERIFY, {"data": CANARY, "content_type": "application/json"}),
    "a content type": ("POST", VERIFY, {"data": "{}", "content_type": f"text/{CANARY}"}),
    "a content coding": ("POST", VERIFY, {"json": {}, "headers": {"Content-Encoding": CANARY}}),
    "an origin": ("POST", VERIFY, {"json": {}, "headers": {"Origin": f"https://{CANARY}.example.com"}}),
    "a Sec-Fetch-Site": ("POST", VERIFY, {"json": {}, "headers": {"Sec-Fetch-Site": CANARY}}),
    "a path": ("GET", f"/v1/{CANARY}", {}),
    "a path's query": ("GET", f"/v1/nothing?{CANARY}={CANARY}", {}),
    "a method": (CANARY.upper(), VERIFY, {}),
    "a request id of another form": ("GET", "/v1/nothing", {"headers": {"X-Request-Id": f"{CANARY} {CANARY}"}}),
    "a host": ("GET", "/v1/nothing", {"headers": {"Host": f"{CANARY}.example.com"}}),
    "a cookie": ("GET", "/v1/nothing", {"headers": {"Cookie": f"{CANARY}={CANARY}"}}),
    "headers it asks for": ("OPTIONS", VERIFY, {"headers": {"Access-Control-Request-Headers": CANARY}}),
}


def test_no_answer_echoes_what_was_sent(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    for name, (method, path, request) in ECHOES.items():
        answer = client.open(path, method=method, **request)
        assert answer.status_code >= 400 or method == "OPTIONS", name
        assert not says(answer, CANARY), name
        assert not says(answer, CANARY.upper()), name

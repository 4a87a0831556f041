"""Any bytes as a body, any text as an address, any JSON as a call of the model: read by the rules, or refused."""

from __future__ import annotations

import json
import math
import re
from email import message_from_bytes
from email.headerregistry import AddressHeader
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

import pytest
from flask import Flask
from hypothesis import example, given
from hypothesis import strategies as st

from lumen_api import validation
from lumen_api.errors import InvalidJson
from lumen_api.llm import request
from lumen_api.validation import InvalidEmail
from tests.support.contract import JSON_TYPE
from tests.support.fuzzing import LARGE, SECONDS, fuzz, mangled, seconds_for

# --- JSON. ---

APP = Flask("fuzz")
TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
BODIES = st.dictionaries(TEXT, JSON, max_size=4)
LAYOUTS = st.fixed_dictionaries({"indent": st.sampled_from([None, 0, "\t"]), "ensure_ascii": st.booleans()})


def read(body: bytes) -> dict[str, Any] | None:
    """What the service reads; None if it refuses."""
    with APP.test_request_context(method="POST", data=body, content_type=JSON_TYPE):
        try:
            return validation.read_json()
        except InvalidJson:
            return None


_TOKEN = re.compile(
    r"""[ \t\n\r]*(?:(?P<s>"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")"""
    r"""|(?P<v>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)"""
    r"""|(?P<p>[][{}:,]))[ \t\n\r]*"""
)
_REDUCED = re.compile(r"\[(?:[sv](?:,[sv])*)?\]|\{(?:s:[sv](?:,s:[sv])*)?\}")


def is_json_object(body: bytes) -> bool:
    """RFC 8259's grammar, not as a parser goes: tokens first, then lists and objects reduced from inside out."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return False
    tokens, at = "", 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found:
            return False
        tokens, at = tokens + (found["p"] or found.lastgroup or ""), found.end()
    is_object, before = tokens.startswith("{"), ""
    while tokens != before:
        before, tokens = tokens, _REDUCED.sub("v", tokens)
    return is_object and tokens == "v"


@fuzz
@given(BODIES, LAYOUTS)
def test_any_json_object_is_read_as_it_was_meant(body: dict[str, Any], layout: dict[str, Any]) -> None:
    written = json.dumps(body, **layout).encode()

    assert read(written) == body


NEAR_JSON = mangled(BODIES.map(json.dumps), '{}[]",:\\u0123456789.eE+-tfn \n\x00\ufeff') | mangled(
    st.sampled_from(['{"a":1e5}', '{"a":[-0.5,true]}', '{"a":{"b":null}}', '{"\\ud83d":"\\\\"}', "NaN", "{}"]),
    "NaInfity01.-",
)


WRAPPED = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", " ", "\ufeff", "\x0b", "\u00a0", "[", "//\n"]),
    BODIES.map(json.dumps)
    | st.sampled_from(["NaN", "-Infinity", "01", "1.", ".5", "+1", "0x1", "'a'", '"\t"', '"\\x"', "True", "1_0"]).map(
        '{{"a":{}}}'.format
    ),
    st.sampled_from(["", "\n", "\0", ",", "{}", "]", "}"]),
)


@fuzz
@given((NEAR_JSON | WRAPPED).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=20))
@example(b'{"a":NaN}')
@example(b'{"a":-Infinity}')
def test_any_bytes_are_read_exactly_if_they_are_a_json_object_in_utf_8(body: bytes) -> None:
    assert (read(body) is not None) == is_json_object(body)


PARTS = ["[", '{"":', '"', "\\", '"a",', "1", "-", "1e", "0.", '{"a":1,', "\\u0000", " ", "\ufeff", "é", "]"]


@pytest.mark.parametrize("part", PARTS, ids=ascii)
@pytest.mark.parametrize("before", ["", '{"a":', '{"a":"', '{"a":1.', '{"a":1e'])
def test_a_large_body_is_read_in_linear_time(before: str, part: str) -> None:
    text = before + part * ((LARGE - 10) // len(part.encode()))
    assert seconds_for(lambda: read(text.encode())) < SECONDS


# --- Addresses. ---


def address_of(text: str) -> str | None:
    """The canonical form; None if it is refused."""
    try:
        return validation.email({"email": text})
    except InvalidEmail:
        return None


LOCALS = st.text(
    st.sampled_from("aZ0.+-_=?'\"%!#&*/`{|}~^$ é\u0430\uff41()<>,;:\\"), min_size=1, max_size=12
) | st.sampled_from(['"a b"', '"a"', '"@"', 'a"b"', "=?utf-8?q?bob?=", "(x)a", "a.", ".a", "a..b", "a" * 64, "a" * 65])
LABELS = st.text(st.sampled_from("aZ0-éßж\u0430\uff41\u0307\u200d\u0323中ß"), min_size=1, max_size=8) | st.sampled_from(
    ["xn--mnchen-3ya", "XN--E1AFMKFD", "xn--a", "b" * 63, "b" * 64, "ａｂ", "faß", "example"]
)
DOMAINS = st.builds(
    lambda labels, dot, end: dot.join([*labels, end]),
    st.lists(LABELS, min_size=1, max_size=4),
    st.sampled_from([".", ".", ".", "\u3002", "\uff0e", ".."]),
    st.sampled_from(["com", "COM", "рф", "test", "1", ""]),
)
ADDRESSES = st.builds(
    "{}{}@{}{}".format, st.sampled_from(["", " ", "\n"]), LOCALS, DOMAINS, st.sampled_from(["", " ", "\t"])
)
PLAIN = st.builds(
    "{}@{}.com".format, *[st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9+_-]{0,8}[A-Za-z0-9])?", fullmatch=True)] * 2
)
ANY_ADDRESS = ADDRESSES | mangled(ADDRESSES | PLAIN, "@.+-\"' <>(),;:\\") | st.text(max_size=30)


@fuzz
@given(ANY_ADDRESS)
def test_any_address_has_one_canonical_form_that_the_database_and_a_mail_can_hold_or_is_refused(text: str) -> None:
    address = address_of(text)
    if address is None:
        return

    local, _, domain = address.rpartition("@")
    assert re.fullmatch(r"[!-~]{1,64}@[!-~]{1,253}", address)
    assert len(address) <= 254
    assert address == address.lower() == address_of(address)
    assert local == text.strip().rpartition("@")[0].lower()
    assert not set(local + domain) & set('@"()<>[]:;,\\ ')
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in domain.split("."))
    assert in_a_mail(address) == [address]


def in_a_mail(address: str) -> list[str]:
    """Whom a mail is for, to a reader of its bytes."""
    mail = EmailMessage(policy=SMTP)
    mail["To"] = address
    header = message_from_bytes(mail.as_bytes(), policy=SMTP)["To"]
    assert isinstance(header, AddressHeader)
    return [reader.addr_spec for reader in header.addresses]


@fuzz
@given(PLAIN)
def test_a_plain_address_is_taken_and_its_capitals_and_the_space_around_it_make_no_other(text: str) -> None:
    typed = [text, text.upper(), text.lower(), f" {text}\r\n", f"\u00a0{text.title()}\t"]

    assert {address_of(spelling) for spelling in typed} in ({text.lower()}, {None})


UNITS = [
    "a",
    "@",
    ".",
    "a.",
    "a@",
    '"',
    '\\"',
    "(",
    "<",
    " ",
    "\u0301\u0323",
    "\ufdfa",
    *("\u200d", "\u3002", "ü.", "xn--a.", "é"),
]


@pytest.mark.parametrize("unit", UNITS, ids=ascii)
@pytest.mark.parametrize("around", ["{}", "{}@example.com", "a@{}.com", "a@xn--{}.com", '"{}"@example.com', "a <{}"])
def test_a_large_address_is_read_in_linear_time(around: str, unit: str) -> None:
    text = around.format(unit * (LARGE // len(unit.encode())))

    assert seconds_for(lambda: validation.email({"email": text}), InvalidEmail) < SECONDS


# --- Calls of the model. ---

GOOD_WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=5)
BLOCKS = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": GOOD_WORDS}, optional={"cache_control": JSON}), min_size=1
)
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "model": GOOD_WORDS,
    "max_tokens": st.integers(1, 30),
    "messages": st.lists(
        st.fixed_dictionaries({"role": st.just("user"), "content": GOOD_WORDS | BLOCKS}, optional={"name": JSON}),
        min_size=1,
        max_size=3,
    ),
    "system": GOOD_WORDS | BLOCKS,
    "temperature": st.floats(0, 1) | st.integers(0, 1),
    "stop_sequences": st.lists(GOOD_WORDS, max_size=4),
    "stream": st.booleans(),
    "tools": JSON,
}
GOOD_CALLS = st.fixed_dictionaries(
    {name: GOOD[name] for name in ("model", "max_tokens", "messages")},
    optional={name: GOOD[name] for name in ("system", "temperature", "stop_sequences", "stream", "tools")},
)
BAD_TEXT = st.sampled_from(["", "\0", "\ud800", "a\udfff"])
WRONG = (
    st.sampled_from([True, False, 0, -1, 31, 1.0, -0.5, 2, math.nan, math.inf, 10**30, [], {}, [[]], [None]]) | BAD_TEXT
)
# A member, or a way to one inside the messages.
PLACES = st.sampled_from(
    [*((name,) for name in GOOD), ("messages", 0), ("messages", 0, "role"), ("messages", 0, "content")]
)


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """A good call, or one with one thing wrong: with more, only the first would be looked at."""
    call: dict[str, Any] = draw(GOOD_CALLS)
    if draw(st.booleans()):
        *way, last = draw(PLACES)
        inner: Any = call
        for step in way:
            inner = inner[step]
        inner[last] = draw(WRONG | JSON)
    return call


MEMBERS = {"model", "messages", "max_tokens", "system", "temperature", "stop_sequences", "stream"}
RULE = re.compile(
    r"(model|max_tokens|messages|system|temperature|stop_sequences|stream)[][0-9a-z.]* (must|holds) [ -~]*\."
)


def asked(body: dict[str, Any]) -> request.Request:
    return request.read(body, max_output_tokens=30, request_id="fuzz")


def is_part(less: object, more: object) -> bool:
    """Whether `less` is `more` with members left out, and nothing changed or added."""
    if isinstance(less, dict) and isinstance(more, dict):
        return all(name in more and is_part(value, more[name]) for name, value in less.items())
    if isinstance(less, list) and isinstance(more, list):
        return len(less) == len(more) and all(map(is_part, less, more))
    return type(less) is type(more) and less == more


@fuzz
@given(calls())
@example({"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": True})
@example({"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "temperature": True})
def test_any_call_is_passed_on_with_nothing_changed_or_added_or_refused_without_a_word_of_it(
    body: dict[str, Any],
) -> None:
    try:
        found = asked(body)
    except request.InvalidRequest as error:
        refusal = error.message
        found = None
    if found is None:
        assert RULE.fullmatch(refusal), refusal
        return

    passed_on = json.loads(found.content)
    assert passed_on.keys() <= MEMBERS
    assert is_part(passed_on, body)
    assert asked(passed_on).content == found.content
    assert (found.size, found.model, found.stream) == (len(found.content), body["model"], body.get("stream") or False)
    assert {type(found.max_tokens), type(passed_on.get("temperature", 0))} <= {int, float}
    assert 1 <= found.max_tokens <= 30
    assert b"\\u0000" not in found.content

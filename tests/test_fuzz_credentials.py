"""Any text as a token, a cookie header or a cursor: read as an independent reader reads it, or refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import UTC, datetime
from string import ascii_letters, digits

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from lumen_api.auth import SessionCookie, TokenSigner
from lumen_api.blueprints.sessions import InvalidCursor, read_cursor, write_cursor
from lumen_api.repositories.sessions import Position
from tests.support.fuzzing import LARGE, SECONDS, ending_otherwise, fuzz, mangled, seconds_for

NEW, OLD = "the new secret of the fuzz targets, long enough", "the old secret of the fuzz targets, long enough"
PURPOSE = "fuzz"
SIGNER = TokenSigner((NEW, OLD), purpose=PURPOSE)
BASE64 = ascii_letters + digits + "-_"


def mac(key: bytes, data: str) -> bytes:
    return hmac.new(key, data.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def signed(random: str, secret: str = NEW) -> str:
    """A token as lumen_api/auth.py describes it, with nothing of its code."""
    signature = mac(mac(secret.encode(), f"lumen {PURPOSE}"), random)
    return f"{random}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def expected_digest(text: str) -> bytes | None:
    """What the database would know it by."""
    random = text.rpartition(".")[0]
    for secret in (NEW, OLD):
        if text == signed(random, secret):
            return mac(mac(secret.encode(), f"lumen {PURPOSE} digest"), random)
    return None


# --- Tokens. ---

TOKENS = st.builds(signed, st.text(BASE64 + ".", max_size=60), st.sampled_from([NEW, OLD]))
NO_SECRET_OF_OURS = st.builds(signed, st.text(BASE64, max_size=60), st.text(max_size=40))


@fuzz
@given(TOKENS)
def test_what_one_of_our_secrets_has_signed_is_a_token(text: str) -> None:
    assert SIGNER.digest(text) == expected_digest(text) is not None


@fuzz
@given(
    ending_otherwise(TOKENS, "=", "\n", " ", "é")
    | mangled(TOKENS, BASE64 + ".= ")
    | NO_SECRET_OF_OURS
    | st.text(max_size=100)
)
def test_any_text_is_a_token_only_if_one_of_our_secrets_has_signed_exactly_this_spelling(text: str) -> None:
    assert SIGNER.digest(text) == expected_digest(text)


@pytest.mark.parametrize("part", ["a", ".", "=", "é", "\ud800", signed("a")], ids=ascii)
def test_a_large_token_is_read_in_linear_time(part: str) -> None:
    text = part * (LARGE // len(part))

    assert seconds_for(lambda: SIGNER.digest(text)) < SECONDS


# --- Cookies. ---

NAME = "__Host-lumen_session"
APP = Flask("fuzz")
GOOD = signed("A" * 43)


def cookie_digest(header: str) -> bytes | None:
    """What the service makes of a Cookie header, whose bytes WSGI hands over as Latin-1."""
    with APP.request_context({**EnvironBuilder().get_environ(), "HTTP_COOKIE": header}):
        return SessionCookie(SIGNER, NAME, secure=True, ttl=None).digest()  # type: ignore[arg-type]


def values(header: str) -> list[str]:
    """What a header says of our cookie (RFC 6265, section 4.2.1), with quotes and the escapes in them undone."""
    found = []
    for pair in header.split(";"):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name == NAME:
            if len(value) > 1 and value[0] == value[-1] == '"':
                value = re.sub(r"\\([0-3][0-7]{2})", lambda octal: chr(int(octal[1], 8)), value[1:-1])
                value = re.sub(r"\\(.)", r"\1", value)
            found.append(value)
    return found


VALUES = st.sampled_from([GOOD, f'"{GOOD}"', GOOD.replace(".", "%2E"), GOOD.replace(".", "\\056"), GOOD[:-1], ""])
NAMES = st.sampled_from([NAME, NAME.lower(), f"{NAME}x", f"x{NAME}", "theme", "", f'"{NAME}"'])
LATIN_1 = st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0"), max_size=12)
PAIRS = st.builds("{}{}{}".format, NAMES, st.sampled_from(["=", " = ", ""]), VALUES | LATIN_1) | LATIN_1
HEADERS = st.lists(PAIRS, max_size=5).flatmap(
    lambda pairs: st.sampled_from([";", "; ", ";;", ","]).map(lambda by: by.join(pairs))
)


@fuzz
@given(HEADERS | mangled(HEADERS, ';=", \\\t').map(lambda text: text.encode("latin-1", "replace").decode("latin-1")))
def test_any_cookie_header_signs_in_only_with_a_token_of_ours_under_our_name(header: str) -> None:
    digest = cookie_digest(header)

    assert digest is None or digest in [expected_digest(value) for value in values(header)]


OTHER_PAIRS = st.lists(st.builds("{}={}".format, st.text(ascii_letters, min_size=1), st.text(BASE64)), max_size=4)


@fuzz
@given(OTHER_PAIRS, OTHER_PAIRS)
def test_our_cookie_is_found_among_any_others(before: list[str], after: list[str]) -> None:
    assert cookie_digest("; ".join([*before, f"{NAME}={GOOD}", *after])) == expected_digest(GOOD)


PARTS = ["a", ";", "=", '"', "\\", "; ", " ", "a=b;", f"{NAME}=x; ", '="', '\\"', '="\\', "\xff"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("before", ["", f"{NAME}=", f'{NAME}="'])
def test_a_large_cookie_header_is_read_in_linear_time(before: str, part: str) -> None:
    header = before + part * (LARGE // len(part))

    assert seconds_for(lambda: cookie_digest(header)) < SECONDS


# --- Cursors. ---

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
SESSION_IDS = st.text(ascii_letters + digits + "._:-", min_size=1, max_size=128)
POSITIONS = st.builds(Position, MOMENTS, SESSION_IDS)
# The API's times begin in 2020.
PLACE = re.compile(rb"([1-9]\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z ([A-Za-z0-9._:-]{1,128})")


def place(text: str) -> Position | None:
    """What a cursor says, by a reader of its own: the one spelling in base64url without padding."""
    try:
        decoded = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        found = PLACE.fullmatch(decoded)
        if not found or base64.urlsafe_b64encode(decoded).decode().rstrip("=") != text:
            return None
        moment = datetime.strptime(found[1].decode(), "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=UTC)
    except ValueError:
        return None
    return Position(moment, found[2].decode())


def read(text: str) -> Position | None:
    """What the service makes of it."""
    try:
        return read_cursor(text)
    except InvalidCursor:
        return None


@fuzz
@given(POSITIONS)
def test_a_cursor_leads_back_to_the_place_it_was_written_for(position: Position) -> None:
    assert read_cursor(write_cursor(position)) == place(write_cursor(position)) == position


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode(errors="replace")).decode().rstrip("=")


FORMS = [
    "{:%Y-%m-%dT%H:%M:%S.%fZ}",
    "{:%Y-%m-%dT%H:%M:%SZ}",
    "{:%Y-%m-%dt%H:%M:%S.%fz}",
    "{:%Y-%m-%dT%H:%M:%S.%f+00:00}",
]
INSIDE = st.builds(
    lambda form, moment, between, session_id: form.format(moment) + between + session_id,
    st.sampled_from(FORMS),
    MOMENTS,
    st.sampled_from([" ", "  ", "\n", ""]),
    SESSION_IDS,
)
CURSORS = POSITIONS.map(write_cursor)


@fuzz
@given(
    ending_otherwise(CURSORS, "=", "==", "\n", "A")
    | INSIDE.map(encoded)
    | mangled(CURSORS, BASE64 + "=+/ ")
    | mangled(INSIDE, "0123456789-:.TZtz+ ").map(encoded)
    | st.text(max_size=80)
)
def test_any_cursor_has_one_spelling_or_is_refused(text: str) -> None:
    assert read(text) == place(text)


@pytest.mark.parametrize("part", ["A", "=", "-", "é", "\ud800", encoded("2026-01-31T08:30:00.000000Z a")], ids=ascii)
def test_a_large_cursor_is_read_in_linear_time(part: str) -> None:
    assert seconds_for(lambda: read_cursor(part * (LARGE // len(part))), InvalidCursor) < SECONDS

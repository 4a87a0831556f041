"""Any text as a time, an address of the net, an id or a limit: read as an independent reader reads it, or refused."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from string import ascii_letters, digits

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from lumen_api import rfc3339, validation
from lumen_api.errors import ApiError
from lumen_api.rate_limits import RateLimits, network_of
from tests.support.fuzzing import LARGE, SECONDS, ending_otherwise, fuzz, mangled, seconds_for

# --- Times. ---


def moment_of(text: str) -> datetime | None:
    """RFC 3339 by hand: strptime for what has a fixed width, and arithmetic for the rest."""
    date_time, rest = text[:19], text[19:]
    if not text.isascii() or " " in text or len(date_time) < 19:
        return None
    fraction = ""
    if rest.startswith("."):
        fraction = rest[1:].rstrip("Zz") if rest[-1] in "Zz" else rest[1:-6]
        rest = rest[1 + len(fraction) :]
        if not fraction.isdigit() or len(fraction) > 32:
            return None
    try:
        local = datetime.strptime(date_time.upper(), "%Y-%m-%dT%H:%M:%S")  # noqa: DTZ007
        offset = timedelta(0) if rest in ("Z", "z") else offset_of(rest)
        return (local + timedelta(microseconds=int(fraction.ljust(6, "0")[:6] or 0)) - offset).replace(tzinfo=UTC)
    except ValueError:
        return None
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if local.year > 1 else datetime.min.replace(tzinfo=UTC)


def offset_of(text: str) -> timedelta:
    sign, hours, colon, minutes = text[:1], text[1:3], text[3:4], text[4:]
    good = sign in ("+", "-") and colon == ":" and hours.isdigit() and minutes.isdigit() and len(text) == 6
    if not good or int(hours) > 23 or int(minutes) > 59:
        raise ValueError
    return timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)


def parsed(text: str) -> datetime | None:
    """What the service makes of it."""
    try:
        return rfc3339.parse(text)
    except ValueError:
        return None


OFFSETS = st.integers(-24 * 60 + 1, 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))
NAIVE = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999))  # noqa: DTZ001
TIMES = st.builds(lambda naive, zone: naive.replace(tzinfo=zone).isoformat(), NAIVE, OFFSETS)
EDGES = st.builds(
    "{}{}".format,
    st.sampled_from(["0001-01-01T00:00:00", "9999-12-31T23:59:59", "9999-12-31T23:59:59.9999999"]),
    st.sampled_from(["+23:59", "-23:59", "Z", "+00:01", "-00:01"]),
)
NEARLY = st.builds(
    "{}-{}-{}{}{}:{}:{}{}{}".format,
    st.sampled_from(["0000", "0001", "2024", "2026", "9999"]),
    *[st.integers(0, 13).map("{:02}".format), st.integers(0, 32).map("{:02}".format)],
    st.sampled_from(["T", "t", " ", "_"]),
    *[
        st.integers(0, 25).map("{:02}".format),
        st.integers(58, 61).map("{:02}".format),
        st.integers(58, 61).map("{:02}".format),
    ],
    st.sampled_from(["", ".", ".5", "." + "9" * 32, "." + "9" * 33, ",5"]),
    st.sampled_from(["Z", "z", "", "+00:00", "-23:59", "+24:00", "+00:60", "+0100"]),
)


@fuzz
@given(
    TIMES
    | EDGES
    | NEARLY
    | ending_otherwise(TIMES | EDGES, "\n", " ", ":30", ":00.5", "Z")
    | mangled(TIMES | NEARLY, "0123456789-:.TZtz+")
    | st.text(max_size=40)
)
def test_any_time_is_the_moment_that_an_independent_reader_reads_or_refused_by_both(text: str) -> None:
    assert parsed(text) == moment_of(text)


@fuzz
@given(TIMES)
def test_a_time_that_is_written_again_is_the_same_in_its_one_form(text: str) -> None:
    moment = rfc3339.parse(text)
    assert moment == moment_of(text)
    if moment.year >= 1000:  # the API's begin in 2020; strftime writes earlier years without their zeros
        written = rfc3339.format(moment)
        assert rfc3339.parse(written) == moment
        assert rfc3339.format(rfc3339.parse(written)) == written


# --- Addresses of the net. ---


def network_by_hand(host: str) -> str:
    """With the C library's reader, and bits."""
    try:
        return socket.inet_ntop(socket.AF_INET, socket.inet_pton(socket.AF_INET, host))
    except (OSError, ValueError):
        pass
    try:
        packed = socket.inet_pton(socket.AF_INET6, host)
    except (OSError, ValueError):
        return "unknown"
    if packed[:12] == bytes(10) + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return f"{socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8))}/64"


IPS = st.ip_addresses()
WRITTEN: list[Callable[[str], str]] = [
    str,
    str.upper,
    lambda ip: f" {ip}\t",
    lambda ip: f"[{ip}]:443" if ":" in ip else f"{ip}:443",
    lambda ip: f"[{ip}]" if ":" in ip else ip,
    lambda ip: f"{ip}%eth0" if ":" in ip else ip,
    lambda ip: ip if ":" in ip else f"::ffff:{ip}",
]


@fuzz
@given(IPS.map(str), st.sampled_from(WRITTEN))
def test_an_address_stands_for_the_same_however_it_is_written(ip: str, written: Callable[[str], str]) -> None:
    assert network_of(written(ip)) == network_by_hand(ip) != "unknown"


@fuzz
@given(mangled(IPS.map(str), "0123456789abcdefABCDEF.:%[]/") | st.text(max_size=30))
def test_any_text_stands_for_an_address_that_is_in_it_or_is_unknown(text: str) -> None:
    network = network_of(text)

    host = network.removesuffix("/64")
    assert network == "unknown" or network_by_hand(host) == network
    assert network == network_of(f" {text}\n")
    if network_by_hand(text) != "unknown":
        assert network == network_by_hand(text)


@fuzz
@given(
    hops=st.integers(1, 3),
    written=st.lists(IPS.map(str), min_size=3, max_size=3),
    forged=st.lists(
        IPS.map(str) | st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0"), max_size=20)
    ),
)
def test_whatever_a_caller_writes_in_front_of_the_proxies_he_is_who_they_say(
    hops: int, written: list[str], forged: list[str]
) -> None:
    app = Flask("fuzz")
    limits = RateLimits({}, storage_url=None, key=b"", proxy_hops=hops)
    header = ", ".join([*forged, *written[-hops:]])

    with app.test_request_context(headers={"X-Forwarded-For": header}):
        assert limits.client_network() == network_by_hand(written[-hops])


# --- Ids, hashes and limits. ---


def accepted(read: Callable[[], object]) -> object:
    """What comes of it; None if it is refused."""
    try:
        return read()
    except ApiError:
        return None


IDS = st.text(ascii_letters + digits + "._:-", max_size=130)


@fuzz
@given(IDS | mangled(IDS, "._:-\n "))
def test_a_session_id_is_taken_as_it_is_or_refused(text: str) -> None:
    good = 1 <= len(text) <= 128 and set(text) <= set(ascii_letters + digits + "._:-")

    assert accepted(lambda: validation.session_id({"session_id": text})) == (text if good else None)


HASHES = st.text("0123456789abcdef", min_size=63, max_size=65)


@fuzz
@given(HASHES | mangled(HASHES, "ABCDEFg\n "))
def test_a_transcript_hash_is_taken_as_it_is_or_refused(text: str) -> None:
    good = len(text) == 64 and set(text) <= set("0123456789abcdef")

    assert accepted(lambda: validation.transcript_hash({"transcript_hash": text})) == (text if good else None)


@fuzz
@given(
    st.integers(-5, 1005).map(str)
    | mangled(st.integers(0, 101).map(str), "0123456789 +-_.e")
    | st.text("0123456789\u0663\uff15\u00b2 ", max_size=4)
)
def test_a_limit_is_1_to_100_in_digits_or_refused(text: str) -> None:
    good = text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= 100

    with Flask("fuzz").test_request_context(query_string={"limit": text.encode(errors="replace").decode()}):
        assert accepted(validation.limit) == (int(text) if good else None)


PARTS = ["1", ":", ".", "-", "[", "%", "2026-01-31T08:30:00.", "1.2.3.4:", "::", "\n", "０"]


@pytest.mark.parametrize("part", PARTS, ids=ascii)
@pytest.mark.parametrize("before", ["", "2026-01-31T08:30:00.", "2026-01-31T08:30:00+", "[", "1.2.3.4"])
def test_a_large_value_is_read_in_linear_time(before: str, part: str) -> None:
    text = before + part * (LARGE // len(part))

    assert seconds_for(lambda: rfc3339.parse(text), ValueError) < SECONDS
    assert seconds_for(lambda: network_of(text)) < SECONDS
    assert seconds_for(lambda: validation.session_id({"session_id": text}), ApiError) < SECONDS

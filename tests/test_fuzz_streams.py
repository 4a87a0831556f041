"""Bytes that arrive in pieces: a request is found whole when it is, an event of the provider's where it ends."""

from __future__ import annotations

from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumen_api.llm.sse import Event, Splitter
from lumen_api.server.framing import Head, head_of
from tests.support.fuzzing import LARGE, SECONDS, fuzz

# --- Requests. ---

FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b"X-Length", b"Cookie", b"Accept", b"X-Content-Length"]), st.sampled_from([b"", b"7", b"a: b"])
    ),
    max_size=3,
)
CHUNKS = st.lists(st.binary(min_size=1, max_size=20) | st.sampled_from([b"0\r\n\r\n", b"\r\n0\r\n"]), max_size=4)
TRAILERS = st.sampled_from([b"", b"X-Trailer: 1\r\n", b"A: b\r\nC: d\r\n"])


def head(fields: list[tuple[bytes, bytes]], *framing: bytes) -> bytes:
    lines = [b"POST /v1/auth/verify HTTP/1.1", b"Host: x", *(name + b": " + value for name, value in fields), *framing]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def head_in(received: bytes) -> Head:
    found = head_of(bytearray(received))
    assert found is not None
    return found


@fuzz
@given(FIELDS, st.sampled_from([b"Content-Length: ", b"content-length:", b"CONTENT-LENGTH:\t"]), st.binary(max_size=40))
def test_a_request_with_a_length_is_whole_with_its_last_byte_and_not_before(
    fields: list[tuple[bytes, bytes]], name: bytes, body: bytes
) -> None:
    lines = head(fields, name + str(len(body)).encode())
    found = head_in(lines + body)

    assert [head_of(bytearray(lines[:end])) for end in range(len(lines))] == [None] * len(lines)
    assert (found.size, found.content_length) == (len(lines), len(body))
    whole = [found.is_whole(bytearray(lines + body[:end])) for end in range(len(body) + 1)]
    assert whole == [False] * len(body) + [True]


@fuzz
@given(FIELDS, CHUNKS, TRAILERS, st.sampled_from([b"", b";a=b", b' ; a="0"']))
def test_a_chunked_request_is_whole_with_its_last_byte(
    fields: list[tuple[bytes, bytes]], chunks: list[bytes], trailers: bytes, extension: bytes
) -> None:
    lines = head(fields, b"Transfer-Encoding: chunked")
    parts = [b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks]
    received = lines + b"".join(parts) + b"0" + extension + b"\r\n" + trailers + b"\r\n"

    assert head_in(received).is_whole(bytearray(received))


UNITS = [
    b"0\r\n",
    b"\r\n0",
    b"0",
    b"\r\n0;",
    b"\r\n0 ",
    b"\r\n",
    b"a\r\n",
    b"0\r\n\n",
    b"\r\n\r",
    b"00;a\r\n",
    b"0\r\nA: b\r\n",
]


@pytest.mark.parametrize("ending", [b"", b"x\r\n\r\n", b"\r\n\r\n\r\n", b"\n\r\n\r\n"], ids=ascii)
@pytest.mark.parametrize("unit", UNITS, ids=ascii)
def test_a_large_chunked_body_that_comes_in_hundreds_of_pieces_is_looked_at_in_linear_time(
    unit: bytes, ending: bytes
) -> None:
    lines = head([], b"Transfer-Encoding: chunked")
    received = bytearray(lines + unit * (LARGE // len(unit)) + ending)
    found = head_in(bytes(received))

    began = process_time()
    for _ in range(100):
        found.is_whole(received)
        assert process_time() - began < SECONDS


# --- Events. ---

LINES = st.sampled_from(
    [b"event: ping", b"event:error", b"data: {}", b"data: 0\xc3\xbc", b"data:", b": x", b"id: 7", b"retry"]
)
EVENTS = st.lists(st.lists(LINES, min_size=1, max_size=4), max_size=5)


def said_by(blocks: list[list[bytes]]) -> list[tuple[str, bytes]]:
    """Each event's first name and its data, field by field (HTML, 9.2.6)."""
    said = []
    for lines in blocks:
        fields = [(name, value.removeprefix(b" ")) for name, _, value in (line.partition(b":") for line in lines)]
        names = [value.decode() for name, value in fields if name == b"event"]
        said.append((names[0] if names else "", b"\n".join(value for name, value in fields if name == b"data")))
    return said


@fuzz
@given(EVENTS, st.sampled_from([b"\n", b"\r", b"\r\n"]), st.lists(st.integers(1, 9), max_size=8))
def test_events_are_those_of_an_independent_reader_wherever_they_are_cut(
    blocks: list[list[bytes]], newline: bytes, cuts: list[int]
) -> None:
    body = b"".join(newline.join(lines) + newline + newline for lines in blocks)
    splitter, at = Splitter(), 0
    events: list[Event] = []
    for cut in [*cuts, len(body)]:
        events += splitter.feed(body[at : at + cut])
        at += cut

    assert b"".join(event.raw for event in events) == body
    # A CRLF that is cut in half ends an event with its CR; the LF comes out alone.
    assert [(event.type, event.data) for event in events if event.raw != b"\n"] == said_by(blocks)


@pytest.mark.parametrize(
    "unit", [b"\n", b"\r", b"data: ", b"event: x\n", b"a", b"\r\n:", b"\nevent", b"\rdata"], ids=ascii
)
@pytest.mark.parametrize("size", [97, 8192])
def test_a_large_stream_that_comes_in_pieces_is_cut_in_linear_time(unit: bytes, size: int) -> None:
    splitter, body = Splitter(), unit * (8 * LARGE // len(unit))

    began = process_time()
    for at in range(0, len(body), size):
        for event in splitter.feed(body[at : at + size]):
            assert event.data is not None
    assert process_time() - began < 5 * SECONDS

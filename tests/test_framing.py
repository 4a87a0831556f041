"""Where a request ends. Told too early, a thread waits for the client; told too late, the client waits for us."""

from __future__ import annotations

from time import process_time

import pytest
from httptools import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from lumen_api.server import framing
from tests.support.raw_http import chunked, request

NAMES = st.sampled_from(["Host", "Accept", "X-A", "Cookie", "Content-Type"])
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20)


def arrived(data: bytes) -> bool:
    """Whether `data` holds a whole request."""
    received = bytearray(data)
    head = framing.head_of(received)
    return head is not None and head.is_whole(received)


def first_whole(data: bytes) -> int | None:
    """After how many bytes of `data` the request was whole, coming byte by byte as it does for the worker."""
    received, head = bytearray(), None
    for number, byte in enumerate(data, 1):
        received.append(byte)
        head = head or framing.head_of(received, searched=number - 1)
        if head and head.is_whole(received):
            return number
    return None


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), st.binary(max_size=100))
def test_a_request_is_whole_with_its_last_byte_and_not_before(fields: list[tuple[str, str]], body: bytes) -> None:
    head = request("POST", "/v1/x", *(f"{name}: {value}" for name, value in fields), f"Content-Length: {len(body)}")

    assert first_whole(head + body) == len(head + body)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_chunks_are_whole_when_another_parser_says_so(body: bytes, size: int) -> None:
    data = request("POST", "/v1/x", "Transfer-Encoding: chunked") + chunked(body, size)
    ends: list[int] = []

    class Reference:
        def on_message_complete(self) -> None:
            ends.append(number)

    parser = HttpRequestParser(Reference())
    for number, byte in enumerate(data, 1):  # noqa: B007 - the reference reads it
        parser.feed_data(bytes([byte]))

    assert ends == [len(data)]
    assert first_whole(data) == len(data)


def test_trailers_belong_to_the_request() -> None:
    data = request("POST", "/v1/x", "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0;x=y\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n"

    assert first_whole(data) == len(data)


def test_a_body_that_only_looks_like_the_last_chunk_does_not_end_its_request() -> None:
    data = request("POST", "/v1/x", "Transfer-Encoding: chunked") + chunked(b"0\r\n\r\n" * 3, 15)

    assert first_whole(data) == len(data)


@pytest.mark.parametrize("chunk", [b"x\r\n", b"-1\r\n", b"\r\n", b"0x2\r\n", b"2;" + b"a" * 5000], ids=ascii)
def test_what_is_no_chunk_is_not_waited_for(chunk: bytes) -> None:
    assert arrived(request("POST", "/v1/x", "Transfer-Encoding: chunked") + chunk)


@pytest.mark.parametrize("spelling", ["content-length:3", "CONTENT-LENGTH: \t3 \t", "Content-Length: 003"])
def test_a_length_is_understood_as_the_parser_does(spelling: str) -> None:
    head = request("POST", "/v1/x", spelling)

    assert not arrived(head + b"ab")
    assert arrived(head + b"abc")


@pytest.mark.parametrize("value", ["+3", "3, 3", "0x3", "-3", "3a", "", "3\x0b", "٣"])
def test_a_length_that_the_parser_refuses_is_not_waited_for(value: str) -> None:
    assert arrived(f"POST /v1/x HTTP/1.1\r\nContent-Length: {value}\r\n\r\n".encode())


@pytest.mark.parametrize(
    "beginning",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(20), b"SSH-2.0-OpenSSH_10.0p1 Debian", bytes(30)],
    ids=["TLS", "ssh", "zeros"],
)
def test_another_protocol_is_seen_by_its_beginning(beginning: bytes) -> None:
    assert framing.is_no_http(bytearray(beginning))


@given(st.binary(max_size=200))
def test_any_bytes_can_be_looked_at(data: bytes) -> None:
    arrived(data)
    arrived(data + b"\r\n\r\n")
    framing.is_no_http(bytearray(data))


@pytest.mark.parametrize(
    "tail",
    [b"0\r\n" * 2000, b"\r\n0" * 2000, b"a:b\r\n" * 2000, b"0;" * 4000],
    ids=["chunks", "lines", "trailers", "x"],
)
def test_a_hostile_end_is_looked_at_in_linear_time(tail: bytes) -> None:
    received = bytearray(request("POST", "/v1/x", "Transfer-Encoding: chunked") + tail + b"\r\n\r\n")
    head = framing.head_of(received)
    assert head
    start = process_time()
    for _ in range(100):
        head.is_whole(received)

    assert process_time() - start < 1  # quadratic would be some 10 s

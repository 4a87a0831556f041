"""Server-sent events are cut where they end, wherever the reads end, and not a byte is lost or made up."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumen_api.llm.sse import MAX_EVENT, Event, Splitter
from tests.support.anthropic_answers import stream
from tests.support.llm import body_of

# What decides where an event ends and what it is called, and a character of two bytes that may be cut in half.
PARTS = [
    b"\n",
    b"\r",
    b"\r\n",
    b"event: error",
    b"event:ping",
    b"data: {}",
    b"data:",
    b": a comment",
    b"x",
    b"\xc3\xbc",
]
NEWLINES = pytest.mark.parametrize("newline", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])


def fed(*reads: bytes) -> list[Event]:
    """All that comes out of a splitter."""
    splitter = Splitter()
    return [event for read in reads for event in splitter.feed(read)]


def said(events: list[Event]) -> list[tuple[str, bytes]]:
    """What they say. Without those that say nothing: a CRLF may be cut in half, and begin the next event."""
    return [(event.type, event.data) for event in events if event.type or event.data]


@st.composite
def reads(draw: st.DrawFn) -> list[bytes]:
    """Some of a stream, cut anywhere."""
    body = b"".join(draw(st.lists(st.sampled_from(PARTS) | st.binary(max_size=3), max_size=30)))
    ends = sorted(draw(st.lists(st.integers(0, len(body)), max_size=10)))
    return [body[start:end] for start, end in zip([0, *ends], [*ends, len(body)], strict=True)]


@given(reads())
def test_wherever_the_reads_end_the_events_are_the_same_and_no_byte_is_lost(reads: list[bytes]) -> None:
    body = b"".join(reads)

    events = fed(*reads)

    assert said(events) == said(fed(body))
    passed = b"".join(event.raw for event in events)
    assert body.startswith(passed)
    # What is kept is the beginning of an event, for which the next read decides.
    assert said(fed(body[len(passed) :])) == []


@NEWLINES
def test_an_event_comes_out_with_the_byte_that_ends_it(newline: bytes) -> None:
    splitter = Splitter()
    lines = b"event: ping" + newline + b"data: {}" + newline

    assert list(splitter.feed(lines)) == []
    (event,) = splitter.feed(newline[:1])

    assert (event.raw, event.type, event.data) == (lines + newline[:1], "ping", b"{}")


@NEWLINES
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_a_stream_of_the_providers_is_cut_into_its_events(newline: bytes, size: int) -> None:
    body = body_of(stream(3, word="Grüße ").newlines(newline.decode()))

    events = fed(*(body[start : start + size] for start in range(0, len(body), size)))

    assert b"".join(event.raw for event in events).rstrip() == body.rstrip()
    deltas = ["content_block_delta"] * 3
    ends = ["content_block_stop", "message_delta", "message_stop"]
    names = [name for name, _ in said(events)]
    assert names == ["message_start", "content_block_start", "ping", *deltas, *ends]


def test_data_of_many_lines_is_one_text() -> None:
    (event,) = fed(b"data: one\nid: 7\ndata:two\ndata:  three\n\n")

    assert (event.type, event.data) == ("", b"one\ntwo\n three")


def test_ten_thousand_events_in_one_read_are_ten_thousand() -> None:
    assert len(fed(b"data: {}\n\n" * 10_000)) == 10_000


def kept(splitter: Any) -> int:
    """Bytes that it holds."""
    return len(splitter._buffer)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_a_line_of_ten_megabytes_passes_in_parts_that_carry_its_name_and_are_not_collected(end: bytes) -> None:
    splitter = Splitter()
    body = b"event: content_block_delta\ndata: " + b"x" * 10_000_000 + end
    events: list[Event] = []
    size, most = 65_537, 0
    for start in range(0, len(body), size):
        events += splitter.feed(body[start : start + size])
        most = max(most, kept(splitter))
        assert splitter.between == (start + size >= len(body))

    assert b"".join(event.raw for event in events) == body
    assert {(event.type, event.whole) for event in events} == {("content_block_delta", False)}
    assert most <= MAX_EVENT + size
    (after,) = splitter.feed(b"event: ping\n\n")
    assert (after.type, after.whole) == ("ping", True)


@given(st.integers(1, 4), st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"]))
def test_the_end_of_a_long_event_is_found_wherever_it_is_cut(cut: int, end: bytes) -> None:
    long = b"data: " + b"x" * (2 * MAX_EVENT) + end
    *parts, last = fed(long[: -min(cut, len(end))], long[-min(cut, len(end)) :], b"data: 1\n\n")

    assert b"".join(part.raw for part in parts).rstrip() == long.rstrip()
    assert last.data == b"1"

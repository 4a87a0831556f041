"""Where the first request in some bytes ends, as far as it takes to know whether it is there in full (RFC 9112).

This decides when to parse, not what a request means: gunicorn's parser does that, and refuses what is malformed.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

# gunicorn's parser takes what these two find and refuses every other spelling of both.
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,4000})[ \t]*\r\n", re.IGNORECASE)
_TRANSFER_ENCODING = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_EXPECTS_CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-f]{1,16})[ \t]*(?:;[^\r\n]{0,4096})?\r\n", re.IGNORECASE)
_LONGEST_CHUNK_LINE = 4200
# Of these the parser refuses most. A refusal is given without the parser, so it ends the connection: what follows could
# be taken for another request (RFC 9112, section 11.2).
_DOUBTFUL = re.compile(rb"transfer-encoding|\r\n[ \t]", re.IGNORECASE)
_ANY_LENGTH = re.compile(rb"content-length", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[^\r\n]*close", re.IGNORECASE)

_ORIGIN = re.compile(rb"[a-z]+://[^/?#]*", re.IGNORECASE)

# Of a request line, to see that there is one; what comes instead of it (TLS, another protocol) is refused at once.
_BEGINNING = re.compile(rb"(?:\r\n)*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20} ")
_BEGINNING_AT_MOST = 24


class Head:
    """The first request's lines up to the empty one, and what they say about its end."""

    def __init__(self, received: bytearray, size: int) -> None:
        """`size`: of the head in bytes, with the empty line."""
        lines = bytes(received[: size - 2])
        self.size = size
        self.lines = lines
        self.path = _path_of(lines.partition(b" ")[2].partition(b" ")[0])
        is_1_1 = b" HTTP/1.1\r\n" in lines
        self.expects_continue = is_1_1 and _EXPECTS_CONTINUE.search(lines) is not None
        self._chunked = _TRANSFER_ENCODING.search(lines) is not None
        self._chunk = size  # where the first chunk begins that is not known to be there
        lengths = _CONTENT_LENGTH.findall(lines)
        self.content_length = int(lengths[0]) if lengths else 0
        # Whether another request may follow this one, as far as it can be told without the parser.
        self.may_be_followed = (
            is_1_1
            and not lines.startswith(b"HEAD ")  # whose refusal has a body
            and not _CLOSES.search(lines)
            and not _DOUBTFUL.search(lines)
            and len(_ANY_LENGTH.findall(lines)) == len(lengths) < 2
        )

    def is_whole(self, received: bytearray) -> bool:
        """Whether the body is in `received` as well."""
        if self._chunked:
            return self._chunks_are_whole(received)
        return len(received) >= self.size + self.content_length

    def _chunks_are_whole(self, received: bytearray) -> bool:
        """Goes on where it stopped the last time. Malformed chunks are whole: the parser refuses them."""
        while line := _CHUNK.match(received, self._chunk):
            size = int(line[1], 16)
            if size == 0:
                # An empty line ends the trailers, or takes their place.
                return received.find(b"\r\n\r\n", line.end() - 2) >= 0
            if len(received) < line.end() + size + 2:
                return False
            self._chunk = line.end() + size + 2
        return received.find(b"\r\n", self._chunk) >= 0 or len(received) > self._chunk + _LONGEST_CHUNK_LINE

    def is_too_large(self, received: bytearray, largest: int) -> bool:
        """Whether the body is larger than `largest`, by its announcement or by what has come of it."""
        return max(self.content_length, len(received) - self.size) > largest

    def is_all_of(self, received: bytearray) -> bool:
        """Whether the request ends where `received` ends."""
        return not self._chunked and len(received) == self.size + self.content_length


def head_of(received: bytearray, *, searched: int = 0) -> Head | None:
    """The head of the first request, or None if its end has not come. `searched`: bytes that do not hold its end."""
    end = received.find(b"\r\n\r\n", max(0, searched - 3))
    return Head(received, end + 4) if end >= 0 else None


def is_no_http(received: bytearray) -> bool:
    """Whether these bytes can be the beginning of no request."""
    return len(received) >= _BEGINNING_AT_MOST and _BEGINNING.match(received) is None


def _path_of(target: bytes) -> bytes:
    """The path that gunicorn finds in a request's target, in whatever form it is given."""
    if not target.startswith(b"/"):
        target = _ORIGIN.sub(b"", target, count=1)
    return b"/" + unquote_to_bytes(target.partition(b"?")[0]).lstrip(b"/")

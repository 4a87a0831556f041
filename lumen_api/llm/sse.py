"""Server-sent events, split without changing a byte.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Bytes. A longer event is handed on in parts, and not read: memory stays bounded whatever the provider sends.
MAX_EVENT = 64 * 1024

# The end of a line and an empty line. Without the atomic groups a CRLF could count as two ends.
_END = re.compile(rb"(?>\r\n?|\n)(?>\r\n?|\n)")
_TYPE = re.compile(rb"(?:^|[\r\n])event: ?([^\r\n]*)")
_DATA = re.compile(rb"(?:^|[\r\n])data: ?([^\r\n]*)")
_UNDECIDED = 3  # bytes at the end of a buffer that can be the beginning of _END


@dataclass(frozen=True, slots=True)
class Event:
    """`raw`: the bytes as they came. `whole` is false where this is only a part of an event."""

    raw: bytes
    type: str
    whole: bool = True

    @property
    def data(self) -> bytes:
        """What its data lines say."""
        return b"\n".join(_DATA.findall(self.raw)) if self.whole else b""


class Splitter:
    """Cuts a stream of bytes into its events. All `raw` together are what was fed, but for an unfinished end."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._long: Event | None = None
        self._half_an_end = False  # of the last event: its CR, whose LF has not come

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that are complete now, and parts of one that is too long to wait for."""
        self._buffer += data
        if self._half_an_end and self._buffer.startswith(b"\n"):
            yield Event(self._take(1), "")
        self._half_an_end = False
        while end := _END.search(self._buffer, self._searched):
            self._half_an_end = end.end() == len(self._buffer) and end[0].endswith(b"\r")
            yield self._event(self._take(end.end()))
        if len(self._buffer) > MAX_EVENT:
            yield self._part(self._take(len(self._buffer) - _UNDECIDED))
        self._searched = max(0, len(self._buffer) - _UNDECIDED)

    @property
    def between(self) -> bool:
        """Whether what has been handed on ends with an event, so that a comment may follow."""
        return self._long is None

    def _take(self, count: int) -> bytes:
        raw = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._searched = 0
        return raw

    def _event(self, raw: bytes) -> Event:
        if self._long is None:
            return Event(raw, _type(raw))
        event, self._long = Event(raw, self._long.type, whole=False), None
        return event

    def _part(self, raw: bytes) -> Event:
        self._long = Event(raw, self._long.type if self._long else _type(raw), whole=False)
        return self._long


def _type(raw: bytes) -> str:
    found = _TYPE.search(raw)
    return found[1].decode(errors="replace") if found else ""

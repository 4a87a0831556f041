"""What the fake of Anthropic's Messages API answers, as data (https://docs.anthropic.com/en/api/messages-streaming).

stream(20, every=0.05)                            twenty words, one in each event
message(20)                                       the same without streaming
error(429, retry_after="7")                       also: error(529), html(502), redirect(elsewhere.url)

An answer is a list of steps, which these change (the places are the names of events, "request" and "head"):

stream(20).until("content_block_delta", CUT, nth=10)        the connection ends after the tenth word
stream(20).until("message_start", error_event())            an error inside a 200; after "head": as the first event
stream(20).until("message_start")                           ends properly, but without message_stop
stream(20).until("request", RESET)                          before any byte of the answer
stream(20).until("request", Raw(b"HTTP/1.1 20"), CUT)       in the middle of the headers
stream(20).until("message_start", Raw(b"40\\r\\neve"), CUT)  in the middle of a chunk
stream(20).after("request", Wait(2))                        silence before the headers; "head": before the first event
stream(20).until("content_block_delta", FOREVER)            silence until the client leaves; DEAF: even then
stream(20).after("head", PING, COMMENT, event("news"))      what a client does not know
stream(20).after("content_block_delta", message_delta(1))   usage that counts up
stream(20).after("message_start", text("x" * 10_000_000))   a very long line
stream(20).after("request", Raw(EARLY_HINTS))               an interim answer

And how it comes, applied from left to right: .at_once(), .chunks_of(3), .writes_of(1), .newlines("\\r\\n"), .gzipped(),
.framed("close"), .with_headers(connection="close"), .without_reading().
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http import HTTPStatus
from itertools import pairwise
from math import inf
from secrets import token_hex
from typing import Literal

from tests.support.anthropic_events import (
    MODEL,
    PING,
    Data,
    error_members,
    event,
    message_delta,
    message_members,
    message_start,
    text,
    to_json,
    usage_members,
)

ORGANIZATION = "0c7f7c1e-6ad2-4b5c-9d0e-5f1b6b0a7f3d"
COOKIE = "_cfuvid=a-cookie-of-the-provider"
JSON = {"content-type": "application/json"}

# The headers of every answer: what a client of the proxy must not see, most of them.
HEADERS = {
    "anthropic-organization-id": ORGANIZATION,
    **{
        f"anthropic-ratelimit-{what}-{name}": value
        for what in ("requests", "tokens", "input-tokens", "output-tokens")
        for name, value in (("limit", "4000"), ("remaining", "3999"), ("reset", "2026-11-23T18:50:00Z"))
    },
    "set-cookie": f"{COOKIE}; HttpOnly; SameSite=None; Secure; Path=/; Domain=api.anthropic.com",
    "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
    "server": "cloudflare",
    "via": "1.1 google",
    "cf-cache-status": "DYNAMIC",
    "cf-ray": "9a3d1c0b2f8e7d6c-FRA",
    "x-robots-tag": "none",
}
ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"

Framing = Literal["chunked", "length", "close"]


@dataclass(frozen=True)
class Raw:
    """Bytes on the connection, outside the framing of the body. They may carry tokens, like Data."""

    data: bytes
    input: int = 0
    output: int = 0


@dataclass(frozen=True)
class Wait:
    """Silence, in seconds. It ends early when the client leaves, unless the server is `deaf`."""

    seconds: float
    deaf: bool = False


@dataclass(frozen=True)
class Cut:
    """The end of the connection, here: a FIN, or a reset."""

    reset: bool = False


@dataclass(frozen=True)
class Head:
    """Where the status line and the headers go."""


Step = Data | Raw | Wait | Cut | Head
FOREVER, DEAF = Wait(inf), Wait(inf, deaf=True)
CUT, RESET = Cut(), Cut(reset=True)


@dataclass(frozen=True)
class Answer:
    """One answer: its steps in order. Every method gives another answer and changes nothing."""

    steps: tuple[Step, ...]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = "length"
    write_size: int | None = None
    reads_body: bool = True
    request_id: str = field(default_factory=lambda: f"req_011C{token_hex(10)}")

    @property
    def keeps_open(self) -> bool:
        """Whether the connection may carry another request."""
        return self.framing != "close" and self.reads_body and self.headers.get("connection") != "close"

    def after(self, place: str, *steps: Step, nth: int = 1) -> Answer:
        """With `steps` after the `nth` event of the name `place`; "request": before the head; "head": behind it."""
        at = self._index(place, nth)
        return replace(self, steps=(*self.steps[:at], *steps, *self.steps[at:]))

    def until(self, place: str, *steps: Step, nth: int = 1) -> Answer:
        """The same, with `steps` in place of all the rest."""
        return replace(self, steps=(*self.steps[: self._index(place, nth)], *steps))

    def framed(self, framing: Framing) -> Answer:
        """How the client learns where the body ends: by its last chunk, its length, or the connection's end."""
        return replace(self, framing=framing)

    def with_headers(self, **headers: str) -> Answer:
        """More headers: `_` stands for `-`. A `content_length` of the test's own is not corrected."""
        return replace(self, headers={**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}})

    def newlines(self, newline: str) -> Answer:
        """Lines that end otherwise than with a line feed."""
        return self._with_body(replace(s, data=s.data.replace(b"\n", newline.encode())) for s in self._body())

    def chunks_of(self, size: int) -> Answer:
        """The body in chunks of at most `size` bytes, wherever they end."""
        return replace(self, steps=tuple(part for step in self.steps for part in _split(step, size)))

    def at_once(self) -> Answer:
        """The body in one write."""
        body = list(self._body())
        tokens = {"input": sum(s.input for s in body), "output": sum(s.output for s in body)}
        whole = Data(b"".join(s.data for s in body), body[-1].name, **tokens)
        first = self.steps.index(body[0])
        rest = (s for s in self.steps[first:] if not isinstance(s, Data))
        return replace(self, steps=(*self.steps[:first], whole, *rest))

    def writes_of(self, size: int) -> Answer:
        """All of it, headers too, in writes of at most `size` bytes."""
        return replace(self, write_size=size)

    def gzipped(self) -> Answer:
        """Compressed, whatever the client accepts."""
        gzip = zlib.compressobj(wbits=31)
        body = [replace(s, data=gzip.compress(s.data) + gzip.flush(zlib.Z_SYNC_FLUSH)) for s in self._body()]
        body[-1] = replace(body[-1], data=body[-1].data + gzip.flush())
        return self._with_body(iter(body)).with_headers(content_encoding="gzip")

    def without_reading(self) -> Answer:
        """Said as soon as the headers of the request are there."""
        return replace(self, reads_body=False)

    def on_the_wire(self) -> Iterator[Raw | Wait | Cut]:
        """What happens on the connection."""
        for step in self.steps:
            if isinstance(step, Head):
                yield Raw(self._head())
            elif isinstance(step, Data):
                chunk = b"%x\r\n%s\r\n" % (len(step.data), step.data)
                yield Raw(chunk if self.framing == "chunked" else step.data, step.input, step.output)
            else:
                yield step
        if self.framing == "chunked" and Head() in self.steps:
            yield Raw(b"0\r\n\r\n")

    def _head(self) -> bytes:
        reason = "" if self.status == 529 else HTTPStatus(self.status).phrase
        framing = {
            "chunked": {"transfer-encoding": "chunked"},
            "length": {"content-length": str(sum(len(s.data) for s in self._body()))},
            "close": {},
        }[self.framing]
        own = {"date": formatdate(usegmt=True), "request-id": self.request_id}
        headers = {**own, **HEADERS, **framing, **self.headers}
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def _body(self) -> Iterator[Data]:
        return (step for step in self.steps if isinstance(step, Data))

    def _with_body(self, body: Iterator[Data]) -> Answer:
        return replace(self, steps=tuple(next(body) if isinstance(s, Data) else s for s in self.steps))

    def _index(self, place: str, nth: int) -> int:
        if place == "request":
            return 0
        places = ["head" if isinstance(s, Head) else getattr(s, "name", "") for s in self.steps]
        return [n for n, name in enumerate(places, 1) if name == place][nth - 1]


def stream(
    words: int = 20,
    *,
    every: float = 0,
    word: str = "word ",
    input: int = 25,
    cached: int = 0,
    usage: bool = True,
    stop_reason: str = "end_turn",
    model: str = MODEL,
) -> Answer:
    """`words` events of one word each, `every` seconds before each; a word is a token.

    `input`: tokens of the request, `cached` of them from the provider's cache and as many put into it.
    `usage`: whether it says so.
    """
    start = message_start(model, input=input, usage=usage_members(input, cached, 1) if usage else None)
    block = {"index": 0, "content_block": {"type": "text", "text": ""}}
    steps: list[Step] = [Head(), start, event("content_block_start", block), PING]
    for _ in range(words):
        steps += [Wait(every), text(word)] if every else [text(word)]
    steps += [event("content_block_stop", {"index": 0})]
    steps += [message_delta(words if usage else None, stop_reason), event("message_stop")]
    headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    return Answer(tuple(steps), headers=headers, framing="chunked")


def message(
    words: int = 20,
    *,
    after: float = 0,
    word: str = "word ",
    input: int = 25,
    cached: int = 0,
    usage: bool = True,
    stop_reason: str = "end_turn",
    model: str = MODEL,
) -> Answer:
    """The whole message, `after` seconds. The name of its place is "message"."""
    said = {"usage": usage_members(input, cached, words)} if usage else {}
    content = [{"type": "text", "text": word * words}]
    body = {**message_members(model), "content": content, "stop_reason": stop_reason, **said}
    wait = (Wait(after),) if after else ()
    return Answer((*wait, Head(), Data(to_json(body), "message", input, words)), headers=JSON)


def error(status: int, *, retry_after: str | None = None, message: str = "It did not work.") -> Answer:
    """An error with the type that belongs to its status."""
    answer = Answer((Head(),), status, headers=JSON)
    body = {**error_members(ERROR_TYPES.get(status, "api_error"), message), "request_id": answer.request_id}
    answer = replace(answer, steps=(Head(), Data(to_json(body), "error")))
    return answer if retry_after is None else answer.with_headers(retry_after=retry_after)


def html(status: int) -> Answer:
    """A page of something on the way."""
    body = Data(b"<html><body><h1>Bad gateway</h1></body></html>", "html")
    return Answer((Head(), body), status, headers={"content-type": "text/html; charset=UTF-8"})


def redirect(url: str, status: int = 307) -> Answer:
    """To the same path elsewhere."""
    return Answer((Head(),), status, headers={"location": f"{url}/v1/messages"})


def _split(step: Step, size: int) -> Iterator[Step]:
    if not isinstance(step, Data):
        yield step
        return
    ends = [*range(0, len(step.data), size), len(step.data)]
    for start, end in pairwise(ends):
        last = end == len(step.data)
        yield replace(step, data=step.data[start:end]) if last else Data(step.data[start:end])

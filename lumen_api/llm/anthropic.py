"""Anthropic's Messages API: https://docs.anthropic.com/en/api/messages, /streaming and /errors."""

from __future__ import annotations

import json
import re
import select
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from time import monotonic
from typing import Any

from lumen_api.llm.errors import (
    KeyRefused,
    ProviderError,
    ProviderOverloaded,
    ProviderRejected,
    ProviderTimeout,
    Unanswered,
)
from lumen_api.llm.http import Connection, Head, Origin
from lumen_api.llm.provider import COMMENT, SILENCE, Account, Chunks, Pause
from lumen_api.llm.request import Request
from lumen_api.llm.sse import Event, Splitter
from lumen_api.llm.watch import Watch

VERSION = "2023-06-01"
PAUSE = 0.5  # seconds before the second try
MAX_ANSWER = 8 * 1024 * 1024  # bytes of an answer that is not streamed
MAX_HELD = 64 * 1024  # bytes before the content


# What an error is called where its status cannot say it: in an answer that began with 200.
_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
# What the API answers with. Anything else comes from something in between, and has cost nothing.
_KINDS = ("application/json", "text/event-stream")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# With one of these the answer itself has begun: before, an overload is as good as one that came with a status.
_CONTENT = ("content_block_", "message_delta", "message_stop")

# What most events are, read without building objects: the text, with JSON's escapes.
_DELTA = re.compile(rb'"delta": ?\{"type": ?"\w+", ?"\w+": ?"([^"\\]*(?:\\.[^"\\]*)*)"\}')


class Anthropic:
    """See provider.Provider."""

    name = "anthropic"

    def __init__(self, key: str, *, url: str, idle_timeout: timedelta) -> None:
        """`idle_timeout`: how long the provider may say nothing at all."""
        self._origin = Origin(url)
        self._idle = idle_timeout.total_seconds()
        self._headers = {
            "host": self._origin.host,
            "x-api-key": key,
            "anthropic-version": VERSION,
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": "lumen-api",
        }

    def send(self, request: Request, watch: Watch, account: Account) -> bytes:
        """See Provider.send()."""
        try:
            return self._send(request, watch, account)
        except ProviderError as error:
            if not error.again:
                raise
        watch.pause(PAUSE)
        return self._send(request, watch, account)

    def stream(self, request: Request, watch: Watch, account: Account) -> Chunks:
        """See Provider.stream()."""
        try:
            yield from self._stream(request, watch, account)
            return
        except ProviderError as error:
            if account.begun or not error.again:
                raise
        watch.pause(PAUSE)
        yield from self._stream(request, watch, account)

    def close(self) -> None:
        """See Provider.close()."""
        self._origin.close()

    def _send(self, request: Request, watch: Watch, account: Account) -> bytes:
        with self._asked(request, watch, account) as connection:
            body = bytearray()
            for part in self._parts(connection):
                if isinstance(part, Head):
                    _check(part, "application/json", account)
                elif isinstance(part, Pause):
                    watch.wait(connection.sock, select.POLLIN, part.seconds)
                else:
                    body += part or b""
                if len(body) > MAX_ANSWER:
                    raise ProviderError
            message = _json(body)
            if message.get("type") != "message":
                raise _error(message, account)
            account.read(message.get("usage"), final=True)
            account.last.complete = True
            return bytes(body)

    def _stream(self, request: Request, watch: Watch, account: Account) -> Chunks:
        splitter = Splitter()
        with self._asked(request, watch, account) as connection:
            try:
                yield from self._events(connection, splitter, watch, account)
            except GeneratorExit:  # whoever reads the stream has ended it
                for data in connection.rest():
                    for event in splitter.feed(data):
                        _count(event, account)
                raise

    def _events(self, connection: Connection, splitter: Splitter, watch: Watch, account: Account) -> Chunks:
        held = b""
        for part in self._parts(connection):
            if isinstance(part, Head):
                _check(part, "text/event-stream", account)
            elif isinstance(part, Pause):
                yield part
            elif part is None and splitter.between:
                account.begun = True
                yield held + COMMENT
                held = b""
            else:
                passed, error = _passed(splitter.feed(part or b""), account)
                held += passed
                if held and (account.begun or len(held) > MAX_HELD):
                    account.begun = True
                    yield held
                    held = b""
                if error is not None:
                    raise error
                if account.last.complete:
                    connection.finish(watch)
                    return
        raise ProviderError

    def _parts(self, connection: Connection) -> Iterator[Head | bytes | Pause | None]:
        """The head, and the body as it comes, with the pauses in between; None for every SILENCE seconds."""
        heard = told = monotonic()
        while (part := connection.next()) != b"":
            now = monotonic()
            if part is not None:
                heard = told = now
                yield part
            elif connection.decrypted():
                connection.read()
            elif now >= heard + self._idle:
                raise ProviderTimeout
            elif now >= told + SILENCE:
                told = now
                yield None
                connection.read()
            else:
                yield Pause(connection.sock, min(heard + self._idle, told + SILENCE) - now)
                connection.read()

    @contextmanager
    def _asked(self, request: Request, watch: Watch, account: Account) -> Iterator[Connection]:
        """A connection that has the request."""
        connection = self._origin.connection(watch)
        try:
            account.begin()
            target = f"{self._origin.path}/v1/messages"
            headers = {**self._headers, "content-length": str(request.size), "x-request-id": request.id}
            connection.request(target, headers, request.content, watch, seconds=self._idle)
            yield connection
        except Unanswered:
            account.refused()
            raise
        finally:
            watch.forget()
            self._origin.put_back(connection)


def _check(head: Head, content_type: str, account: Account) -> None:
    """Raise what an answer means that is not the one we asked for."""
    request_id = head.headers.get("request-id", "")
    account.request_id = request_id if _REQUEST_ID.fullmatch(request_id) else None
    kind = head.headers.get("content-type", "").partition(";")[0].strip().lower()
    if head.status != 200 or kind not in _KINDS:
        account.refused()
        raise _failure(head.status, head.headers.get("retry-after", ""))
    if kind != content_type or head.headers.get("content-encoding", "identity") != "identity":
        account.unreadable()
        raise ProviderError


def _failure(status: int, retry_after: str = "") -> ProviderError:
    seconds = int(retry_after) if re.fullmatch(r"[0-9]{1,5}", retry_after) else None
    match status:
        case 400 | 413:
            return ProviderRejected()
        case 401 | 403:
            return KeyRefused()
        case 429:
            return ProviderOverloaded(seconds)
        case 529:
            return ProviderOverloaded(seconds, again=True)
    return ProviderError()


def _error(message: dict[str, Any], account: Account) -> ProviderError:
    """What an error means that comes with status 200: nothing has been done if it comes first."""
    error = message.get("error")
    if message.get("type") == "error" and account.last.input is None:
        account.refused()
    kind = error.get("type") if isinstance(error, dict) else None
    return _failure(_STATUS_OF.get(kind, 500) if isinstance(kind, str) else 500)


def _passed(events: Iterator[Event], account: Account) -> tuple[bytes, ProviderError | None]:
    """The events to pass on, as they came, and the error that ends them, if there is one."""
    passed = b""
    for event in events:
        kind = _count(event, account)
        if kind == "error":
            return passed, _error(_json(event.data), account)
        account.begun = account.begun or kind.startswith(_CONTENT)
        passed += event.raw
    return passed, None


def _count(event: Event, account: Account) -> str:
    """Take over what an event says about tokens. Returns its type."""
    if event.type == "content_block_delta" and (text := _DELTA.search(event.raw)):
        account.last.text_bytes += text.end(1) - text.start(1)
        return event.type
    if not event.whole:  # a part of one that is too long to be read
        account.last.text_bytes += len(event.raw)
        return event.type or "error"
    return _count_in(_json(event.data), account) or event.type


def _count_in(message: dict[str, Any], account: Account) -> str:
    """The same for what an event's data says. Returns "error" for an error, and else nothing."""
    match message:
        case {"type": "message_start", "message": {"usage": usage}}:
            account.read(usage, final=False)
        case {"type": "message_delta", "usage": usage}:
            account.read(usage, final=True)
        case {"type": "content_block_start", "content_block": dict(block)}:
            account.last.text_bytes += _text_bytes(block)
        case {"type": "content_block_delta", "delta": dict(delta)}:
            account.last.text_bytes += _text_bytes(delta)
        case {"type": "message_stop"}:
            account.last.complete = True
        case {"type": "error"}:
            return "error"
    return ""


def _text_bytes(part: dict[str, Any]) -> int:
    """Bytes of what the model wrote: text, or whatever else it may write one day."""
    return sum(
        len(value.encode(errors="surrogatepass"))
        for name, value in part.items()
        if name != "type" and isinstance(value, str)
    )


def _json(data: bytes | bytearray | None) -> dict[str, Any]:
    """The object that `data` is, or an empty one."""
    try:
        value = json.loads(data) if data else None
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {}

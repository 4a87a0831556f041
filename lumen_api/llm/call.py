"""One call of the model: it is carried to its end, and then settled, once, however it ends."""

from __future__ import annotations

import errno
import json
import select
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from flask import Response

from lumen_api.errors import ApiError, InternalError, body_of
from lumen_api.llm.errors import ClientGone, ProviderError
from lumen_api.llm.provider import Account, Chunks, Pause, Provider
from lumen_api.llm.pump import Flow, Outlet, Pump
from lumen_api.llm.report import Report
from lumen_api.llm.request import Request
from lumen_api.llm.watch import NOTHING, Watch

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Stream(Response):
    """A response that keeps what WSGI has for writing to its client at any time (PEP 3333, "the write() callable")."""

    write: Callable[[bytes], object]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """See WSGI."""
        body, status, headers = self.get_wsgi_response(environ)
        self.write = start_response(status, headers)
        return body


@dataclass(frozen=True)
class Means:
    """What a call works with. `settle` takes the tokens that were used; `release` is called at the end of all."""

    provider: Provider
    pump: Pump | None  # carries streams, where there is one
    settle: Callable[[int], None]
    release: Callable[[], None]


class Call:
    """No connection to the database is held while the provider works."""

    def __init__(self, request: Request, watch: Watch, means: Means) -> None:
        """The request has been admitted, and its tokens are reserved."""
        self._request = request
        self._watch = watch
        self._provider, self._pump, self._settle_with = means.provider, means.pump, means.settle
        self._account = Account(request)
        self._outlet = Outlet(watch)
        self._report = Report(request, means.provider.name)
        self._settled = self._ended = False
        self._charged: int | None = None
        # What is left to do at the end, last things first.
        self._ending = ExitStack()
        self._ending.callback(means.release)
        self._ending.callback(self._settle)

    def whole(self) -> Response:
        """The answer as one JSON document."""
        try:
            body = self._provider.send(self._request, self._watch, self._account)
        except Exception as error:
            self._end(_as_api_error(error))
            raise
        self._end(None)
        return Response(body, content_type="application/json; charset=utf-8")

    def stream(self) -> Response:
        """The answer as server-sent events. What fails before the first one has a status of its own."""
        chunks = self._provider.stream(self._request, self._watch, self._account)
        self._ending.callback(chunks.close)
        try:
            first = self._first_of(chunks)
        except Exception as error:
            self._end(_as_api_error(error))
            raise
        self._report.first_bytes()
        self._request.forget()
        response = Stream(content_type="text/event-stream")
        response.headers["X-Accel-Buffering"] = "no"  # nginx would collect the events
        response.response = self._relay(response, first, chunks)
        response.call_on_close(self._closed)
        return response

    def _first_of(self, chunks: Chunks) -> bytes:
        for item in chunks:
            if isinstance(item, bytes):
                return item
            self._wait(item)
        raise ProviderError

    def _relay(self, response: Stream, first: bytes, rest: Chunks) -> Iterator[bytes]:
        error: ApiError | None = None
        try:
            for item in chain((first,), rest):
                yield from self._pieces(item if isinstance(item, bytes) else self._carried(response, item, rest))
        except Exception as failure:
            # An answer that has come to its end has succeeded, whatever happens then.
            error = None if self._account.last.complete else _as_api_error(failure)
            if isinstance(error, InternalError):
                self._report.unexpected(failure)
        self._end(error)
        if error is None:
            return
        if isinstance(error, ClientGone) or not self._watch.client_reads():
            self._watch.hang_up()
            # To the server this is what it would have met when writing.
            raise ConnectionResetError(errno.ECONNRESET, "the call is over")
        envelope = json.dumps(body_of(error, self._request.id), separators=(",", ":"))
        yield f"event: error\ndata: {envelope}\n\n".encode()

    def _pieces(self, chunk: bytes) -> Iterator[bytes]:
        if self._account.last.complete:
            self._settle()  # whoever has seen the last event sees it in the usage
        self._outlet.unsent = chunk
        while piece := self._outlet.next(wait=True):
            yield piece

    def _carried(self, response: Stream, pause: Pause, chunks: Chunks) -> bytes:
        """Wait, or let the pump do it, and all that follows but the end of the answer, which is returned."""
        if self._pump is None or self._watch.client_descriptor == NOTHING or pause.sock is None:
            self._wait(pause)
            return b""
        return self._pump.carry(Flow(chunks, self._account, self._watch, self._outlet, response.write), pause)

    def _wait(self, pause: Pause) -> None:
        if pause.sock is None:
            self._watch.pause(pause.seconds)
        else:
            self._watch.wait(pause.sock, select.POLLIN, pause.seconds)

    def _closed(self) -> None:
        """The server has written the last byte, or could not."""
        self._end(None if self._account.last.complete else ClientGone())

    def _end(self, error: ApiError | None) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            self._ending.close()
        finally:
            self._report.end(self._account, error, charged=self._charged)

    def _settle(self) -> None:
        if self._settled:
            return
        self._settled = True
        charged = self._account.charged
        try:
            with self._report.inside():
                self._settle_with(charged)
        except Exception as error:
            # The reservation stays, charged in full. The log shows it by a missing count.
            if not isinstance(error, ApiError):
                self._report.unexpected(error)
            return
        self._charged = charged


def _as_api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    answer = InternalError()
    answer.__cause__ = error
    return answer

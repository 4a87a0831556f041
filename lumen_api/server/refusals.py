"""Answers of the worker itself, for which no thread is free or none shall be taken.

They are made in the main thread, beside others that all want Python's lock. So nothing here gives it up (urandom would,
and a log line): under load the main thread would wait for it again, in every refusal.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, deque
from http import HTTPStatus

from flask import Flask
from gunicorn.util import http_date

from lumen_api import headers, origins, request_ids
from lumen_api.errors import ApiError, body_of
from lumen_api.observability import metrics
from lumen_api.observability.logging import log_event
from lumen_api.server.framing import Head

_ORIGIN = re.compile(rb"\r\norigin:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nx-request-id:[ \t]*([!-~]+)[ \t]*\r\n", re.IGNORECASE)


class RequestTimeout(ApiError):
    status, code, message = 408, "request_timeout", "The request took too long to arrive."


class HeadersTooLarge(ApiError):
    status, code, message = 431, "headers_too_large", "The headers are too large."


class Refusals:
    """Makes the answers, and counts them until they are logged."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._headers = headers.of(app)
        self._unlogged: deque[type[ApiError]] = deque()  # safe for threads

    def answer(self, error: ApiError, head: Head | None, *, close: bool) -> bytes:
        """`error` as an HTTP response. `close`: whether the connection ends with it."""
        self._unlogged.append(type(error))
        failure = type(error).__name__ if error.status >= 500 else None
        metrics.REQUEST_DURATION.record(0.0, "_OTHER", "http", None, error.status, failure)
        lines = head.lines if head else b""
        given = _REQUEST_ID.search(lines)
        request_id = request_ids.chosen_or_new(given[1].decode() if given else "")
        body = json.dumps(body_of(error, request_id), separators=(",", ":")).encode()
        sent = {
            "Date": http_date(),
            "Connection": "close" if close else "keep-alive",
            "Content-Type": "application/json; charset=utf-8",
            "Content-Length": len(body),
            "X-Request-Id": request_id,
            **self._headers,
        }
        if error.retry_after is not None:
            sent["Retry-After"] = error.retry_after
        if origin := _ORIGIN.search(lines):
            sent |= origins.headers_for(self._app, origin[1].decode())
        start = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
        return (start + "".join(f"{name}: {value}\r\n" for name, value in sent.items()) + "\r\n").encode() + body

    def log(self) -> None:
        """Write how many there were since the last time, by their reason."""
        for error, count in Counter(self._unlogged.popleft() for _ in range(len(self._unlogged))).items():
            level = logging.ERROR if error.status >= 500 else logging.INFO
            log_event("refused", level, status=error.status, error_code=error.code, count=count)

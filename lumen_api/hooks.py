"""The pair of request hooks: a request id on the way in; its header, one log line and one measurement on the way out.

Registered before everything else, so that the first hook runs first and the second sees the final answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

from flask import Flask, Response, g, request
from flask.globals import request_ctx

from lumen_api import request_ids
from lumen_api.errors import ApiError
from lumen_api.observability import metrics, tracing
from lumen_api.observability.logging import current_ids, log_event

# RFC 9110 and RFC 5789. Any other word is the caller's own (OpenTelemetry: http.request.method).
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})


def init_app(app: Flask) -> None:
    """Install the pair."""
    app.before_request(open_request)
    app.after_request(close_request)


def open_request() -> None:
    """Name the request and start its clock. An unknown address or method ends here, before any other check."""
    g.request_id = request_ids.chosen_or_new(request.headers.get("X-Request-Id", ""))
    g.started = perf_counter()
    if request.routing_exception is not None:
        raise request.routing_exception


def close_request(response: Response) -> Response:
    """Tell the caller the request's id, and report the request when its answer has ended."""
    response.headers["X-Request-Id"] = g.request_id
    report = _report(response.status_code)
    if response.is_streamed:
        response.direct_passthrough = False  # or the server closes a file and not the response
        response.call_on_close(report)
    else:
        report()
    return response


def _report(status: int) -> Callable[[], None]:
    """Describe the request in its span, and return what logs and measures it: a stream ends after its request."""
    # Not by their names, which look for the current one each time. A stream outlives its request's context.
    asked, state = request_ctx.request, g._get_current_object()
    method = asked.method if asked.method in _METHODS else "_OTHER"
    route = asked.url_rule.rule if asked.url_rule else None
    error_class, _ = _names(state.get("error"))
    failure = error_class if status >= 500 else None
    tracing.describe(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "error.type": failure,
        }
    )
    started, scheme, ids = state.started, asked.scheme, current_ids()

    def report() -> None:
        seconds = perf_counter() - started
        error_class, error_code = _names(state.get("error"))
        metrics.REQUEST_DURATION.record(seconds, method, scheme, route, status, failure)
        log_event(
            "request",
            _level(status, route or ""),
            **ids,
            method=method,
            route=route or "unmatched",
            status=status,
            latency_ms=round(seconds * 1000, 3),
            error_class=error_class,
            error_code=error_code,
        )

    return report


def _names(error: ApiError | None) -> tuple[str | None, str | None]:
    """The class of an error's cause, and the code that the caller got."""
    return (type(error.__cause__ or error).__name__, error.code) if error else (None, None)


def _level(status: int, route: str) -> int:
    if status >= 500:
        return logging.ERROR
    return logging.DEBUG if route.startswith("/v1/health") else logging.INFO

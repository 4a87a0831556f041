"""The calls of a process: how many there may be, and what each has to set aside before it begins."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from datetime import timedelta

from flask import Flask, Response, current_app
from flask import request as http_request

from lumen_api import db
from lumen_api.errors import Busy
from lumen_api.llm import policy
from lumen_api.llm.call import Call, Means
from lumen_api.llm.errors import LlmNotConfigured, ModelNotAllowed, QuotaExceeded, TooManyStreams
from lumen_api.llm.policy import Limits, Rule, Usage
from lumen_api.llm.provider import Provider
from lumen_api.llm.pump import AVAILABLE, Pump
from lumen_api.llm.request import InvalidRequest, Request
from lumen_api.llm.watch import Stop, Watch
from lumen_api.observability import metrics
from lumen_api.repositories import llm_usage
from lumen_api.repositories.llm_usage import Budget

# Of a reservation beyond the call's own time: for settling it.
SLACK = timedelta(minutes=1)


class Calls:
    """The calls of one process: who answers them, and how many there may be at once."""

    def __init__(self, provider: Provider | None, limits: Limits, *, at_once: int, timeout: timedelta) -> None:
        """`provider`: None where no model is configured. `timeout`: of a whole call."""
        self._provider = provider
        self.limits = limits
        self._slots = threading.BoundedSemaphore(at_once)
        self._timeout = timeout
        self._pump = Pump() if AVAILABLE else None
        self.stop = Stop()

    def close(self) -> None:
        """Nothing is asked any more."""
        self.stop.close()
        if self._pump is not None:
            self._pump.close()
        if self._provider is not None:
            self._provider.close()

    def answer(self, request: Request, *, user_id: str) -> Response:
        """The provider's answer. Raises ApiErrors of errors.py, Busy and DatabaseUnavailable."""
        tokens = policy.estimate(request.size, request.max_tokens)
        match policy.refusal(request.model, tokens, policy.NOTHING, self.limits):
            case Rule.MODEL:
                raise ModelNotAllowed
            case Rule.DAILY_TOKENS | Rule.TOTAL_DAILY_TOKENS:
                raise InvalidRequest("max_tokens", "and the messages are together more than a whole day's budget")
        if self._provider is None:
            raise LlmNotConfigured
        watch = Watch(_client(), self.stop, seconds=self._timeout.total_seconds())
        if not self._slots.acquire(blocking=False):
            raise Busy
        try:
            settle = self._reserve(request, tokens, user_id)
        except BaseException:
            self._slots.release()
            raise
        call = Call(request, watch, Means(self._provider, self._pump, settle, self._slots.release))
        return call.stream() if request.stream else call.whole()

    def _reserve(self, request: Request, tokens: int, user_id: str) -> Callable[[int], None]:
        """Reserve `tokens`. Returns what replaces them by those that were used."""
        database = db.current()
        with database.connection() as conn:
            reserved = llm_usage.reserve(
                conn,
                user_id=user_id,
                tokens=tokens,
                budget=Budget(self.limits.daily_tokens, self.limits.total_daily_tokens, self.limits.calls_at_once),
                lifetime=self._timeout + SLACK,
            )
        if reserved.reservation_id is None:
            usage = Usage(tokens=reserved.tokens, total_tokens=reserved.total_tokens, calls=reserved.calls)
            rule = policy.refusal(request.model, tokens, usage, self.limits) or Rule.TOTAL_DAILY_TOKENS
            metrics.REFUSALS.record(1, rule.value)
            raise TooManyStreams if rule == Rule.CALLS_AT_ONCE else QuotaExceeded(reserved.resets_in)
        reservation_id = reserved.reservation_id

        def settle(used: int) -> None:
            with database.connection() as conn:
                llm_usage.settle(conn, user_id=user_id, reservation_id=reservation_id, tokens=used)

        return settle


def _client() -> socket.socket | None:
    """The connection to the client. gunicorn and the development server hand it on; WSGI knows of none."""
    environ = http_request.environ
    sock: socket.socket | None = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    return sock


def init_app(app: Flask, calls: Calls) -> None:
    """Make `calls` the current app's."""
    app.extensions["lumen.model_calls"] = calls


def current() -> Calls:
    """The current app's."""
    calls: Calls = current_app.extensions["lumen.model_calls"]
    return calls

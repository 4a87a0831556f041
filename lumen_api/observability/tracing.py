"""Spans: what a request was made of, and how long each part took.

Nothing of OpenTelemetry is imported here. Until telemetry.start() has set `backend`, which it does only where a
collector is configured, a span is nothing but a comparison.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Attributes = Mapping[str, str | int | None]  # None: it has none

# All that a span may say beside its name, times and status. What is not listed here never leaves the process,
# whoever has set it: the instrumentation of Flask, for one, knows the address, the user agent and the raw URL.
# https://opentelemetry.io/docs/specs/semconv/
ATTRIBUTES = frozenset(
    {
        "http.request.method",
        "http.route",
        "http.response.status_code",
        "error.type",
        "db.system.name",
        "lumen.email.provider",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.max_tokens",
        "gen_ai.request.model",
        "gen_ai.request.stream",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
    }
)


class Operation(Protocol):
    """A span that outlives its request."""

    def active(self) -> AbstractContextManager[object]:
        """Spans that are begun in this block are parts of it."""

    def end(self, attributes: Attributes, *, failed: bool) -> None:
        """It ends here."""


class Backend(Protocol):
    """What telemetry.py does for us."""

    def begin(self, name: str, attributes: Attributes) -> Operation:
        """A part of the current span that waits for another server."""

    def span(self, name: str, attributes: Attributes, *, client: bool) -> AbstractContextManager[object]:
        """A span for the length of a block."""

    def describe(self, attributes: Attributes) -> None:
        """Add attributes to the current span."""

    def trace_id(self) -> str | None:
        """The current trace's, or None outside of one."""

    def stop(self) -> None:
        """Send what is there, and nothing more."""


backend: Backend | None = None

_NO_SPAN = nullcontext()
_NO_ATTRIBUTES: Attributes = {}


def span(name: str, attributes: Attributes = _NO_ATTRIBUTES, *, client: bool = False) -> AbstractContextManager[object]:
    """A span for the length of a block. `name` is ours, never a caller's. `client`: it waits for another server."""
    return _NO_SPAN if backend is None else backend.span(name, attributes, client=client)


def traced(
    name: str, attributes: Attributes = _NO_ATTRIBUTES, *, client: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give every call of a function a span()."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if backend is None:
                return function(*args, **kwargs)
            with backend.span(name, attributes, client=client):
                return function(*args, **kwargs)

        return call

    return decorate


class _NoOperation:
    def active(self) -> AbstractContextManager[object]:
        return _NO_SPAN

    def end(self, attributes: Attributes, *, failed: bool) -> None:
        pass


def begin(name: str, attributes: Attributes) -> Operation:
    """A part of the current span that waits for another server, and may end after it."""
    return _NoOperation() if backend is None else backend.begin(name, attributes)


def describe(attributes: Attributes) -> None:
    """Add attributes to the current span."""
    if backend is not None:
        backend.describe(attributes)


def trace_id() -> str | None:
    """The current trace's, as 32 hex digits, or None."""
    return None if backend is None else backend.trace_id()


def stop() -> None:
    """Send the last spans and metrics, for some seconds at most. The process is about to end."""
    if backend is not None:
        backend.stop()

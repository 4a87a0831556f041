"""The headers of every answer. An answer that has said otherwise (a page's Content-Security-Policy) keeps its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from flask import Flask

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# OWASP, "REST Security Cheat Sheet". Answers are data: nothing in them may be run, framed or guessed at.
_ALWAYS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-site",
}
# RFC 6797: for two years, and for the hosts below this one too.
_HTTPS_ONLY = {"Strict-Transport-Security": "max-age=63072000; includeSubDomains"}

ErrorInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class Completed:
    """A WSGI application (PEP 3333) with these headers in its answers.

    It is around Flask and not a hook in it: no answer escapes, and Flask would check and copy each header every time.
    """

    def __init__(self, application: WSGIApplication, headers: dict[str, str]) -> None:
        self._application = application
        self._headers = [(name.lower(), (name, value)) for name, value in headers.items()]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """See WSGI."""

        def start(
            status: str, said: list[tuple[str, str]], error: ErrorInfo | None = None
        ) -> Callable[[bytes], object]:
            names = {name.lower() for name, _ in said}
            return start_response(status, said + [ours for name, ours in self._headers if name not in names], error)

        return self._application(environ, start)


def init_app(app: Flask, *, https: bool) -> None:
    """`https`: browsers shall never again call by plain http."""
    app.extensions["lumen.headers"] = headers = _ALWAYS | (_HTTPS_ONLY if https else {})
    app.wsgi_app = Completed(app.wsgi_app, headers)  # type: ignore[method-assign]  # as Flask documents it


def of(app: Flask) -> dict[str, str]:
    """Those of every answer of `app`."""
    headers: dict[str, str] = app.extensions["lumen.headers"]
    return headers

"""The headers of every answer. An answer that has said otherwise (a page's Content-Security-Policy) keeps its own."""

from __future__ import annotations

from flask import Flask, Response, current_app

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


def init_app(app: Flask, *, https: bool) -> None:
    """`https`: browsers shall never again call by plain http."""
    app.extensions["lumen.headers"] = _ALWAYS | (_HTTPS_ONLY if https else {})


def complete(response: Response) -> None:
    """Say in `response` what it has not said otherwise."""
    said = {name.lower() for name in response.headers.keys()}  # noqa: SIM118 - of a list of pairs
    response.headers.extend({name: value for name, value in of(current_app).items() if name.lower() not in said})


def of(app: Flask) -> dict[str, str]:
    """Those of every answer of `app`."""
    headers: dict[str, str] = app.extensions["lumen.headers"]
    return headers

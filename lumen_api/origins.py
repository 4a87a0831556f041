"""Which web pages may call: CORS for the allowed origins, and no change of state for any other page.

The allowed origins come from the configuration, never from `Host`: a caller chooses that header.
"""

from __future__ import annotations

import re

from flask import Flask, Response, request
from flask_cors.core import get_cors_options, set_cors_headers

from lumen_api.errors import OriginNotAllowed

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # RFC 9110, section 9.2.1
_EXPOSED = ["X-Request-Id", "Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
_OWN_PAGES = frozenset({"same-origin", "none"})  # W3C Fetch Metadata; "none": typed in or bookmarked


def init_app(app: Flask, allowed: frozenset[str]) -> None:
    """Let pages of the `allowed` origins call `app`, with credentials, and refuse state changes to all others."""
    # Once, and not with CORS(app), which looks for a rule for the path of every request.
    options = get_cors_options(
        app,
        {
            # Patterns, because Flask-CORS guesses from a string's characters whether it is one ("[" in an IPv6
            # address), and adds `Vary: Origin` only if there is more than one origin or a pattern.
            "origins": [re.compile(re.escape(origin) + r"\Z") for origin in sorted(allowed)],
            "supports_credentials": True,
            "methods": ["GET", "POST", "DELETE"],
            "allow_headers": ["Content-Type", "X-Request-Id", "traceparent"],
            "expose_headers": _EXPOSED,
            "max_age": 600,
            "always_send": False,
        },
    )

    @app.after_request
    def let_allowed_pages_read(response: Response) -> Response:
        return set_cors_headers(response, options) if "Origin" in request.headers else response

    app.extensions["lumen.origins"] = allowed

    @app.before_request
    def refuse_foreign_pages() -> None:
        """Stop cross-site request forgery (OWASP): the browser says on whose behalf it calls."""
        if request.method in _SAFE_METHODS:
            return
        origin = request.headers.get("Origin")
        if origin is not None:
            trusted = origin in allowed
        else:
            trusted = request.headers.get("Sec-Fetch-Site", "none") in _OWN_PAGES
        if not trusted:
            raise OriginNotAllowed


def headers_for(app: Flask, origin: str) -> dict[str, str]:
    """What lets a page of `origin` read an answer that is made outside `app`; nothing if it may not."""
    if origin not in app.extensions["lumen.origins"]:
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Credentials": "true",
        "Access-Control-Expose-Headers": ", ".join(sorted(_EXPOSED)),
        "Vary": "Origin",
    }

"""The contract for a reader: Swagger UI, which shows /v1/openapi.json. Only where API_DOCS says so."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, send_from_directory
from flask.typing import ResponseReturnValue

bp = Blueprint("docs", __name__, url_prefix="/docs")

_FOLDER = Path(__file__).parents[1] / "docs_viewer"

# Not from the machine's own tables, which differ.
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
}

# The viewer needs nothing from elsewhere, and no inline script or style.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


@bp.get("")
def page() -> ResponseReturnValue:
    """The page."""
    return file("index.html")


@bp.get("/<path:name>")
def file(name: str) -> ResponseReturnValue:
    """One of its files. Browsers keep it and ask by its ETag whether it is still the same."""
    kind = _TYPES.get(Path(name).suffix, "text/plain")
    return send_from_directory(_FOLDER, name, mimetype=kind)


@bp.after_request
def restrict(response: Response) -> Response:
    """Let the page load nothing but its own files and the document."""
    response.headers["Content-Security-Policy"] = _POLICY
    return response

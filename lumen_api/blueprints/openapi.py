"""The contract as a document: `openapi.yaml`, as JSON."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import yaml
from flask import Blueprint, Response
from flask.typing import ResponseReturnValue

try:
    from yaml import CSafeLoader as Loader  # ten times as fast
except ImportError:
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

bp = Blueprint("openapi", __name__, url_prefix="/v1")

_FILE = Path(__file__).parents[2] / "openapi.yaml"


@bp.get("/openapi.json")
def document() -> ResponseReturnValue:
    """OpenAPI 3.1."""
    return Response(_json(), content_type="application/json; charset=utf-8")


@functools.cache
def _json() -> bytes:
    # When it is first asked for: most processes are never asked.
    document = yaml.load(_FILE.read_bytes(), Loader)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()

"""Calls of the model on real sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPConnection

from tests.support.llm import ASKED
from tests.support.service import Service


def begin(service: Service, cookie: Mapping[str, str], **members: object) -> HTTPConnection:
    """Send a call on a connection of its own, and do not wait for the answer."""
    connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
    body = json.dumps({**ASKED, **members})
    connection.request("POST", "/v1/llm/messages", body, {**cookie, "Content-Type": "application/json"})
    return connection


def usage(service: Service, cookie: Mapping[str, str]) -> tuple[int, int]:
    """Tokens used, and reserved."""
    seen = service.call("GET", "/v1/llm/usage", headers=cookie).json
    return seen["used"], seen["reserved"]

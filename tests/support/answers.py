"""One request for each kind of answer that the service gives."""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask
from werkzeug.test import TestResponse

from tests.support.contract import JSON_ROUTES
from tests.support.journeys import HASH, OTHER_HASH, sign_in
from tests.support.mailbox import Mailbox

# Each takes `headers`, and can be sent again.
Asks = dict[str, Callable[..., TestResponse]]

CANARY = "zq7canary"
LINK, VERIFY = "/v1/auth/request-link", "/v1/auth/verify"


class Broken(Exception):
    """An error that nobody foresaw; its text must never get out."""


def break_(app: Flask) -> None:
    """Give `app`, before its first request, the route /v1/broken, which fails."""

    @app.get("/v1/broken")
    def broken() -> str:
        try:
            raise ValueError(f"{CANARY} cause")
        except ValueError as error:
            secret = f"{CANARY} argument"
            raise Broken(secret) from error


def asks_for_every_answer(make_app: Callable[..., Flask], mailbox: Mailbox) -> Asks:
    """Requests by the status that they are answered with, and what is special about them."""
    app = make_app()
    break_(app)
    client = app.test_client()
    sign_in(client, mailbox)
    client.post("/v1/sessions/end", json={"session_id": "ended", "transcript_hash": HASH})
    stranger, text = app.test_client(), "text/plain"
    limited = make_app(RATE_LIMIT_VERIFY_PER_IP="1/hour").test_client()
    limited.post(VERIFY, json={})
    homeless = make_app(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none").test_client()
    other = {"session_id": "ended", "transcript_hash": OTHER_HASH}
    foreign = {"Sec-Fetch-Site": "cross-site"}
    return {
        "200 of a GET": lambda **k: client.get("/v1/sessions", **k),
        "200 of a HEAD": lambda **k: client.head("/v1/sessions", **k),
        "200 of an OPTIONS": lambda **k: client.options("/v1/sessions", **k),
        "200 of a POST": lambda **k: stranger.post("/v1/auth/logout", **k),
        "200 of a health check": lambda **k: stranger.get("/v1/health", **k),
        "400": lambda **k: stranger.post(LINK, json={}, **k),
        "401": lambda **k: stranger.get("/v1/auth/session", **k),
        "403": lambda headers=None: stranger.post(LINK, json={}, headers={**(headers or {}), **foreign}),
        "404": lambda **k: stranger.get("/v1/nothing", **k),
        "404 of a HEAD": lambda **k: stranger.head("/v1/nothing", **k),
        "404 of an OPTIONS": lambda **k: stranger.options("/v1/nothing", **k),
        "405": lambda **k: stranger.put("/v1/health", **k),
        "409": lambda **k: client.post("/v1/sessions/end", json=other, **k),
        "413": lambda **k: stranger.post(LINK, data=b" " * 70_000, content_type="application/json", **k),
        "415": lambda **k: stranger.post(LINK, data=b"{}", content_type=text, **k),
        "429": lambda **k: limited.post(VERIFY, json={}, **k),
        "500": lambda **k: stranger.get("/v1/broken", **k),
        "503": lambda **k: homeless.post(LINK, json=JSON_ROUTES[LINK], **k),
        "503 of a readiness check": lambda **k: homeless.get("/v1/health/ready", **k),
    }

"""The routes that are measured, and their requests, which are made before each measurement."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

from bench.stand import Stand, new_links, new_sessions

# Requests made for each second of load, where none may be sent twice. A run that needs more fails, and says so.
PER_SECOND = 8000


@dataclass(frozen=True)
class Request:
    """One request; `body` is JSON, or nothing."""

    method: str
    path: str
    cookie: str = ""
    body: str = ""


@dataclass(frozen=True)
class Route:
    """One route. `goal`: how many requests per second it shall answer, as a part of what `variants[-2]` answers."""

    name: str
    goal: float
    make: Callable[[Stand, int], list[Request]]
    once: bool = False  # no request may be sent twice
    variants: tuple[str, ...] = ("floor", "service")

    @property
    def base(self) -> str:
        """The variant that is the limit."""
        return self.variants[-2]


def _health(_: Stand, __: int) -> list[Request]:
    return [Request("GET", "/v1/health")]


def _session(stand: Stand, _: int) -> list[Request]:
    return [Request("GET", "/v1/auth/session", cookie) for cookie in stand.cookies]


def _list(stand: Stand, _: int) -> list[Request]:
    return [Request("GET", "/v1/sessions", cookie) for cookie in stand.cookies]


def _request_link(_: Stand, count: int) -> list[Request]:
    bodies = (json.dumps({"email": f"guest-{number}@example.com"}) for number in range(count))
    return [Request("POST", "/v1/auth/request-link", body=body) for body in bodies]


def _verify(stand: Stand, count: int) -> list[Request]:
    bodies = (json.dumps({"token": token}) for token in new_links(stand, count))
    return [Request("POST", "/v1/auth/verify", body=body) for body in bodies]


def _start(stand: Stand, count: int) -> list[Request]:
    cookies = stand.cookies
    return [
        Request("POST", "/v1/sessions/start", cookies[number % len(cookies)], json.dumps({"session_id": str(uuid4())}))
        for number in range(count)
    ]


def _end(stand: Stand, count: int) -> list[Request]:
    return [
        Request(
            "POST", "/v1/sessions/end", cookie, json.dumps({"session_id": session_id, "transcript_hash": "0f" * 32})
        )
        for cookie, session_id in new_sessions(stand, count)
    ]


ROUTES = (
    Route("health", 0.85, _health, variants=("wsgi", "flask", "service")),
    Route("session", 0.80, _session),
    Route("request-link", 0.60, _request_link),
    Route("verify", 0.80, _verify, once=True),
    Route("start", 0.80, _start, once=True),
    Route("end", 0.80, _end, once=True),
    Route("list", 0.80, _list),
)

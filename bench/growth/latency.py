"""How long each route takes (p50) on an almost empty database and on a large one, in turns: one request to each.

Two services ask the almost empty one, each for its own people: how far those two differ is the noise.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Any
from uuid import uuid4

from bench.growth.load import Loaded
from bench.growth.rows import SECRET, Person
from bench.llm.service import COOKIE, PLENTY, Proxy

Request = tuple[str, str, Any]
HASH = "0" * 64


def _end(who: Person) -> Request:
    return "POST", "/v1/sessions/end", {"session_id": f"measured-{who.user_id}", "transcript_hash": HASH}


# In this order: what one has made is the next one's.
ROUTES: dict[str, Callable[[Person], Request]] = {
    "health": lambda _: ("GET", "/v1/health", None),
    "session": lambda _: ("GET", "/v1/auth/session", None),
    "start": lambda who: ("POST", "/v1/sessions/start", {"session_id": f"measured-{who.user_id}"}),
    "end": _end,
    "list": lambda _: ("GET", "/v1/sessions", None),
    "usage": lambda _: ("GET", "/v1/llm/usage", None),
    "export": lambda _: ("GET", "/v1/account", None),
    "request-link": lambda who: ("POST", "/v1/auth/request-link", {"email": who.email}),
    "verify": lambda who: ("POST", "/v1/auth/verify", {"token": who.link.text}),
}


@dataclass(frozen=True)
class Asked:
    """A service, a connection to it, and for whom it is asked."""

    connection: HTTPConnection
    people: list[Person]

    def time_of(self, request: Request, who: Person) -> float:
        """Milliseconds until the answer, which must be a good one."""
        method, path, body = request
        data = None if body is None else json.dumps(body)
        headers = {"Cookie": f"{COOKIE}={who.cookie.text}", "Content-Type": "application/json"}
        start = perf_counter()
        self.connection.request(method, path, data, headers)
        response = self.connection.getresponse()
        text = response.read()
        took = (perf_counter() - start) * 1000
        assert response.status == 200, (path, response.status, text)
        return took


def environment(url: str, redis_url: str, smtp_url: str) -> dict[str, str]:
    """The service's, on this database."""
    limits = ("LINK_PER_IP", "LINK_PER_EMAIL", "VERIFY_PER_IP", "PER_USER")
    return {
        "APP_ENV": "test",
        "DATABASE_URL": url,
        "REDIS_URL": redis_url,
        "SMTP_URL": smtp_url,
        "EMAIL_FROM": "Lumen <hello@example.com>",
        "AUTH_TOKEN_SECRETS": SECRET,
        "WEB_ORIGINS": "https://app.example.com",
        "LLM_PROVIDER_KEY": "sk-ant-bench",
        **{f"RATE_LIMIT_{name}": PLENTY for name in limits},
    }


@contextmanager
def serving(env: dict[str, str], folder: Path) -> Iterator[int]:
    """One gunicorn worker with our gunicorn.conf.py: its port."""
    service = Proxy(env, folder, workers=1)
    try:
        yield service.start().port
    finally:
        service.leave()


def in_turns(services: dict[str, Asked], route: Callable[[Person], Request], requests: int) -> dict[str, list[float]]:
    """One request to each service after the other, every time beginning with another one."""
    took: dict[str, list[float]] = {name: [] for name in services}
    names = list(services)
    for number in range(requests):
        for name in islice(cycle(names), number % len(names), number % len(names) + len(names)):
            asked = services[name]
            who = asked.people[number % len(asked.people)]
            took[name].append(asked.time_of(route(who), who))
    return took


def measured(small: Loaded, large: Loaded, environments: dict[str, dict[str, str]], folder: Path) -> dict[str, Any]:
    """Every route, for each regular of the large database once."""
    half = len(small.regulars) // 2
    people = {"empty": small.regulars[:half], "again": small.regulars[half:], "large": large.regulars[:half]}
    with ExitStack() as stack:
        services = {}
        for name, whose in people.items():
            env = environments["large" if name == "large" else "small"]
            port = stack.enter_context(serving(env, folder))
            connection = stack.enter_context(closing(HTTPConnection("127.0.0.1", port, timeout=10)))
            services[name] = Asked(connection, whose)
        in_turns(services, ROUTES["session"], 40)
        return {name: _figures(in_turns(services, route, half)) for name, route in ROUTES.items()}


def _figures(took: dict[str, list[float]], rounds: int = 5) -> dict[str, Any]:
    """Medians in milliseconds, their ratios, and the least and largest ratio of so many parts of the run."""
    p50 = {name: statistics.median(values) for name, values in took.items()}

    def ratio(name: str) -> list[float]:
        parts = [
            statistics.median(took[name][part::rounds]) / statistics.median(took["empty"][part::rounds])
            for part in range(rounds)
        ]
        return [p50[name] / p50["empty"], min(parts), max(parts)]

    return {"p50": p50, "large": ratio("large"), "again": ratio("again")}


def ends_of_a_list(large: Loaded, env: dict[str, str], folder: Path, requests: int) -> dict[str, float]:
    """p50 of the first and of the last page of the longest list, in turns. "again" is the first page once more."""
    who = large.heavies[0]
    with serving(env, folder) as port, closing(HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        asked = Asked(connection, [who])
        last = _last_cursor(asked, who)
        pages = {"first": "", "last": f"?cursor={last}", "again": ""}
        took: dict[str, list[float]] = {name: [] for name in pages}
        for number in range(requests):
            for name in islice(cycle(pages), number % 3, number % 3 + 3):
                took[name].append(asked.time_of(("GET", f"/v1/sessions{pages[name]}", None), who))
    return {name: statistics.median(values) for name, values in took.items()}


def _last_cursor(asked: Asked, who: Person) -> str:
    """Where the last full page begins."""
    cursor = ""
    while True:
        headers = {"Cookie": f"{COOKIE}={who.cookie.text}"}
        asked.connection.request("GET", f"/v1/sessions{cursor and f'?cursor={cursor}'}", headers=headers)
        page = json.loads(asked.connection.getresponse().read())
        if page["next_cursor"] is None:
            return cursor
        cursor = page["next_cursor"]


def new_session(_: Person) -> Request:
    """A start that writes a new row."""
    return "POST", "/v1/sessions/start", {"session_id": str(uuid4())}

"""Four times as many requests as the service can answer: it answers as many as before, and refuses the rest at once.

One worker. The machine of the tests may have two processors only, which load generator, PostgreSQL and Valkey share
with the service. One worker is limited by its interpreter's lock, to a processor at most, so that it is the service
that has too much to do and not the generator. What the generator needs, and could make, is among the figures.

Capacity is what sixteen callers get in a closed loop, a moment before; what good answers are compared with is its mean
with the one a moment after, because neighbours of the machine come and go. The arrivals do not wait for answers.

"Kept connections" is what a balancer does. Where each request has a connection of its own the main thread has six times
as much to do for each, and at four times the capacity requests wait in the kernel's queue first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import uuid4

import pytest

from tests.conftest import ORIGIN, SECRET
from tests.support import databases, open_loop
from tests.support.mailbox import Mailbox
from tests.support.open_loop import Measured, Seen, Stream, p99, percentile
from tests.support.service import Service
from tests.support.valkey import Valkey

pytestmark = pytest.mark.faults

Record = Callable[[str, object], None]

TIMES = 4
ROUTE = "GET /v1/auth/session"
LIMITLESS = "100000000/minute"
FAST = {"kept": 0.5, "new": 2.5}  # seconds
SHARE = {"kept": 0.8, "new": 0.6}  # of the capacity
FLAT = 20_000_000  # bytes


@dataclass(frozen=True)
class Overload:
    """What was measured of one service, phase by phase, and its worker's memory before and after the overload."""

    capacity: float  # good answers per second
    overload: Measured
    afterwards: float
    connections: str
    memory: tuple[int, int]  # bytes

    @property
    def settled(self) -> float:
        """The capacity, before and after."""
        return (self.capacity + self.afterwards) / 2

    @property
    def fast(self) -> float:
        """How long nothing but an answer may take, in seconds."""
        return FAST[self.connections]

    @property
    def users(self) -> Seen:
        return self.overload.streams["users"]

    @property
    def health(self) -> Seen:
        return self.overload.streams["health"]


@pytest.fixture(scope="module")
def served(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """The service with one worker and without limits, and the header that says who asks."""
    folder = tmp_path_factory.mktemp("overload")
    with ExitStack() as stack:
        valkey, mailbox = Valkey(folder), stack.enter_context(Mailbox())
        stack.callback(valkey.kill)
        limits = ("LINK_PER_IP", "LINK_PER_EMAIL", "VERIFY_PER_IP", "PER_USER")
        env = {
            "APP_ENV": "test",
            "DATABASE_URL": databases.create(postgres, f"overload_{uuid4().hex}"),
            "REDIS_URL": valkey.start().url,
            "SMTP_URL": mailbox.url,
            "EMAIL_FROM": "Lumen <hello@example.com>",
            "AUTH_TOKEN_SECRETS": SECRET,
            "WEB_ORIGINS": ORIGIN,
            **{f"RATE_LIMIT_{name}": LIMITLESS for name in limits},
        }
        service = stack.enter_context(Service(env, folder, workers=1))
        service.call("POST", "/v1/auth/request-link", {"email": "ada@example.com"})
        token = mailbox.token_for("ada@example.com")
        yield service, f"Cookie: {service.call('POST', '/v1/auth/verify', {'token': token}).cookie}"


@pytest.fixture(scope="module", params=[False, True], ids=["kept connections", "new connections"])
def seen(served: tuple[Service, str], request: pytest.FixtureRequest) -> Overload:
    """The overload. "kept": as a balancer has them; "new": one for each request."""
    service, cookie = served
    fresh: bool = request.param

    def capacity(seconds: float) -> float:
        stream = Stream(ROUTE, (cookie,), connections=16, fresh=fresh)
        return open_loop.run(service.port, {"users": stream}, seconds=seconds).per_second("users")

    capacity(1)  # everything is loaded and connected
    before, memory = capacity(4), service.resident()
    streams = {
        "users": Stream(ROUTE, (cookie,), rate=TIMES * before, fresh=fresh),
        "health": Stream("GET /v1/health", rate=10, fresh=True),
    }
    overload = open_loop.run(service.port, streams, seconds=12)
    return Overload(before, overload, capacity(4), "new" if fresh else "kept", (memory, service.resident()))


def test_at_four_times_the_capacity_most_of_it_is_answered_as_before(seen: Overload, record_property: Record) -> None:
    good = seen.overload.per_second("users")
    offered = seen.users.arrivals / seen.overload.arriving
    record_property("capacity", f"{seen.capacity:.0f}/s before, {seen.afterwards:.0f}/s after")
    record_property("offered", f"{offered:.0f}/s")
    record_property("good", f"{good:.0f}/s ({good / seen.settled:.0%}), p99 {p99(seen.users.good)}")
    record_property("generator", f"{seen.overload.generator()}, late by {p99(seen.overload.late)} at p99")

    assert offered > 0.95 * TIMES * seen.capacity
    assert good > SHARE[seen.connections] * seen.settled


def test_all_that_is_not_answered_at_four_times_the_capacity_is_refused_as_the_contract_says(
    seen: Overload, record_property: Record
) -> None:
    """No reset, no timeout, no 500. The generator sees to the envelope, Retry-After and X-Request-Id."""
    for name, latencies in seen.users.refused.items():
        record_property(name, f"{len(latencies) / seen.overload.lasted:.0f}/s")

    assert seen.users.failed == {}
    assert set(seen.users.refused) == {"503 busy"}
    assert len(seen.users.good) + len(seen.users.refusals()) == seen.users.arrivals


def test_a_refusal_at_four_times_the_capacity_is_fast(seen: Overload, record_property: Record) -> None:
    record_property("p99", p99(seen.users.refusals()))

    assert seen.users.refusals()
    assert percentile(seen.users.refusals(), 99) < seen.fast


def test_health_is_answered_fast_at_four_times_the_capacity(seen: Overload, record_property: Record) -> None:
    record_property("p99", p99(seen.health.good))

    assert len(seen.health.good) == seen.health.arrivals > 60
    assert percentile(seen.health.good, 99) < seen.fast


def test_memory_stays_flat_at_four_times_the_capacity(seen: Overload, record_property: Record) -> None:
    before, after = seen.memory
    record_property("before", f"{before / 1e6:.0f} MB")
    record_property("after", f"{after / 1e6:.0f} MB")

    assert after < before + FLAT


def test_after_an_overload_the_service_is_as_fast_as_before(seen: Overload, record_property: Record) -> None:
    record_property("afterwards", f"{seen.afterwards / seen.capacity:.0%} of before")

    assert seen.afterwards > 0.8 * seen.capacity

"""Clients that hold connections with all their might cost the service neither threads nor memory, and others no time.

The service has eight threads in each worker, as it has by default without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest
from flask import Flask

from tests.conftest import ServiceFactory
from tests.support import eventually, open_loop
from tests.support.credentials import new_cookie
from tests.support.open_loop import Measured, Stream, p99, percentile
from tests.support.raw_http import request, talk
from tests.support.service import Service
from tests.support.slow_clients import KINDS, LARGE_ANSWER, SlowClients
from tests.support.valkey import Valkey

SHORT_TIMEOUTS = """
from lumen_api.server import worker
worker.REQUEST_TIMEOUT = worker.ANSWER_TIMEOUT = 1.0
exec(open("gunicorn.conf.py").read())
keepalive = 1
"""

IN_NO_TIME = 1.0  # seconds; a thread that is held would be so for 10
NEAR = 0.25  # seconds
ENDED_WITHIN = 25  # seconds: ten for a request to come or for an answer to get on, the rest for the machine
FLAT = 40_000_000  # bytes, for two workers


def asked(cookie: Mapping[str, str], *, rate: float) -> dict[str, Stream]:
    """Honest callers: on kept connections, and on a new one for each request."""
    headers = tuple(f"{name}: {value}" for name, value in cookie.items())
    return {
        "kept": Stream("GET /v1/auth/session", headers, rate=rate / 2, connections=100),
        "new": Stream("GET /v1/auth/session", headers, rate=rate / 2, connections=100, fresh=True),
    }


def latencies(measured: Measured) -> list[float]:
    return [latency for seen in measured.streams.values() for latency in seen.good]


def not_served(measured: Measured) -> list[object]:
    """What became of honest callers who got no good answer."""
    return [(name, seen.refused, seen.failed) for name, seen in measured.streams.items() if seen.refused or seen.failed]


@dataclass(frozen=True)
class Footprint:
    """What the workers hold."""

    descriptors: int
    threads: int
    memory: int  # bytes

    @classmethod
    def of(cls, service: Service) -> Footprint:
        folders = [Path(f"/proc/{worker}") for worker in service.workers()]
        return cls(
            sum(len(list((folder / "fd").iterdir())) for folder in folders),
            sum(len(list((folder / "task").iterdir())) for folder in folders),
            service.resident(),
        )

    def leaves_nothing_of(self, clients: int, before: Footprint) -> bool:
        """Whether what is left is less than a tenth of what they took. (A pool may have grown meanwhile.)"""
        return max(self.descriptors - before.descriptors, self.threads - before.threads) < clients / 10


def clients_of(service: Service) -> int:
    """The connections that the workers have accepted and not closed."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    here = [row for row in rows if row[1].endswith(f":{service.port:04X}") and row[3] != "0A"]  # "0A" listens
    return len([row for row in here if row[9] != "0"])  # no inode: no process has it


def seconds_until_all_are_gone(service: Service) -> float:
    """Or so many that it is too long."""
    began = monotonic()
    with suppress(AssertionError):
        eventually(lambda: clients_of(service) == 0, within=ENDED_WITHIN)
    return monotonic() - began


def take_every_thread(service: Service) -> Footprint:
    """Threads and connections to the database are made when they are needed. What is held then, by no client."""
    open_loop.run(service.port, {"all": Stream("GET /v1/health/ready", connections=30)}, seconds=0.5)
    eventually(lambda: clients_of(service) == 0)
    return Footprint.of(service)


@pytest.fixture
def cookie(app: Flask) -> dict[str, str]:
    return new_cookie(app)


@pytest.fixture
def hasty(serve: ServiceFactory, tmp_path: Path) -> Callable[[], Service]:
    """Serves with timeouts of a second, where they are ten and more."""

    def start() -> Service:
        (tmp_path / "gunicorn.py").write_text(SHORT_TIMEOUTS)
        return serve(workers=1, GUNICORN_CMD_ARGS=f"--config {tmp_path / 'gunicorn.py'}")

    return start


def test_forty_slow_clients_of_any_kind_keep_nobody_waiting(serve: ServiceFactory, cookie: dict[str, str]) -> None:
    service = serve(workers=1)
    assert service.call("GET", LARGE_ANSWER).status == 200  # made when it is first asked for, which takes a while
    wrong = {}

    for name, kind in KINDS.items():
        with SlowClients(service.port, [kind], each=40):
            measured = open_loop.run(service.port, asked(cookie, rate=40), seconds=0.4)
        if not_served(measured) or max(latencies(measured)) > IN_NO_TIME:
            wrong[name] = (not_served(measured), p99(latencies(measured)))

    assert wrong == {}


def test_a_slow_client_of_any_kind_is_ended_in_bounded_time_and_leaves_nothing_behind(
    hasty: Callable[[], Service],
) -> None:
    service = hasty()
    before = take_every_thread(service)

    with SlowClients(service.port, KINDS.values(), each=20) as clients:
        clients.come_no_more()
        eventually(lambda: clients_of(service) > 20)
        assert seconds_until_all_are_gone(service) < ENDED_WITHIN

    assert Footprint.of(service).leaves_nothing_of(20 * len(KINDS), before)


SLOWLY = ["sends headers by the byte", "sends a body by the byte", "sends chunks by the byte"]


def test_a_request_that_does_not_come_in_time_is_answered_with_408_and_ended(hasty: Callable[[], Service]) -> None:
    port = hasty().port

    with ThreadPoolExecutor(len(SLOWLY)) as threads:
        answers = list(threads.map(lambda name: talk(port, KINDS[name].at_once), SLOWLY))

    assert [(answer.status, answer.code) for (answer,) in answers] == [(408, "request_timeout")] * len(SLOWLY)
    assert {answer.headers["connection"] for (answer,) in answers} == {"close"}


def test_a_second_request_on_a_kept_connection_has_no_more_time_than_the_first(hasty: Callable[[], Service]) -> None:
    first, second = talk(hasty().port, request("GET", "/v1/health", close=False), b"GET /v1/hea")

    assert (first.status, second.status) == (200, 408)


def test_an_idle_connection_is_closed_without_a_word(hasty: Callable[[], Service]) -> None:
    (answer,) = talk(hasty().port, request("GET", "/v1/health", close=False))

    assert answer.status == 200


# Halves, because a worker has a thousand connections at most.
@pytest.mark.faults
@pytest.mark.parametrize("kinds", [list(KINDS)[::2], list(KINDS)[1::2]], ids=["one half", "the other half"])
def test_two_hundred_slow_clients_of_each_kind_keep_nobody_waiting_and_leave_nothing_behind(
    kinds: list[str],
    serve: ServiceFactory,
    cookie: dict[str, str],
    valkey: Valkey,
    record_property: Callable[[str, object], None],
) -> None:
    """Many kinds at once. Whoever is ended comes again, until the attack is over."""
    service, attackers = serve(workers=2, REDIS_URL=valkey.url), 200 * len(kinds)
    callers = asked(cookie, rate=100)
    held_before = take_every_thread(service)
    before = open_loop.run(service.port, callers, seconds=5)

    with SlowClients(service.port, [KINDS[kind] for kind in kinds], each=200) as clients:
        during, held = open_loop.run(service.port, callers, seconds=13), Footprint.of(service)
        clients.come_no_more()
        gone_after = seconds_until_all_are_gone(service)
    after, held_after = open_loop.run(service.port, callers, seconds=4), Footprint.of(service)

    record_property("slow clients", f"{attackers:,}")
    record_property("others' p99 before", p99(latencies(before)))
    record_property("beside them", p99(latencies(during)))
    record_property("afterwards", p99(latencies(after)))
    record_property("all are gone after", f"{gone_after:.0f} s")
    for name, footprint in (("before", held_before), ("beside them", held), ("afterwards", held_after)):
        record_property(f"memory {name}", f"{footprint.memory / 1e6:.0f} MB")
    assert [not_served(measured) for measured in (before, during, after)] == [[], [], []]
    assert percentile(latencies(during), 99) < percentile(latencies(before), 99) + NEAR
    assert percentile(latencies(after), 99) < percentile(latencies(before), 99) + NEAR
    assert gone_after < ENDED_WITHIN
    assert held_after.leaves_nothing_of(attackers, held_before)
    assert held_after.memory < held_before.memory + FLAT

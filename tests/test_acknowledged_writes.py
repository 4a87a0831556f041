"""Travellers on real sockets while everything breaks: what was acknowledged is kept, and who waits is answered.

`tests.support.chaos` has the faults, `travellers` the journeys, and `ledger` what was promised.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import randbits
from statistics import median
from threading import Event

import pytest

from tests.conftest import ORIGIN, PLENTY, SECRET
from tests.support import eventually
from tests.support.chaos import KINDS, Chaos, Postbox, Stage
from tests.support.ledger import Ledger, Link
from tests.support.outages import Server
from tests.support.service import Service
from tests.support.travellers import Traveller
from tests.support.valkey import Valkey

TRAVELLERS = 24
AFTERWARDS = 200  # requests

Report = Callable[[str, object], None]


@dataclass(frozen=True)
class Run:
    """What has happened, and what came of it."""

    seed: int
    chaos: Chaos
    ledger: Ledger

    @property
    def links(self) -> list[Link]:
        return [link for account in self.ledger.accounts for link in account.links]

    def assert_kept(self, promise: str) -> None:
        problems = self.ledger.problems[promise]
        shown = "\n".join(problems[:20])
        assert not problems, f"{len(problems)} times, with CHAOS_SEED={self.seed}:\n{shown}"

    def unanswered(self) -> Counter[str]:
        """Connections that ended without an answer, by how they ended, and near which fault."""
        return Counter(f"{how} near {self.chaos.blamed(moment)}" for moment, how in self.ledger.unanswered)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(1, id="fifteen faults"),
        pytest.param(7, id="a hundred and five faults", marks=pytest.mark.faults),
    ],
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Travellers, faults in four lanes, and a calm after them."""
    folder = tmp_path_factory.mktemp("faults")
    seed = int(os.environ.get("CHAOS_SEED") or randbits(32))
    print(f"CHAOS_SEED={seed}")  # seen when this fails
    ledger = Ledger()
    with ExitStack() as stack:
        stage = set_up(stack, folder)
        chaos = Chaos(stage, seed)
        travel(stage, ledger, chaos, rounds=request.param)
        ledger.compare(stage.server.url, SECRET)
        check_cookies(stage, ledger)
    return Run(seed, chaos, ledger)


def set_up(stack: ExitStack, folder: Path) -> Stage:
    """Two workers, with PostgreSQL, Valkey and an SMTP server of their own."""
    server = Server(folder / "pg")
    stack.callback(server.leave)
    valkey = Valkey(folder).start()
    stack.callback(valkey.kill)
    postbox = stack.enter_context(Postbox())
    limits = ("LINK_PER_IP", "LINK_PER_EMAIL", "VERIFY_PER_IP", "PER_USER")
    env = {
        "APP_ENV": "test",
        "PORT": str(port_to_come_back_to()),
        "DATABASE_URL": server.url,
        "REDIS_URL": valkey.url,
        "SMTP_URL": postbox.url,
        "EMAIL_FROM": "Lumen <hello@example.com>",
        "AUTH_TOKEN_SECRETS": SECRET,
        "WEB_ORIGINS": ORIGIN,
        **{f"RATE_LIMIT_{limit}": PLENTY for limit in limits},
    }
    service = stack.enter_context(Service(env, folder, workers=2))
    return Stage(service, server, valkey, postbox)


def port_to_come_back_to() -> int:
    """A port that nothing takes while the service is away: the kernel gives out those from 32768 on."""
    for port in range(20_000 + os.getpid() % 10_000, 32_768):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def travel(stage: Stage, ledger: Ledger, chaos: Chaos, *, rounds: int) -> None:
    """Journeys all the while: during the faults, and in the calm after them until there were enough requests."""
    home = Event()
    travellers = [Traveller(n, stage.service.port, stage.postbox, ledger, chaos.seed) for n in range(TRAVELLERS)]
    with ThreadPoolExecutor(TRAVELLERS) as threads:
        journeys = [threads.submit(traveller.travel, home) for traveller in travellers]
        try:
            chaos.run(rounds)
            ledger.calm_since = time.monotonic()
            eventually(lambda: ledger.calm_requests >= AFTERWARDS, within=60)
        finally:
            home.set()
            ledger.patience_ends = time.monotonic() + 30
        for journey in journeys:
            journey.result()


def check_cookies(stage: Stage, ledger: Ledger) -> None:
    """Every sign-in that was acknowledged, once more: it works, unless it was ended."""
    expected = {cookie: 200 for account in ledger.accounts for cookie in account.live}
    expected |= {cookie: 401 for account in ledger.accounts for cookie in account.ended}

    def ask(cookie: str) -> int:
        return stage.service.call("GET", "/v1/auth/session", headers={"Cookie": cookie}).status

    with ThreadPoolExecutor(8) as threads:
        for cookie, status in zip(expected, threads.map(ask, expected), strict=True):
            if status != expected[cookie]:
                ledger.problem("kept", f"a sign-in is answered with {status} and not {expected[cookie]}")


@pytest.fixture
def report(request: pytest.FixtureRequest, record_property: Report) -> Report:
    """Tells a figure to who runs `make faults`."""
    return record_property if request.node.get_closest_marker("faults") else lambda *_: None


def in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))


def test_whatever_was_acknowledged_is_in_the_database(run: Run, report: Report) -> None:
    report("faults", f"{run.chaos.kinds().total()} ({in_words(run.chaos.kinds())})")
    report("requests", str(run.ledger.requests))
    report("acknowledged writes", str(run.ledger.acknowledged.total()))
    run.assert_kept("kept")
    assert run.ledger.acknowledged.total() > 5 * run.chaos.kinds().total()
    assert run.chaos.kinds().keys() == KINDS


def test_no_link_signs_in_twice(run: Run, report: Report) -> None:
    report("links", str(len(run.links)))
    report("tried more than once", str(sum(link.doubts + link.refusals > 0 for link in run.links)))
    run.assert_kept("once")


def test_a_sign_in_happens_as_a_whole_or_not_at_all(run: Run, report: Report) -> None:
    report("sign-ins whose caller was not answered", str(sum(link.unheard for link in run.links)))
    run.assert_kept("whole")


def test_every_answer_is_a_success_or_an_envelope_with_the_request_id(run: Run, report: Report) -> None:
    report("connections without an answer", in_words(run.unanswered()))
    run.assert_kept("shape")


def test_no_answer_comes_later_than_six_seconds(run: Run, report: Report) -> None:
    report("slowest", f"{run.ledger.slowest:.1f} s")
    run.assert_kept("late")


def test_after_the_last_fault_the_next_two_hundred_requests_succeed(run: Run, report: Report) -> None:
    back = run.chaos.back_after
    report("requests in the calm", str(run.ledger.calm_requests))
    report("back after a crash of PostgreSQL", f"{median(back):.1f} s (median), {max(back):.1f} s (at most)")
    run.assert_kept("calm")
    assert run.ledger.calm_requests >= AFTERWARDS

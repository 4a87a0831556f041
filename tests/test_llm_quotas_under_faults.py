"""A thousand calls while callers leave, the provider fails, workers are killed and the service is restarted.

What is charged is never less than what the provider has served, and more only by what the documentation says.
"""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from random import Random

import pytest
from flask import Flask

from lumen_api import db
from lumen_api.repositories import llm_usage
from tests.conftest import PLENTY, ServiceFactory
from tests.support import databases, eventually, processes
from tests.support.anthropic import API_KEY, AnthropicServer, Request
from tests.support.credentials import new_cookie
from tests.support.llm_faults import Caller, Faults
from tests.support.llm_ledger import charged, charged_in_total, costs, reservation, served, still_reserved
from tests.support.service import Service

SEED = 20261124
CALLS, AT_ONCE, USERS = 1000, 30, 250
CALLERS = 2 * CALLS  # some calls are lost on their way to a worker that ends

# On a busy machine the fake provider may need longer to see that the proxy has left, and no test has time for more
# than a second's grace for the calls under way.
GUNICORN = """
from lumen_api.llm import http
http.LINGER = 10.0
exec(open("gunicorn.conf.py").read().replace("MODEL_CALLS_GRACE = 15", "MODEL_CALLS_GRACE = 1"))
assert MODEL_CALLS_GRACE == 1
"""


@pytest.fixture
def faults() -> Faults:
    return Faults(SEED)


@pytest.fixture
def provider(faults: Faults) -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        server.behave(faults)
        yield server


@pytest.fixture
def service(serve: ServiceFactory, provider: AnthropicServer, tmp_path: Path) -> Service:
    """Two workers."""
    (tmp_path / "gunicorn.py").write_text(GUNICORN)
    return serve(
        workers=2,
        GUNICORN_CMD_ARGS=f"--config {tmp_path / 'gunicorn.py'}",
        LLM_PROVIDER_KEY=API_KEY,
        LLM_PROVIDER_URL=provider.url,
        LLM_IDLE_TIMEOUT="1s",
        RATE_LIMIT_LLM_PER_USER=PLENTY,
    )


# --- The service's faults, and after how many calls they come. ---


def kill(service: Service, random: Random) -> None:
    """SIGKILL for one worker."""
    processes.kill(random.choice(service.workers()))


def reload(service: Service, _: Random) -> None:
    """New workers, while the old ones end their calls."""
    assert service.process
    service.process.send_signal(signal.SIGHUP)


def restart(service: Service, _: Random) -> None:
    """No service for a moment."""
    assert service.process
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0
    service.start()


FAULTS = [
    (60, kill),
    (150, kill),
    (240, reload),
    (330, kill),
    (430, restart),
    (530, kill),
    (630, reload),
    (730, kill),
    (800, kill),
    (900, restart),
]


def run(service: Service, callers: list[Caller], faults: Faults) -> None:
    """The callers, so many at once, until the provider has seen enough calls, and the service's faults among them."""

    def call(caller: Caller) -> None:
        if not faults.have_met(CALLS):
            caller.run(service)

    random = Random(SEED)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        calls = threads.map(call, callers)
        for after, fault in FAULTS:
            eventually(partial(faults.have_met, after), within=60)
            fault(service, random)
        list(calls)


# --- What came of it. ---


@dataclass(frozen=True)
class Books:
    """What is known of the calls, by their request ids."""

    tries: dict[str, list[Request]]  # the provider's
    charges: dict[str, int | None]  # the log's; None: it says that a call could not be settled
    answered: set[str]

    def lost(self, caller: Caller) -> bool:
        """Whether the log says nothing of a call: its worker was killed, or has never read it."""
        return caller.request_id not in self.charges and caller.request_id not in self.answered

    def reserved(self, caller: Caller) -> int:
        """What may be left of a call that was not settled."""
        unsettled = self.lost(caller) or self.charges.get(caller.request_id, 0) is None
        return reservation(stream=caller.stream) if unsettled else 0

    def problem(self, caller: Caller) -> str | None:
        """What is wrong with a call's charge, if its worker has lived to write it down."""
        if self.lost(caller):
            return None
        tries, charge = self.tries.get(caller.request_id, []), self.charges.get(caller.request_id, 0)
        full = reservation(stream=caller.stream)
        # A request can be lost on its way, and the proxy cannot know that. (It asks for 100 tokens.)
        expected = costs(tries) if tries else {0, full - 100, full}
        if charge is None or (charge in expected and charge >= served(tries)):
            return None
        seen = [(request.end, request.served_input, request.served_output, _described(request)) for request in tries]
        return f"{caller.request_id} is charged {charge} and not {expected} for {seen}"

    def costs(self, caller: Caller) -> tuple[int, int]:
        """The least and the most that a call can have cost."""
        least = self.charges.get(caller.request_id, 0)
        if self.lost(caller):
            return served(self.tries.get(caller.request_id, [])), self.reserved(caller)
        return (self.reserved(caller), self.reserved(caller)) if least is None else (least, least)


def _described(request: Request) -> str:
    """The provider's answer, in short."""
    assert request.answer
    steps = [getattr(step, "name", None) or type(step).__name__ for step in request.answer.steps]
    return f"{request.answer.status} {' '.join(name for name, _ in groupby(steps))}"


def books(service: Service, provider: AnthropicServer) -> Books:
    tries = defaultdict(list)
    for request in provider.finished():
        tries[request.headers["x-request-id"]].append(request)
    events = [json.loads(line) for line in service.log.read_text().splitlines()]
    charges = {event["request_id"]: event["charged_tokens"] for event in events if event["event"] == "llm_call"}
    return Books(dict(tries), charges, {event["request_id"] for event in events if event["event"] == "request"})


def test_after_a_thousand_calls_with_every_fault_each_is_charged_for_what_was_served_and_by_the_rules(
    app: Flask, service: Service, database: str, provider: AnthropicServer, faults: Faults
) -> None:
    emails = [f"user{number}@example.com" for number in range(USERS)]
    cookies = [new_cookie(app, email) for email in emails]
    callers = [Caller(number, cookies[number % USERS], SEED, faults) for number in range(CALLERS)]

    run(service, callers, faults)
    service.stop()

    seen = books(service, provider)
    problems = [problem for caller in callers if (problem := seen.problem(caller))]
    assert not problems, "\n".join(problems)
    charges, left = charged(database), still_reserved(database)
    for number, email in enumerate(emails):
        mine = callers[number::USERS]
        costs_of_calls = {caller.request_id: seen.costs(caller) for caller in mine}
        least, most = (sum(costs) for costs in zip(*costs_of_calls.values(), strict=True))
        assert least <= charges.get(email, 0) <= most, f"{email}: {charges.get(email)}, but {costs_of_calls}"
        assert left.get(email, 0) <= sum(map(seen.reserved, mine)), f"{email}: {left[email]} is still reserved"
    assert charged_in_total(database) == sum(charges.values()) >= provider.served
    assert len(seen.tries) >= CALLS
    assert_nothing_is_reserved_past_its_deadline(app, database)


def assert_nothing_is_reserved_past_its_deadline(app: Flask, database: str) -> None:
    before = charged(database)
    databases.query(database, "update llm_reservations set deadline = now()")
    users = databases.query(database, "select email, user_id::text from users")
    with app.app_context(), db.connection() as conn:
        for email, user_id in users:
            today = llm_usage.today(conn, user_id=user_id)
            assert (today.used, today.reserved) == (before.get(email, 0), 0), email

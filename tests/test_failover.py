"""PostgreSQL fails over to a standby that an operator promotes: the service finds it by itself, by DATABASE_URL alone.

Both servers are real, and replication is synchronous but where a test is about the other kind. `one` is the first host
of DATABASE_URL and the primary at the beginning, `other` its standby.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from itertools import count
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Self

import pytest

from lumen_api import migrations
from tests.conftest import AppFactory, ServiceFactory
from tests.support import databases, eventually, standby
from tests.support.mailbox import Mailbox
from tests.support.migrating import NAMES, add
from tests.support.outages import backends
from tests.support.service import Service
from tests.support.standby import Node, as_it_was, follows, gone, hangs

Pair = tuple[Node, Node]
Record = Callable[[str, object], None]
State = Callable[[Node, Node], AbstractContextManager[Node]]

# Seconds: what an answer may take whatever happens, and what anything here may take at all.
LONGEST_ANSWER = 6.0
PATIENCE = 30.0

CLIENTS = 4
CALM = 40  # good answers in a row, after which a fault is over


@dataclass(frozen=True)
class Write:
    """One request and what came back: its status (0: no answer), and whether a refusal says when to come again."""

    session_id: str
    sent: float
    answered: float
    status: int = 0
    announced: bool = False


class Writers:
    """Clients that write sessions without a pause until the end of the block or stop(), and what they were told."""

    def __init__(self, service: Service, cookie: Mapping[str, str]) -> None:
        self.cookie = cookie
        self.answers: list[Write] = []  # in the order in which they came
        self._service = service
        self._ids = count()
        self._over = Event()
        self._threads = [Thread(target=self._write) for _ in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Wait for the last answers."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def acknowledged(self, *, since: float = 0) -> list[Write]:
        """What was sent after that moment and answered with success."""
        return [write for write in self.answers[:] if write.status == 200 and write.sent >= since]

    def refused(self, *, since: float = 0) -> list[Write]:
        """The rest."""
        return [write for write in self.answers[:] if write.status != 200 and write.sent >= since]

    def settle(self) -> float:
        """Wait until nobody is refused any more. The moment of the last refusal."""
        begun = len(self.answers)
        eventually(
            lambda: len(self.answers) >= begun + CALM and all(w.status == 200 for w in self.answers[-CALM:]),
            within=PATIENCE,
        )
        return max((write.answered for write in self.refused()), default=0.0)

    def _write(self) -> None:
        while not self._over.wait(0.02):
            name, sent = f"written-{next(self._ids)}", monotonic()
            try:
                answer = self._service.call("POST", "/v1/sessions/start", {"session_id": name}, headers=self.cookie)
            except (OSError, HTTPException):
                self.answers.append(Write(name, sent, monotonic()))
            else:
                announced = "Retry-After" in answer.headers
                self.answers.append(Write(name, sent, monotonic(), answer.status, announced))


def sign_in(service: Service, mailbox: Mailbox, email: str = "ada@example.com") -> dict[str, str]:
    """The header with the cookie of a new sign-in."""
    assert service.call("POST", "/v1/auth/request-link", {"email": email}).status == 200
    answer = service.call("POST", "/v1/auth/verify", {"token": mailbox.token_for(email)})
    assert answer.status == 200
    return {"Cookie": answer.cookie}


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with standby.pair(tmp_path / "postgres", synchronous=True) as nodes:
        yield nodes


@pytest.fixture
def service(pair: Pair, serve: ServiceFactory) -> Service:
    """Two workers that know both servers."""
    return serve(workers=2, DATABASE_URL=standby.url_of(*pair))


@pytest.fixture
def writers(service: Service, mailbox: Mailbox) -> Iterator[Writers]:
    """Four clients that never stop writing sessions."""
    with Writers(service, sign_in(service, mailbox)) as writers:
        eventually(lambda: len(writers.acknowledged()) > 50, within=PATIENCE)
        yield writers


@contextmanager
def killed(node: Node) -> Iterator[None]:
    node.crash()
    yield


def fail_over(writers: Writers, ending: AbstractContextManager[None], successor: Node, record: Record) -> None:
    """End the primary, promote its standby once callers have noticed, and go on until nobody notices any more."""
    with ending:
        ended = monotonic()
        eventually(lambda: len(writers.refused(since=ended)) >= 2 * CLIENTS, within=PATIENCE)
        assert writers.acknowledged(since=ended) == []
        promoted = monotonic()
        successor.promote()
        eventually(lambda: writers.acknowledged(since=ended), within=PATIENCE)
        first = min(write.answered for write in writers.acknowledged(since=ended))
        settled = writers.settle()
    record("from its end to the first acknowledged write", f"{first - ended:.2f} s")
    record("from the command to promote to it", f"{first - promoted:.2f} s")
    record("from that command to the last refusal", f"{max(0.0, settled - promoted):.2f} s")


def assert_kept(writers: Writers, primary: Node, record: Record) -> None:
    """Every acknowledged write is there, each refusal was announced, and none came late."""
    writers.stop()
    stored = {name for (name,) in databases.query(primary.url, "select session_id from sessions")}
    acknowledged = {write.session_id for write in writers.acknowledged()}
    longest = max(write.answered - write.sent for write in writers.answers)
    record("longest answer", f"{longest:.2f} s")
    record("acknowledged", f"{len(acknowledged)} writes, {len(acknowledged - stored)} lost")
    assert acknowledged - stored == set()
    assert [write for write in writers.refused() if write.status != 503 or not write.announced] == []
    assert longest < LONGEST_ANSWER


def test_when_the_primary_is_killed_the_service_finds_the_promoted_standby_and_no_acknowledged_write_is_lost(
    writers: Writers, pair: Pair, record_property: Record
) -> None:
    one, other = pair

    fail_over(writers, killed(one), other, record_property)

    assert_kept(writers, other, record_property)


@pytest.mark.faults
def test_when_the_primary_hangs_the_service_finds_the_promoted_standby_and_no_acknowledged_write_is_lost(
    writers: Writers, pair: Pair, record_property: Record
) -> None:
    one, other = pair

    fail_over(writers, one.paused(), other, record_property)

    # It is awake again and takes itself for the primary; the service does not go back to it.
    writers.settle()
    assert_kept(writers, other, record_property)


@pytest.mark.faults
@pytest.mark.parametrize("come_back", [Node.rewind, Node.copy], ids=["rewound", "rebuilt"])
def test_an_old_primary_that_comes_back_as_a_standby_is_left_alone(
    writers: Writers, pair: Pair, serve: ServiceFactory, come_back: Callable[[Node, Node], None]
) -> None:
    one, other = pair
    one.crash()
    other.promote()
    writers.settle()

    returned = monotonic()
    come_back(one, other)
    # Workers that have never seen another primary begin with the first host.
    newcomer = serve(workers=1, DATABASE_URL=standby.url_of(*pair))
    with Writers(newcomer, writers.cookie) as others:
        eventually(lambda: len(others.acknowledged()) > 50, within=PATIENCE)
        others.stop()

    assert one.is_standby()
    assert others.refused() == writers.refused(since=returned) == []
    assert backends(one.url) == []


@pytest.mark.faults
def test_a_planned_switch_back_loses_no_acknowledged_write(
    writers: Writers, pair: Pair, record_property: Record
) -> None:
    one, other = pair
    one.crash()
    other.promote()
    one.rewind(other)
    other.wait_for_standbys()
    writers.settle()

    @contextmanager
    def switched_off() -> Iterator[None]:
        other.stop()
        yield
        other.rewind(one)

    fail_over(writers, switched_off(), one, record_property)

    assert_kept(writers, one, record_property)
    assert (one.is_standby(), other.is_standby()) == (False, True)


@pytest.mark.faults
@pytest.mark.parametrize(("synchronous", "status"), [(True, 503), (False, 200)], ids=["synchronous", "asynchronous"])
def test_only_with_synchronous_replication_a_write_that_a_failover_loses_was_not_acknowledged(
    tmp_path: Path, serve: ServiceFactory, mailbox: Mailbox, synchronous: bool, status: int
) -> None:
    with standby.pair(tmp_path / "postgres", synchronous=synchronous) as (one, other):
        service = serve(workers=1, DATABASE_URL=standby.url_of(one, other))
        cookie = sign_in(service, mailbox)
        other.stop()
        answer = service.call("POST", "/v1/sessions/start", {"session_id": "last"}, headers=cookie)
        one.crash()
        other.start()
        other.promote()
        found = databases.query(other.url, "select session_id from sessions")

    assert found == []
    assert answer.status == status


# --- Migrations, with the same DATABASE_URL. ---


@pytest.mark.faults
@pytest.mark.parametrize("state", [as_it_was, gone, hangs, follows], ids=["primary", "down", "hanging", "standby"])
def test_migrations_are_applied_to_the_primary_whatever_the_first_host_is(
    pair: Pair, make_app: AppFactory, directory: Path, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    monkeypatch.setattr(migrations, "CONNECT_TIMEOUT", 2.0)  # half of it is what a host that hangs costs
    runner = make_app(DATABASE_URL=standby.url_of(*pair)).test_cli_runner()
    add(directory, "9000.new", "create table added (n int);", rollback="drop table added;")

    with state(*pair) as primary:
        applied = runner.invoke(args=["db", "apply"])
        status = runner.invoke(args=["db", "status"])
        tables = databases.query(primary.url, "select tablename from pg_tables where tablename = 'added'")

    assert (applied.exit_code, status.exit_code) == (0, 0), (applied.output, status.output)
    assert status.output.splitlines() == [f"applied  {name}" for name in [*NAMES, "9000.new"]]
    assert tables == [("added",)]


@pytest.mark.faults
def test_while_no_host_takes_writes_migrations_fail_and_change_nothing(pair: Pair, make_app: AppFactory) -> None:
    one, other = pair
    runner = make_app(DATABASE_URL=standby.url_of(one, other)).test_cli_runner()
    one.crash()

    assert runner.invoke(args=["db", "apply"]).exit_code == 1
    assert other.is_standby()

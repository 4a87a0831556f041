"""Every order, every clock and any number at once: what stands is the first start and the first end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lumen_api.db import Connection
from lumen_api.repositories import sessions
from lumen_api.repositories.sessions import Session
from tests.support import databases
from tests.support.journeys import HASH, OTHER_HASH
from tests.support.locks import at_once
from tests.support.rows import add_user

EIGHT = datetime(2026, 1, 31, 8, tzinfo=UTC)
NUMBERS = count()


@dataclass(frozen=True)
class Call:
    """One call of a client: a start, or with a hash an end. `clock` None: the server's."""

    clock: datetime | None
    transcript_hash: str | None = None

    def send(self, conn: Connection, user_id: str, session_id: str) -> Session:
        if self.transcript_hash is None:
            return sessions.start(conn, user_id=user_id, session_id=session_id, started_at=self.clock)
        return sessions.end(
            conn, user_id=user_id, session_id=session_id, transcript_hash=self.transcript_hash, ended_at=self.clock
        )


def clocks() -> st.SearchStrategy[datetime | None]:
    """Hours that collide often, moments ahead of the server, and the server's own clock."""
    hours = st.integers(0, 4).map(lambda hour: EIGHT + timedelta(hours=hour))
    anywhere = st.timedeltas(timedelta(days=-2000), timedelta(days=365000)).map(lambda away: EIGHT + away)
    return st.one_of(st.none(), hours, anywhere)


def calls() -> st.SearchStrategy[list[Call]]:
    """Two starts and two ends, in any order."""
    starts = st.builds(Call, clocks())
    ends = st.builds(Call, clocks(), st.sampled_from([HASH, OTHER_HASH]))
    return st.tuples(starts, ends, starts, ends).flatmap(st.permutations)


@pytest.fixture
def conn(database: str) -> Iterator[Connection]:
    """A connection, in autocommit mode as the service's own."""
    conn = databases.connect(database)
    yield conn
    conn.close()


@pytest.fixture
def user_id(database: str) -> str:
    return add_user(database)


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=calls())
@example(order=[Call(EIGHT, HASH), Call(EIGHT + timedelta(hours=1)), Call(None, OTHER_HASH), Call(EIGHT)])
@example(order=[Call(None), Call(EIGHT, HASH), Call(EIGHT, OTHER_HASH), Call(EIGHT)])
def test_in_every_order_the_first_start_and_the_first_end_stand(
    conn: Connection, user_id: str, order: list[Call]
) -> None:
    expected = Session(f"s{next(NUMBERS)}", None, None, None)
    for call in order:
        earliest = datetime.now(UTC)
        answer = call.send(conn, user_id, expected.session_id)
        expected = _after(expected, call, answer, earliest, datetime.now(UTC))
        assert answer == expected


def _after(before: Session, call: Call, answer: Session, earliest: datetime, latest: datetime) -> Session:
    """What must stand after `call`. The server's clock was between `earliest` and `latest`."""
    started_at, ended_at, transcript_hash = before.started_at, before.ended_at, before.transcript_hash
    if call.transcript_hash is None and started_at is None:
        started_at = _clamped(call.clock, answer.started_at, earliest, latest)
        if ended_at is not None:
            started_at = min(started_at, ended_at)
    elif call.transcript_hash is not None and ended_at is None:
        ended_at, transcript_hash = _clamped(call.clock, answer.ended_at, earliest, latest), call.transcript_hash
        if started_at is not None:
            ended_at = max(ended_at, started_at)
    return Session(before.session_id, started_at, ended_at, transcript_hash)


def _clamped(clock: datetime | None, answered: datetime | None, earliest: datetime, latest: datetime) -> datetime:
    if clock is not None and clock <= earliest:
        return clock
    # The server's clock, which only the server knows exactly.
    assert answered is not None
    return min(max(answered, earliest), latest)


def all_at_once(database: str, user_id: str, together: list[Call]) -> list[Session]:
    """The answers to calls that several connections send at the same moment."""
    connections = [databases.connect(database) for _ in together]
    try:
        return at_once(
            [partial(call.send, conn, user_id, "one") for call, conn in zip(together, connections, strict=True)]
        )
    finally:
        for conn in connections:
            conn.close()


def rows(database: str) -> list[Session]:
    found = databases.query(database, "select session_id, started_at, ended_at, transcript_hash from sessions")
    return [Session(*row) for row in found]


def test_of_sixteen_simultaneous_starts_one_stands_and_all_are_told_so(database: str, user_id: str) -> None:
    answers = all_at_once(database, user_id, [Call(EIGHT + timedelta(minutes=n)) for n in range(16)])

    assert set(answers) == set(rows(database))
    assert len(rows(database)) == 1


def test_of_sixteen_simultaneous_ends_one_stands_and_all_are_told_so(database: str, user_id: str) -> None:
    hashes = [HASH, OTHER_HASH]
    answers = all_at_once(database, user_id, [Call(EIGHT + timedelta(minutes=n), hashes[n % 2]) for n in range(16)])

    assert set(answers) == set(rows(database))
    assert len(rows(database)) == 1


def test_simultaneous_starts_and_ends_agree_on_one_session(database: str, user_id: str) -> None:
    starts = [Call(EIGHT + timedelta(minutes=n)) for n in range(8)]
    ends = [Call(EIGHT + timedelta(hours=1, minutes=n), HASH if n % 2 else OTHER_HASH) for n in range(8)]

    answers = all_at_once(database, user_id, [call for pair in zip(starts, ends, strict=True) for call in pair])

    (row,) = rows(database)
    assert row.started_at in {call.clock for call in starts}
    assert (row.ended_at, row.transcript_hash) in {(call.clock, call.transcript_hash) for call in ends}
    assert {answer.started_at for answer in answers} <= {row.started_at, None}
    assert {answer.ended_at for answer in answers} <= {row.ended_at, None}
    assert {answer.transcript_hash for answer in answers[1::2]} == {row.transcript_hash}

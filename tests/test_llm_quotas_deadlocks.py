"""All that touches the rows of one user's budget, at the same moment: no deadlock, and no token is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from hashlib import sha256
from random import Random
from threading import Barrier

import pytest
from psycopg2.errors import ForeignKeyViolation

from lumen_api.db import Connection, Database
from lumen_api.repositories import account, auth_tokens, llm_usage
from lumen_api.repositories.llm_usage import Budget
from tests.support import databases, eventually
from tests.support.llm_ledger import charged, charged_in_total
from tests.support.outages import backends
from tests.support.pools import PoolFactory

ADA = "ada@example.com"
MINUTE = timedelta(minutes=1)
LIMITLESS = Budget(daily_tokens=10**9, total_daily_tokens=10**9, calls_at_once=10**6)
ROUNDS = 300

# PostgreSQL looks for a deadlock after 20 ms instead of 1 s, and a slow machine may take its time.
OPTIONS = "&options=-c%20deadlock_timeout%3D20ms%20-c%20lock_timeout%3D10s%20-c%20statement_timeout%3D10s"

Step = Callable[[Connection], object]


@pytest.fixture
def pool(make_pool: PoolFactory, database: str) -> Iterator[Database]:
    """A connection for each thread, and the certainty that PostgreSQL has seen no deadlock."""
    before = deadlocks(database)
    pool = make_pool(size=16, url=database + OPTIONS)
    yield pool
    pool.close()
    # A server process hands its counts over when it ends.
    eventually(lambda: not backends(database))
    assert deadlocks(database) == before


def deadlocks(database: str) -> int:
    """How many PostgreSQL has had to break."""
    ((count,),) = databases.query(database, "select deadlocks from pg_stat_database where datname = current_database()")
    return int(count)


def user_of(conn: Connection, email: str) -> str | None:
    with conn.cursor() as cursor:
        cursor.execute("select user_id::text from users where email = %s", (email,))
        row = cursor.fetchone()
    return str(row[0]) if row else None


def sign_in(conn: Connection, *, email: str, link: bytes) -> None:
    """Which makes the user, if there is none."""
    auth_tokens.create(conn, token_hash=link, email=email, ttl=MINUTE)
    auth_tokens.redeem(conn, token_hash=link, session_hash=link, ttl=MINUTE, old_session_hash=None)


def call(conn: Connection, *, email: str, used: int, settled: list[int]) -> None:
    """Reserve and settle. Adds to `settled` what it was charged with, if there was a user to charge."""
    user_id = user_of(conn, email)
    with suppress(ForeignKeyViolation):  # deleted a moment ago
        if user_id is not None:
            got = llm_usage.reserve(conn, user_id=user_id, tokens=1000, budget=LIMITLESS, lifetime=MINUTE)
            assert got.reservation_id
            settled.append(used)
            llm_usage.settle(conn, user_id=user_id, reservation_id=got.reservation_id, tokens=used)


def delete(conn: Connection, *, email: str) -> None:
    user_id = user_of(conn, email)
    if user_id is not None:
        account.delete(conn, user_id=user_id)


def purge(conn: Connection) -> None:
    """All that there is to purge, and there is something: see leftovers()."""
    llm_usage.purge_reservations(conn, batch=1000)
    llm_usage.purge_usage(conn, batch=1000)
    auth_tokens.purge(conn, batch=1000)


def leftovers(conn: Connection, *, email: str) -> None:
    """The day before yesterday, and a reservation of a process that has died then."""
    user_id = user_of(conn, email)
    past = "now() - interval '48 hours'"
    statements = f"""
        insert into llm_usage values (%(user_id)s, {past}, 1) on conflict do nothing;
        insert into llm_reservations (user_id, day, tokens, deadline) values (%(user_id)s, {past}, 1, {past})
    """
    with conn.cursor() as cursor, suppress(ForeignKeyViolation):
        if user_id is not None:
            cursor.execute(statements, {"user_id": user_id})


def at_once_in_rounds(pool: Database, rounds: list[list[Step]]) -> None:
    """The steps of a round at the same moment, one round after the other, each step with a connection of its own."""
    barrier = Barrier(len(rounds[0]))

    def run(number: int) -> None:
        for steps in rounds:
            barrier.wait(20)
            with pool.connection() as conn:
                steps[number](conn)

    with ThreadPoolExecutor(len(rounds[0])) as threads:
        list(threads.map(run, range(len(rounds[0]))))


@pytest.mark.parametrize("emails", [[ADA], [ADA, "bob@example.com"]], ids=["one user", "two users"])
def test_calls_deletions_purges_and_sign_ins_of_the_same_users_never_deadlock_and_lose_no_token(
    pool: Database, database: str, emails: list[str]
) -> None:
    random = Random(7)
    settled: list[int] = []
    rounds: list[list[Step]] = []
    for number in range(ROUNDS):
        who = [random.choice(emails) for _ in range(8)]
        steps: list[Step] = [
            *[partial(call, email=email, used=random.randrange(3000), settled=settled) for email in who[:4]],
            partial(sign_in, email=who[4], link=sha256(b"one %d" % number).digest()),
            partial(sign_in, email=who[5], link=sha256(b"two %d" % number).digest()),
            partial(delete, email=who[6]),
            purge,
            partial(leftovers, email=who[7]),
        ]
        random.shuffle(steps)
        rounds.append(steps)

    at_once_in_rounds(pool, rounds)

    assert len(settled) > ROUNDS
    assert charged_in_total(database) == sum(settled)
    assert databases.query(database, "select from llm_reservations where tokens > 1") == []
    assert sum(charged(database).values()) <= sum(settled) + len(emails)


def test_calls_beside_sign_ins_and_purges_charge_the_user_with_every_token(pool: Database, database: str) -> None:
    random = Random(11)
    settled: list[int] = []
    with pool.connection() as conn:
        sign_in(conn, email=ADA, link=sha256(b"first").digest())
    rounds: list[list[Step]] = [
        [
            *[partial(call, email=ADA, used=random.randrange(3000), settled=settled) for _ in range(6)],
            partial(sign_in, email=ADA, link=sha256(b"again %d" % number).digest()),
            purge,
        ]
        for number in range(ROUNDS)
    ]

    at_once_in_rounds(pool, rounds)

    assert len(settled) == 6 * ROUNDS
    assert charged(database) == {ADA: sum(settled)}
    assert charged_in_total(database) == sum(settled)

"""What database connections can carry: `python -m bench.connections` (2 minutes; needs pgbouncer)

The session check, which each signed-in request begins with, in turns:

    direct        20 connections to PostgreSQL, all busy
    pgbouncer     2,000 connections to pgbouncer, which has 20 to PostgreSQL; 20 are busy at a time, each in its turn
    everybody     the same, all 2,000 busy at once

and what writes, with 20 callers of the service's own pool: the start of a conversation, and the reservation and the
settlement of a call of the model, which all change one row of the day (`llm_totals`). Printed are medians of the
rounds, with the lowest and the highest. CPU is pgbouncer's alone, in seconds per 1,000 statements. The caller,
pgbouncer and PostgreSQL share the machine.
"""

from __future__ import annotations

import argparse
import functools
import resource
import select
import statistics
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg2
from psycopg2 import extensions

from bench.compare import cpu_seconds
from lumen_api import migrations
from lumen_api.db import Connection, Database
from lumen_api.dev import embedded_postgres
from lumen_api.errors import ApiError
from lumen_api.repositories import auth_sessions, llm_usage, sessions
from lumen_api.repositories.llm_usage import Budget
from tests.support import databases
from tests.support.outages import backends
from tests.support.pgbouncer import PgBouncer

SERVER_CONNECTIONS = 20
CLIENTS = 2000
POOLED = "pooled"  # the name that pgbouncer passes on to PostgreSQL
USERS = 1000
ROWS = f"""
    insert into users (email) select n || '@example.com' from generate_series(1, {USERS}) n;
    insert into auth_sessions (id_hash, user_id, expires_at)
    select sha256(email::bytea), user_id, now() + interval '1 hour' from users;
    analyze;
"""
BUDGET = Budget(daily_tokens=10**9, total_daily_tokens=10**15, calls_at_once=100)
HOUR = timedelta(hours=1)


@dataclass
class Round:
    """What came of some seconds of load. `took`: seconds of each statement that was answered."""

    took: list[float] = field(default_factory=list)
    failed: int = 0


@dataclass
class Way:
    """One row of the table: how its load is made, and what each round has measured."""

    name: str
    load: Callable[[float], Round]
    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    failed: int = 0


class Crowd:
    """Connections that ask in turn, from one thread: thousands of Python's threads would measure themselves."""

    def __init__(self, url: str, size: int, statements: list[bytes]) -> None:
        """Opens `size` connections, and keeps them."""
        self._statements = statements
        self._next = count()
        self._connections = {conn.fileno(): conn for conn in (opened(url) for _ in range(size))}

    def load(self, seconds: float, *, busy: int) -> Round:
        """Ask for `seconds` with `busy` statements under way; whoever has rested longest is next."""
        result = Round()
        resting = deque(self._connections.values())
        asked: dict[int, tuple[float, Any]] = {}
        poller = select.epoll()
        end = monotonic() + seconds
        for _ in range(busy):
            self._ask(resting.popleft(), asked, poller)
        while asked:
            for number, _ in poller.poll():
                conn = self._connections[number]
                if answered(conn):
                    began, cursor = asked.pop(number)
                    result.took.append(monotonic() - began)
                    result.failed += cursor.fetchone() is None
                    poller.unregister(number)
                    resting.append(conn)
                    if monotonic() < end:
                        self._ask(resting.popleft(), asked, poller)
        poller.close()
        return result

    def _ask(self, conn: Any, asked: dict[int, tuple[float, Any]], poller: select.epoll) -> None:
        cursor = conn.cursor()
        asked[conn.fileno()] = (monotonic(), cursor)
        # It is sent at once: it fits into the socket's buffer.
        cursor.execute(self._statements[next(self._next) % len(self._statements)])
        poller.register(conn.fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Close all."""
        for conn in self._connections.values():
            conn.close()


def opened(url: str) -> Any:
    """A connection that does not wait, ready for a statement."""
    conn = psycopg2.connect(url, async_=1)
    while (state := conn.poll()) != extensions.POLL_OK:
        poller = select.poll()
        poller.register(conn.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        poller.poll()
    return conn


def answered(conn: Any) -> bool:
    """Whether the answer is here as a whole."""
    return bool(conn.poll() == extensions.POLL_OK)


def session_checks(url: str) -> list[bytes]:
    """The statement of each user's session check, as psycopg2 sends it."""
    sent: list[bytes] = []

    class Recording(extensions.cursor):
        def execute(self, query: Any, values: Any = None) -> None:
            sent.append(self.mogrify(query, values))
            super().execute(query, values)

    conn = psycopg2.connect(url, connection_factory=functools.partial(Connection, seconds=60))
    conn.cursor_factory = Recording
    digests = databases.query(url, "select id_hash from auth_sessions")
    assert all(auth_sessions.find(conn, id_hash=bytes(digest)) for (digest,) in digests)
    conn.close()
    return sent


def by_the_pool(pool: Database, work: Callable[[Connection, int], object], seconds: float) -> Round:
    """What 20 callers of one pool get done."""
    result, turns, end = Round(), count(), monotonic() + seconds

    def caller(_: int) -> None:
        while (began := monotonic()) < end:
            try:
                with pool.connection() as conn:
                    work(conn, next(turns))
            except ApiError:
                result.failed += 1
            result.took.append(monotonic() - began)

    with ThreadPoolExecutor(SERVER_CONNECTIONS) as threads:
        list(threads.map(caller, range(SERVER_CONNECTIONS)))
    return result


def start(users: list[str], conn: Connection, number: int) -> None:
    """A conversation begins: one commit."""
    sessions.start(conn, user_id=users[number % USERS], session_id=f"{number}:{monotonic()}", started_at=None)


def call_the_model(users: list[str], conn: Connection, number: int) -> None:
    """What a call of the model asks of the database: two commits."""
    user_id = users[number % USERS]
    reserved = llm_usage.reserve(conn, user_id=user_id, tokens=1000, budget=BUDGET, lifetime=HOUR)
    assert reserved.reservation_id, reserved
    llm_usage.settle(conn, user_id=user_id, reservation_id=reserved.reservation_id, tokens=500)


def prepared(stack: ExitStack) -> tuple[list[Way], int, str]:
    """What to measure, with all connections open; pgbouncer's process id; and PostgreSQL's URL."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    dsn = embedded_postgres.start(folder / "postgres")
    stack.callback(embedded_postgres.leave, folder / "postgres")
    migrations.apply(dsn)
    url = databases.url_of(dsn, "postgres")
    databases.query(url, ROWS)
    users = [user_id for (user_id,) in databases.query(url, "select user_id::text from users")]
    checks = session_checks(url)
    pidfile = folder / "pgbouncer.pid"
    settings = {"default_pool_size": SERVER_CONNECTIONS, "max_client_conn": CLIENTS + 100, "log_connections": 0}
    bouncer = stack.enter_context(PgBouncer(url, folder, **settings, log_disconnections=0, pidfile=pidfile))
    direct, pooled = (
        Crowd(url, SERVER_CONNECTIONS, checks),
        Crowd(f"{bouncer.url}?application_name={POOLED}", CLIENTS, checks),
    )
    pool = Database(url, size=SERVER_CONNECTIONS)
    for crowd in (direct, pooled, pool):
        stack.callback(crowd.close)
    return (
        [
            Way("direct", functools.partial(direct.load, busy=SERVER_CONNECTIONS)),
            Way("pgbouncer", functools.partial(pooled.load, busy=SERVER_CONNECTIONS)),
            Way("everybody", functools.partial(pooled.load, busy=CLIENTS)),
            Way("starts", functools.partial(by_the_pool, pool, functools.partial(start, users))),
            Way("model calls", functools.partial(by_the_pool, pool, functools.partial(call_the_model, users))),
        ],
        int(pidfile.read_text()),
        url,
    )


def measure(way: Way, seconds: float, bouncer: int) -> None:
    """One round."""
    before, began = cpu_seconds(bouncer), monotonic()
    result = way.load(seconds)
    statements = len(result.took)
    way.rates.append(statements / (monotonic() - began))
    way.cpu.append((cpu_seconds(bouncer) - before) / statements * 1000)
    cuts = statistics.quantiles(result.took, n=100)
    way.p50.append(cuts[49] * 1000)
    way.p99.append(cuts[98] * 1000)
    way.failed += result.failed


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of load for each row in a round")
    options = parser.parse_args()
    # A file for each connection, here; and two in pgbouncer, which inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 3 * CLIENTS), hard))
    with ExitStack() as stack:
        ways, bouncer, url = prepared(stack)
        for number in range(options.rounds):
            for way in ways[:: 1 if number % 2 else -1]:
                measure(way, options.seconds, bouncer)
        used = len(backends(url, application=POOLED))
    assert used <= SERVER_CONNECTIONS, used
    print(f"{CLIENTS:,} connections to pgbouncer, {used} of pgbouncer to PostgreSQL\n")
    print("| | a second | p50 ms | p99 ms | pgbouncer's CPU s / 1,000 | failed |\n|---|---|---|---|---|---|")
    for way in ways:
        cells = [middle(way.rates, 0), middle(way.p50, 1), middle(way.p99, 1), middle(way.cpu, 3)]
        print(f"| {way.name} | {' | '.join(cells)} | {way.failed} |")


def middle(values: list[float], digits: int) -> str:
    """The median, and the lowest and the highest."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


if __name__ == "__main__":
    main()

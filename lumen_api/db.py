"""PostgreSQL: a small pool of autocommit connections, and the two ways to use one.

    with db.connection() as conn:        # one statement is one round trip, and atomic by itself
        sessions.start(conn, ...)
    with db.transaction() as conn:       # for what one statement cannot say
        ...

Why not psycopg2.pool: it raises at once when it is exhausted, hands out dead connections, and closes every
connection above its minimum. Why not a `select 1` before use: it doubles the round trips.
"""

from __future__ import annotations

import functools
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import Any, ParamSpec, TypeVar

import psycopg2
from flask import Flask, current_app
from psycopg2 import errors as pg
from psycopg2 import extensions
from psycopg2.extensions import make_dsn, parse_dsn

from lumen_api.errors import ApiError, Busy, DatabaseUnavailable
from lumen_api.observability import metrics, tracing

P = ParamSpec("P")
R = TypeVar("R")

# Seconds. Waiting for a free connection and then working with it stay under 3 s together, even when the server
# accepts connections and says nothing (a stopped process, a broken network): statement_timeout is the server's
# own and cannot help there.
WAIT_FOR_CONNECTION = 1.0
WORK_WITH_CONNECTION = 1.9

# Seconds, within which a connection that has just worked is used without a look at it: that takes a system call, and
# under load another turn of Python's lock.
JUST_USED = 0.01

_POOL = "lumen"  # its name in metrics


class DeadlineExceeded(Exception):
    """The server did not answer in time. psycopg2 has closed the connection."""


class Connection(extensions.connection):
    """A connection whose waiting, connecting included, ends at `deadline` (monotonic seconds; None: never)."""

    deadline: float | None
    idle_since: float

    def __init__(self, dsn: str, *, seconds: float, **kwargs: Any) -> None:
        """psycopg2 calls it with the connection string, and connects in here, for `seconds` at most."""
        self.deadline = monotonic() + seconds
        super().__init__(dsn, **kwargs)


def _wait(conn: extensions.connection) -> None:
    """Wait for libpq, as psycopg2.extras.wait_select does, but never past the connection's deadline.

    poll() and not select(): select() fails on file descriptors above 1023.
    """
    deadline = getattr(conn, "deadline", None)
    while (state := conn.poll()) != extensions.POLL_OK:
        poller = select.poll()
        poller.register(conn.fileno(), select.POLLIN if state == extensions.POLL_READ else select.POLLOUT)
        if not poller.poll(None if deadline is None else max(0.0, deadline - monotonic()) * 1000):
            raise DeadlineExceeded


class Database:
    """A pool of at most `size` connections to `url`, opened when they are first needed. Safe for threads."""

    def __init__(self, url: str, *, size: int) -> None:
        """Nothing is connected yet: the service starts while its database is away."""
        # pgbouncer refuses start-up `options`, so the server's timeouts come from the role (migration 0005).
        parts = {"application_name": "lumen-api", "client_encoding": "UTF8", **parse_dsn(url)}
        self.dsn: str = make_dsn(**parts)
        self._hosts = one_per_host(parts)
        self._free_slots = threading.BoundedSemaphore(size)
        self._idle: deque[Connection] = deque()

    @contextmanager
    def connection(self, *, within: float | None = None) -> Iterator[Connection]:
        """A connection in autocommit mode. Raises Busy or DatabaseUnavailable, also for what fails inside.

        `within`: seconds for all of it, if less than usual.
        """
        asked = monotonic()
        wait, work = (WAIT_FOR_CONNECTION, WORK_WITH_CONNECTION) if within is None else (within / 2, within / 2)
        if not self._free_slots.acquire(timeout=wait):
            metrics.CONNECTION_TIMEOUTS.record(1, _POOL)
            raise Busy
        metrics.CONNECTIONS.record(1, _POOL, "used")
        conn: Connection | None = None
        try:
            conn = self._checkout(work)
            metrics.CONNECTION_WAIT.record(monotonic() - asked, _POOL)
            yield conn
        except (psycopg2.Error, DeadlineExceeded) as error:
            answer = _as_api_error(error)
            if answer is None:
                raise
            if conn is not None and isinstance(answer, DatabaseUnavailable):
                # It may still answer: a primary that became a standby does, and would for as long as we kept it.
                conn.close()
            raise answer from error
        finally:
            if conn is not None:
                self._put_back(conn)
            self._free_slots.release()
            metrics.CONNECTIONS.record(-1, _POOL, "used")

    @contextmanager
    def transaction(self, isolation: str = "read committed") -> Iterator[Connection]:
        """Like connection(), in a transaction that commits at the end of the block, or rolls back on an error."""
        with self.connection() as conn:
            execute(conn, f"begin isolation level {isolation}")
            yield conn
            execute(conn, "commit")

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    def _checkout(self, seconds: float) -> Connection:
        while self._idle:
            conn = self._idle.pop()
            if _is_quiet(conn):
                conn.deadline = monotonic() + seconds
                return conn
            conn.close()
        return self._connect(seconds)

    def _connect(self, seconds: float) -> Connection:
        give_up = monotonic() + seconds
        conn, self._hosts = connect(self._hosts, seconds=seconds)
        conn.autocommit = True
        conn.deadline = give_up
        return conn

    def _put_back(self, conn: Connection) -> None:
        # Anything but idle is a transaction that an error left open: closing is the cheapest rollback.
        if conn.closed or conn.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE:
            conn.close()
        else:
            conn.idle_since = monotonic()
            self._idle.append(conn)


def connect(hosts: list[str], *, seconds: float) -> tuple[Connection, list[str]]:
    """A connection to the first of `hosts` that serves, in `seconds` at most; and the hosts with that one first."""
    # libpq tries the hosts of a URL in turn, but only its blocking connect moves on from one that says nothing.
    give_up = monotonic() + seconds
    error: Exception = DeadlineExceeded()
    for tried, host in enumerate(hosts):
        share = (give_up - monotonic()) / (len(hosts) - tried)
        try:
            conn = psycopg2.connect(host, connection_factory=functools.partial(Connection, seconds=share))
        except (psycopg2.OperationalError, DeadlineExceeded) as failure:
            error = failure
        else:
            return conn, hosts[tried:] + hosts[:tried]
    raise error


def one_per_host(parts: dict[str, str]) -> list[str]:
    """A connection string for each host that `parts` lists; one port may stand for all of them."""
    lists = {name: parts[name].split(",") for name in ("host", "hostaddr", "port") if name in parts}
    count = max(map(len, lists.values()), default=1)
    chosen = ({name: values[i % len(values)] for name, values in lists.items()} for i in range(count))
    return [make_dsn(**(parts | one)) for one in chosen]


def _is_quiet(conn: Connection) -> bool:
    """False if the server has closed the connection. It says so (or hangs up) first: bytes are waiting."""
    if conn.closed:
        return False
    if monotonic() - conn.idle_since < JUST_USED:
        return True
    poller = select.poll()
    poller.register(conn.fileno(), select.POLLIN)
    return not poller.poll(0)


def _as_api_error(error: Exception) -> ApiError | None:
    """The answer to an error of the database itself, or None if the statement was at fault."""
    match error:
        case pg.QueryCanceled() | pg.LockNotAvailable() | pg.DeadlockDetected() | pg.SerializationFailure():
            return Busy()
        case DeadlineExceeded() | psycopg2.InterfaceError() | pg.ReadOnlySqlTransaction():
            return DatabaseUnavailable()
        case psycopg2.OperationalError(pgcode=None):
            return DatabaseUnavailable()
        case psycopg2.DatabaseError(pgcode=None) if type(error) is psycopg2.DatabaseError:
            # After a restart of PostgreSQL a broken connection can surface as this plain class.
            return DatabaseUnavailable()
        case psycopg2.Error(pgcode=str(code)) if code.startswith(("08", "53", "57P", "58", "42P01", "42703", "42501")):
            # Connection exceptions, too many connections or no room, shutdown, I/O errors; and a missing table,
            # column or grant: new code on a database that is not made ready for it yet.
            return DatabaseUnavailable()
    return None


def statement(function: Callable[P, R]) -> Callable[P, R]:
    """Trace a repository's function by its name, like "auth_tokens.redeem". Its SQL would hold the values."""
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    return tracing.traced(name, {"db.system.name": "postgresql"}, client=True)(function)


def execute(conn: extensions.connection, sql: str, **values: Any) -> extensions.cursor:
    """Run one statement and return its cursor."""
    cursor = conn.cursor()
    cursor.execute(sql, values)
    return cursor


def fetch_one(conn: extensions.connection, sql: str, **values: Any) -> tuple[Any, ...] | None:
    """The first row of the statement's result, or None."""
    with execute(conn, sql, **values) as cursor:
        return cursor.fetchone()


def fetch_all(conn: extensions.connection, sql: str, **values: Any) -> list[tuple[Any, ...]]:
    """All rows of the statement's result."""
    with execute(conn, sql, **values) as cursor:
        return cursor.fetchall()


def init_app(app: Flask, database: Database) -> None:
    """Make connection() and transaction() of this module use `database` inside `app`."""
    extensions.set_wait_callback(_wait)
    app.extensions["lumen.db"] = database


def connection(*, within: float | None = None) -> AbstractContextManager[Connection]:
    """A connection of the current app's pool: see Database.connection()."""
    return current().connection(within=within)


def transaction(isolation: str = "read committed") -> AbstractContextManager[Connection]:
    """A transaction on the current app's pool: see Database.transaction()."""
    return current().transaction(isolation)


def current() -> Database:
    """The current app's pool."""
    database: Database = current_app.extensions["lumen.db"]
    return database

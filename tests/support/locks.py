"""Holding a statement of the service at a chosen place, and letting many callers go at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any, TypeVar

from tests.support import databases

R = TypeVar("R")


@contextmanager
def held(url: str, statement: str, *values: Any) -> Iterator[Any]:
    """Hold the locks that `statement` takes until the end of the block, and then undo it. Yields its connection."""
    conn = databases.connect(url)
    try:
        with conn.cursor() as cursor:
            # The role's timeouts are for the service.
            cursor.execute("set idle_in_transaction_session_timeout = 0")
            cursor.execute("begin")
            cursor.execute(statement, values or None)
        yield conn
    finally:
        conn.close()


def waiting(url: str) -> list[int]:
    """The server processes whose statements wait for a lock that somebody else holds, in this database."""
    rows = databases.query(
        url,
        "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' order by pid",
    )
    return [pid for (pid,) in rows]


def at_once(calls: Sequence[Callable[[], R]]) -> list[R]:
    """The results of `calls`, made by one thread each, all at the same moment."""
    barrier = Barrier(len(calls))

    def call(one: Callable[[], R]) -> R:
        barrier.wait(10)
        return one()

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(call, calls))

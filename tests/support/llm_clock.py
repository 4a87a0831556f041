"""A clock that a test moves, in place of the database's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import databases


class Clock:
    """What `now()` says to everybody who connects by `url`: its schema comes before PostgreSQL's own."""

    def __init__(self, database: str) -> None:
        self._database = database
        self.url = f"{database}&options=-csearch_path%3Dclock,pg_catalog,public"

    def set(self, time: str) -> None:
        """Like "2026-11-23 23:59:59Z"."""
        databases.query(self._database, "update clock.hands set time = %s", time)


@contextmanager
def clock(database: str, time: str) -> Iterator[Clock]:
    """A clock that stands still, unless it is set."""
    databases.query(
        database,
        """
        create schema clock;
        create table clock.hands as select %s::timestamptz as time;
        create function clock.now() returns timestamptz stable language sql as 'select time from clock.hands'
        """,
        time,
    )
    try:
        yield Clock(database)
    finally:
        databases.query(database, "drop schema clock cascade")

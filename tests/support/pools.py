"""Pools of database connections, closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from flask import Flask

from lumen_api import db
from lumen_api.db import Connection, Database, execute
from tests.support import eventually
from tests.support.outages import backends

PoolFactory = Callable[..., Database]


@contextmanager
def pools(database: str) -> Iterator[PoolFactory]:
    """A function that makes pools on `database`: make_pool(size=2). At the end nobody is connected any more."""
    made: list[Database] = []

    def make(*, size: int, url: str = database) -> Database:
        made.append(Database(url, size=size))
        db.init_app(Flask("pool"), made[-1])
        return made[-1]

    yield make
    for pool in made:
        pool.close()
    eventually(lambda: not backends(database))


def backend(pool: Database) -> int:
    """The process id of the connection that is next in turn."""
    with pool.connection() as conn:
        return conn.info.backend_pid


def run(use: AbstractContextManager[Connection], *statements: str, error: BaseException | None = None) -> None:
    """Run the statements on what `pool.connection()` or `pool.transaction()` returns, and raise `error` then."""
    with use as conn:
        for statement in statements:
            execute(conn, statement)
        if error is not None:
            raise error

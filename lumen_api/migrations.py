"""Migrations: plain SQL files in `migrations/`, applied by yoyo.

yoyo's PostgreSQL backend is adapted where it failed in use: its parser refuses a connection URL with two hosts;
its lock is a row that outlives a killed process; it marks a migration as applied after the migration has committed,
so that a crash in between applies it twice; it asks for the operating system's user and the host's full name, which
containers may not have; and our role's statement_timeout would cut a long migration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from psycopg2.extensions import parse_dsn
from yoyo import default_migration_table, read_migrations
from yoyo.backends.core.postgresql import PostgresqlBackend
from yoyo.migrations import MigrationList

from lumen_api.db import Connection, connect, one_per_host

DIRECTORY = Path(__file__).parent.parent / "migrations"

CONNECT_TIMEOUT = 10.0  # seconds

# Any number, but always the same: whoever holds this advisory lock migrates.
_LOCK_KEY = 0x4C756D656E


class Backend(PostgresqlBackend):  # type: ignore[misc]  # yoyo is not typed
    """yoyo's backend on a libpq connection string."""

    _is_locked: bool

    def connect(self, dsn: str) -> Any:
        conn = _connect(dsn)
        conn.autocommit = True
        return conn

    def begin(self) -> None:
        super().begin()
        # LOCAL, so that a server connection which pgbouncer lends to the service later is not changed. Waiting
        # for a table's lock is bounded: all other statements on that table queue up behind a waiting migration.
        self.execute("set local statement_timeout = 0")
        self.execute("set local lock_timeout = '5s'")
        # If we are killed, the server stops working for us, and does not keep the lock that the next one needs.
        self.execute("set local client_connection_check_interval = '1s'")

    def list_tables(self, **_: Any) -> list[str]:
        cursor = self.execute("select tablename from pg_tables where schemaname = current_schema")
        return [name for (name,) in cursor.fetchall()]

    def apply_one(self, migration: Any, **options: Any) -> None:
        with self._atomically(migration):
            super().apply_one(migration, **options)

    def rollback_one(self, migration: Any, *options: Any) -> None:
        with self._atomically(migration):
            super().rollback_one(migration, *options)

    def _atomically(self, migration: Any) -> AbstractContextManager[Any]:
        # A file can say "-- transactional: false", for an index that is built concurrently.
        migration.load()
        atomic: AbstractContextManager[Any] = self.transaction() if migration.use_transactions else nullcontext()
        return atomic

    def copy(self) -> AbstractContextManager[Backend]:
        # yoyo runs each migration on a second connection; on this one it is part of our transaction.
        return nullcontext(self)

    @contextmanager
    def lock(self, timeout: float = 60) -> Iterator[None]:
        """Keep other migrations out until the end of the block, or until this process dies."""
        if self._is_locked:
            yield
            return
        holder = _connect(self.uri)
        try:
            with holder.cursor() as cursor:
                cursor.execute("set local statement_timeout = 0")
                cursor.execute("set local idle_in_transaction_session_timeout = 0")
                cursor.execute("select set_config('lock_timeout', %s, true)", (f"{timeout}s",))
                cursor.execute("select pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
            self._is_locked = True
            yield
        finally:
            self._is_locked = False
            holder.close()

    def get_log_data(self, migration: Any, operation: str = "apply") -> dict[str, Any]:
        return {
            "id": str(uuid4()),
            "migration_id": migration.id,
            "migration_hash": migration.hash,
            "username": "",
            "hostname": "",
            "created_at_utc": datetime.now(UTC).replace(tzinfo=None),
            "operation": operation,
        }


def apply(dsn: str) -> list[str]:
    """Apply what is missing, each file in a transaction of its own. The names of what was applied."""
    with _backend(dsn) as backend, backend.lock():
        missing = backend.to_apply(_migrations())
        backend.apply_migrations(missing)
        return _names(missing)


def rollback(dsn: str, count: int = 1) -> list[str]:
    """Undo the last `count` migrations. The names of what was undone."""
    with _backend(dsn) as backend, backend.lock():
        last = backend.to_rollback(_migrations())[:count]
        backend.rollback_migrations(last)
        return _names(last)


def status(dsn: str) -> list[tuple[str, bool]]:
    """Each migration's name, and whether it is applied."""
    with _backend(dsn) as backend:
        done = set(backend.get_applied_migration_hashes())
        return [(migration.id, migration.hash in done) for migration in _migrations()]


def _connect(dsn: str) -> Connection:
    """A connection that is made soon or never, and may then take its time."""
    # libpq alone would stay with the first host of several that says nothing, as long as it may wait.
    conn, _ = connect(one_per_host(parse_dsn(dsn)), seconds=CONNECT_TIMEOUT)
    conn.deadline = None
    return conn


def _backend(dsn: str) -> Backend:
    return Backend(dsn, default_migration_table)


def _migrations() -> MigrationList:
    return read_migrations(str(DIRECTORY))


def _names(migrations: MigrationList) -> list[str]:
    return [migration.id for migration in migrations]

"""Transactions, and which of the database's errors are answered as 503 busy and which as 503 database_unavailable."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread
from time import perf_counter

import psycopg2
import pytest

from lumen_api.db import Database, execute, fetch_one
from lumen_api.errors import Busy, DatabaseUnavailable
from tests.support import databases, eventually
from tests.support.outages import backends
from tests.support.pools import PoolFactory, backend, run

INSERT = "insert into users (email) values ('ada@example.com')"


def users(database: str) -> int:
    """How many there are, as others see it."""
    ((count,),) = databases.query(database, "select count(*) from users")
    return int(count)


def test_a_transaction_commits_at_its_end(pool: Database, database: str) -> None:
    with pool.transaction() as conn:
        execute(conn, INSERT)
        assert users(database) == 0

    assert users(database) == 1


@pytest.mark.parametrize("error", [ValueError(), Busy(), KeyboardInterrupt()], ids=repr)
def test_a_transaction_is_rolled_back_by_any_error(pool: Database, database: str, error: BaseException) -> None:
    with pytest.raises(type(error)):
        run(pool.transaction(), INSERT, error=error)

    with pool.transaction() as conn:
        assert fetch_one(conn, "select count(*) from users") == (0,)
    eventually(lambda: len(backends(database)) == 1)
    assert users(database) == 0


def test_a_transaction_whose_commit_fails_raises(pool: Database, database: str) -> None:
    deferred = "create temporary table t (n int unique deferrable initially deferred)"

    with pytest.raises(psycopg2.errors.UniqueViolation):
        run(pool.transaction(), deferred, INSERT, "insert into t values (1), (1)")

    assert users(database) == 0


def test_a_transaction_has_the_isolation_that_was_asked_for(pool: Database) -> None:
    with pool.transaction("repeatable read") as conn:
        assert fetch_one(conn, "show transaction_isolation") == ("repeatable read",)
    with pool.transaction() as conn:
        assert fetch_one(conn, "show transaction_isolation") == ("read committed",)


def test_without_a_transaction_each_statement_stands(pool: Database, database: str) -> None:
    with pytest.raises(ValueError):
        run(pool.connection(), INSERT, error=ValueError())

    assert users(database) == 1


def test_a_statement_that_takes_too_long_is_busy_and_leaves_the_connection_good(make_pool: PoolFactory) -> None:
    pool = make_pool(size=1)
    pid = backend(pool)

    start = perf_counter()
    with pytest.raises(Busy):
        run(pool.connection(), "select pg_sleep(10)")

    assert perf_counter() - start < 3
    assert backend(pool) == pid


def test_a_lock_that_is_not_given_up_is_busy(pool: Database) -> None:
    with pool.transaction() as conn:
        execute(conn, "lock table users in access exclusive mode")
        start = perf_counter()
        with pytest.raises(Busy):
            run(pool.connection(), "select 1 from users")

    assert perf_counter() - start < 3


def test_of_two_transactions_in_a_deadlock_one_succeeds_and_one_is_busy(pool: Database, database: str) -> None:
    databases.query(database, INSERT)
    databases.query(database, "insert into users (email) values ('grace@example.com')")
    lock = "select 1 from users where email = %(email)s for update"
    barrier = Barrier(2)

    def cross(first: str, second: str) -> type[BaseException] | None:
        try:
            with pool.transaction() as conn:
                execute(conn, "set local deadlock_timeout = '20ms'")
                execute(conn, lock, email=first)
                barrier.wait(5)
                execute(conn, lock, email=second)
        except Busy as busy:
            return type(busy)
        return None

    with ThreadPoolExecutor(2) as threads:
        emails = ["ada@example.com", "grace@example.com"]
        outcomes = list(threads.map(cross, emails, reversed(emails)))

    assert sorted(map(str, outcomes)) == sorted(map(str, [None, Busy]))


def test_a_lost_update_is_busy(pool: Database, database: str) -> None:
    databases.query(database, INSERT)

    def update_what_another_has_updated() -> None:
        with pool.transaction("repeatable read") as conn:
            execute(conn, "select 1 from users")
            databases.query(database, "update users set created_at = now()")
            execute(conn, "update users set created_at = now()")

    with pytest.raises(Busy):
        update_what_another_has_updated()


def test_a_database_that_may_only_be_read_is_unavailable(pool: Database) -> None:
    with pytest.raises(DatabaseUnavailable):
        run(pool.connection(), "begin read only", INSERT)


@pytest.mark.parametrize(
    "url",
    ["{database}_that_is_not_there", "postgresql://nobody@/postgres{rest}", "postgresql://lumen@/x?host=/nowhere"],
    ids=["no such database", "no such role", "no such server"],
)
def test_a_connection_that_is_not_to_be_had_is_unavailable(make_pool: PoolFactory, database: str, url: str) -> None:
    start, _, rest = database.partition("?")
    away = url.format(database=start, rest="?" + rest)
    if "?" not in away:
        away += "?" + rest

    with pytest.raises(DatabaseUnavailable):
        run(make_pool(size=1, url=away).connection(), "select 1")


def test_a_connection_that_is_lost_under_a_statement_is_unavailable(pool: Database, database: str) -> None:
    with pytest.raises(DatabaseUnavailable):
        run(pool.connection(), "select pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(DatabaseUnavailable):
        run(pool.transaction(), INSERT, "select pg_terminate_backend(pg_backend_pid())")

    assert users(database) == 0
    assert backend(pool)


def test_a_connection_that_is_lost_between_two_statements_is_unavailable(pool: Database, database: str) -> None:
    used, lost = Event(), Event()
    raised: list[BaseException] = []

    def use_it_twice() -> None:
        try:
            with pool.connection() as conn:
                execute(conn, "select 1")
                used.set()
                lost.wait(5)
                execute(conn, "select 1")
        except DatabaseUnavailable as error:
            raised.append(error)

    user = Thread(target=use_it_twice)
    user.start()
    used.wait(5)
    databases.query(database, "select pg_terminate_backend(pid, 5000) from unnest(%s) pid", backends(database))
    lost.set()
    user.join(5)

    assert len(raised) == 1
    assert backend(pool)


def test_a_connection_that_is_closed_on_our_side_is_unavailable(pool: Database) -> None:
    def close_and_use() -> None:
        with pool.connection() as conn:
            conn.close()
            execute(conn, "select 1")

    with pytest.raises(DatabaseUnavailable):
        close_and_use()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("57014", Busy),  # query_canceled: statement_timeout
        ("55P03", Busy),  # lock_not_available: lock_timeout
        ("40P01", Busy),  # deadlock_detected
        ("40001", Busy),  # serialization_failure
        ("25006", DatabaseUnavailable),  # read_only_sql_transaction: a replica
        ("08000", DatabaseUnavailable),  # connection_exception
        ("08006", DatabaseUnavailable),  # connection_failure
        ("08P01", DatabaseUnavailable),  # protocol_violation, which pgbouncer says
        ("53100", DatabaseUnavailable),  # disk_full
        ("53200", DatabaseUnavailable),  # out_of_memory
        ("53300", DatabaseUnavailable),  # too_many_connections
        ("57P01", DatabaseUnavailable),  # admin_shutdown
        ("57P02", DatabaseUnavailable),  # crash_shutdown
        ("57P03", DatabaseUnavailable),  # cannot_connect_now
        ("57P05", DatabaseUnavailable),  # idle_session_timeout
        ("58030", DatabaseUnavailable),  # io_error
        ("22P02", psycopg2.errors.InvalidTextRepresentation),
        ("22021", psycopg2.errors.CharacterNotInRepertoire),
        ("23503", psycopg2.errors.ForeignKeyViolation),
        ("23505", psycopg2.errors.UniqueViolation),
        ("23514", psycopg2.errors.CheckViolation),
        ("42501", DatabaseUnavailable),  # insufficient_privilege
        ("42601", psycopg2.errors.SyntaxError),
        ("42P01", DatabaseUnavailable),  # undefined_table: not migrated yet
        ("42703", DatabaseUnavailable),  # undefined_column
        ("XX000", psycopg2.errors.InternalError_),
    ],
)
def test_errors_of_the_database_are_told_from_errors_of_a_statement(
    pool: Database, code: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        run(pool.connection(), f"do $$ begin raise exception 'by a test' using errcode = '{code}'; end $$")

    assert type(raised.value) is error
    assert backend(pool)

"""The pool of connections, on its own and on a real server."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Barrier, Event, Lock, Thread
from time import perf_counter

import pytest
from psycopg2 import sql
from psycopg2.extensions import parse_dsn

from lumen_api.db import Database, fetch_one
from lumen_api.errors import Busy, DatabaseUnavailable
from tests.support import databases, eventually
from tests.support.outages import backends, refusal
from tests.support.pools import PoolFactory, backend, run

INSERT = "insert into users (email) values ('ada@example.com')"


def terminate(database: str, *pids: int) -> None:
    """End these connections, and wait until they have ended."""
    databases.query(database, "select pg_terminate_backend(pid, 5000) from unnest(%s) pid", list(pids))


@pytest.mark.usefixtures("pool")
def test_nothing_is_connected_before_it_is_needed(database: str) -> None:
    assert backends(database) == []


def test_a_connection_is_used_again(pool: Database, database: str) -> None:
    assert len({backend(pool) for _ in range(5)}) == 1
    assert len(backends(database)) == 1


def test_a_connection_that_became_read_only_is_not_kept(pool: Database, database: str) -> None:
    # A primary that was made a standby keeps its connections, and answers on them.
    name = sql.Identifier(parse_dsn(database)["dbname"])
    conn = databases.connect(database)
    with closing(conn), conn.cursor() as cursor:
        cursor.execute(sql.SQL("alter database {} set default_transaction_read_only = on").format(name))
        try:
            with pytest.raises(DatabaseUnavailable):
                run(pool.connection(), INSERT)
        finally:
            cursor.execute("set default_transaction_read_only = off")
            cursor.execute(sql.SQL("alter database {} reset default_transaction_read_only").format(name))

    run(pool.connection(), INSERT)


def test_a_connection_that_was_idle_for_long_has_its_whole_time_again(make_pool: PoolFactory) -> None:
    pool = make_pool(size=1)
    with pool.connection() as conn:
        pid = conn.info.backend_pid
        conn.deadline = 0.0  # as after an hour

    with pool.connection() as conn:
        assert fetch_one(conn, "select pg_backend_pid() from pg_sleep(0.1)") == (pid,)


def test_connections_are_made_only_as_many_as_are_used_at_once(pool: Database, database: str) -> None:
    with pool.connection(), pool.connection():
        pass
    for _ in range(5):
        backend(pool)

    assert len(backends(database)) == 2


def test_many_threads_never_open_more_connections_than_the_pool_has(make_pool: PoolFactory, database: str) -> None:
    pool = make_pool(size=3)
    lock, open_now, most_open, pids = Lock(), 0, 0, set()

    def work(number: int) -> int:
        nonlocal open_now, most_open
        for _ in range(15):
            with pool.connection() as conn:
                with lock:
                    open_now += 1
                    most_open = max(most_open, open_now)
                    pids.add(conn.info.backend_pid)
                row = fetch_one(conn, "select %(number)s, count(*) from pg_stat_activity", number=number)
                assert row is not None
                assert row[0] == number  # nobody gets another's answer
                with lock:
                    open_now -= 1
        return number

    with ThreadPoolExecutor(16) as threads:
        assert sorted(threads.map(work, range(16))) == list(range(16))

    assert most_open == 3
    assert len(pids) == 3
    assert sorted(pids) == backends(database)


def test_simultaneous_first_uses_share_the_places(make_pool: PoolFactory, database: str) -> None:
    pool = make_pool(size=4)
    barrier = Barrier(12)

    def use(_: int) -> int:
        barrier.wait()
        return backend(pool)

    with ThreadPoolExecutor(12) as threads:
        pids = list(threads.map(use, range(12)))

    assert len(set(pids)) <= 4
    assert set(backends(database)) == set(pids)


def test_waiting_for_a_connection_ends_after_a_second(make_pool: PoolFactory) -> None:
    pool = make_pool(size=1)
    with pool.connection():
        start = perf_counter()
        with pytest.raises(Busy), pool.connection():
            pass
        waited = perf_counter() - start

    assert 0.9 < waited < 1.9
    assert backend(pool)


def test_who_waits_gets_the_connection_when_it_is_returned(make_pool: PoolFactory) -> None:
    pool = make_pool(size=1)
    begun, pids = Event(), []

    def wait_for_it() -> None:
        begun.set()
        pids.append(backend(pool))

    waiting = Thread(target=wait_for_it)
    with pool.connection() as conn:
        waiting.start()
        begun.wait(5)
        pid = conn.info.backend_pid
    waiting.join(5)

    assert pids == [pid]


@pytest.mark.parametrize(
    ("statements", "error"),
    [([], ZeroDivisionError), (["select 1/0"], Exception), (["begin"], KeyboardInterrupt)],
    ids=["a bug", "a failed statement", "an interrupted transaction"],
)
def test_every_failure_gives_its_place_back(
    make_pool: PoolFactory, statements: list[str], error: type[BaseException]
) -> None:
    pool = make_pool(size=1)

    for _ in range(3):
        with pytest.raises(error):
            run(pool.connection(), *statements, error=error())
        with pytest.raises(error):
            run(pool.transaction(), *statements, error=error())

    assert backend(pool)


def test_failing_to_connect_gives_its_place_back(make_pool: PoolFactory) -> None:
    with refusal() as port:
        pool = make_pool(size=1, url=f"postgresql://nobody@127.0.0.1:{port}/nowhere")
        for _ in range(5):
            with pytest.raises(DatabaseUnavailable), pool.connection():
                pass


@pytest.mark.parametrize("statements", [["begin"], ["begin", INSERT], ["begin", "select 1/0"]], ids=" ".join)
def test_a_connection_with_an_open_transaction_is_not_used_again(
    make_pool: PoolFactory, database: str, statements: list[str]
) -> None:
    pool = make_pool(size=1)
    pid = backend(pool)

    with pytest.raises(Exception, match=r"division by zero|by the test"):
        run(pool.connection(), *statements, error=ValueError("by the test"))

    assert backend(pool) != pid
    eventually(lambda: len(backends(database)) == 1)
    assert databases.query(database, "select count(*) from users") == [(0,)]


def test_connections_that_the_server_closed_are_replaced_without_an_error(
    make_pool: PoolFactory, database: str
) -> None:
    pool = make_pool(size=3)
    with ExitStack() as stack:
        old = [stack.enter_context(pool.connection()).info.backend_pid for _ in range(3)]
    terminate(database, *old)

    with ExitStack() as stack:
        new = [stack.enter_context(pool.connection()).info.backend_pid for _ in range(3)]

    assert not set(old) & set(new)


def test_one_lost_connection_does_not_cost_the_others(make_pool: PoolFactory, database: str) -> None:
    pool = make_pool(size=3)
    with ExitStack() as stack:
        old = [stack.enter_context(pool.connection()).info.backend_pid for _ in range(3)]
    terminate(database, old[1])

    with ExitStack() as stack:
        new = [stack.enter_context(pool.connection()).info.backend_pid for _ in range(3)]

    assert {old[0], old[2]} < set(new)


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_no_socket_is_left_open(make_pool: PoolFactory, database: str) -> None:
    pool = make_pool(size=2)
    before = open_files()
    with refusal() as port:
        away = make_pool(size=2, url=f"postgresql://nobody@127.0.0.1:{port}/nowhere")
        for _ in range(10):
            with pytest.raises(DatabaseUnavailable), away.connection():
                pass
    for _ in range(10):
        with pytest.raises(ValueError):
            run(pool.connection(), "begin", error=ValueError())
        terminate(database, backend(pool))
    pool.close()

    assert open_files() <= before


def test_close_ends_the_idle_connections_and_the_pool_goes_on(pool: Database, database: str) -> None:
    with pool.connection(), pool.connection():
        pass

    pool.close()

    eventually(lambda: backends(database) == [])
    assert backend(pool)


def test_a_url_may_name_the_application_itself(make_pool: PoolFactory, database: str) -> None:
    pool = make_pool(size=1, url=f"{database}&application_name=other")
    with pool.connection() as conn:
        assert fetch_one(conn, "show application_name") == ("other",)
        assert backends(database, application="other") == [conn.info.backend_pid]


@contextmanager
def many_open_files(count: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 500), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(count):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        yield


def test_a_connection_works_in_a_process_with_more_than_1023_open_files(make_pool: PoolFactory) -> None:
    pool = make_pool(size=1)
    with many_open_files(1100), pool.connection() as conn:
        assert conn.fileno() > 1023
        assert fetch_one(conn, "select 1 from pg_sleep(0.1)") == (1,)

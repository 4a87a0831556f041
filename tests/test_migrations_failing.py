"""Migrations that fail, that are killed and that run at once: each is applied whole, once, or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from psycopg2 import errors as pg
from psycopg2.extensions import parse_dsn

from lumen_api import migrations
from tests.support import ROOT, databases, eventually
from tests.support.locks import at_once, held, waiting
from tests.support.migrating import NAMES, add, applied, log, tables

# --- All or nothing. ---


def test_a_migration_that_fails_leaves_nothing_and_is_not_marked(empty: str, directory: Path) -> None:
    add(directory, "9000.bad", "create table half (n int);\nselect 1 / 0;\n")

    with pytest.raises(pg.DivisionByZero):
        migrations.apply(empty)

    assert "half" not in tables(empty)
    assert applied(empty) == NAMES


def test_after_it_was_mended_it_is_applied(empty: str, directory: Path) -> None:
    add(directory, "9000.bad", "create table half (n int);\nselect 1 / 0;\n")
    with pytest.raises(pg.DivisionByZero):
        migrations.apply(empty)
    add(directory, "9000.bad", "create table half (n int);\n")

    assert migrations.apply(empty) == ["9000.bad"]
    assert "half" in tables(empty)


def test_a_rollback_that_fails_leaves_everything_and_the_mark(empty: str, directory: Path) -> None:
    add(directory, "9000.bad", "create table kept (n int);", rollback="drop table kept;\nselect 1 / 0;\n")
    migrations.apply(empty)

    with pytest.raises(pg.DivisionByZero):
        migrations.rollback(empty)

    assert "kept" in tables(empty)
    assert applied(empty) == [*NAMES, "9000.bad"]


def test_a_migration_that_cannot_be_marked_is_undone(empty: str, directory: Path) -> None:
    unmarkable = "alter table _yoyo_migration add check (migration_id <> '9000.unmarkable');\n"
    add(directory, "9000.unmarkable", f"create table half (n int);\n{unmarkable}")

    with pytest.raises(pg.CheckViolation):
        migrations.apply(empty)

    assert "half" not in tables(empty)
    assert applied(empty) == NAMES


# --- Several at once, and killed ones. ---


def test_of_processes_that_migrate_at_once_each_succeeds_and_nothing_is_applied_twice(empty: str) -> None:
    done = at_once([partial(migrations.apply, empty)] * 4)

    assert sorted(done, key=len) == [[], [], [], NAMES]
    assert applied(empty) == NAMES
    assert log(empty) == NAMES


APPLY = "import sys; from pathlib import Path; from lumen_api import migrations as m; m.DIRECTORY = Path(sys.argv[1]); "
APPLY += "m.apply(sys.argv[2])"


def test_a_process_that_was_killed_while_it_migrated_blocks_nobody(empty: str, directory: Path) -> None:
    add(directory, "9000.slow", "create table half (n int);\nselect pg_sleep(60);\n")
    command = [sys.executable, "-c", APPLY, str(directory), empty]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        eventually(lambda: _sleeping(empty), within=30)
        process.send_signal(signal.SIGKILL)
    (directory / "9000.slow.sql").unlink()
    add(directory, "9001.next", "create table next (n int);\n")

    assert migrations.apply(empty) == ["9001.next"]
    assert tables(empty) >= {"users", "next"}
    assert "half" not in tables(empty)


def _sleeping(url: str) -> bool:
    mine = "datname = current_database() and pid <> pg_backend_pid()"
    return bool(databases.query(url, f"select 1 from pg_stat_activity where {mine} and wait_event = 'PgSleep'"))


GATE = 42  # an advisory lock that a migration waits for, and the test holds
THROUGH_THE_GATE = f"""
set local lock_timeout = '60s';
select pg_advisory_xact_lock({GATE});
select pg_sleep(0.9);
"""


def test_the_roles_timeouts_neither_cut_a_long_migration_nor_end_the_wait_for_it(empty: str, directory: Path) -> None:
    migrations.apply(empty)
    add(directory, "9000.slow", THROUGH_THE_GATE)
    name = parse_dsn(empty)["dbname"]
    with held(empty, f"select pg_advisory_lock({GATE})") as gate, ThreadPoolExecutor(2) as threads:
        for setting in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            databases.query(empty, f"alter role current_user in database {name} set {setting} = '300ms'")
        first = threads.submit(migrations.apply, empty)
        eventually(lambda: len(waiting(empty)) == 1)
        second = threads.submit(migrations.apply, empty)
        eventually(lambda: len(waiting(empty)) == 2)
        gate.cursor().execute(f"select pg_advisory_unlock({GATE})")

        assert (first.result(30), second.result(30)) == (["9000.slow"], [])


def test_a_migration_may_run_outside_a_transaction(empty: str, directory: Path) -> None:
    add(directory, "9000.index", "-- transactional: false\ncreate index concurrently added on users (created_at);\n")

    assert migrations.apply(empty)[-1] == "9000.index"
    assert applied(empty)[-1] == "9000.index"

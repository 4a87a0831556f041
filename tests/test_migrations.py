"""Migrations: every one of them forward, back and forward again, by hand and by `flask db`."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg2.extensions import parse_dsn

from lumen_api import migrations
from tests.conftest import AppFactory
from tests.support import logs
from tests.support.migrating import FILES, NAMES, add, applied, dump, log, role_settings, tables
from tests.support.outages import black_hole

# --- The files. ---


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [name[:5] for name in NAMES] == [f"{number:04}." for number in range(1, len(NAMES) + 1)]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_migration_has_a_rollback(file: Path) -> None:
    rollback = file.with_name(f"{file.stem}.rollback.sql")

    assert rollback.read_text().strip()


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_migration_begins_with_what_it_is_for(file: Path) -> None:
    assert re.match(r"-- [A-Z]\w+ .*", file.read_text())


@pytest.mark.parametrize("file", FILES[1:], ids=NAMES[1:])
def test_a_migration_depends_on_earlier_ones(file: Path) -> None:
    (line,) = re.findall(r"^-- depends: (.+)$", file.read_text(), re.MULTILINE)

    assert set(line.split()) <= set(NAMES[: NAMES.index(file.stem)])


# --- Forward and back. ---


def test_an_empty_database_gets_every_migration_in_order(empty: str) -> None:
    assert migrations.apply(empty) == NAMES
    assert applied(empty) == NAMES
    assert tables(empty) == {
        *("users", "auth_tokens", "auth_sessions", "sessions"),
        *("llm_usage", "llm_totals", "llm_reservations"),
    }


def test_applying_twice_does_nothing(empty: str) -> None:
    migrations.apply(empty)
    before = dump(empty)

    assert migrations.apply(empty) == []
    assert dump(empty) == before
    assert log(empty) == NAMES


def test_forward_back_and_forward_again_gives_the_same_schema(empty: str) -> None:
    migrations.apply(empty)
    before = dump(empty)

    undone = migrations.rollback(empty, len(NAMES))
    left = (tables(empty), applied(empty), role_settings(empty))
    migrations.apply(empty)

    assert undone == NAMES[::-1]
    assert left == (set(), [], [])
    assert dump(empty) == before


def test_one_step_back_takes_the_last_migration(empty: str) -> None:
    migrations.apply(empty)

    assert migrations.rollback(empty) == NAMES[-1:]
    assert migrations.status(empty) == [*((name, True) for name in NAMES[:-1]), (NAMES[-1], False)]
    assert migrations.apply(empty) == NAMES[-1:]


def test_a_new_migration_is_applied_to_a_database_that_has_the_others(empty: str, directory: Path) -> None:
    migrations.apply(empty)
    add(directory, "9000.new", "create table added (n int);", rollback="drop table added;")

    assert migrations.apply(empty) == ["9000.new"]
    assert "added" in tables(empty)
    assert migrations.rollback(empty) == ["9000.new"]
    assert "added" not in tables(empty)


# --- From outside. ---


def test_a_url_with_two_hosts_works(empty: str, tmp_path: Path) -> None:
    parts = parse_dsn(empty)
    hosts = f"{quote(str(tmp_path / 'missing'), safe='')},{quote(parts['host'], safe='')}"

    assert migrations.apply(f"postgresql://lumen@/{parts['dbname']}?host={hosts}") == NAMES


def test_flask_db_applies_lists_and_undoes(empty: str, make_app: AppFactory) -> None:
    app = make_app(DATABASE_URL=empty)

    def flask_db(*arguments: str) -> list[str]:
        """What it prints."""
        result = app.test_cli_runner().invoke(args=["db", *arguments])
        assert result.exit_code == 0, result.output
        return result.output.splitlines()

    def logged(*arguments: str) -> list[tuple[str, str]]:
        """What it logs."""
        with logs.recorded() as events:
            flask_db(*arguments)
        return [(event["event"], event["migration"]) for event in events if "migration" in event]

    assert flask_db("status") == [f"missing  {name}" for name in NAMES]
    assert logged("apply") == [("migration_applied", name) for name in NAMES]
    assert flask_db("status") == [f"applied  {name}" for name in NAMES]
    assert logged("rollback", "--count", "2") == [("migration_undone", name) for name in NAMES[:-3:-1]]
    assert logged("apply") == [("migration_applied", name) for name in NAMES[-2:]]
    assert logged("apply") == []


def test_a_host_that_says_nothing_fails_the_release(make_app: AppFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "CONNECT_TIMEOUT", 0.2)
    with black_hole() as port:
        app = make_app(DATABASE_URL=f"postgresql://lumen@127.0.0.1:{port}/lumen")
        with logs.recorded() as events:
            result = app.test_cli_runner().invoke(args=["db", "apply"])

    assert (result.exit_code, result.output) == (1, "")
    assert events == [{"event": "command_failed", "problem": "the database does not answer", "sqlstate": None}]


def test_a_database_that_is_away_fails_the_release(make_app: AppFactory, tmp_path: Path) -> None:
    app = make_app(DATABASE_URL=f"postgresql://lumen@/lumen?host={quote(str(tmp_path), safe='')}")

    with logs.recorded() as events:
        result = app.test_cli_runner().invoke(args=["db", "apply"])

    assert (result.exit_code, result.output) == (1, "")
    assert "connection to server" in events[0]["problem"]


def test_what_the_server_says_about_a_statement_is_not_logged(
    empty: str, directory: Path, make_app: AppFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    add(directory, "9000.bad", "do $$ begin raise exception 'canary@example.com'; end $$;")

    result = make_app(DATABASE_URL=empty).test_cli_runner().invoke(args=["db", "apply"])

    out, err = capfd.readouterr()
    (failed,) = [event for event in logs.read(out) if event["event"] == "command_failed"]
    assert (result.exit_code, failed["error_class"], failed["sqlstate"]) == (1, "RaiseException", "P0001")
    assert "canary" not in out + err + result.output


@pytest.mark.parametrize("count", ["0", "-1", "all"])
def test_a_rollback_is_of_one_or_more(empty: str, make_app: AppFactory, count: str) -> None:
    migrations.apply(empty)

    result = make_app(DATABASE_URL=empty).test_cli_runner().invoke(args=["db", "rollback", "--count", count])

    assert result.exit_code == 2
    assert applied(empty) == NAMES

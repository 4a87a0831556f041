"""Migrations: every one of them forward, back and forward again, by hand and by `flask db`."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pytest
from flask import Flask
from psycopg2.extensions import parse_dsn

from lumen_api import migrations
from tests.conftest import AppFactory
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
    assert tables(empty) == {"users", "auth_tokens", "auth_sessions", "sessions"}


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
    def flask_db(app: Flask, *arguments: str) -> list[str]:
        result = app.test_cli_runner().invoke(args=["db", *arguments])
        assert result.exit_code == 0, result.output
        return [line for line in result.output.splitlines() if not line.startswith("{")]

    app = make_app(DATABASE_URL=empty)

    assert flask_db(app, "status") == [f"missing  {name}" for name in NAMES]
    assert flask_db(app, "apply") == [*(f"applied {name}" for name in NAMES), "the database is up to date"]
    assert flask_db(app, "status") == [f"applied  {name}" for name in NAMES]
    assert flask_db(app, "rollback", "--count", "2") == [f"undone {name}" for name in NAMES[:-3:-1]]
    assert flask_db(app, "apply") == [*(f"applied {name}" for name in NAMES[-2:]), "the database is up to date"]


def test_a_host_that_says_nothing_fails_the_release(make_app: AppFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "CONNECT_TIMEOUT", 0.2)
    with black_hole() as port:
        app = make_app(DATABASE_URL=f"postgresql://lumen@127.0.0.1:{port}/lumen")
        result = app.test_cli_runner().invoke(args=["db", "apply"])

    assert (result.exit_code, result.output) == (1, "Error: the database does not answer\n")


def test_a_database_that_is_away_fails_the_release(make_app: AppFactory, tmp_path: Path) -> None:
    app = make_app(DATABASE_URL=f"postgresql://lumen@/lumen?host={quote(str(tmp_path), safe='')}")

    result = app.test_cli_runner().invoke(args=["db", "apply"])

    assert (result.exit_code, result.output.partition(": ")[0]) == (1, "Error")
    assert "connection to server" in result.output

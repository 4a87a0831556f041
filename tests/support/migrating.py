"""Migrations on databases of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from lumen_api import migrations
from lumen_api.dev import embedded_postgres
from tests.support import databases

FILES = [file for file in sorted(migrations.DIRECTORY.glob("*.sql")) if not file.name.endswith(".rollback.sql")]
NAMES = [file.stem for file in FILES]


@contextmanager
def empty_database(server_dsn: str) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    name = f"migrations_{uuid4().hex}"
    databases.query(server_dsn, f"create database {name}")
    yield databases.url_of(server_dsn, name)
    databases.query(server_dsn, f"drop database {name} with (force)")


def add(directory: Path, name: str, statements: str, *, rollback: str = "select 1;") -> None:
    """One more migration in `directory`, or another text of it."""
    (directory / f"{name}.sql").write_text(f"-- depends: {NAMES[-1]}\n{statements}")
    (directory / f"{name}.rollback.sql").write_text(rollback)


def applied(url: str) -> list[str]:
    """The names of the migrations that are marked as applied."""
    return [name for (name,) in databases.query(url, "select migration_id from _yoyo_migration order by migration_id")]


def log(url: str) -> list[str]:
    """The names of all migrations that were ever run, each as often as it was."""
    return [name for (name,) in databases.query(url, "select migration_id from _yoyo_log order by migration_id")]


def tables(url: str) -> set[str]:
    """The names of all tables but yoyo's own."""
    found = databases.query(url, "select tablename from pg_tables where schemaname = 'public'")
    return {name for (name,) in found if "yoyo" not in name}


def role_settings(url: str) -> list[str]:
    """What is set for a role in this database, like "lock_timeout=1s"."""
    found = databases.query(
        url,
        """
        select unnest(setconfig) from pg_db_role_setting join pg_database d on d.oid = setdatabase
         where datname = current_database() order by 1
        """,
    )
    return [setting for (setting,) in found]


def dump(url: str) -> str:
    """The schema as SQL, and the role's settings."""
    program = str(embedded_postgres.binaries() / "pg_dump")
    command = [program, "--schema-only", "--restrict-key=none", f"--dbname={url}"]
    schema = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return f"{schema}\n{role_settings(url)}"

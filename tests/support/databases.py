"""Databases on an embedded PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import parse_dsn

from lumen_api import migrations


def connect(url: str) -> Any:
    """An autocommit connection for a test's own questions."""
    conn = psycopg2.connect(url)
    conn.autocommit = True
    return conn


def query(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows of one statement."""
    conn = connect(url)
    try:
        with conn.cursor() as cursor:
            cursor.execute(statement, values or None)
            if cursor.description:
                rows: list[tuple[Any, ...]] = cursor.fetchall()
                return rows
            # "select from x" has rows without columns.
            return [()] * cursor.rowcount if cursor.statusmessage.startswith("SELECT") else []
    finally:
        conn.close()


def empty(url: str) -> None:
    """Take every row out of every table of ours."""
    tables = "users, auth_tokens, auth_sessions, sessions, llm_usage, llm_totals, llm_reservations"
    query(url, f"truncate {tables}")


def create(server_dsn: str, name: str) -> str:
    """A new, migrated database. Returns its URL."""
    conn = connect(server_dsn)
    with conn.cursor() as cursor:
        cursor.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    conn.close()
    url = url_of(server_dsn, name)
    migrations.apply(url)
    return url


def url_of(server_dsn: str, name: str) -> str:
    """DATABASE_URL for the database `name` of a server that listens on a Unix socket."""
    parts = parse_dsn(server_dsn)
    return f"postgresql://{parts['user']}@/{name}?host={quote(parts['host'], safe='')}"


def postmaster(folder: Path) -> int:
    """The process id of the embedded server in `folder`."""
    return int((folder / "postgres" / "data" / "postmaster.pid").read_text().splitlines()[0])

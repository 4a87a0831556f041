"""A database of a chosen size, loaded with COPY.

Indexes and foreign keys are taken off for the load and made again from their own definitions, which also checks every
row; CHECKs stay on.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from bench.growth.rows import Person, Rows, Size
from lumen_api.dev import embedded_postgres
from tests.support import databases


@dataclass(frozen=True)
class Loaded:
    """The database, and who can ask."""

    url: str
    regulars: list[Person]
    heavies: list[Person]


def load(server_dsn: str, name: str, size: Size) -> Loaded:
    """Make the database `name`: migrated, loaded, checked, vacuumed."""
    url = databases.create(server_dsn, name)
    definitions = _take_off(url)
    rows = Rows(size)
    known = rows.people()
    _copy(url, "users (user_id, email, created_at)", rows.users())
    _copy(url, "sessions (user_id, session_id, started_at, ended_at, transcript_hash)", rows.sessions())
    _copy(url, "auth_sessions (id_hash, user_id, created_at, expires_at)", rows.sign_ins(known))
    _copy(url, "auth_tokens (token_hash, email, created_at, expires_at)", rows.links(known))
    _copy(url, "llm_usage (user_id, day, tokens)", rows.usage())
    _copy(url, "llm_totals (day, tokens)", rows.totals())
    _copy(url, "llm_reservations (user_id, day, tokens, deadline)", rows.calls())
    for definition in definitions:
        _psql(url, definition)
    _psql(url, "vacuum (analyze)")
    return Loaded(url, known[: size.regulars], known[size.regulars :])


def _take_off(url: str) -> list[str]:
    """Drop every index and foreign key, and return the statements that make them again: indexes first."""
    constraints = databases.query(
        url,
        """
        select format('alter table %s drop constraint %I', conrelid::regclass, conname),
               format('alter table %s add constraint %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
          from pg_constraint
         where contype in ('p', 'u', 'f') and connamespace = 'public'::regnamespace
               and conrelid::regclass::text not like '%yoyo%'
         order by contype = 'f', conname
        """,
    )
    indexes = databases.query(
        url,
        """
        select format('drop index %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
          from pg_index join pg_class on pg_class.oid = indrelid
         where relnamespace = 'public'::regnamespace and relname not like '%yoyo%'
               and not exists (select from pg_constraint where conindid = indexrelid)
        """,
    )
    for drop, _ in [*constraints[::-1], *indexes]:
        databases.query(url, drop)
    return [make for _, make in [*indexes, *constraints]]


def _copy(url: str, table: str, rows: Iterable[bytes]) -> None:
    """Through psql, in another process: it goes on while the next rows are made."""
    process = _start_psql(url, f"copy {table} from stdin (format binary)", stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
    rows = iter(rows)
    while block := b"".join(islice(rows, 2000)):
        process.stdin.write(block)
    process.stdin.write(b"\xff\xff")
    process.stdin.close()
    _wait(process)


def _psql(url: str, statement: str) -> None:
    _wait(_start_psql(url, statement))


def _start_psql(url: str, statement: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    options = "-c statement_timeout=0 -c lock_timeout=0 -c maintenance_work_mem=512MB"
    psql = [str(embedded_postgres.binaries() / "psql"), "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1"]
    return subprocess.Popen([*psql, "-c", statement, url], stdin=stdin, env={"PGOPTIONS": options})


def _wait(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError(f"psql ended with {process.returncode}")

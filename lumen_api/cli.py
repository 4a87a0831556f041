"""What an operator types: `flask db`, `flask purge`, `flask check-config`, `flask transcript-hash`.

A command that does something logs what it did, like any other part of the service: in production it runs unattended.
A command that answers a question prints the answer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any, BinaryIO, NoReturn

import click
import psycopg2
from flask import Flask
from flask.cli import AppGroup

from lumen_api import migrations
from lumen_api.db import Database, DeadlineExceeded
from lumen_api.errors import ApiError
from lumen_api.observability import metrics
from lumen_api.observability.logging import log_event
from lumen_api.repositories import auth_sessions, auth_tokens, llm_usage
from lumen_api.transcript_hash import TranscriptError, transcript_hash

PURGE_BATCH = 1000
# How many times as long as a batch has taken is the pause after it. Without one traffic notices the purge.
PURGE_PAUSE = 4
_PURGES = {
    "auth_tokens": auth_tokens.purge,
    "auth_sessions": auth_sessions.purge,
    "llm_usage": llm_usage.purge_usage,
    "llm_reservations": llm_usage.purge_reservations,
}


def init_app(app: Flask, database: Database, *, configuration: str) -> None:
    """Add the commands to `app`. `configuration`: what check-config prints."""
    app.cli.add_command(_db(database))

    @app.cli.command("purge")
    def purge_command() -> None:
        """Remove expired links and sign-ins, and past budgets. Safe beside traffic, and at any time."""
        with _logged_errors():
            for table, purge in _PURGES.items():
                rows = _purge_all(database, purge)
                log_event("purge", table=table, rows=rows)
                metrics.PURGED.record(rows, table)

    @app.cli.command("check-config")
    def check_config() -> None:
        """Print the configuration in force, secrets masked. Exits 1 and lists every problem if there are any."""
        click.echo(f"{configuration}\n\nno problems")

    @app.cli.command("transcript-hash")
    @click.argument("file", type=click.File("rb"), default="-")
    def transcript_hash_command(file: BinaryIO) -> None:
        """Print the hash of a transcript: a JSON list of messages, in FILE or on stdin."""
        try:
            click.echo(transcript_hash(_read_json(file)))
        except TranscriptError as error:
            raise click.ClickException(str(error)) from None


def _db(database: Database) -> AppGroup:
    group = AppGroup("db", help="Migrations of the database.")

    @group.command("apply")
    def apply() -> None:
        """Apply the migrations that are missing."""
        with _logged_errors():
            for name in migrations.apply(database.dsn):
                log_event("migration_applied", migration=name)
        log_event("database_up_to_date")

    @group.command("rollback")
    @click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many to undo.")
    def rollback(count: int) -> None:
        """Undo the last migration."""
        with _logged_errors():
            for name in migrations.rollback(database.dsn, count):
                log_event("migration_undone", migration=name)

    @group.command("status")
    def status() -> None:
        """List the migrations."""
        with _logged_errors():
            for name, applied in migrations.status(database.dsn):
                click.echo(f"{'applied' if applied else 'missing'}  {name}")

    return group


def _read_json(file: BinaryIO) -> Any:
    """What a file says in JSON, in UTF-8 or UTF-16, with a byte order mark or without."""
    try:
        # Integers as floats: Python reads none of more than 4300 digits, and no number is ever hashed.
        return json.loads(file.read(), parse_int=float, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise click.ClickException("the transcript is not JSON") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@contextmanager
def _logged_errors() -> Iterator[None]:
    """Exit 1 with one event, and no traceback on stderr, when the database is away or refuses."""
    try:
        yield
    except (psycopg2.Error, DeadlineExceeded, ApiError) as error:
        cause = error.__cause__ or error
        code = cause.pgcode if isinstance(cause, psycopg2.Error) else None
        # What libpq says when it cannot connect is about our configuration. What the server says about a statement
        # can hold the values of a row, so only its class goes out.
        log_event(
            "command_failed",
            logging.ERROR,
            problem="the database refused a statement" if code else _in_words(cause),
            sqlstate=code,
            exc_info=cause if code else None,
        )
        raise SystemExit(1) from None


def _in_words(error: BaseException) -> str:
    if isinstance(error, DeadlineExceeded):
        return "the database does not answer"
    return error.message if isinstance(error, ApiError) else str(error).strip()


def _purge_all(database: Database, purge: Callable[..., int]) -> int:
    """Purge batch by batch, so that no lock is held for long. A batch that comes back short was the last."""
    total = 0
    while True:
        began = monotonic()
        with database.connection() as conn:
            count = purge(conn, batch=PURGE_BATCH)
        total += count
        if count < PURGE_BATCH:
            return total
        sleep(PURGE_PAUSE * (monotonic() - began))

"""What an operator types: `flask db`, `flask purge`, `flask check-config`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
import psycopg2
from flask import Flask
from flask.cli import AppGroup

from lumen_api import migrations
from lumen_api.db import Database, DeadlineExceeded
from lumen_api.errors import ApiError
from lumen_api.repositories import auth_sessions, auth_tokens

PURGE_BATCH = 1000


def init_app(app: Flask, database: Database, *, configuration: str) -> None:
    """Add the commands to `app`. `configuration`: what check-config prints."""
    app.cli.add_command(_db(database))

    @app.cli.command("purge")
    def purge_command() -> None:
        """Remove expired links and sign-ins. Safe beside traffic, and at any time."""
        with _readable_errors():
            for name, purge in (("links", auth_tokens.purge), ("sign-ins", auth_sessions.purge)):
                click.echo(f"{_purge_all(database, purge)} expired {name} removed")

    @app.cli.command("check-config")
    def check_config() -> None:
        """Print the configuration in force, secrets masked. Exits 1 and lists every problem if there are any."""
        click.echo(f"{configuration}\n\nno problems")


def _db(database: Database) -> AppGroup:
    group = AppGroup("db", help="Migrations of the database.")

    @group.command("apply")
    def apply() -> None:
        """Apply the migrations that are missing."""
        with _readable_errors():
            for name in migrations.apply(database.dsn):
                click.echo(f"applied {name}")
        click.echo("the database is up to date")

    @group.command("rollback")
    @click.option("--count", default=1, show_default=True, help="How many migrations to undo.")
    def rollback(count: int) -> None:
        """Undo the last migration."""
        with _readable_errors():
            for name in migrations.rollback(database.dsn, count):
                click.echo(f"undone {name}")

    @group.command("status")
    def status() -> None:
        """List the migrations."""
        with _readable_errors():
            for name, applied in migrations.status(database.dsn):
                click.echo(f"{'applied' if applied else 'missing'}  {name}")

    return group


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Exit 1 with a sentence, and no traceback, when the database is away or refuses."""
    try:
        yield
    except psycopg2.Error as error:
        raise click.ClickException(str(error).strip()) from None
    except DeadlineExceeded:
        raise click.ClickException("the database does not answer") from None
    except ApiError as error:
        raise click.ClickException(error.message) from None


def _purge_all(database: Database, purge: Callable[..., int]) -> int:
    """Purge batch by batch, so that no lock is held for long. A batch that comes back short was the last."""
    total = 0
    while True:
        with database.connection() as conn:
            count = purge(conn, batch=PURGE_BATCH)
        total += count
        if count < PURGE_BATCH:
            return total

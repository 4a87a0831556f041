"""PostgreSQL quotes what it was given: in the error that the service gets, and in a log of its own. No quotation of a
person may get into either log, or on to the collector.

The service runs on an embedded PostgreSQL as it was started by lumen_api/dev, with its settings for its log.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg2
import pytest

from tests.support import ROOT, databases, eventually
from tests.support.caller import Caller
from tests.support.canaries import Canaries
from tests.support.journey_of_a_canary import END, LIMITS, LINK, START, VERIFY
from tests.support.locks import held, waiting
from tests.support.production import Production, production
from tests.support.service import Answer

# Every part of an error holds the row.
FUNCTIONS = """
    create function quote_row() returns trigger language plpgsql as $$
        begin
            raise exception using message = coalesce(new, old)::text, detail = coalesce(new, old)::text,
                hint = coalesce(new, old)::text, errcode = tg_argv[0];
        end $$;
    create function cast_to_uuid() returns trigger language plpgsql as $$
        begin perform new.session_id::uuid; return new; end $$;
    create function wait() returns trigger language plpgsql as $$
        begin perform pg_sleep(30); return new; end $$;
"""


def trigger(table: str, event: str, function: str) -> tuple[str, str]:
    """How to make every `event` on a table call `function`, and how to end that."""
    return (
        f"create trigger fault before {event} on {table} for each row execute function {function}",
        f"drop trigger fault on {table}",
    )


# What is asked, what the caller hears, the class of PostgreSQL's error; how it is brought about, and undone.
FAULTS = [
    ("link", "internal_error", "RaiseException", trigger("auth_tokens", "insert", "quote_row('P0001')")),
    ("link", "database_unavailable", "DiskFull", trigger("auth_tokens", "insert", "quote_row('53100')")),
    (
        *("link", "internal_error", "UniqueViolation"),
        ("create unique index fault on auth_tokens (email)", "drop index fault"),
    ),
    (
        *("link", "internal_error", "CheckViolation"),
        (
            "alter table auth_tokens add constraint fault check (email is null) not valid",
            "alter table auth_tokens drop constraint fault",
        ),
    ),
    (
        *("link", "database_unavailable", "UndefinedColumn"),
        (
            "alter table auth_tokens rename column email to mail",
            "alter table auth_tokens rename column mail to email",
        ),
    ),
    ("verify", "internal_error", "RaiseException", trigger("users", "insert", "quote_row('P0001')")),
    ("verify", "internal_error", "CheckViolation", trigger("auth_sessions", "insert", "quote_row('23514')")),
    ("start", "internal_error", "InvalidTextRepresentation", trigger("sessions", "insert", "cast_to_uuid()")),
    ("start", "busy", "QueryCanceled", trigger("sessions", "insert", "wait()")),
    ("end", "internal_error", "RaiseException", trigger("sessions", "insert", "quote_row('P0001')")),
    ("logout", "internal_error", "RaiseException", trigger("auth_sessions", "delete", "quote_row('P0001')")),
    ("delete", "internal_error", "RaiseException", trigger("users", "delete", "quote_row('P0001')")),
]


class Person:
    """Somebody who is signed in and has two unused links, and what that person asks for."""

    def __init__(self, it: Production, canaries: Canaries) -> None:
        self._caller = caller = Caller(it, canaries)
        self._cookie = cookie = caller.sign_in("Ada")
        caller.link("Ada")
        token = caller.link("Bob")
        session = {"session_id": canaries.word("session_id"), "started_at": "2023-04-05T06:07:08.910111Z"}
        canaries.watch("started_at", session["started_at"])
        ended = {**session, "transcript_hash": caller.hash("hash")}
        self.asks: dict[str, Callable[[], Answer]] = {
            "link": lambda: caller.ask("POST", LINK, {"email": canaries.email("Bob")}),
            "verify": lambda: caller.ask("POST", VERIFY, {"token": token}),
            "start": lambda: caller.ask("POST", START, session, cookie=cookie),
            "end": lambda: caller.ask("POST", END, ended, cookie=cookie),
            "logout": lambda: caller.ask("POST", "/v1/auth/logout", cookie=cookie),
            "delete": lambda: caller.ask("DELETE", "/v1/account", cookie=cookie),
            "ready": lambda: caller.ask("GET", "/v1/health/ready"),
        }

    def hears(self, code: str, ask: str) -> None:
        """Ask, and hear this error."""
        answer = self.asks[ask]()
        assert answer.json["error"]["code"] == code, (ask, answer.body)


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Production]:
    with production(tmp_path, {**LIMITS, "LOG_LEVEL": "DEBUG"}) as it:
        yield it


def test_what_the_database_quotes_in_an_error_goes_no_further(it: Production, canaries: Canaries) -> None:
    person = Person(it, canaries)
    databases.query(it.server.url, FUNCTIONS)

    for ask, code, _, (fault, end) in FAULTS:
        databases.query(it.server.url, fault)
        person.hears(code, ask)
        databases.query(it.server.url, end)
    purge(it, canaries)

    assert it.leaks(canaries) == ""
    assert {error for _, _, error, _ in FAULTS} <= it.error_classes()


def purge(it: Production, canaries: Canaries) -> None:
    """The command fails too, at a row that it would delete."""
    statement = "update auth_tokens set created_at = now() - interval '2 hours', expires_at = now() - interval '1 hour'"
    assert not databases.query(it.server.url, statement)
    databases.query(it.server.url, trigger("auth_tokens", "delete", "quote_row('P0001')")[0])
    command = [sys.executable, "-m", "flask", "purge"]
    run = subprocess.run(command, cwd=ROOT, env=it.service.env, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert '"event":"command_failed"' in run.stdout
    assert canaries.find(run.stdout + run.stderr) == []


def test_what_was_under_way_in_the_database_when_it_failed_goes_no_further(it: Production, canaries: Canaries) -> None:
    person, url = Person(it, canaries), it.server.url

    interrupt(person, url, "busy", lambda _: None)  # the lock timeout
    interrupt(person, url, "busy", lambda pid: databases.query(url, "select pg_cancel_backend(%s)", pid))
    interrupt(
        person, url, "database_unavailable", lambda pid: databases.query(url, "select pg_terminate_backend(%s)", pid)
    )
    deadlock(person, url)
    interrupt(person, url, "database_unavailable", lambda pid: os.kill(pid, signal.SIGKILL))
    eventually(lambda: is_up(url))
    with it.server.paused():
        person.hears("database_unavailable", "start")
    it.server.crash()
    person.hears("database_unavailable", "link")
    it.server.start()
    it.server.stop()
    person.hears("not_ready", "ready")
    person.hears("database_unavailable", "verify")

    assert it.leaks(canaries) == ""
    log = (it.server.folder / "postgres.log").read_text()
    assert "FATAL:  terminating connection due to administrator command" in log
    assert "was terminated by signal 9" in log
    errors = {"LockNotAvailable", "QueryCanceled", "OperationalError", "DeadlockDetected", "DeadlineExceeded"}
    assert errors <= it.error_classes()


def interrupt(person: Person, url: str, code: str, act: Callable[[int], object]) -> None:
    """Do something to the server process that works on a start."""
    with held(url, "lock table sessions in access exclusive mode"), ThreadPoolExecutor(1) as threads:
        answer = threads.submit(person.asks["start"])
        eventually(lambda: waiting(url))
        act(*waiting(url))
        assert answer.result().json["error"]["code"] == code


def deadlock(person: Person, url: str) -> None:
    """Between a deletion of the account and somebody who locks in the other order."""
    databases.query(url, "alter system set deadlock_timeout = '700ms'")  # less than the role's lock_timeout
    databases.query(url, "select pg_reload_conf()")
    with held(url, "select from users for update") as other, ThreadPoolExecutor(2) as threads:
        with other.cursor() as cursor:
            cursor.execute("set deadlock_timeout = '30s'")
            cursor.execute("set lock_timeout = 0")
            cursor.execute("set statement_timeout = 0")
            answer = threads.submit(person.asks["delete"])
            eventually(lambda: waiting(url))
            threads.submit(cursor.execute, "delete from auth_tokens").result()
        assert answer.result().json["error"]["code"] == "busy"


def is_up(url: str) -> bool:
    """Whether the server takes connections."""
    with suppress(psycopg2.OperationalError):
        return databases.query(url, "select 1") == [(1,)]
    return False

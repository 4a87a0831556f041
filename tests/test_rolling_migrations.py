"""Migrations under traffic: the last release runs on today's schema, today's code on the last release's, and both at
once while migrations go forward and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Event

import pytest

from lumen_api import migrations
from tests.conftest import AppFactory
from tests.support import ROOT, eventually, releases
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.llm import ASKED
from tests.support.locks import held, waiting
from tests.support.mailbox import Mailbox
from tests.support.migrating import FILES, NAMES, add
from tests.support.releases import Traveller, refused
from tests.support.service import Service

Start = Callable[..., Service]
Record = Callable[[str, object], None]

OLD_FILES = releases.migration_files()
NEW = [name for name in NAMES if f"{name}.sql" not in OLD_FILES]

# What takes something away, or asks of rows what the last release does not give them.
CONTRACTING = re.compile(
    r"\bdrop\s+(table|column|type|view|function)\b|\brename\b|\bset\s+not\s+null\b|\bset\s+data\s+type\b"
    r"|\balter\s+column\s+\w+\s+type\b|\badd\s+column\b(?![^;,]*\bdefault\b)[^;,]*\bnot\s+null\b",
    re.IGNORECASE,
)


@pytest.fixture
def env(env: dict[str, str], empty: str) -> dict[str, str]:
    """conftest's, with a database whose schema is this test's own to change."""
    migrations.apply(empty)
    return {**env, "DATABASE_URL": empty}


@pytest.fixture
def start(env: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Serves a checkout: start(project, SESSION_TTL="1h")."""
    services: list[Service] = []

    def start(project: Path, **variables: str) -> Service:
        services.append(Service({**env, **variables}, tmp_path, workers=1, project=project))
        return services[-1].start()

    yield start
    for service in services:
        service.stop()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The last release's code."""
    return releases.unpack(tmp_path / "last")


# --- One at a time. ---


def test_the_last_releases_code_serves_a_whole_journey_on_todays_schema(
    start: Start, old: Path, mailbox: Mailbox
) -> None:
    service = start(old)
    traveller = Traveller([service], mailbox, "ada@example.com")

    traveller.journey()
    assert traveller.refusals == 0
    assert service.call("GET", "/v1/health/ready").status == 200


def test_todays_code_serves_all_but_usage_on_the_last_releases_schema(
    start: Start, empty: str, mailbox: Mailbox
) -> None:
    migrations.rollback(empty, len(NEW))
    with AnthropicServer() as provider:
        service = start(ROOT, LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=provider.url)
        Traveller([service], mailbox, "ada@example.com").journey()
        bob = Traveller([service], mailbox, "bob@example.com")
        bob.sign_in()
        # What reads the missing tables. The last one keeps a balancer from sending anybody here.
        answers = [
            bob.ask("POST", "/v1/llm/messages", ASKED, status=503),
            bob.ask("GET", "/v1/llm/usage", status=503),
            bob.ask("GET", "/v1/account", status=503),
            bob.ask("GET", "/v1/health/ready", status=503),
        ]

    assert all(map(refused, answers))
    assert provider.requests == []


def test_undoing_migrations_waits_for_an_export_and_does_not_deadlock_with_it(empty: str) -> None:
    migrations.apply(empty)
    with held(empty, "select from users") as export, ThreadPoolExecutor(1) as threads:
        undone = threads.submit(migrations.rollback, empty, len(NEW))
        eventually(lambda: waiting(empty))
        export.cursor().execute("select from llm_usage, llm_reservations; commit")
        assert undone.result() == NEW[::-1]


# --- Both at once. ---


@pytest.mark.faults
def test_journeys_between_both_releases_go_on_while_migrations_are_applied_and_rolled_back(
    start: Start, old: Path, make_app: AppFactory, mailbox: Mailbox, record_property: Record
) -> None:
    services = [start(old), start(ROOT)]
    flask = make_app().test_cli_runner()
    done: list[Traveller] = []
    numbers, over = count(), Event()

    def travel() -> None:
        while not over.is_set():
            number = next(numbers)
            # Every other one begins on the other release: so each step is made on both, after each other's.
            order = services if number % 2 else services[::-1]
            traveller = Traveller(order, mailbox, f"traveller-{number}@example.com", patience=10)
            traveller.journey()
            done.append(traveller)

    def migrate(*arguments: str) -> None:
        result = flask.invoke(args=["db", *arguments])
        assert result.exit_code == 0, result.output
        after = len(done)
        eventually(lambda: len(done) >= after + 8 or any(one.done() for one in travels), within=60)

    with ThreadPoolExecutor(4) as threads:
        travels = [threads.submit(travel) for _ in range(4)]
        try:
            for _ in range(3):
                migrate("rollback", "--count", str(len(NEW)))
                migrate("apply")
        finally:
            over.set()
        for one in travels:
            one.result()  # or why it has ended too early

    record_property("journeys", f"{len(done)}, all to their end")
    record_property("announced refusals on the way", str(sum(traveller.refusals for traveller in done)))


# --- What the writer of a migration has to keep to. ---

BREAKING = {
    "a column renamed": (
        "alter table users rename column email to address;",
        "alter table users rename column address to email;",
    ),
    "a column taken away": (
        "alter table auth_sessions drop column expires_at;",
        "alter table auth_sessions add column expires_at timestamptz;",
    ),
    "a column that must be filled": (
        "alter table sessions add column place text not null;",
        "alter table sessions drop column place;",
    ),
}


@pytest.mark.parametrize(("statement", "undo"), BREAKING.values(), ids=BREAKING)
def test_a_migration_that_breaks_the_last_release_is_noticed(
    start: Start, old: Path, empty: str, directory: Path, mailbox: Mailbox, statement: str, undo: str
) -> None:
    add(directory, "9000.breaking", statement, rollback=undo)
    service = start(old)
    assert migrations.apply(empty) == ["9000.breaking"]

    with pytest.raises(AssertionError, match=r"\b50[03]\b"):
        Traveller([service], mailbox, "ada@example.com").journey()
    assert CONTRACTING.search(statement)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_migration_that_takes_something_away_says_why_the_last_release_can_do_without_it(file: Path) -> None:
    text = file.read_text()
    statements = re.sub(r"--.*", "", text)

    assert not CONTRACTING.search(statements) or re.search(r"^-- contract: \S+", text, re.MULTILINE)


@pytest.mark.parametrize(
    "statement",
    [
        "create table notes (n int not null);",
        "alter table users add column name text;",
        "alter table users add column name text not null default '';",
        "create index concurrently users_name on users (name);",
    ],
)
def test_a_migration_that_only_adds_says_nothing(statement: str) -> None:
    assert not CONTRACTING.search(statement)


def test_no_migration_of_the_last_release_was_edited() -> None:
    assert {name: (migrations.DIRECTORY / name).read_bytes() for name in OLD_FILES} == OLD_FILES


def test_the_archive_of_the_last_release_is_what_its_readme_says() -> None:
    named = re.findall(r"\b[0-9a-f]{40}\b", (releases.FOLDER / "README.md").read_text())

    assert set(named) == {releases.commit()}
    assert releases.ARCHIVE.stat().st_size < 300_000

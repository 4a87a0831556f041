"""`flask purge`: what has expired or is past goes, in batches and beside traffic; everything else stays."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from flask import Flask

from lumen_api import cli
from lumen_api.db import Connection
from lumen_api.repositories import auth_tokens
from tests.support import databases, logs
from tests.support.journeys import HASH, request_link, sign_in
from tests.support.locks import at_once, held
from tests.support.mailbox import Mailbox
from tests.support.rows import add_links, add_sign_ins, add_usage, add_user

ADA = "ada@example.com"

# What the purge removes rows from, and which of them it finds.
PAST = {
    "auth_tokens": "expires_at <= now()",
    "auth_sessions": "expires_at <= now()",
    "llm_usage": "day < (now() at time zone 'utc')::date - 1",
    "llm_reservations": "deadline <= now() - interval '1 hour'",
}
SEVEN, NOTHING = dict.fromkeys(PAST, 7), dict.fromkeys(PAST, 0)


def purge(app: Flask) -> dict[str, int]:
    """How many rows `flask purge` says to have removed, by table."""
    with logs.recorded() as events:
        assert app.test_cli_runner().invoke(args=["purge"]).exit_code == 0
    return {event["table"]: event["rows"] for event in events if event["event"] == "purge"}


def left(database: str) -> dict[str, int]:
    """How many rows there are."""
    tables = ("users", "sessions", *PAST, "llm_totals")
    return {table: databases.query(database, f"select count(*) from {table}")[0][0] for table in tables}


@pytest.fixture
def rows(database: str) -> str:
    """Seven past and two good ones of each kind."""
    user_id = add_user(database, ADA)
    add_links(database, ADA, good=2, expired=7)
    add_sign_ins(database, user_id, good=2, expired=7)
    for days_ago in range(9):
        deadline = -timedelta(minutes=59 if days_ago < 2 else 61)
        add_usage(database, user_id, used=100, reserved=20, days_ago=days_ago, deadline=deadline)
    return database


@pytest.mark.usefixtures("rows")
def test_what_has_expired_is_removed_and_counted(app: Flask, database: str) -> None:
    before = databases.query(database, "select * from llm_totals order by day")

    assert purge(app) == SEVEN
    assert left(database) == {"users": 1, "sessions": 0, **dict.fromkeys(PAST, 2), "llm_totals": 9}
    for table, past in PAST.items():
        assert databases.query(database, f"select 1 from {table} where {past}") == [], table
    assert databases.query(database, "select * from llm_totals order by day") == before


@pytest.mark.usefixtures("rows")
def test_a_second_purge_finds_nothing(app: Flask, database: str) -> None:
    purge(app)
    before = left(database)

    assert purge(app) == NOTHING
    assert left(database) == before


@pytest.mark.usefixtures("rows")
def test_what_is_good_still_works_afterwards(app: Flask, mailbox: Mailbox) -> None:
    signed_in, asked = app.test_client(), app.test_client()
    sign_in(signed_in, mailbox, ADA)
    signed_in.post("/v1/sessions/end", json={"session_id": "one", "transcript_hash": HASH})
    token = request_link(asked, mailbox, "bob@example.com")

    purge(app)

    assert len(signed_in.get("/v1/sessions").get_json()["sessions"]) == 1
    assert asked.post("/v1/auth/verify", json={"token": token}).status_code == 200


def test_users_and_their_sessions_never_expire(app: Flask, mailbox: Mailbox, database: str) -> None:
    client = app.test_client()
    sign_in(client, mailbox, ADA)
    client.post("/v1/sessions/start", json={"session_id": "one"})
    databases.query(database, "update auth_sessions set created_at = '2026-01-01Z', expires_at = '2026-01-02Z'")

    purge(app)

    assert left(database) == {"users": 1, "sessions": 1, **NOTHING, "llm_totals": 0}


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(("batch", "sizes"), [(3, [3, 3, 1]), (7, [7, 0]), (8, [7]), (1, [1] * 7 + [0])], ids=str)
def test_rows_go_batch_by_batch(app: Flask, monkeypatch: pytest.MonkeyPatch, batch: int, sizes: list[int]) -> None:
    removed: dict[str, list[int]] = {table: [] for table in PAST}

    def counted(purge: Callable[..., int], counts: list[int]) -> Callable[..., int]:
        def count(conn: Connection, **values: Any) -> int:
            counts.append(purge(conn, **values))
            return counts[-1]

        return count

    monkeypatch.setattr(cli, "PURGE_BATCH", batch)
    monkeypatch.setattr(cli, "_PURGES", {table: counted(purge, removed[table]) for table, purge in cli._PURGES.items()})

    purge(app)

    assert removed == dict.fromkeys(PAST, sizes)


@pytest.mark.usefixtures("rows")
def test_a_pause_follows_each_batch_but_the_last(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(cli, "PURGE_BATCH", 3)
    monkeypatch.setattr(cli, "sleep", pauses.append)

    purge(app)

    assert len(pauses) == 2 * len(PAST)
    assert min(pauses) > 0


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_locked_rows_are_left_for_the_next_time_and_not_waited_for(
    app: Flask, rows: str, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(cli, "PURGE_BATCH", batch)
    with ExitStack() as locks:
        holders = [
            locks.enter_context(held(rows, f"select from {table} where {past} limit 2 for update"))
            for table, past in PAST.items()
        ]
        # A purge that waits fails: the locks outlast it.
        beside = purge(app)
        for holder in holders:
            holder.cursor().execute("rollback")

    assert beside == dict.fromkeys(PAST, 5)
    assert purge(app) == dict.fromkeys(PAST, 2)


def test_two_purges_at_once_share_the_work(app: Flask, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add_links(database, ADA, expired=60)
    monkeypatch.setattr(cli, "PURGE_BATCH", 2)

    removed = at_once([partial(cli._purge_all, app.extensions["lumen.db"], auth_tokens.purge)] * 2)

    assert left(database)["auth_tokens"] == 0
    assert sum(removed) == 60


def test_people_who_sign_in_beside_it_lose_nothing(
    app: Flask, mailbox: Mailbox, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "PURGE_BATCH", 5)
    user_id = add_user(database, "bob@example.com")
    clients = [app.test_client() for _ in range(8)]
    removed = 0
    with ThreadPoolExecutor(1) as threads:
        traffic = threads.submit(lambda: [sign_in(client, mailbox, ADA) for client in clients])
        while not traffic.done():
            add_links(database, ADA, expired=20)
            add_sign_ins(database, user_id, expired=20)
            removed += sum(purge(app).values())

    assert len(set(traffic.result())) == 1
    assert [client.get("/v1/auth/session").status_code for client in clients] == [200] * 8
    assert removed > 0
    assert left(database)["auth_sessions"] == 8

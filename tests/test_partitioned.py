"""The schema with native hash partitioning by user_id (docs/scaling.md): what can be, what cannot, and journeys."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import psycopg2
import pytest
from flask import Flask

from lumen_api import migrations
from lumen_api.db import Connection
from tests.conftest import AppFactory
from tests.support import databases
from tests.support.journeys import HASH, request_link, sign_in
from tests.support.mailbox import Mailbox
from tests.support.migrating import FILES
from tests.support.rows import add_usage
from tests.test_query_plans import GROWTH, QUERIES, Query, explain, user

PARTITIONED = ("sessions", "llm_usage")
PARTITIONS = 8
# Those that have a user_id and stay whole, and what PostgreSQL says to partitioning them.
WHOLE = {
    "users": 'UNIQUE constraint on table "users" lacks column "user_id"',
    "auth_sessions": 'PRIMARY KEY constraint on table "auth_sessions" lacks column "user_id"',
    "llm_reservations": 'PRIMARY KEY constraint on table "llm_reservations" lacks column "user_id"',
}


def partition(directory: Path, table: str) -> None:
    """Let the migrations in `directory` make `table` partitioned; nothing else about it changes."""
    (path,) = [directory / file.name for file in FILES if f"create table {table} (" in file.read_text()]
    parts = "".join(
        f"create table {table}_{n} partition of {table} for values with (modulus {PARTITIONS}, remainder {n});\n"
        for n in range(PARTITIONS)
    )
    whole = re.compile(rf"(?ms)^(create table {table} \(.*?^\));$")
    path.write_text(whole.sub(rf"\1 partition by hash (user_id);\n{parts}", path.read_text()))


@pytest.fixture
def partitioned(empty: str, directory: Path) -> str:
    """The URL of a database that is partitioned as far as PostgreSQL can."""
    for table in PARTITIONED:
        partition(directory, table)
    migrations.apply(empty)
    return empty


@pytest.fixture
def app(make_app: AppFactory, partitioned: str) -> Flask:
    """The service on it."""
    return make_app(DATABASE_URL=partitioned)


@pytest.mark.parametrize("table", WHOLE)
def test_a_table_whose_key_lacks_the_user_cannot_be_partitioned_by_user(
    table: str, empty: str, directory: Path
) -> None:
    partition(directory, table)

    with pytest.raises(psycopg2.errors.FeatureNotSupported) as refused:
        migrations.apply(empty)

    said = str(refused.value)
    assert "unique constraint on partitioned table must include all partitioning columns" in said
    assert WHOLE[table] in said


def test_every_table_with_a_user_is_either_partitioned_or_has_a_reason_not_to_be(partitioned: str) -> None:
    found = databases.query(
        partitioned,
        """
        select relname, relkind = 'p' from pg_class c join pg_attribute a on a.attrelid = c.oid
         where relkind in ('r', 'p') and not relispartition and attname = 'user_id'
               and relnamespace = 'public'::regnamespace
        """,
    )

    assert dict(found) == {**dict.fromkeys(PARTITIONED, True), **dict.fromkeys(WHOLE, False)}


# How many partitions a statement reads; what is not here reads none, or inserts into one.
READS = {
    **dict.fromkeys(("account.sessions", "sessions.newest", "sessions.newest, a later page"), 1),
    **dict.fromkeys(("llm_usage.days", "llm_usage.reserve", "llm_usage.today"), 1),
    # It names the call, not the user: PostgreSQL leaves the others out as it runs.
    "llm_usage.settle": PARTITIONS,
    "llm_usage.purge_usage": PARTITIONS,
}


def test_every_statement_runs_and_those_that_name_a_user_read_one_partition(partitioned: str) -> None:
    databases.query(partitioned, GROWTH.replace("3000", "300").replace("user-99_@", "user-9_@"))
    user_id = user(partitioned)

    read: dict[str, int] = {}
    for name, (query, _) in QUERIES.items():
        plan = explain(partitioned, functools.partial(by, query, user_id))
        scanned = {node.get("Relation Name", "") for node in plan.nodes if "Scan" in node["Node Type"]}
        read[name] = sum(bool(re.fullmatch(r"(sessions|llm_usage)_\d", part)) for part in scanned)

    assert {name: parts for name, parts in read.items() if parts} == READS


def by(query: Query, user_id: str, conn: Connection) -> object:
    return query(conn, user_id)


def test_a_whole_journey_works(app: Flask, mailbox: Mailbox) -> None:
    client, phone = app.test_client(), app.test_client()
    sign_in(client, mailbox)
    sign_in(phone, mailbox)
    for name in ("one", "two", "three"):
        assert client.post("/v1/sessions/start", json={"session_id": name}).status_code == 200
        end = {"session_id": name, "transcript_hash": HASH}
        assert [client.post("/v1/sessions/end", json=end).status_code for _ in range(2)] == [200, 200]

    first = client.get("/v1/sessions?limit=2").get_json()
    rest = client.get("/v1/sessions", query_string={"cursor": first["next_cursor"]}).get_json()

    assert [row["session_id"] for row in first["sessions"] + rest["sessions"]] == ["three", "two", "one"]
    assert len(client.get("/v1/account").get_json()["sessions"]) == 3
    assert phone.post("/v1/auth/logout-all").get_json()["revoked"] == 2
    assert client.get("/v1/auth/session").status_code == 401


def test_two_links_of_one_new_address_make_one_user(app: Flask, partitioned: str, mailbox: Mailbox) -> None:
    client = app.test_client()
    tokens = [request_link(client, mailbox) for _ in range(2)]

    answers = [client.post("/v1/auth/verify", json={"token": token}).status_code for token in tokens]

    assert answers == [200, 401]
    assert databases.query(partitioned, "select count(*) from users") == [(1,)]


def test_two_users_may_have_the_same_session_id(app: Flask, mailbox: Mailbox) -> None:
    for email in ("ada@example.com", "grace@example.com"):
        client = app.test_client()
        sign_in(client, mailbox, email)
        assert client.post("/v1/sessions/start", json={"session_id": "mine"}).status_code == 200
        assert len(client.get("/v1/sessions").get_json()["sessions"]) == 1


def test_a_deleted_account_leaves_no_row_in_any_partition(app: Flask, partitioned: str, mailbox: Mailbox) -> None:
    client = app.test_client()
    user_id = sign_in(client, mailbox)
    client.post("/v1/sessions/start", json={"session_id": "one"})
    add_usage(partitioned, user_id, used=100, reserved=20)

    assert client.delete("/v1/account").status_code == 200

    left = "select (select count(*) from sessions) + (select count(*) from llm_usage) + (select count(*) from users)"
    assert databases.query(partitioned, left) == [(0,)]


def test_a_call_of_the_model_is_reserved_and_settled(make_app: AppFactory, partitioned: str, mailbox: Mailbox) -> None:
    client = make_app(DATABASE_URL=partitioned, APP_ENV="development").test_client()
    sign_in(client, mailbox)
    asked = {"model": "claude-haiku-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Good morning."}]}

    answer = client.post("/v1/llm/messages", json=asked)

    usage = client.get("/v1/llm/usage").get_json()
    assert (answer.status_code, usage["reserved"]) == (200, 0)
    assert usage["used"] > 0
    assert databases.query(partitioned, "select tokens from llm_usage") == [(usage["used"],)]


def test_the_purge_finds_past_rows_in_every_partition(app: Flask, partitioned: str) -> None:
    databases.query(partitioned, "insert into users (email) select n || '@example.com' from generate_series(1, 100) n")
    past = "insert into llm_usage select user_id, current_date - 9, 1 from users"
    databases.query(partitioned, past)

    assert app.test_cli_runner().invoke(args=["purge"]).exit_code == 0
    assert databases.query(partitioned, "select count(*) from llm_usage") == [(0,)]

"""docs/scaling.md: its arithmetic follows from its inputs, and its list of statements from PostgreSQL's plans."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from lumen_api import migrations
from tests.support import ROOT, databases
from tests.support.migrating import FILES
from tests.test_query_plans import GROWTH, QUERIES, Explaining, Plan, Query, user

DOCUMENT = (ROOT / "docs" / "scaling.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, as cells; the first is the table's own heading."""
    lines = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows: list[list[str]] = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows[0], *rows[2:]]


# --- The arithmetic. ---

INPUTS = {name: float(value.replace(",", "")) for name, value, *_ in table("What goes in")[1:]}
USERS = [10**power for power in range(3, 9)]
WEEK, YEAR = 7 * 24 * 3600, 52  # seconds; weeks


def computed(users: int) -> dict[str, float]:
    """Every row of the document's table for so many users."""
    given = INPUTS
    conversations = users * given["conversations of a user in a week"]
    peak = conversations / WEEK * given["peak over average"]
    requests, calls = peak * given["requests in a conversation"], peak * given["calls of the model in a conversation"]
    call_cpu = 2 * given["CPU s of 1,000 requests"] + given["events of a call"] * given["CPU s of 1,000 events"]
    cores = (requests * given["CPU s of 1,000 requests"] + calls * call_cpu) / 1000 / given["load of a core at peak"]
    open_calls = calls * given["seconds that a call lasts"]
    workers = max(1, math.ceil(cores), math.ceil(open_calls / given["open calls of a worker"]))
    calls_a_day = conversations / 7 * given["calls of the model in a conversation"]
    statements = peak * given["statements in a conversation"] + calls * given["statements of a call"]
    rows = conversations * YEAR
    return {
        "requests/s at peak": requests,
        "calls of the model/s at peak": calls,
        "calls open at peak": open_calls,
        "cores for web processes": cores,
        "web processes": workers,
        "their connections": workers * given["connections of a worker"],
        "statements/s at peak": statements,
        "commits/s at peak": peak * given["commits in a conversation"] + calls * given["commits of a call"],
        "Redis round trips/s at peak": (
            peak * given["Redis round trips in a conversation"] + calls * given["Redis round trips of a call"]
        ),
        "mails a day": conversations / 7 * given["mails of a conversation"],
        "conversations after a year, millions": rows / 1e6,
        "GB of conversations after a year": rows * given["bytes of a conversation"] / 1e9,
        "GB of all other tables": (
            users * given["bytes of a user"]
            + conversations / 7 * given["days that a sign-in stays"] * given["bytes of a sign-in"]
            + conversations / 7 * given["days that usage stays"] * given["bytes of a day's usage"]
        )
        / 1e9,
        "tokens a day, millions": calls_a_day * given["tokens of a call"] / 1e6,
        "$ a day, the model": calls_a_day * given["tokens of a call"] / 1e6 * given["$ for a million tokens"],
        "$ a day, mails": conversations / 7 * given["mails of a conversation"] * given["$ for 1,000 mails"] / 1000,
        "$ a day, web cores": cores * given["$ a day for a core"],
    }


def figure(number: float) -> str:
    """With two digits that count; whole numbers that are small stay as they are."""
    if number == 0 or (number == int(number) and number < 1000):
        return str(int(number))
    digits = 1 - math.floor(math.log10(abs(number)))
    return f"{round(number, digits):,.{max(0, digits)}f}"


def rendered() -> list[list[str]]:
    """The table as it must be."""
    columns = [computed(users) for users in USERS]
    return [[name, *(figure(column[name]) for column in columns)] for name in columns[0]]


def test_the_arithmetic_follows_from_what_goes_in() -> None:
    heading, *rows = table("What comes out")

    assert heading[1:] == ["1 k", "10 k", "100 k", "1 M", "10 M", "100 M"]
    assert rows == rendered()


def test_the_users_that_the_row_of_all_calls_is_enough_for_follow_from_what_it_carried() -> None:
    carried = INPUTS["calls of the model/s that one `llm_totals` row carries"]
    enough_for = carried / computed(1)["calls of the model/s at peak"] / 1e6

    assert re.findall(r"about ([\d.]+) million users", DOCUMENT) == [figure(enough_for)]


def test_every_number_that_goes_in_says_whether_it_was_measured_or_assumed() -> None:
    sources = {name: source for name, _, source in table("What goes in")[1:]}

    assert [name for name, source in sources.items() if not re.match("measured|assumed|counted", source)] == []


ROWS = """
    set statement_timeout = 0;
    insert into users (email) select 'someone.' || n || '@example.com' from generate_series(1, 10000) n;
    insert into sessions
    select user_id, gen_random_uuid()::text, now(), now(), encode(sha256(email::bytea), 'hex')
      from users, generate_series(1, 5);
    insert into auth_sessions (id_hash, user_id, expires_at)
    select sha256(email::bytea), user_id, now() + interval '1 hour' from users;
    insert into llm_usage select user_id, current_date, 1000 from users;
"""
KINDS = {
    "users": "bytes of a user",
    "sessions": "bytes of a conversation",
    "auth_sessions": "bytes of a sign-in",
    "llm_usage": "bytes of a day's usage",
}


def test_a_row_takes_the_bytes_that_the_document_counts_with(database: str) -> None:
    databases.query(database, ROWS)

    for name, what in KINDS.items():
        ((size,),) = databases.query(
            database, f"select pg_total_relation_size('{name}')::float / (select count(*) from {name})"
        )
        # B-trees are between two thirds full and full.
        assert INPUTS[what] == pytest.approx(size, rel=0.2), name


# --- Which shards a statement asks. ---

# What a distributed PostgreSQL asks of a key, done to the migrations: each key begins with the distribution column.
KEYS = [
    ("email      text        not null unique", "email text not null"),
    ("id_hash    bytea       primary key", "primary key (user_id, id_hash), id_hash bytea"),
    ("reservation_id uuid        primary key", "primary key (user_id, reservation_id), reservation_id uuid"),
    ("uuid        references users on delete set null", "uuid references users on delete cascade"),
]
SHARDED = ("users", "auth_sessions", "sessions", "llm_usage", "llm_reservations")
COORDINATOR = {"auth_tokens", "llm_totals"}
SHARDS = 4


@pytest.fixture
def sharded(empty: str, directory: Path) -> str:
    """Every table with a user_id in partitions, which stand for shards: a plan says which of them a statement asks."""
    for name in (file.name for file in FILES):
        text = (directory / name).read_text()
        for old, new in KEYS:
            text = text.replace(old, new)
        for sharded in SHARDED:
            of = f"partition of {sharded} for values with (modulus {SHARDS}, remainder"
            shards = "".join(f"create table {sharded}_{n} {of} {n});\n" for n in range(SHARDS))
            whole = re.compile(rf"(?ms)^(create table {sharded} \(.*?^\));$")
            text = whole.sub(rf"\1 partition by hash (user_id);\n{shards}", text)
        (directory / name).write_text(text)
    migrations.apply(empty)
    databases.query(empty, GROWTH.replace("3000", "300").replace("user-99_@", "user-9_@"))
    return empty


def asked(url: str, query: Query, user_id: str) -> str:
    """Where a statement goes, in the document's words."""
    conn: Any = psycopg2.connect(url)
    plans: list[Plan] = []
    conn.cursor_factory = type("Recording", (Explaining,), {"plans": plans})
    try:
        query(conn, user_id)
    except psycopg2.errors.InvalidColumnReference:
        return "impossible"
    finally:
        conn.close()
    (plan,) = plans
    tables = {node["Relation Name"] for node in plan.nodes if "Relation Name" in node}
    shards = max((len({t for t in tables if re.fullmatch(rf"{name}_\d", t)}) for name in SHARDED), default=0)
    one = shards == 1 or bool(tables & set(SHARDED))
    places = ["every shard"] if shards > 1 else ["one shard"] if one else []
    return " + ".join(places + ["coordinator"] * bool(tables & COORDINATOR))


def documented() -> Iterator[tuple[str, str]]:
    """Each statement in the document's list, and where it goes."""
    for names, _, everything, _ in table("Distributed PostgreSQL")[1:]:
        for name in re.findall(r"`([\w.]+)`", names):
            yield name, everything


def test_every_statement_of_the_repositories_is_in_the_list_once() -> None:
    listed = [name for name, _ in documented()]

    assert sorted(listed) == sorted({name.partition(",")[0] for name in QUERIES})


def test_the_list_says_which_shards_a_statement_asks_as_the_plans_do(sharded: str) -> None:
    user_id = user(sharded)

    found = {name: asked(sharded, query, user_id) for name, (query, _) in QUERIES.items() if "," not in name}

    assert found == dict(documented())

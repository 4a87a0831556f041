"""An index for every query, and none besides: shown by the plans that PostgreSQL makes once the tables have grown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from psycopg2 import extensions

from lumen_api import repositories
from lumen_api.db import Connection, execute
from lumen_api.repositories import account, auth_sessions, auth_tokens, llm_usage, sessions
from lumen_api.repositories.llm_usage import Budget
from lumen_api.repositories.sessions import Position
from tests.support import databases
from tests.support.journeys import HASH

# Mostly what production has: many users, each with a little; and one who has been here for long.
GROWTH = """
    insert into users (email) select 'user-' || n || '@example.com' from generate_series(1, 3000) n;
    insert into users (email) values ('long-here@example.com');
    insert into auth_tokens (token_hash, email, expires_at)
    select sha256(('link ' || email || copy)::bytea), email, now() + interval '10 minutes'
      from users, generate_series(1, 2) copy;
    insert into auth_sessions (id_hash, user_id, expires_at)
    select sha256(('sign-in ' || email || copy)::bytea), user_id, now() + interval '12 hours'
      from users, generate_series(1, 2) copy;
    insert into sessions (user_id, session_id, started_at)
    select user_id, 's' || n, now() - n * interval '1 hour'
      from users, lateral generate_series(1, case email when 'long-here@example.com' then 3000 else 3 end) n;
    insert into llm_usage (user_id, day, tokens)
    select user_id, (now() at time zone 'utc')::date - n, 1000 from users, generate_series(0, 1) n;
    insert into llm_totals (day, tokens)
    select (now() at time zone 'utc')::date - n, 1000 from generate_series(0, 3000) n;
    insert into llm_reservations (user_id, day, tokens, deadline)
    select user_id, (now() at time zone 'utc')::date, 100, now() + interval '10 minutes' from users;
    -- What the purge finds.
    update auth_tokens set created_at = now() - interval '1 hour', expires_at = now() - interval '1 minute'
     where email like 'user-99_@%';
    update auth_sessions set created_at = now() - interval '1 hour', expires_at = now() - interval '1 minute'
      from users where users.user_id = auth_sessions.user_id and email like 'user-99_@%';
    update llm_usage set day = day - 2 from users where users.user_id = llm_usage.user_id and email like 'user-99_@%';
    update llm_reservations set deadline = now() - interval '1 day'
      from users where users.user_id = llm_reservations.user_id and email like 'user-99_@%';
    analyze;
"""
EMAIL, LONG_HERE = "user-7@example.com", "long-here@example.com"
DIGEST = b"\x01" * 32
CALL = str(uuid4())
TTL = timedelta(hours=1)
NOW = datetime.now(UTC)
EARLIER = Position(NOW - timedelta(hours=5), "s5")
BUDGET = Budget(daily_tokens=10**6, total_daily_tokens=10**9, calls_at_once=2)


@dataclass(frozen=True)
class Plan:
    """A statement as it was written, and what PostgreSQL would do to run it."""

    statement: str
    nodes: list[dict[str, Any]] = field(repr=False)

    @property
    def indexes(self) -> set[str]:
        """Every index that is read, or asked whether a row is there already."""
        named = {node["Index Name"] for node in self.nodes if "Index Name" in node}
        return named.union(*(node.get("Conflict Arbiter Indexes", []) for node in self.nodes))

    @property
    def scanned(self) -> set[str]:
        """The tables that are read from end to end."""
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}


class Explaining(extensions.cursor):
    """Runs each statement as it comes, and asks for its plan first: where two go out together, for both."""

    plans: list[Plan]

    def execute(self, query: Any, values: Any = None) -> None:
        nodes: list[dict[str, Any]] = []
        for part in query.split(";"):
            super().execute("explain (format json) " + part, values)
            ((plan,),) = self.fetchall()
            nodes += _nodes(plan[0]["Plan"])
        self.plans.append(Plan(query, nodes))
        super().execute(query, values)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


@pytest.fixture(scope="module")
def grown(postgres: str, worker_id: str) -> Iterator[str]:
    """The URL of a database with many rows."""
    url = databases.create(postgres, f"plans_{worker_id}")
    databases.query(url, GROWTH)
    yield url
    databases.query(postgres, f"drop database plans_{worker_id} with (force)")


def user(grown: str, email: str = EMAIL) -> str:
    ((user_id,),) = databases.query(grown, "select user_id::text from users where email = %s", email)
    return str(user_id)


def explain(url: str, run: Callable[[Any], object]) -> Plan:
    """The plan of the one statement that `run` executes. Nothing that it changes stays."""
    conn = psycopg2.connect(url)
    plans: list[Plan] = []
    conn.cursor_factory = type("Recording", (Explaining,), {"plans": plans})
    try:
        run(conn)
    finally:
        conn.close()  # uncommitted
    (plan,) = plans
    return plan


Query = Callable[[Connection, str], object]

# Every function of the repositories, and every index that it uses.
QUERIES: dict[str, tuple[Query, set[str]]] = {
    "account.find": (lambda c, u: account.find(c, user_id=u), {"users_pkey"}),
    "account.links": (lambda c, _: account.links(c, email=EMAIL), {"auth_tokens_email"}),
    "account.sign_ins": (lambda c, u: account.sign_ins(c, user_id=u), {"auth_sessions_user_id"}),
    "account.sessions": (lambda c, u: account.sessions(c, user_id=u), {"sessions_newest"}),
    "account.delete": (
        lambda c, u: account.delete(c, user_id=u),
        {"users_pkey", "auth_tokens_email", "auth_tokens_pkey"},
    ),
    "auth_sessions.find": (
        lambda c, _: auth_sessions.find(c, id_hash=DIGEST),
        {"auth_sessions_pkey", "users_pkey"},
    ),
    "auth_sessions.delete": (lambda c, _: auth_sessions.delete(c, id_hash=DIGEST), {"auth_sessions_pkey"}),
    "auth_sessions.delete_all": (lambda c, u: auth_sessions.delete_all(c, user_id=u), {"auth_sessions_user_id"}),
    "auth_sessions.purge": (
        lambda c, _: auth_sessions.purge(c, batch=1000),
        {"auth_sessions_pkey", "auth_sessions_expires_at"},
    ),
    "auth_tokens.create": (
        lambda c, _: auth_tokens.create(c, token_hash=DIGEST, email=EMAIL, ttl=TTL),
        set(),
    ),
    "auth_tokens.delete": (lambda c, _: auth_tokens.delete(c, token_hash=DIGEST), {"auth_tokens_pkey"}),
    "auth_tokens.redeem": (
        lambda c, _: auth_tokens.redeem(c, token_hash=DIGEST, session_hash=DIGEST, ttl=TTL, old_session_hash=DIGEST),
        {"auth_tokens_pkey", "auth_tokens_email", "users_email_key", "auth_sessions_pkey"},
    ),
    "auth_tokens.purge": (
        lambda c, _: auth_tokens.purge(c, batch=1000),
        {"auth_tokens_pkey", "auth_tokens_expires_at"},
    ),
    "llm_usage.reserve": (
        lambda c, u: llm_usage.reserve(c, user_id=u, tokens=100, budget=BUDGET, lifetime=TTL),
        {"users_pkey", "llm_usage_pkey", "llm_totals_pkey", "llm_reservations_user_id"},
    ),
    "llm_usage.settle": (
        lambda c, u: llm_usage.settle(c, user_id=u, reservation_id=CALL, tokens=10),
        {"users_pkey", "llm_usage_pkey", "llm_totals_pkey", "llm_reservations_pkey"},
    ),
    "llm_usage.today": (
        lambda c, u: llm_usage.today(c, user_id=u),
        {"llm_usage_pkey", "llm_reservations_user_id"},
    ),
    "llm_usage.days": (lambda c, u: llm_usage.days(c, user_id=u), {"llm_usage_pkey"}),
    "llm_usage.reservations": (lambda c, u: llm_usage.reservations(c, user_id=u), {"llm_reservations_user_id"}),
    "llm_usage.purge_usage": (
        lambda c, _: llm_usage.purge_usage(c, batch=1000),
        {"llm_usage_pkey", "llm_usage_day"},
    ),
    "llm_usage.purge_reservations": (
        lambda c, _: llm_usage.purge_reservations(c, batch=1000),
        {"llm_reservations_pkey", "llm_reservations_deadline"},
    ),
    "sessions.start": (
        lambda c, u: sessions.start(c, user_id=u, session_id="new", started_at=NOW),
        {"sessions_pkey"},
    ),
    "sessions.end": (
        lambda c, u: sessions.end(c, user_id=u, session_id="new", transcript_hash=HASH, ended_at=None),
        {"sessions_pkey"},
    ),
    "sessions.newest": (lambda c, u: sessions.newest(c, user_id=u, after=None, limit=21), {"sessions_newest"}),
    "sessions.newest, a later page": (
        lambda c, u: sessions.newest(c, user_id=u, after=EARLIER, limit=21),
        {"sessions_newest"},
    ),
}

# What a foreign key runs by itself when a user goes.
CASCADES = {
    "delete from only auth_sessions": {"auth_sessions_user_id"},
    "delete from only sessions": {"sessions_newest"},
    "delete from only llm_usage": {"llm_usage_pkey"},
    "update only llm_reservations set user_id = null": {"llm_reservations_user_id"},
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_uses_its_indexes_and_reads_no_table_from_end_to_end(grown: str, name: str) -> None:
    query, indexes = QUERIES[name]
    user_id = user(grown)

    plan = explain(grown, lambda conn: query(conn, user_id))

    assert plan.scanned == set()
    assert plan.indexes == indexes


@pytest.mark.parametrize("action", CASCADES)
def test_a_cascade_uses_an_index(grown: str, action: str) -> None:
    user_id = user(grown)

    plan = explain(grown, lambda conn: execute(conn, f"{action} where user_id = %(id)s", id=user_id))

    assert plan.scanned == set()
    assert plan.indexes == CASCADES[action]


@pytest.mark.parametrize(
    "after", [None, Position(NOW - timedelta(hours=1500), "s1500")], ids=["first", "in the middle"]
)
def test_a_page_of_a_long_list_is_read_from_its_place_and_not_sorted(grown: str, after: Position | None) -> None:
    user_id = user(grown, LONG_HERE)

    plan = explain(grown, lambda conn: sessions.newest(conn, user_id=user_id, after=after, limit=21))

    assert [node["Node Type"] for node in plan.nodes] == ["Limit", "Index Scan"]
    scan = plan.nodes[1]
    assert (scan["Index Name"], scan["Scan Direction"]) == ("sessions_newest", "Backward")
    assert ("ROW(" in scan["Index Cond"]) == (after is not None)
    assert "Filter" not in scan


def test_every_index_is_there_for_a_query(grown: str) -> None:
    found = databases.query(
        grown, "select indexname from pg_indexes where schemaname = 'public' and tablename not like '%%yoyo%%'"
    )

    # The plans above show that each of these is used.
    assert {name for (name,) in found} == set().union(*CASCADES.values(), *(indexes for _, indexes in QUERIES.values()))


def test_every_function_of_the_repositories_is_looked_at() -> None:
    functions = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in _repositories()
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }

    assert {name.partition(",")[0] for name in QUERIES} == functions


def _repositories() -> list[ModuleType]:
    return [import_module(f"lumen_api.repositories.{module.name}") for module in iter_modules(repositories.__path__)]


# --- Whose rows. ---

# By the digest of a credential or the id of a call, which nobody else has; or for all users at once.
NOT_BY_USER = {
    *("auth_sessions.find", "auth_sessions.delete", "auth_sessions.purge", "auth_tokens.redeem"),
    *("llm_usage.settle", "llm_usage.purge_usage", "llm_usage.purge_reservations"),
}
# A user's rows are in these; auth_tokens belong to an address that may have no user, and llm_totals to nobody.
OWNED = r"(?:users|auth_sessions|sessions|llm_usage|llm_reservations)\b"
READ = rf"(?:from|update|join) {OWNED}"
OF_THE_USER = r"(?: \w+| join today using \(day\))? where (?:\w+\.)?user_id = %\(user_id\)s"
WRITTEN = rf"into {OWNED}"
FOR_THE_USER = r"(?: as \w+)? \(user_id, [\w, ]+\) (?:values \(|select )%\(user_id\)s,"


@pytest.mark.parametrize("name", sorted(QUERIES.keys() - NOT_BY_USER))
def test_a_statement_on_a_users_rows_names_the_user(grown: str, name: str) -> None:
    query, _ = QUERIES[name]
    user_id = user(grown)

    statement = " ".join(explain(grown, lambda conn: query(conn, user_id)).statement.split())

    assert len(re.findall(READ, statement)) == len(re.findall(READ + OF_THE_USER, statement))
    assert len(re.findall(WRITTEN, statement)) == len(re.findall(WRITTEN + FOR_THE_USER, statement))
    # The one row that can be meant is the one that the values and the conflict's target name.
    targets = set(re.findall(r"on conflict \(([\w, ]+)\)", statement))
    assert targets <= {"user_id, session_id", "user_id, day"} | ({"day"} if "into llm_totals" in statement else set())

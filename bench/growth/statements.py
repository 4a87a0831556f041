"""How many pages (buffers of 8 kB) each statement of the repositories touches, as EXPLAIN (ANALYZE, BUFFERS) counts.

A statement may touch more pages in the large database only where an index has become deeper: by one page for each new
level, each time that it goes down an index, and by one more where what it reads crosses the edge of a page. PostgreSQL
counts how often it goes down ("Index Searches"); a row that is written goes down each index of its table once, and once
more down the one that is asked for a conflict.

A batch of the purge is another matter: in the small database its rows share pages, and in the large one each costs a
page of the table and a way down the index, which is as many pages as it is deep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta
from secrets import token_bytes
from typing import Any
from uuid import uuid4

import psycopg2
from psycopg2 import extensions

from bench.growth.load import Loaded
from bench.growth.rows import Person
from lumen_api.db import Connection, execute
from lumen_api.repositories import account, auth_sessions, auth_tokens, llm_usage, sessions
from lumen_api.repositories.llm_usage import Budget

TTL = timedelta(hours=1)
HASH = "0" * 64
BATCH = 1000
BUDGET = Budget(daily_tokens=10**6, total_daily_tokens=10**9, calls_at_once=2)
PEOPLE = 5  # each statement is run for so many, and the median counts

# `Any`: a connection like lumen_api.db's, which reads plans.
Run = Callable[[Any, Person], object]


def _end(conn: Connection, who: Person) -> None:
    sessions.start(conn, user_id=who.user_id, session_id="going-on", started_at=None)
    sessions.end(conn, user_id=who.user_id, session_id="going-on", transcript_hash=HASH, ended_at=None)


def _later_page(conn: Connection, who: Person) -> None:
    first = sessions.newest(conn, user_id=who.user_id, after=None, limit=4)
    sessions.newest(conn, user_id=who.user_id, after=first[-1].position, limit=21)


def _settle(conn: Connection, who: Person) -> None:
    reserved = llm_usage.reserve(conn, user_id=who.user_id, tokens=100, budget=BUDGET, lifetime=TTL)
    llm_usage.settle(conn, user_id=who.user_id, reservation_id=str(reserved.reservation_id), tokens=10)


# Of several statements the last is meant.
STATEMENTS: dict[str, Run] = {
    "account.find": lambda c, p: account.find(c, user_id=p.user_id),
    "account.links": lambda c, p: account.links(c, email=p.email),
    "account.sign_ins": lambda c, p: account.sign_ins(c, user_id=p.user_id),
    "account.sessions": lambda c, p: account.sessions(c, user_id=p.user_id),
    "account.delete": lambda c, p: account.delete(c, user_id=p.user_id),
    "auth_sessions.find": lambda c, p: auth_sessions.find(c, id_hash=p.cookie.digest),
    "auth_sessions.delete": lambda c, p: auth_sessions.delete(c, id_hash=p.cookie.digest),
    "auth_sessions.delete_all": lambda c, p: auth_sessions.delete_all(c, user_id=p.user_id),
    "auth_sessions.purge": lambda c, _: auth_sessions.purge(c, batch=BATCH),
    "auth_tokens.create": lambda c, p: auth_tokens.create(c, token_hash=token_bytes(32), email=p.email, ttl=TTL),
    "auth_tokens.delete": lambda c, p: auth_tokens.delete(c, token_hash=p.link.digest),
    "auth_tokens.redeem": lambda c, p: auth_tokens.redeem(
        c, token_hash=p.link.digest, session_hash=token_bytes(32), ttl=TTL, old_session_hash=p.cookie.digest
    ),
    "auth_tokens.purge": lambda c, _: auth_tokens.purge(c, batch=BATCH),
    "llm_usage.reserve": lambda c, p: llm_usage.reserve(c, user_id=p.user_id, tokens=100, budget=BUDGET, lifetime=TTL),
    "llm_usage.settle": _settle,
    "llm_usage.today": lambda c, p: llm_usage.today(c, user_id=p.user_id),
    "llm_usage.days": lambda c, p: llm_usage.days(c, user_id=p.user_id),
    "llm_usage.reservations": lambda c, p: llm_usage.reservations(c, user_id=p.user_id),
    "llm_usage.purge_usage": lambda c, _: llm_usage.purge_usage(c, batch=BATCH),
    "llm_usage.purge_reservations": lambda c, _: llm_usage.purge_reservations(c, batch=BATCH),
    "sessions.start": lambda c, p: sessions.start(c, user_id=p.user_id, session_id=str(uuid4()), started_at=None),
    "sessions.end": _end,
    "sessions.newest": lambda c, p: sessions.newest(c, user_id=p.user_id, after=None, limit=21),
    "sessions.newest, a later page": _later_page,
}


# Of which table a purge is.
PURGED = {
    "auth_sessions.purge": "auth_sessions",
    "auth_tokens.purge": "auth_tokens",
    "llm_usage.purge_usage": "llm_usage",
    "llm_usage.purge_reservations": "llm_reservations",
}


def _by_itself(statement: str) -> Run:
    return lambda conn, who: execute(conn, f"{statement} where user_id = %(id)s", id=who.user_id)


# What the foreign keys run, which no plan shows: on deletion, and for a row that names its user.
STATEMENTS |= {
    f"foreign key: {table}": _by_itself(f"delete from only {table}")
    for table in ("sessions", "auth_sessions", "llm_usage")
}
STATEMENTS["foreign key: llm_reservations"] = _by_itself("update only llm_reservations set user_id = null")
STATEMENTS["foreign key: users"] = lambda conn, who: execute(
    conn, "select 1 from only users where user_id = %(id)s for key share", id=who.user_id
)


@dataclass(frozen=True)
class Touched:
    """By one statement: pages; descents of an index; tables that were read from end to end."""

    pages: int
    descents: int
    scanned: list[str]


class _Explaining(extensions.cursor):
    """Runs each statement as it comes, and before that once more to see what it touches; that leaves nothing."""

    found: list[Touched]
    indexes: dict[str, int]

    def execute(self, query: Any, values: Any = None) -> None:
        plans = []
        super().execute("savepoint before")
        for part in query.split(";"):
            super().execute("explain (analyze, buffers, format json) " + part, values)
            plans.append(self.fetchall()[0][0][0]["Plan"])
        super().execute("rollback to savepoint before")
        super().execute(query, values)
        nodes = [node for plan in plans for node in _nodes(plan)]
        self.found.append(
            Touched(
                pages=sum(map(_pages, plans)),
                descents=sum(_descents(node, self.indexes) for node in nodes),
                scanned=sorted({node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}),
            )
        )


def touched(url: str, run: Run, people: list[Person]) -> Touched:
    """The median of what the statement touches for these people. Nothing stays."""
    found: list[Touched] = []
    last: list[Touched] = []
    with closing(psycopg2.connect(url)) as conn:
        with conn.cursor() as cursor:
            cursor.execute("select tablename, count(*) from pg_indexes where schemaname = 'public' group by 1")
            indexes = dict(cursor.fetchall())
        conn.cursor_factory = type("Explaining", (_Explaining,), {"found": found, "indexes": indexes})
        for who in [people[0], *people]:  # the first time is not counted: it reads PostgreSQL's catalogue
            run(conn, who)
            last.append(found[-1])
            conn.rollback()
    return sorted(last[1:], key=lambda one: one.pages)[len(people) // 2]


def levels(url: str) -> dict[str, int]:
    """How many levels each index has above its leaves."""
    with closing(psycopg2.connect(url)) as conn, conn.cursor() as cursor:
        cursor.execute("create extension if not exists pageinspect")
        cursor.execute(
            """
            select relname, (bt_metap(relname)).level from pg_class
             where relkind = 'i' and relnamespace = 'public'::regnamespace and relname not like '%yoyo%'
            """
        )
        return dict(cursor.fetchall())


def compared(small: Loaded, large: Loaded) -> dict[str, Any]:
    """Each statement in both databases, and by how much it may grow."""
    before, after = levels(small.url), levels(large.url)
    rows = {}
    for name, run in STATEMENTS.items():
        one, many = (touched(of.url, run, of.regulars[:PEOPLE]) for of in (small, large))
        rows[name] = {"small": asdict(one), "large": asdict(many)}
    return {"levels": {name: [before[name], after[name]] for name in before}, "statements": rows}


def allowed(found: dict[str, Any], name: str) -> int:
    """How many more pages the depth of the indexes explains, of what compared() has found."""
    depths: dict[str, list[int]] = found["levels"]
    if table := PURGED.get(name):
        return BATCH * (2 + max(large for index, (_, large) in depths.items() if index.startswith(table)))
    deeper = max(large - small for small, large in depths.values())
    return 1 + deeper * int(found["statements"][name]["large"]["descents"])


def kept(found: dict[str, Any], name: str) -> bool:
    """Whether a statement stays within that, and reads no table from end to end."""
    small, large = (found["statements"][name][of] for of in ("small", "large"))
    return large["pages"] - small["pages"] <= allowed(found, name) and not large["scanned"]


def pages_of_a_list(large: Loaded) -> dict[str, int]:
    """What the first and the last page of the longest list touch."""
    who = large.heavies[0]

    def last(conn: Connection, who: Person) -> None:
        oldest = account.sessions(conn, user_id=who.user_id)
        sessions.newest(conn, user_id=who.user_id, after=oldest[21].position, limit=21)

    runs = {"first": STATEMENTS["sessions.newest"], "last": last}
    return {name: touched(large.url, run, [who] * 3).pages for name, run in runs.items()}


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


def _pages(plan: dict[str, Any]) -> int:
    """A node's count has those below it in it, but not a CTE that nobody reads: it is run at the end, by itself."""
    nodes = list(_nodes(plan))
    read = {node["CTE Name"] for node in nodes if node["Node Type"] == "CTE Scan"}
    by_themselves = [
        node
        for node in nodes
        if node.get("Subplan Name", "").startswith("CTE ") and node["Subplan Name"].removeprefix("CTE ") not in read
    ]
    return sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in [plan, *by_themselves])


def _descents(node: dict[str, Any], indexes: dict[str, int]) -> int:
    if node["Node Type"] == "ModifyTable" and node["Operation"] == "Insert":
        written = int(node["Plans"][-1]["Actual Rows"])
        return written * (indexes[node["Relation Name"]] + len(node.get("Conflict Arbiter Indexes", [])))
    return int(node.get("Index Searches", 0))

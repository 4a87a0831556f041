"""`make bench-growth` measures the service as it is: its schema, rows as it writes them, its statements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.growth import load, report, statements
from bench.growth.load import Loaded
from bench.growth.rows import Person, Size
from tests.support import databases
from tests.test_query_plans import CASCADES, QUERIES

SIZE = Size(
    users=400,
    sessions=3000,
    regulars=10,
    heavies=2,
    sessions_of_heavy=500,
    sign_ins=300,
    expired_sign_ins=200,
    expired_links=200,
    days_of_usage=100,
    expired_days_of_usage=100,
    calls=100,
    expired_calls=10,
)

SCHEMA = """
    select conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated
      from pg_constraint where connamespace = 'public'::regnamespace
    union all
    select tablename, indexname, indexdef, true from pg_indexes where schemaname = 'public'
    order by 1, 2, 3
"""


@pytest.fixture(scope="module")
def loaded(postgres: str, worker_id: str) -> Iterator[Loaded]:
    """A small database, loaded as the large one is."""
    name = f"growth_{worker_id}"
    yield load.load(postgres, name, SIZE)
    databases.query(postgres, f"drop database {name} with (force)")


def count(loaded: Loaded, rows: str) -> int:
    """How many `rows` (a table, and which of it) there are."""
    return int(databases.query(loaded.url, f"select count(*) from {rows}")[0][0])


def test_the_loaded_database_has_every_constraint_and_index_of_a_migrated_one(loaded: Loaded, database: str) -> None:
    assert databases.query(loaded.url, SCHEMA) == databases.query(database, SCHEMA)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("users", SIZE.users),
        ("sessions", SIZE.sessions),
        ("sessions where started_at < now() - interval '1 year'", SIZE.sessions // 2),
        ("sessions where ended_at > now()", 0),
        ("auth_sessions where expires_at > now()", SIZE.sign_ins + SIZE.regulars + SIZE.heavies),
        ("auth_sessions where expires_at <= now()", SIZE.expired_sign_ins),
        ("auth_tokens where expires_at <= now()", SIZE.expired_links),
        ("llm_usage where day < (now() at time zone 'utc')::date - 1", SIZE.expired_days_of_usage),
        ("llm_reservations where deadline <= now() - interval '1 hour'", SIZE.expired_calls),
    ],
)
def test_the_loader_makes_as_many_rows_as_it_is_told(loaded: Loaded, rows: str, expected: int) -> None:
    assert count(loaded, rows) == pytest.approx(expected, rel=0.01)


def test_some_users_have_many_sessions_and_some_have_none(loaded: Loaded) -> None:
    of_each = "(select count(s) as n from users left join sessions s using (user_id) group by user_id) as each"

    assert count(loaded, f"{of_each} where n = {SIZE.sessions_of_heavy}") == SIZE.heavies
    assert count(loaded, f"{of_each} where n = 0") >= SIZE.users // 20


def test_the_sessions_of_a_user_lie_apart(loaded: Loaded) -> None:
    user_id = loaded.regulars[0].user_id
    pages = f"(select distinct (ctid::text::point)[0] from sessions where user_id = '{user_id}') as pages"

    assert count(loaded, pages) > SIZE.sessions_of_regular / 2


def test_every_purge_is_judged_by_the_rows_of_its_batch() -> None:
    assert statements.PURGED.keys() == {name for name in QUERIES if ".purge" in name}


def test_every_statement_of_the_repositories_and_every_cascade_is_measured() -> None:
    cascades = {f"foreign key: {action.partition(' only ')[2].split()[0]}" for action in CASCADES}

    assert statements.STATEMENTS.keys() == QUERIES.keys() | cascades | {"foreign key: users"}


@pytest.mark.parametrize("name", statements.STATEMENTS)
def test_a_statement_is_measured_without_leaving_anything(loaded: Loaded, name: str) -> None:
    tables = ("users", "sessions", "auth_sessions", "auth_tokens", "llm_usage", "llm_totals", "llm_reservations")
    rows = " union all ".join(f"select tableoid, ctid::text from {table}" for table in tables)
    before = databases.query(loaded.url, f"{rows} order by 1, 2")

    found = statements.touched(loaded.url, statements.STATEMENTS[name], loaded.regulars[:3])

    assert found.pages > 0
    assert databases.query(loaded.url, f"{rows} order by 1, 2") == before


def test_what_a_statement_changes_on_the_side_is_counted(loaded: Loaded) -> None:
    def delete(conn: Any, who: Person) -> None:
        conn.cursor().execute("with gone as (delete from users where user_id = %s) select 1", [who.user_id])

    assert statements.touched(loaded.url, delete, loaded.regulars[:1]).pages >= 2


def test_a_statement_that_reads_a_whole_table_does_not_pass(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_everything(conn: Any, _: object) -> None:
        conn.cursor().execute("select count(transcript_hash) from sessions")

    monkeypatch.setattr(statements, "STATEMENTS", {"greedy": read_everything})

    found = statements.compared(loaded, loaded)

    assert found["statements"]["greedy"]["large"]["scanned"] == ["sessions"]
    assert not statements.kept(found, "greedy")


def test_a_statement_that_touches_more_than_a_deeper_index_explains_does_not_pass(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same database twice: no index is deeper. The second person has more sessions than the first.
    many = Loaded(loaded.url, loaded.heavies, loaded.heavies)
    monkeypatch.setattr(statements, "STATEMENTS", {"all": statements.STATEMENTS["account.sessions"]})

    assert statements.kept(statements.compared(loaded, loaded), "all")
    assert not statements.kept(statements.compared(loaded, many), "all")


def test_the_results_that_are_kept_can_be_shown() -> None:
    found = report.read()

    assert report.markdown(found).count("\n| --- ") == 4
    assert ElementTree.fromstring(report.svg(found)).tag.endswith("svg")
    assert report.PLOT.read_text() == report.svg(found)

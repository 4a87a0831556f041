"""The schema: rows that make no sense are refused by the database itself, whatever the code does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg2
import pytest
from psycopg2 import errors as pg

from tests.support import databases
from tests.support.journeys import HASH
from tests.support.rows import add_sessions, add_sign_ins, add_usage, add_user

DIGEST = b"\x01" * 32
LONGEST_LOCAL, LONGEST_DOMAIN = "l" * 64, "d" * 189
TAKEN_DAY, TAKEN_ID = "2026-01-31", str(uuid4())

Error = type[psycopg2.Error]

# Each row is good but for what its name says.
EMAILS: dict[str, tuple[str | None, Error]] = {
    "no email": (None, pg.NotNullViolation),
    "an empty email": ("", pg.CheckViolation),
    "upper case": ("Ada@example.com", pg.CheckViolation),
    "no at sign": ("ada.example.com", pg.CheckViolation),
    "nothing before the at sign": ("@example.com", pg.CheckViolation),
    "nothing after it": ("ada@", pg.CheckViolation),
    "a space": ("a da@example.com", pg.CheckViolation),
    "a space at the end": ("ada@example.com ", pg.CheckViolation),
    "a line's end": ("ada@example.com\n", pg.CheckViolation),
    "letters beyond ASCII": ("ad\u00e1@example.com", pg.CheckViolation),
    "a domain that is not in its ASCII form": ("ada@ex\u00e4mple.com", pg.CheckViolation),
    "a local part of 65": (f"{'l' * 65}@example.com", pg.CheckViolation),
    "255 characters": (f"{LONGEST_LOCAL}@{LONGEST_DOMAIN}d", pg.CheckViolation),
}
USERS: dict[str, tuple[dict[str, Any], Error]] = {
    **{name: ({"email": email}, error) for name, (email, error) in EMAILS.items()},
    "an email that is taken": ({"email": "bob@example.com"}, pg.UniqueViolation),
    "no time": ({"created_at": None}, pg.NotNullViolation),
}
DIGESTS: dict[str, tuple[bytes | None, Error]] = {
    "no digest": (None, pg.NotNullViolation),
    "an empty digest": (b"", pg.CheckViolation),
    "a digest of 31 bytes": (DIGEST[1:], pg.CheckViolation),
    "a digest of 33 bytes": (DIGEST + b"\x01", pg.CheckViolation),
    "a digest in hexadecimal": (DIGEST.hex().encode(), pg.CheckViolation),
    "a digest that is taken": (b"\x02" * 32, pg.UniqueViolation),
}
LIFETIMES: dict[str, tuple[dict[str, Any], Error]] = {
    "an end that is its beginning": ({"created_at": "2026-01-01Z", "expires_at": "2026-01-01Z"}, pg.CheckViolation),
    "an end before its beginning": ({"created_at": "2026-01-02Z", "expires_at": "2026-01-01Z"}, pg.CheckViolation),
    "no beginning": ({"created_at": None}, pg.NotNullViolation),
    "no end": ({"expires_at": None}, pg.NotNullViolation),
}
AUTH_TOKENS: dict[str, tuple[dict[str, Any], Error]] = {
    **{name: ({"email": email}, error) for name, (email, error) in EMAILS.items()},
    **{name: ({"token_hash": digest}, error) for name, (digest, error) in DIGESTS.items()},
    **LIFETIMES,
}
OWNERS: dict[str, tuple[dict[str, Any], Error]] = {
    "no user": ({"user_id": None}, pg.NotNullViolation),
    "a user who is not there": ({"user_id": str(uuid4())}, pg.ForeignKeyViolation),
}
AUTH_SESSIONS: dict[str, tuple[dict[str, Any], Error]] = {
    **{name: ({"id_hash": digest}, error) for name, (digest, error) in DIGESTS.items()},
    **LIFETIMES,
    **OWNERS,
}
SESSIONS: dict[str, tuple[dict[str, Any], Error]] = {
    **OWNERS,
    "no id": ({"session_id": None}, pg.NotNullViolation),
    "an empty id": ({"session_id": ""}, pg.CheckViolation),
    "an id of 129": ({"session_id": "x" * 129}, pg.CheckViolation),
    "an id with a space": ({"session_id": "a b"}, pg.CheckViolation),
    "an id with a slash": ({"session_id": "a/b"}, pg.CheckViolation),
    "an id with a line's end": ({"session_id": "one\n"}, pg.CheckViolation),
    "an id with lines": ({"session_id": "bad id\none"}, pg.CheckViolation),
    "an id with a letter beyond ASCII": ({"session_id": "\u00e9"}, pg.CheckViolation),
    "an id with another alphabet's digit": ({"session_id": "\u0663"}, pg.CheckViolation),
    "an id that is taken": ({"session_id": "taken"}, pg.UniqueViolation),
    "an end a microsecond before its start": (
        {"started_at": "2026-01-01T00:00:00.000001Z", "ended_at": "2026-01-01T00:00:00Z"},
        pg.CheckViolation,
    ),
    "neither start nor end": ({"started_at": None, "ended_at": None, "transcript_hash": None}, pg.CheckViolation),
    "an end without a hash": ({"transcript_hash": None}, pg.CheckViolation),
    "a hash without an end": ({"ended_at": None}, pg.CheckViolation),
    "an empty hash": ({"transcript_hash": ""}, pg.CheckViolation),
    "a hash in upper case": ({"transcript_hash": HASH.upper()}, pg.CheckViolation),
    "a hash of 63 digits": ({"transcript_hash": HASH[1:]}, pg.CheckViolation),
    "a hash of 65 digits": ({"transcript_hash": HASH + "0"}, pg.CheckViolation),
    "a hash with a line's end": ({"transcript_hash": HASH + "\n"}, pg.CheckViolation),
    "a hash that is not hexadecimal": ({"transcript_hash": "g" * 64}, pg.CheckViolation),
}
DAYS: dict[str, tuple[dict[str, Any], Error]] = {
    "no day": ({"day": None}, pg.NotNullViolation),
    "no tokens": ({"tokens": None}, pg.NotNullViolation),
    "tokens below nothing": ({"tokens": -1}, pg.CheckViolation),
}
LLM_USAGE: dict[str, tuple[dict[str, Any], Error]] = {
    **OWNERS,
    **DAYS,
    "a day that is taken": ({"day": TAKEN_DAY}, pg.UniqueViolation),
}
LLM_TOTALS: dict[str, tuple[dict[str, Any], Error]] = {
    **DAYS,
    "a day that is taken": ({"day": TAKEN_DAY}, pg.UniqueViolation),
}
LLM_RESERVATIONS: dict[str, tuple[dict[str, Any], Error]] = {
    **DAYS,
    "a user who is not there": OWNERS["a user who is not there"],
    "nothing reserved": ({"tokens": 0}, pg.CheckViolation),
    "no deadline": ({"deadline": None}, pg.NotNullViolation),
    "an id that is taken": ({"reservation_id": TAKEN_ID}, pg.UniqueViolation),
}
BAD_ROWS = [
    pytest.param(table, values, error, id=f"{table} with {name}")
    for table, bad in (
        ("users", USERS),
        ("auth_tokens", AUTH_TOKENS),
        ("auth_sessions", AUTH_SESSIONS),
        ("sessions", SESSIONS),
        ("llm_usage", LLM_USAGE),
        ("llm_totals", LLM_TOTALS),
        ("llm_reservations", LLM_RESERVATIONS),
    )
    for name, (values, error) in bad.items()
]


@pytest.fixture(scope="module")
def schema(_worker_database: str) -> str:
    """The migrated database, for tests that write nothing into it for good."""
    return _worker_database


# What of a good row another one has already.
TAKEN: dict[str, dict[str, Any]] = {
    "auth_tokens": {"token_hash": b"\x02" * 32},
    "auth_sessions": {"id_hash": b"\x02" * 32},
    "sessions": {"session_id": "taken"},
    "llm_usage": {"day": TAKEN_DAY},
    "llm_totals": {"day": TAKEN_DAY},
    "llm_reservations": {"reservation_id": TAKEN_ID},
}


def good_row(table: str, user_id: str) -> dict[str, Any]:
    """A row that the database takes, of the user `user_id`."""
    lifetime = {"created_at": "2026-01-01Z", "expires_at": "2026-01-02Z"}
    day = {"day": "2026-01-01", "tokens": 1}
    rows: dict[str, dict[str, Any]] = {
        "users": {"email": "ada@example.com", "created_at": "2026-01-01Z"},
        "auth_tokens": {"token_hash": DIGEST, "email": "ada@example.com", **lifetime},
        "auth_sessions": {"id_hash": DIGEST, "user_id": user_id, **lifetime},
        "sessions": {
            "user_id": user_id,
            "session_id": "one",
            "started_at": "2026-01-01Z",
            "ended_at": "2026-01-01Z",
            "transcript_hash": HASH,
        },
        "llm_usage": {"user_id": user_id, **day},
        "llm_totals": day,
        "llm_reservations": {"user_id": user_id, "deadline": "2026-01-01T00:10Z", **day},
    }
    return rows[table]


def insert(cursor: Any, table: str, row: dict[str, Any]) -> None:
    places = ", ".join(["%s"] * len(row))
    cursor.execute(f"insert into {table} ({', '.join(row)}) values ({places})", list(row.values()))


def written(schema: str, table: str, values: dict[str, Any]) -> None:
    """Write a good row with some other `values` beside what is there already; and take it all back."""
    conn = databases.connect(schema)
    try:
        cursor = conn.cursor()
        cursor.execute("begin; delete from users; delete from auth_tokens; delete from llm_totals")
        cursor.execute("insert into users (email) values ('bob@example.com') returning user_id::text")
        ((user_id,),) = cursor.fetchall()
        for other, taken in TAKEN.items():
            insert(cursor, other, {**good_row(other, user_id), **taken})
        insert(cursor, table, {**good_row(table, user_id), **values})
    finally:
        conn.close()


@pytest.mark.parametrize(("table", "values", "error"), BAD_ROWS)
def test_the_database_refuses(schema: str, table: str, values: dict[str, Any], error: Error) -> None:
    with pytest.raises(error):
        written(schema, table, values)


@pytest.mark.parametrize(
    ("table", "values"),
    [
        *((table, {}) for table in ("users", *TAKEN)),
        ("users", {"email": f"{LONGEST_LOCAL}@{LONGEST_DOMAIN}"}),
        ("auth_tokens", {"email": f"{LONGEST_LOCAL}@{LONGEST_DOMAIN}"}),
        ("sessions", {"session_id": "x" * 128}),
        ("sessions", {"session_id": "AZaz09._:-"}),
        ("sessions", {"session_id": "Taken"}),
        ("sessions", {"started_at": None}),
        ("sessions", {"ended_at": None, "transcript_hash": None}),
        ("llm_usage", {"tokens": 0}),
        ("llm_totals", {"tokens": 2**31 * 1000}),
        ("llm_reservations", {"user_id": None}),
    ],
)
def test_the_database_takes_what_is_at_the_edge(schema: str, table: str, values: dict[str, Any]) -> None:
    written(schema, table, values)


OURS = "table_schema = 'public' and table_name not like '%%yoyo%%'"


def test_every_time_has_a_time_zone(schema: str) -> None:
    columns = f"select column_name, data_type from information_schema.columns where {OURS}"
    types = databases.query(schema, f"{columns} and (data_type ~ 'time' or column_name ~ '_at$|^deadline$')")

    assert len(types) == 8
    assert {data_type for _, data_type in types} == {"timestamp with time zone"}


def test_what_has_a_date_alone_is_a_budgets_day(schema: str) -> None:
    dates = f"select table_name::text, column_name::text from information_schema.columns where {OURS}"

    assert set(databases.query(schema, f"{dates} and data_type = 'date'")) == {
        ("llm_usage", "day"),
        ("llm_totals", "day"),
        ("llm_reservations", "day"),
    }


def test_ids_are_compared_by_their_bytes_whatever_the_databases_locale(schema: str) -> None:
    columns = f"select collation_name from information_schema.columns where {OURS}"

    assert databases.query(schema, f"{columns} and table_name = 'sessions' and column_name = 'session_id'") == [("C",)]


def test_there_is_no_index_but_those_that_a_query_uses(schema: str) -> None:
    found = databases.query(
        schema, "select indexname from pg_indexes where schemaname = 'public' and tablename not like '%%yoyo%%'"
    )

    # tests/test_query_plans.py shows what each is for.
    assert {name for (name,) in found} == {
        "auth_sessions_expires_at",
        "auth_sessions_pkey",
        "auth_sessions_user_id",
        "auth_tokens_email",
        "auth_tokens_expires_at",
        "auth_tokens_pkey",
        "llm_reservations_deadline",
        "llm_reservations_pkey",
        "llm_reservations_user_id",
        "llm_totals_pkey",
        "llm_usage_day",
        "llm_usage_pkey",
        "sessions_newest",
        "sessions_pkey",
        "users_email_key",
        "users_pkey",
    }


def test_every_foreign_key_cascades_but_that_of_a_call_under_way(schema: str) -> None:
    keys = "select conrelid::regclass::text, confrelid::regclass::text, confdeltype::text from pg_constraint"

    cascade, set_null = "c", "n"
    assert sorted(databases.query(schema, f"{keys} where contype = 'f'")) == [
        ("auth_sessions", "users", cascade),
        ("llm_reservations", "users", set_null),
        ("llm_usage", "users", cascade),
        ("sessions", "users", cascade),
    ]


def test_with_a_user_go_its_sign_ins_sessions_and_budgets_but_not_everybodys(database: str) -> None:
    user_id = add_user(database)
    add_sign_ins(database, user_id, good=2)
    add_sessions(database, user_id, [("one", datetime(2026, 1, 31, tzinfo=UTC), None)])
    add_usage(database, user_id, used=100, reserved=20)

    databases.query(database, "delete from users")

    for table in ("auth_sessions", "sessions", "llm_usage"):
        assert databases.query(database, f"select user_id from {table}") == [], table
    assert databases.query(database, "select user_id, tokens from llm_reservations") == [(None, 20)]
    assert databases.query(database, "select tokens from llm_totals") == [(120,)]

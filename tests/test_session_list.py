"""The list of sessions: its order, and that paging neither loses nor repeats one."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from lumen_api import rfc3339
from tests.support import databases
from tests.support.journeys import HASH, sign_in
from tests.support.mailbox import Mailbox
from tests.support.rows import Times, add_sessions

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def user_id(client: FlaskClient, mailbox: Mailbox) -> str:
    """The user as whom `client` is signed in."""
    return sign_in(client, mailbox)


def at(minutes: int) -> datetime:
    return NOON + timedelta(minutes=minutes)


def running(number: int) -> list[Times]:
    """That many sessions, a minute apart: s000 is the oldest."""
    return [(f"s{n:03}", at(n), None) for n in range(number)]


def get(client: FlaskClient, **query: object) -> dict[str, Any]:
    answer = client.get("/v1/sessions", query_string=query)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.get_json()
    return page


def ids(page: dict[str, Any]) -> list[str]:
    return [session["session_id"] for session in page["sessions"]]


def walk(client: FlaskClient, limit: int) -> list[list[str]]:
    """The ids on each page, from the first to the last."""
    page = get(client, limit=limit)
    pages = [ids(page)]
    while page["next_cursor"] is not None:
        page = get(client, limit=limit, cursor=page["next_cursor"])
        pages.append(ids(page))
        assert len(pages) <= 100, "the list has no end"
    return pages


# Started, ended, both; several at the same moment, also a start at the moment of another's end.
MIXED: list[Times] = [
    ("a", at(1), None),
    ("b", at(1), at(9)),
    ("c", None, at(1)),
    ("d", at(1), at(1)),
    ("e", None, at(0)),
    ("f", at(2), at(3)),
    ("g", at(3), None),
    ("h", None, at(3)),
    ("i", at(-5), at(60)),
    ("j", NOON + timedelta(minutes=3, microseconds=1), None),
    ("k", NOON + timedelta(minutes=3, microseconds=-1), None),
    ("m", NOON + timedelta(minutes=3, microseconds=999999), None),
    ("n", NOON + timedelta(minutes=3, microseconds=500000), None),
    ("l", datetime(2020, 1, 1, tzinfo=UTC), None),
]
IN_ORDER = [session_id for _, session_id in sorted(((s or e, i) for i, s, e in MIXED), reverse=True)]


@pytest.mark.usefixtures("user_id")
def test_a_user_without_sessions_has_an_empty_list(client: FlaskClient) -> None:
    assert get(client) == {"status": "ok", "sessions": [], "next_cursor": None}


def test_an_entry_is_a_session_as_its_end_answered_it(client: FlaskClient, user_id: str, database: str) -> None:
    add_sessions(
        database, user_id, [("one", at(0), NOON + timedelta(minutes=1, microseconds=5)), ("two", at(-1), None)]
    )

    assert get(client)["sessions"] == [
        {
            "session_id": "one",
            "started_at": "2026-01-31T12:00:00.000000Z",
            "ended_at": "2026-01-31T12:01:00.000005Z",
            "transcript_hash": HASH,
        },
        {
            "session_id": "two",
            "started_at": "2026-01-31T11:59:00.000000Z",
            "ended_at": None,
            "transcript_hash": None,
        },
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, len(MIXED) - 1, len(MIXED), len(MIXED) + 1, 100])
def test_pages_of_any_size_walk_the_whole_list_in_order(
    client: FlaskClient, user_id: str, database: str, limit: int
) -> None:
    add_sessions(database, user_id, MIXED)

    pages = walk(client, limit)

    assert pages == [IN_ORDER[first : first + limit] for first in range(0, len(IN_ORDER), limit)]


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_ids_of_one_moment_are_in_the_order_of_their_bytes(
    client: FlaskClient, user_id: str, database: str, limit: int
) -> None:
    # What a language's rules order otherwise: cases together, punctuation skipped.
    of_one_moment = ["a", "A", "b", "B", "_", "-", ".", ":", "0", "9", "10", "a.", "a-b", "aB", "Z", "z" * 128]
    add_sessions(database, user_id, [(session_id, NOON, None) for session_id in of_one_moment])

    walked = [session_id for page in walk(client, limit) for session_id in page]

    assert walked == sorted(of_one_moment, key=str.encode, reverse=True)


# --- Limits and the end. ---


@pytest.mark.parametrize(
    ("query", "expected"), [({}, 20), ({"limit": 1}, 1), ({"limit": 100}, 100)], ids=["default", "least", "most"]
)
def test_a_page_has_twenty_sessions_or_as_many_as_asked_for(
    client: FlaskClient, user_id: str, database: str, query: dict[str, int], expected: int
) -> None:
    add_sessions(database, user_id, running(101))

    page = get(client, **query)

    assert len(page["sessions"]) == expected
    assert page["next_cursor"] is not None


@pytest.mark.parametrize(("number", "pages"), [(19, 1), (20, 1), (21, 2), (40, 2), (41, 3)])
def test_the_last_page_is_never_empty_and_has_no_cursor(
    client: FlaskClient, user_id: str, database: str, number: int, pages: int
) -> None:
    add_sessions(database, user_id, running(number))

    walked = walk(client, 20)

    assert len(walked) == pages
    assert all(walked)


# --- Rows that come, change and go while somebody pages. ---


def test_sessions_that_begin_while_paging_move_nothing(client: FlaskClient, user_id: str, database: str) -> None:
    add_sessions(database, user_id, running(10))
    first = get(client, limit=4)
    add_sessions(database, user_id, [("new", at(99), None), ("above", at(7), at(8))])

    rest = get(client, limit=100, cursor=first["next_cursor"])

    assert ids(first) + ids(rest) == [f"s{n:03}" for n in range(9, -1, -1)]


def test_whatever_else_changes_every_untouched_session_is_seen_once(
    client: FlaskClient, user_id: str, database: str
) -> None:
    add_sessions(database, user_id, [*running(30), *((f"touched-{n}", None, at(n)) for n in range(30))])
    seen: list[str] = []
    cursor: str | None = None
    for round_ in range(100):
        page = get(client, limit=3, **({"cursor": cursor} if cursor else {}))
        seen += ids(page)
        cursor = page["next_cursor"]
        if cursor is None:
            break
        for session_id, moment in ((f"touched-{round_}", at(-99)), (f"added-{round_}", at(15))):
            body = {"session_id": session_id, "started_at": rfc3339.format(moment)}
            assert client.post("/v1/sessions/start", json=body).status_code == 200
        databases.query(database, "delete from sessions where session_id = %s", f"touched-{29 - round_}")

    assert [session_id for session_id in seen if session_id.startswith("s")] == [f"s{n:03}" for n in range(29, -1, -1)]


def test_an_end_moves_no_session_that_has_a_start(client: FlaskClient, user_id: str, database: str) -> None:
    add_sessions(database, user_id, running(6))
    before = walk(client, 2)

    client.post("/v1/sessions/end", json={"session_id": "s001", "transcript_hash": HASH})

    assert walk(client, 2) == before


def test_a_cursor_outlives_the_session_that_it_was_made_from(client: FlaskClient, user_id: str, database: str) -> None:
    add_sessions(database, user_id, running(5))
    cursor = get(client, limit=2)["next_cursor"]
    databases.query(database, "delete from sessions where session_id in ('s003', 's002')")

    assert ids(get(client, cursor=cursor)) == ["s001", "s000"]


def test_the_same_cursor_gives_the_same_page_again(client: FlaskClient, user_id: str, database: str) -> None:
    add_sessions(database, user_id, running(5))
    cursor = get(client, limit=2)["next_cursor"]

    assert get(client, limit=2, cursor=cursor) == get(client, limit=2, cursor=cursor)


@pytest.mark.parametrize("session_id", ["A", "z" * 128, "a.b_c:d-e", ":"])
def test_a_cursor_needs_no_escaping_in_an_address(
    client: FlaskClient, user_id: str, database: str, session_id: str
) -> None:
    add_sessions(database, user_id, [(session_id, NOON, None), ("older", at(-1), None)])

    cursor = get(client, limit=1)["next_cursor"]

    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)
    assert ids(get(client, cursor=cursor)) == ["older"]

"""Start and end of a conversation: sent again, late, in the wrong order and by wrong clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from lumen_api import rfc3339
from tests.support import databases
from tests.support.journeys import HASH, OTHER_HASH, sign_in
from tests.support.mailbox import Mailbox

EIGHT, NINE, TEN = (f"2026-01-31T{hour}:00:00.000000Z" for hour in ("08", "09", "10"))
AHEAD = "2999-12-31T23:59:59Z"


@pytest.fixture
def ada(client: FlaskClient, mailbox: Mailbox) -> FlaskClient:
    """A caller who is signed in."""
    sign_in(client, mailbox)
    return client


def start(client: FlaskClient, session_id: str = "one", **members: object) -> TestResponse:
    return client.post("/v1/sessions/start", json={"session_id": session_id, **members})


def end(client: FlaskClient, session_id: str = "one", transcript_hash: str = HASH, **members: object) -> TestResponse:
    body = {"session_id": session_id, "transcript_hash": transcript_hash, **members}
    return client.post("/v1/sessions/end", json=body)


def stored(database: str) -> list[tuple[Any, ...]]:
    """All rows, with the times as the API writes them."""
    rows = databases.query(
        database, "select session_id, started_at, ended_at, transcript_hash from sessions order by 1"
    )
    return [tuple(rfc3339.format(value) if isinstance(value, datetime) else value for value in row) for row in rows]


# --- What the answers hold. ---


def test_a_start_answers_its_id_and_time_and_nothing_else(ada: FlaskClient) -> None:
    answer = start(ada, started_at=EIGHT)

    assert answer.status_code == 200
    assert answer.get_json() == {"status": "ok", "session_id": "one", "started_at": EIGHT}


def test_an_end_answers_the_whole_session_and_nothing_else(ada: FlaskClient) -> None:
    start(ada, started_at=EIGHT)

    answer = end(ada, ended_at=NINE)

    assert answer.status_code == 200
    assert answer.get_json() == {
        "status": "ok",
        "session_id": "one",
        "started_at": EIGHT,
        "ended_at": NINE,
        "transcript_hash": HASH,
    }


def test_what_is_stored_is_what_was_answered(ada: FlaskClient, database: str) -> None:
    first = start(ada).get_json()["started_at"]
    last = end(ada).get_json()["ended_at"]

    assert stored(database) == [("one", first, last, HASH)]


def test_unknown_members_are_neither_stored_nor_answered(ada: FlaskClient) -> None:
    answer = end(ada, title="On grief", messages=["hello"], user_id="00000000-0000-0000-0000-000000000000")

    assert set(answer.get_json()) == {"status", "session_id", "started_at", "ended_at", "transcript_hash"}


# --- Sent again, and in any order. ---


@pytest.mark.parametrize("ended", [False, True], ids=["while it runs", "after its end"])
@pytest.mark.parametrize("again", [{"started_at": EIGHT}, {"started_at": TEN}, {}], ids=["earlier", "later", "now"])
def test_a_second_start_answers_the_first_time_and_changes_nothing(
    ada: FlaskClient, database: str, again: dict[str, str], ended: bool
) -> None:
    first = start(ada, started_at=NINE)
    if ended:
        end(ada, ended_at=TEN)
    before = stored(database)

    second = start(ada, **again)

    assert (second.status_code, second.get_json()) == (200, first.get_json())
    assert stored(database) == before


@pytest.mark.parametrize("again", [{"ended_at": EIGHT}, {"ended_at": TEN}, {}], ids=["earlier", "later", "now"])
def test_a_second_end_with_the_same_hash_answers_as_the_first(
    ada: FlaskClient, database: str, again: dict[str, str]
) -> None:
    start(ada, started_at=EIGHT)
    first = end(ada, ended_at=NINE)
    before = stored(database)

    second = end(ada, **again)

    assert (second.status_code, second.get_json()) == (200, first.get_json())
    assert stored(database) == before


@pytest.mark.parametrize("started", [True, False], ids=["started", "never started"])
def test_a_second_end_with_another_hash_is_a_conflict_and_changes_nothing(
    ada: FlaskClient, database: str, started: bool
) -> None:
    if started:
        start(ada, started_at=EIGHT)
    first = end(ada, ended_at=NINE)
    before = stored(database)

    other = end(ada, transcript_hash=OTHER_HASH, ended_at=TEN)

    assert (other.status_code, other.get_json()["error"]["code"]) == (409, "session_already_ended")
    assert stored(database) == before
    assert end(ada).get_json() == first.get_json()


def test_a_conflict_does_not_tell_the_hash_that_is_stored(ada: FlaskClient) -> None:
    end(ada)

    other = end(ada, transcript_hash=OTHER_HASH)

    assert HASH not in other.text
    assert OTHER_HASH not in other.text


def test_an_end_without_a_start_is_kept(ada: FlaskClient, database: str) -> None:
    answer = end(ada, ended_at=NINE)

    assert (answer.status_code, answer.get_json()["started_at"]) == (200, None)
    assert stored(database) == [("one", None, NINE, HASH)]


def test_a_late_start_fills_in_what_was_missing(ada: FlaskClient, database: str) -> None:
    end(ada, ended_at=NINE)

    late = start(ada, started_at=EIGHT)

    assert late.get_json() == {"status": "ok", "session_id": "one", "started_at": EIGHT}
    assert stored(database) == [("one", EIGHT, NINE, HASH)]


def test_a_late_start_is_filled_in_once(ada: FlaskClient, database: str) -> None:
    end(ada, ended_at=TEN)
    start(ada, started_at=NINE)

    assert start(ada, started_at=EIGHT).get_json()["started_at"] == NINE
    assert stored(database) == [("one", NINE, TEN, HASH)]


def test_an_end_sent_again_after_a_late_start_tells_both_times(ada: FlaskClient) -> None:
    end(ada, ended_at=NINE)
    start(ada, started_at=EIGHT)

    again = end(ada).get_json()

    assert (again["started_at"], again["ended_at"]) == (EIGHT, NINE)


def test_sessions_of_one_user_do_not_touch_each_other(ada: FlaskClient, database: str) -> None:
    start(ada, "one", started_at=EIGHT)
    start(ada, "ONE", started_at=NINE)
    end(ada, "one", ended_at=TEN)

    assert stored(database) == [("ONE", NINE, None, None), ("one", EIGHT, TEN, HASH)]


# --- Clocks. ---

READ = {
    "UTC": ("2026-01-31T08:30:00Z", "2026-01-31T08:30:00.000000Z"),
    "microseconds": ("2026-01-31T08:30:00.000001Z", "2026-01-31T08:30:00.000001Z"),
    "milliseconds": ("2026-01-31T08:30:00.120Z", "2026-01-31T08:30:00.120000Z"),
    "nanoseconds are cut": ("2026-01-31T08:30:00.123456999Z", "2026-01-31T08:30:00.123456Z"),
    "east": ("2026-01-31T08:30:00.5+05:45", "2026-01-31T02:45:00.500000Z"),
    "west, the next day": ("2026-01-31T23:30:00-01:00", "2026-02-01T00:30:00.000000Z"),
    "first accepted": ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00.000000Z"),
    "last microsecond of a second": ("2026-01-31T08:30:59.999999Z", "2026-01-31T08:30:59.999999Z"),
    "leap day": ("2024-02-29T12:00:00+00:00", "2024-02-29T12:00:00.000000Z"),
}


@pytest.mark.parametrize(("given", "answered"), READ.values(), ids=READ)
def test_a_clients_time_is_kept_to_the_microsecond_and_answered_in_utc(
    ada: FlaskClient, given: str, answered: str
) -> None:
    started_at = start(ada, started_at=given).get_json()["started_at"]
    ended_at = end(ada, ended_at=given).get_json()["ended_at"]

    assert (started_at, ended_at) == (answered, answered)


@pytest.mark.parametrize(
    "given",
    [{}, {"at": AHEAD}, {"at": "9999-12-31T23:59:59.999999-23:59"}],
    ids=["absent", "ahead", "as far ahead as can be written"],
)
@pytest.mark.parametrize("call", ["start", "end"])
def test_without_a_time_or_with_one_ahead_it_is_the_servers_clock(
    ada: FlaskClient, call: str, given: dict[str, str]
) -> None:
    before = datetime.now(UTC)
    if call == "start":
        at = start(ada, **{f"{call}ed_at": value for value in given.values()}).get_json()["started_at"]
    else:
        at = end(ada, **{f"{call}ed_at": value for value in given.values()}).get_json()["ended_at"]

    assert before <= rfc3339.parse(at) <= datetime.now(UTC)


def test_a_time_just_ahead_is_the_servers_too(ada: FlaskClient) -> None:
    ahead = datetime.now(UTC) + timedelta(minutes=1)

    answer = start(ada, started_at=rfc3339.format(ahead))

    assert rfc3339.parse(answer.get_json()["started_at"]) < ahead


def test_an_end_before_its_start_becomes_the_start(ada: FlaskClient, database: str) -> None:
    start(ada, started_at=NINE)

    assert end(ada, ended_at=EIGHT).get_json()["ended_at"] == NINE
    assert stored(database) == [("one", NINE, NINE, HASH)]


@pytest.mark.parametrize("late", [{"started_at": TEN}, {"started_at": AHEAD}, {}], ids=["later", "ahead", "now"])
def test_a_start_after_its_end_becomes_the_end(ada: FlaskClient, database: str, late: dict[str, str]) -> None:
    end(ada, ended_at=NINE)

    assert start(ada, **late).get_json()["started_at"] == NINE
    assert stored(database) == [("one", NINE, NINE, HASH)]


def test_a_start_and_an_end_ahead_of_the_server_are_in_order(ada: FlaskClient) -> None:
    start(ada, started_at=AHEAD)

    times = end(ada, ended_at=AHEAD).get_json()

    assert times["started_at"] <= times["ended_at"] <= rfc3339.format(datetime.now(UTC))

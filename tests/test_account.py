"""A copy of everything that is stored about a person, and its end."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support import databases, eventually
from tests.support.journeys import HASH, request_link, sign_in
from tests.support.locks import held, waiting
from tests.support.mailbox import Mailbox
from tests.support.rows import SOON, add_links, add_sessions, add_sign_ins, add_usage, add_user

ADA, BOB = "ada@example.com", "bob@example.com"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

# Which list of the export shows a table, and what of it is left out: digests of credentials, a call's number, and
# whose row it is, which the export says once.
SHOWN = {
    "users": ("user", set()),
    "auth_tokens": ("links", {"token_hash", "email"}),
    "auth_sessions": ("sign_ins", {"id_hash", "user_id"}),
    "sessions": ("sessions", {"user_id"}),
    "llm_usage": ("usage", {"user_id"}),
    "llm_reservations": ("reservations", {"user_id", "reservation_id"}),
}
OF_NOBODY = {"llm_totals"}


@pytest.fixture
def user_id(client: FlaskClient, mailbox: Mailbox, database: str) -> str:
    """Ada, as whom `client` is signed in, with rows in every table; and Bob, who has them too."""
    bob = add_user(database, BOB)
    ada = sign_in(client, mailbox, ADA)
    for number, (owner, email) in enumerate([(ada, ADA), (bob, BOB)], 1):
        add_links(database, email, good=1, expired=1)
        add_sign_ins(database, owner, good=number, expired=1)
        add_sessions(
            database, owner, [("running", NOON, None), ("ended", NOON, NOON), ("unstarted", None, NOON + timedelta(1))]
        )
        add_usage(database, owner, used=100 * number, reserved=number)
        add_usage(database, owner, used=1000 * number, days_ago=1)
    return ada


def tables(database: str) -> dict[str, set[str]]:
    """The columns of every table of ours that has a person's data."""
    rows = databases.query(
        database,
        """
        select table_name::text, array_agg(column_name::text) from information_schema.columns
         where table_schema = 'public' and table_name not like '%%yoyo%%' group by table_name
        """,
    )
    found = {table: set(columns) for table, columns in rows}
    assert {table for table, columns in found.items() if not columns & {"user_id", "email"}} == OF_NOBODY
    return {table: columns for table, columns in found.items() if table not in OF_NOBODY}


def number_of_rows(database: str, email: str) -> dict[str, int]:
    """How many rows of each table belong to an address."""
    counted = {}
    for table, columns in tables(database).items():
        owner = "email = %s" if "email" in columns else "user_id = (select user_id from users where email = %s)"
        ((counted[table],),) = databases.query(database, f"select count(*) from {table} where {owner}", email)
    return counted


# --- The copy. ---


def test_the_export_has_the_user_links_sign_ins_sessions_and_budgets(client: FlaskClient, user_id: str) -> None:
    export = client.get("/v1/account").get_json()

    assert list(export) == ["status", "user", "links", "sign_ins", "sessions", "usage", "reservations"]
    assert export["status"] == "ok"
    assert (export["user"]["user_id"], export["user"]["email"]) == (user_id, ADA)
    assert [len(export[name]) for name in ("links", "sign_ins", "sessions")] == [2, 3, 3]
    assert export["sessions"] == [
        {
            "session_id": "ended",
            "started_at": "2026-01-31T12:00:00.000000Z",
            "ended_at": "2026-01-31T12:00:00.000000Z",
            "transcript_hash": HASH,
        },
        {
            "session_id": "running",
            "started_at": "2026-01-31T12:00:00.000000Z",
            "ended_at": None,
            "transcript_hash": None,
        },
        {
            "session_id": "unstarted",
            "started_at": None,
            "ended_at": "2026-02-01T12:00:00.000000Z",
            "transcript_hash": HASH,
        },
    ]
    now = datetime.now(UTC)
    today, yesterday = str(now.date()), str(now.date() - timedelta(days=1))
    assert export["usage"] == [{"day": yesterday, "tokens": 1000}, {"day": today, "tokens": 101}]
    (call,) = export["reservations"]
    assert (call["day"], call["tokens"]) == (today, 1)
    assert now < datetime.fromisoformat(call["deadline"]) <= now + SOON


@pytest.mark.usefixtures("user_id")
def test_every_column_of_every_table_is_in_the_export_but_digests(client: FlaskClient, database: str) -> None:
    export = client.get("/v1/account").get_json()

    assert set(tables(database)) == set(SHOWN)
    for table, columns in tables(database).items():
        name, left_out = SHOWN[table]
        entries = export[name] if isinstance(export[name], list) else [export[name]]
        assert entries, table
        assert all(set(entry) == columns - left_out for entry in entries), table


@pytest.mark.usefixtures("user_id")
def test_the_export_holds_no_credential_and_no_digest_of_one(client: FlaskClient, database: str) -> None:
    text = client.get("/v1/account").text
    digests = databases.query(database, "select token_hash from auth_tokens union select id_hash from auth_sessions")
    cookie = client.get_cookie("__Host-lumen_session")

    assert cookie is not None
    assert cookie.value not in text
    for digest in (bytes(digest) for (digest,) in digests):
        for written in (digest.hex(), base64.b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode()):
            assert written.rstrip("=") not in text


@pytest.mark.usefixtures("user_id")
def test_the_export_has_nothing_of_another_user(client: FlaskClient, database: str) -> None:
    ((bob,),) = databases.query(database, "select user_id::text from users where email = %s", BOB)

    text = client.get("/v1/account").text

    assert BOB not in text
    assert bob not in text


def test_the_export_is_of_one_moment(client: FlaskClient, user_id: str, database: str) -> None:
    # The export has read the other tables when it stops at this one.
    with held(database, "lock table sessions") as writer, ThreadPoolExecutor(1) as threads:
        export = threads.submit(client.get, "/v1/account")
        eventually(lambda: waiting(database))
        writer.cursor().execute("insert into sessions values (%s, 'late', now())", (user_id,))
        writer.cursor().execute("commit")
        sessions = export.result(10).get_json()["sessions"]

    assert [session["session_id"] for session in sessions] == ["ended", "running", "unstarted"]
    assert len(client.get("/v1/account").get_json()["sessions"]) == 4


def test_the_export_of_two_thousand_sessions_is_whole(client: FlaskClient, user_id: str, database: str) -> None:
    add_sessions(database, user_id, [(f"s{n}", NOON + timedelta(seconds=n), NOON + timedelta(1)) for n in range(2000)])

    assert len(client.get("/v1/account").get_json()["sessions"]) == 2003


# --- The end. ---


def test_deletion_takes_every_row_of_the_user_and_no_other(client: FlaskClient, user_id: str, database: str) -> None:
    others = number_of_rows(database, BOB)
    assert all(number_of_rows(database, ADA).values())

    answer = client.delete("/v1/account")

    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})
    assert set(number_of_rows(database, ADA).values()) == {0}
    for table, columns in tables(database).items():
        if "user_id" in columns:
            assert databases.query(database, f"select 1 from {table} where user_id = %s", user_id) == []
    assert number_of_rows(database, BOB) == others


def test_deletion_leaves_everybodys_budget_and_the_calls_under_way_without_a_name(
    client: FlaskClient, user_id: str, database: str
) -> None:
    today = "day = (now() at time zone 'utc')::date"
    ((before,),) = databases.query(database, f"select tokens from llm_totals where {today}")

    client.delete("/v1/account")

    # A new account is no fresh budget for the service.
    assert databases.query(database, f"select tokens from llm_totals where {today}") == [(before,)]
    calls = databases.query(database, "select user_id::text, tokens from llm_reservations order by tokens")
    assert calls[0] == (None, 1)
    assert user_id not in {owner for owner, _ in calls}


@pytest.mark.usefixtures("user_id")
def test_deletion_takes_the_cookie_back(client: FlaskClient) -> None:
    answer = client.delete("/v1/account")

    (cookie,) = answer.headers.getlist("Set-Cookie")
    assert cookie.startswith("__Host-lumen_session=;")
    assert {"Max-Age=0", "Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
    assert "Clear-Site-Data" not in answer.headers
    assert client.get_cookie("__Host-lumen_session") is None


def test_no_device_is_signed_in_after_the_deletion(app: Flask, mailbox: Mailbox) -> None:
    phone, laptop = app.test_client(), app.test_client()
    sign_in(phone, mailbox, ADA)
    sign_in(laptop, mailbox, ADA)
    cookie = phone.get_cookie("__Host-lumen_session")
    assert cookie is not None

    phone.delete("/v1/account")
    phone.set_cookie("__Host-lumen_session", cookie.value, secure=True)

    for device in (phone, laptop):
        answer = device.get("/v1/auth/session")
        assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "unauthorized")


@pytest.mark.usefixtures("user_id")
def test_a_link_that_was_asked_for_before_the_deletion_works_no_more(
    app: Flask, client: FlaskClient, mailbox: Mailbox
) -> None:
    token = request_link(app.test_client(), mailbox, ADA)

    client.delete("/v1/account")

    assert client.post("/v1/auth/verify", json={"token": token}).status_code == 401


def test_whoever_comes_back_is_a_new_user_without_a_past(client: FlaskClient, user_id: str, mailbox: Mailbox) -> None:
    client.delete("/v1/account")

    assert sign_in(client, mailbox, ADA) != user_id
    export = client.get("/v1/account").get_json()
    assert (export["links"], export["sessions"], len(export["sign_ins"])) == ([], [], 1)
    assert (export["usage"], export["reservations"]) == ([], [])


def test_deletion_of_an_account_with_two_thousand_sessions_works(
    client: FlaskClient, user_id: str, database: str
) -> None:
    add_sessions(database, user_id, [(f"s{n}", NOON, None) for n in range(2000)])

    assert client.delete("/v1/account").status_code == 200
    assert set(number_of_rows(database, ADA).values()) == {0}


@pytest.mark.usefixtures("user_id")
def test_a_deletion_that_cannot_take_the_last_row_takes_none(client: FlaskClient, database: str) -> None:
    before = number_of_rows(database, ADA)
    with held(database, "select 1 from sessions where session_id = 'running' for update"):
        answer = client.delete("/v1/account")

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "busy")
    assert number_of_rows(database, ADA) == before
    assert client.delete("/v1/account").status_code == 200


def test_a_start_that_meets_a_deletion_is_told_to_sign_in(client: FlaskClient, user_id: str, database: str) -> None:
    with held(database, "delete from users where user_id = %s", user_id) as deletion, ThreadPoolExecutor(1) as threads:
        start = threads.submit(client.post, "/v1/sessions/start", json={"session_id": "late"})
        eventually(lambda: waiting(database))
        deletion.cursor().execute("commit")
        answer = start.result(10)

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("method", ["get", "delete"])
def test_an_account_is_for_its_owner_alone(client: FlaskClient, database: str, method: str) -> None:
    add_user(database, ADA)

    answer: Any = getattr(client, method)("/v1/account")

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "unauthorized")
    assert databases.query(database, "select email from users") == [(ADA,)]

"""Two users with the same session_id: neither reveals, blocks or touches what is the other's."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.support import databases
from tests.support.journeys import HASH, OTHER_HASH, sign_in
from tests.support.locks import held
from tests.support.mailbox import Mailbox
from tests.support.rows import add_usage

ADA, BOB = "ada@example.com", "bob@example.com"
EIGHT, NINE, TEN = (f"2026-01-31T{hour}:00:00.000000Z" for hour in ("08", "09", "10"))


@pytest.fixture
def ada(app: Flask, mailbox: Mailbox, database: str) -> FlaskClient:
    """Signed in, with a session that has ended, and a call of the model under way."""
    client = app.test_client()
    user_id = sign_in(client, mailbox, ADA)
    client.post("/v1/sessions/start", json={"session_id": "same", "started_at": EIGHT})
    client.post("/v1/sessions/end", json={"session_id": "same", "ended_at": NINE, "transcript_hash": HASH})
    add_usage(database, user_id, used=100, reserved=20)
    return client


@pytest.fixture
def bob(app: Flask, mailbox: Mailbox) -> FlaskClient:
    """Signed in, without sessions."""
    client = app.test_client()
    sign_in(client, mailbox, BOB)
    return client


def everything_of(database: str, email: str) -> list[Any]:
    """All rows that belong to an address."""
    statements = (
        "select u.* from users u where email = %s",
        "select t.* from auth_tokens t where email = %s order by token_hash",
        "select a.* from auth_sessions a join users using (user_id) where email = %s order by id_hash",
        "select s.* from sessions s join users using (user_id) where email = %s order by session_id",
        "select l.* from llm_usage l join users using (user_id) where email = %s order by day",
        "select l.* from llm_reservations l join users using (user_id) where email = %s order by deadline",
    )
    return [bytes_of(row) for statement in statements for row in databases.query(database, statement, email)]


def bytes_of(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)


def listed(client: FlaskClient) -> list[dict[str, Any]]:
    sessions: list[dict[str, Any]] = client.get("/v1/sessions").get_json()["sessions"]
    return sessions


@pytest.mark.usefixtures("ada")
def test_a_start_of_an_id_that_another_has_ended_is_a_start(bob: FlaskClient) -> None:
    answer = bob.post("/v1/sessions/start", json={"session_id": "same", "started_at": TEN})

    assert (answer.status_code, answer.get_json()["started_at"]) == (200, TEN)
    assert listed(bob)[0]["ended_at"] is None


@pytest.mark.usefixtures("ada")
def test_an_end_with_another_hash_is_no_conflict_with_another_users(bob: FlaskClient) -> None:
    answer = bob.post("/v1/sessions/end", json={"session_id": "same", "transcript_hash": OTHER_HASH, "ended_at": TEN})

    assert answer.status_code == 200
    assert answer.get_json() == {
        "status": "ok",
        "session_id": "same",
        "started_at": None,
        "ended_at": TEN,
        "transcript_hash": OTHER_HASH,
    }


def test_a_conflict_of_one_user_is_none_for_the_other(ada: FlaskClient, bob: FlaskClient) -> None:
    body = {"session_id": "same", "transcript_hash": OTHER_HASH}

    assert ada.post("/v1/sessions/end", json=body).status_code == 409
    assert bob.post("/v1/sessions/end", json=body).status_code == 200
    assert ada.post("/v1/sessions/end", json=body).status_code == 409


@pytest.mark.usefixtures("ada")
def test_nothing_that_one_user_does_touches_anothers_rows(bob: FlaskClient, database: str) -> None:
    before = everything_of(database, ADA)

    bob.post("/v1/sessions/start", json={"session_id": "same", "started_at": TEN})
    bob.post("/v1/sessions/end", json={"session_id": "same", "transcript_hash": OTHER_HASH})
    bob.get("/v1/account")
    bob.post("/v1/auth/request-link", json={"email": BOB})
    bob.post("/v1/auth/logout-all")

    assert everything_of(database, ADA) == before


def test_the_list_holds_the_callers_sessions_only(ada: FlaskClient, bob: FlaskClient) -> None:
    bob.post("/v1/sessions/start", json={"session_id": "same", "started_at": TEN})

    assert [(s["session_id"], s["started_at"]) for s in listed(ada)] == [("same", EIGHT)]
    assert [(s["session_id"], s["started_at"]) for s in listed(bob)] == [("same", TEN)]


def test_a_cursor_of_one_user_shows_the_other_only_his_own(ada: FlaskClient, bob: FlaskClient) -> None:
    for client, name in ((ada, "a"), (bob, "b")):
        for n in range(3):
            client.post(
                "/v1/sessions/start", json={"session_id": f"{name}{n}", "started_at": f"2026-01-0{n + 1}T00:00:00Z"}
            )
    cursor = ada.get("/v1/sessions?limit=2").get_json()["next_cursor"]

    page = bob.get("/v1/sessions", query_string={"cursor": cursor}).get_json()

    assert [session["session_id"] for session in page["sessions"]] == ["b1", "b0"]


def test_a_budget_is_the_callers_own(ada: FlaskClient, bob: FlaskClient) -> None:
    seen = [client.get("/v1/llm/usage").get_json() for client in (ada, bob)]

    assert [(usage["used"], usage["reserved"]) for usage in seen] == [(100, 20), (0, 0)]


@pytest.mark.usefixtures("ada")
def test_the_export_holds_nothing_of_anybody_else(bob: FlaskClient) -> None:
    answer = bob.get("/v1/account")
    text = answer.text

    assert (answer.get_json()["usage"], answer.get_json()["reservations"]) == ([], [])
    assert BOB in text
    assert ADA not in text
    assert HASH not in text


@pytest.mark.usefixtures("ada")
def test_deleting_an_account_leaves_the_others_as_they_were(bob: FlaskClient, database: str) -> None:
    bob.post("/v1/sessions/start", json={"session_id": "same"})
    before = everything_of(database, ADA)

    assert bob.delete("/v1/account").status_code == 200

    assert everything_of(database, BOB) == []
    assert everything_of(database, ADA) == before


def test_logging_out_everywhere_leaves_the_others_signed_in(ada: FlaskClient, bob: FlaskClient) -> None:
    assert bob.post("/v1/auth/logout-all").get_json() == {"status": "ok", "revoked": 1}

    assert ada.get("/v1/auth/session").status_code == 200


@pytest.mark.usefixtures("ada")
def test_a_row_that_is_locked_blocks_nobody_else(bob: FlaskClient, database: str) -> None:
    with held(database, "select 1 from sessions join users using (user_id) where email = %s for update", ADA):
        answer = bob.post("/v1/sessions/start", json={"session_id": "same"})

    assert answer.status_code == 200  # and not 503 after a second of waiting


@pytest.mark.usefixtures("ada")
def test_an_account_that_is_being_deleted_blocks_nobody_else(bob: FlaskClient, database: str) -> None:
    with held(database, "delete from users where email = %s", ADA):
        statuses = [
            bob.post("/v1/sessions/start", json={"session_id": "same"}).status_code,
            bob.get("/v1/sessions").status_code,
            bob.get("/v1/account").status_code,
            bob.delete("/v1/account").status_code,
        ]

    assert statuses == [200, 200, 200, 200]

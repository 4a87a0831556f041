"""Signing in by magic link: what the person sees."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support import databases
from tests.support.journeys import request_link, sign_in
from tests.support.mailbox import Mailbox, text_of, token_in


def verify(client: FlaskClient, token: str) -> TestResponse:
    return client.post("/v1/auth/verify", json={"token": token})


def addresses(database: str) -> list[str]:
    """The users, by their addresses."""
    return [email for (email,) in databases.query(database, "select email from users order by email")]


def let_links_expire(database: str) -> None:
    databases.query(
        database,
        "update auth_tokens set created_at = now() - interval '11 minutes', expires_at = now() - interval '1 second'",
    )


# --- One link, one sign-in. ---


def test_a_link_signs_in_once(client: FlaskClient, mailbox: Mailbox) -> None:
    token = request_link(client, mailbox)

    assert verify(client, token).status_code == 200
    again = verify(client, token)

    assert (again.status_code, again.get_json()["error"]["code"]) == (401, "invalid_token")
    assert client.get("/v1/auth/session").get_json()["email"] == "ada@example.com"


def test_a_sign_in_is_answered_with_ok_and_nothing_else(client: FlaskClient, mailbox: Mailbox) -> None:
    answer = verify(client, request_link(client, mailbox))

    assert answer.get_json() == {"status": "ok"}


def test_asking_for_a_link_makes_no_user(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    request_link(client, mailbox)

    assert addresses(database) == []


def test_the_first_sign_in_makes_a_user(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    sign_in(client, mailbox)

    assert addresses(database) == ["ada@example.com"]


def test_the_same_address_is_the_same_user(client: FlaskClient, mailbox: Mailbox) -> None:
    assert sign_in(client, mailbox) == sign_in(client, mailbox)


def test_another_address_is_another_user(client: FlaskClient, mailbox: Mailbox) -> None:
    assert sign_in(client, mailbox) != sign_in(client, mailbox, "bob@example.com")


def test_a_link_signs_in_whoever_opens_it_on_another_device(app: Flask, mailbox: Mailbox) -> None:
    token = request_link(app.test_client(), mailbox)
    other_device = app.test_client()

    assert verify(other_device, token).status_code == 200
    assert other_device.get("/v1/auth/session").get_json()["email"] == "ada@example.com"


# --- Several links. ---


def test_asking_again_leaves_the_first_link_good(client: FlaskClient, mailbox: Mailbox) -> None:
    first = request_link(client, mailbox)
    request_link(client, mailbox)

    assert verify(client, first).status_code == 200


def test_using_a_link_voids_the_older_and_the_newer_one(client: FlaskClient, mailbox: Mailbox) -> None:
    older, used, newer = (request_link(client, mailbox) for _ in range(3))

    assert [verify(client, token).status_code for token in (used, older, newer)] == [200, 401, 401]


def test_using_a_link_leaves_another_address_its_own(client: FlaskClient, mailbox: Mailbox) -> None:
    ada, bob = request_link(client, mailbox), request_link(client, mailbox, "bob@example.com")

    assert [verify(client, token).status_code for token in (ada, bob)] == [200, 200]


def test_a_link_asked_for_after_a_sign_in_works(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    assert verify(client, request_link(client, mailbox)).status_code == 200


def test_trying_a_used_link_again_leaves_a_newer_one_good(client: FlaskClient, mailbox: Mailbox) -> None:
    used = request_link(client, mailbox)
    verify(client, used)
    newer = request_link(client, mailbox)

    assert [verify(client, token).status_code for token in (used, newer)] == [401, 200]


def test_trying_an_expired_link_leaves_a_newer_one_good(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    expired = request_link(client, mailbox)
    let_links_expire(database)
    newer = request_link(client, mailbox)

    assert [verify(client, token).status_code for token in (expired, newer)] == [401, 200]


# --- Links that do not work. ---


BAD_LINKS = ("unknown", "used", "voided", "expired", "forged", "nonsense")


def bad_link(kind: str, client: FlaskClient, mailbox: Mailbox, database: str) -> str:
    """The token of a link that does not work, for this reason."""
    token = request_link(client, mailbox)
    match kind:
        case "unknown":
            databases.query(database, "delete from auth_tokens")
        case "used":
            verify(client, token)
        case "voided":
            sign_in(client, mailbox)
        case "expired":
            let_links_expire(database)
        case "forged":
            random, dot, signature = token.partition(".")
            return random + dot + signature[::-1]
        case "nonsense":
            return "nonsense"
    return token


@pytest.mark.parametrize("kind", BAD_LINKS)
def test_a_bad_link_signs_nobody_in(kind: str, app: Flask, mailbox: Mailbox, database: str) -> None:
    token, caller = bad_link(kind, app.test_client(), mailbox, database), app.test_client()

    answer = verify(caller, token)

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "invalid_token")
    assert "Set-Cookie" not in answer.headers
    assert caller.get("/v1/auth/session").status_code == 401


def test_all_bad_links_get_the_same_bytes(app: Flask, mailbox: Mailbox, database: str) -> None:
    tokens = [bad_link(kind, app.test_client(), mailbox, database) for kind in BAD_LINKS]

    answers = [
        app.test_client().post("/v1/auth/verify", json={"token": token}, headers={"X-Request-Id": "the-same"})
        for token in tokens
    ]

    assert len({(answer.status, answer.data, frozenset(answer.headers.keys())) for answer in answers}) == 1


def test_a_link_expires_after_the_time_that_is_configured(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    request_link(client, mailbox)

    assert databases.query(database, "select expires_at - created_at from auth_tokens") == [(timedelta(minutes=10),)]


# --- Nobody learns who has an account. ---


def test_the_answer_does_not_tell_whether_the_address_has_an_account(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox, "known@example.com")

    answers = [
        client.post("/v1/auth/request-link", json={"email": email}, headers={"X-Request-Id": "the-same"})
        for email in ("known@example.com", "unknown@example.com")
    ]

    assert [(answer.status, answer.data) for answer in answers] == [("200 OK", b'{"status":"ok"}\n')] * 2
    assert set(answers[0].headers.keys()) == set(answers[1].headers.keys())


def test_the_mail_does_not_tell_whether_the_address_has_an_account(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox, "known@example.com")

    mails = set()
    for email in ("known@example.com", "unknown@example.com"):
        token = request_link(client, mailbox, email)
        mail = mailbox.messages[-1]
        mails.add((mail["Subject"], mail["From"], text_of(mail).replace(token, "TOKEN")))

    assert len(mails) == 1


# --- One form of an address. ---

SPELLINGS = ("ada@example.com", "  Ada@EXAMPLE.com ", "ADA@EXAMPLE.COM", "ada@Example.Com\n")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_mail_goes_to_the_canonical_address(spelling: str, client: FlaskClient, mailbox: Mailbox) -> None:
    client.post("/v1/auth/request-link", json={"email": spelling})

    assert [mail["To"] for mail in mailbox.messages] == ["ada@example.com"]


def test_all_spellings_of_an_address_are_one_user(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    for spelling in SPELLINGS:
        client.post("/v1/auth/request-link", json={"email": spelling})
        assert verify(client, mailbox.token_for("ada@example.com")).status_code == 200

    assert addresses(database) == ["ada@example.com"]


def test_an_international_domain_is_one_user_in_both_its_forms(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    for spelling in ("ada@bücher.example", "ada@xn--bcher-kva.example"):
        client.post("/v1/auth/request-link", json={"email": spelling})
        verify(client, mailbox.token_for("ada@xn--bcher-kva.example"))

    assert addresses(database) == ["ada@xn--bcher-kva.example"]


def test_a_link_for_one_spelling_voids_those_of_the_others(client: FlaskClient, mailbox: Mailbox) -> None:
    tokens = []
    for spelling in SPELLINGS:
        client.post("/v1/auth/request-link", json={"email": spelling})
        tokens.append(token_in(text_of(mailbox.messages[-1])))

    assert len(set(tokens)) == 4
    assert [verify(client, token).status_code for token in tokens] == [200, 401, 401, 401]

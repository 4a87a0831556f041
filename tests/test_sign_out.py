"""Signing out, here and everywhere."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import AppFactory
from tests.support import databases
from tests.support.journeys import sign_in
from tests.support.mailbox import Mailbox
from tests.support.rows import add_sign_ins

CLEARED = {"Expires=Thu, 01 Jan 1970 00:00:00 GMT", "Max-Age=0", "HttpOnly", "SameSite=Lax", "Path=/"}


def live(database: str) -> int:
    """How many sign-ins the database holds."""
    ((count,),) = databases.query(database, "select count(*) from auth_sessions")
    return int(count)


# --- Here. ---


def test_after_logout_the_session_is_gone_from_the_database(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    sign_in(client, mailbox)

    assert client.post("/v1/auth/logout").get_json() == {"status": "ok"}
    assert live(database) == 0


def test_after_logout_the_cookie_is_worth_nothing(app: Flask, mailbox: Mailbox) -> None:
    client = app.test_client()
    sign_in(client, mailbox)
    cookie = client.get_cookie("__Host-lumen_session")
    assert cookie is not None
    client.post("/v1/auth/logout")

    thief = app.test_client(use_cookies=False)

    assert thief.get("/v1/auth/session", headers={"Cookie": f"{cookie.key}={cookie.value}"}).status_code == 401


@pytest.mark.parametrize("path", ["/v1/auth/logout", "/v1/auth/logout-all"])
def test_the_cookie_is_cleared_with_the_attributes_that_it_was_set_with(
    path: str, client: FlaskClient, mailbox: Mailbox
) -> None:
    sign_in(client, mailbox)

    (header,) = client.post(path).headers.getlist("Set-Cookie")

    pair, *attributes = header.split("; ")
    assert pair == "__Host-lumen_session="
    assert set(attributes) == CLEARED | {"Secure"}
    assert client.get_cookie("__Host-lumen_session") is None


def test_in_development_the_cookie_is_cleared_without_secure(make_app: AppFactory, mailbox: Mailbox) -> None:
    client = make_app(APP_ENV="development").test_client()
    sign_in(client, mailbox)

    (header,) = client.post("/v1/auth/logout").headers.getlist("Set-Cookie")

    pair, *attributes = header.split("; ")
    assert pair == "lumen_session="
    assert set(attributes) == CLEARED


@pytest.mark.parametrize("path", ["/v1/auth/logout", "/v1/auth/logout-all"])
def test_signing_out_does_not_wipe_the_browser(path: str, client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    assert "Clear-Site-Data" not in client.post(path).headers


def test_logging_out_twice_is_fine(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    assert [client.post("/v1/auth/logout").status_code for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("cookie", [None, "", "nonsense", "a.b", "ü", '"\\377"', "x" * 4000], ids=ascii)
def test_without_a_session_logout_succeeds_too(cookie: str | None, app: Flask) -> None:
    headers = {} if cookie is None else {"Cookie": f"__Host-lumen_session={cookie}"}

    answer = app.test_client(use_cookies=False).post("/v1/auth/logout", headers=headers)

    assert (answer.status_code, answer.get_json()) == (200, {"status": "ok"})


def test_logout_with_an_expired_session_removes_it(client: FlaskClient, mailbox: Mailbox, database: str) -> None:
    sign_in(client, mailbox)
    databases.query(
        database,
        "update auth_sessions set created_at = now() - interval '13 hours', expires_at = now() - interval '1 second'",
    )

    assert client.post("/v1/auth/logout").status_code == 200
    assert live(database) == 0


def test_logout_leaves_the_other_devices_signed_in(app: Flask, mailbox: Mailbox) -> None:
    laptop, phone = app.test_client(), app.test_client()
    sign_in(laptop, mailbox)
    sign_in(phone, mailbox)

    laptop.post("/v1/auth/logout")

    assert phone.get("/v1/auth/session").status_code == 200


def test_a_foreign_page_signs_nobody_out(client: FlaskClient, mailbox: Mailbox) -> None:
    sign_in(client, mailbox)

    assert client.post("/v1/auth/logout", headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.get("/v1/auth/session").status_code == 200


# --- Everywhere. ---


def test_logout_all_ends_every_session_of_the_user(app: Flask, mailbox: Mailbox) -> None:
    devices = [app.test_client() for _ in range(3)]
    for device in devices:
        sign_in(device, mailbox)

    answer = devices[0].post("/v1/auth/logout-all")

    assert answer.get_json() == {"status": "ok", "revoked": 3}
    assert [device.get("/v1/auth/session").status_code for device in devices] == [401, 401, 401]


def test_logout_all_leaves_other_users_signed_in(app: Flask, mailbox: Mailbox, database: str) -> None:
    ada, bob = app.test_client(), app.test_client()
    sign_in(ada, mailbox)
    sign_in(bob, mailbox, "bob@example.com")

    assert ada.post("/v1/auth/logout-all").get_json()["revoked"] == 1
    assert bob.get("/v1/auth/session").status_code == 200
    assert live(database) == 1


def test_logout_all_counts_the_sessions_that_were_still_good(
    client: FlaskClient, mailbox: Mailbox, database: str
) -> None:
    user_id = sign_in(client, mailbox)
    add_sign_ins(database, user_id, good=2, expired=4)

    assert client.post("/v1/auth/logout-all").get_json()["revoked"] == 3
    assert live(database) == 0


def test_logout_all_needs_a_session(client: FlaskClient) -> None:
    answer = client.post("/v1/auth/logout-all")

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "unauthorized")
    assert "Set-Cookie" not in answer.headers

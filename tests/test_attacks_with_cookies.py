"""Attacks with cookies: bombs, several of one name, names that only look like ours, and ids that somebody planted."""

from __future__ import annotations

import json
from time import perf_counter

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.conftest import AppFactory
from tests.support.contract import error_of
from tests.support.credentials import new_cookie, new_link

NAME = "__Host-lumen_session"


def value_of(header: dict[str, str]) -> str:
    """The value in a Cookie header with one cookie."""
    return header["Cookie"].partition("=")[2]


def ask(app: Flask, cookies: str, method: str = "GET", path: str = "/v1/auth/session") -> TestResponse:
    """The answer to a caller with this Cookie header, whose other characters go out as UTF-8, as a browser's do."""
    header = {"Cookie": cookies.encode().decode("latin-1")}
    return app.test_client(use_cookies=False).open(path, method=method, headers=header)


def email_of(app: Flask, cookies: str) -> str:
    """Who is signed in with this Cookie header; empty: nobody."""
    answer = ask(app, cookies)
    assert answer.status_code in (200, 401)
    return str(answer.get_json().get("email", ""))


def cookie_set_by(app: Flask, token: str, cookies: str) -> str:
    """Name and value of the cookie of a sign-in, by somebody who brought these along."""
    answer = app.test_client(use_cookies=False).post(
        "/v1/auth/verify", json={"token": token}, headers={"Cookie": cookies.encode().decode("latin-1")}
    )
    assert answer.status_code == 200
    return answer.headers["Set-Cookie"].partition(";")[0]


# --- Many, and large ones. ---


@pytest.mark.parametrize("before", [False, True], ids=["behind the others", "before the others"])
def test_a_sign_in_is_found_among_thousands_of_other_cookies(app: Flask, before: bool) -> None:
    ours = new_cookie(app)["Cookie"]
    others = "; ".join(f"x{number}=y" for number in range(10_000))

    assert email_of(app, f"{ours}; {others}" if before else f"{others}; {ours}") == "ada@example.com"


BOMBS = {
    "many": "x=y; " * 20_000,
    "a huge one": "x=" + "y" * 100_000,
    "a huge one of ours": f"{NAME}=" + "y" * 100_000,
    "many of ours": f"{NAME}=x.y; " * 5_000,
    "spaces": "x" + " " * 100_000 + "=y",
    "tabs and spaces": "\t " * 50_000,
    "semicolons": ";" * 100_000,
    "equals signs": "=" * 100_000,
    "quotes": '"' * 100_000,
    "one open quote": f'{NAME}="' + "y" * 100_000,
    "many open quotes": 'x="' * 33_000,
    "backslashes": f'{NAME}="' + "\\" * 100_000,
    "escapes": f'{NAME}="' + "\\377" * 25_000 + '"',
    "escaped quotes": 'x="' + '\\"' * 50_000,
    "other letters": "\u00e9" * 50_000,
}


def test_no_cookie_is_large_or_odd_enough_to_hold_the_service_up(app: Flask) -> None:
    # Far more than the 8 KiB that gunicorn lets through in a header. What is quadratic takes minutes.
    for name, bomb in BOMBS.items():
        started = perf_counter()
        assert error_of(ask(app, bomb)) == (401, "unauthorized"), name
        assert perf_counter() - started < 3, name


# --- Several of one name. ---


def test_of_several_cookies_of_our_name_the_first_one_counts_and_no_other_is_tried(app: Flask) -> None:
    ada, bob = (value_of(new_cookie(app, f"{who}@example.com")) for who in ("ada", "bob"))
    orders = {
        (ada, bob): "ada@example.com",
        (bob, ada): "bob@example.com",
        (ada, "forged.forged"): "ada@example.com",
        ("forged.forged", ada): "",
        ("", ada): "",
        ("forged", bob, ada): "",
    }

    found = {values: email_of(app, "; ".join(f"{NAME}={value}" for value in values)) for values in orders}

    assert found == orders


def test_what_is_done_with_several_cookies_is_done_to_the_first_one_alone(app: Flask) -> None:
    ada, bob = (new_cookie(app, f"{who}@example.com")["Cookie"] for who in ("ada", "bob"))

    assert ask(app, f"{ada}; {bob}", "POST", "/v1/auth/logout").status_code == 200

    assert [email_of(app, cookie) for cookie in (ada, bob)] == ["", "bob@example.com"]


# --- Names that are not ours. ---

# A page of a neighbouring site may set each of them for us (Domain=example.com); a browser keeps that site from setting
# the name with the prefix alone. Servers that trim or fold names take them for it ("Cookie Chaos", PortSwigger, 2025).
LOOK_ALIKES = [
    "\u2000{}",
    "\u3000{}",
    "\u00a0{}",
    "\u0085{}",
    "\ufeff{}",
    "\u200b{}",
    "\u180e{}",
    "{}\u2000",
    "{}\u00a0",
    "\x0b{}",
    "\x0c{}",
    "\x1c{}",
    "$Version=1; \u2000{}",
    "%5F%5FHost-lumen_session",
    "\uff3f\uff3fHost-lumen_session",
    "__HOST-lumen_session",
    "__host-lumen_session",
    "__Host-Lumen_Session",
    "__Host-lumen_session[]",
    "__Host-lumen_session.x",
    "x__Host-lumen_session",
    "__Host_lumen_session",
    "__Host-lumen-session",
    "__Secure-lumen_session",
    "__Http-lumen_session",
    "Host-lumen_session",
    "lumen_session",
    "session",
    '"{}"',
    '"{}',
    "({})",
    "{},x",
    "x,{}",
    "x {}",
    "x={}",
    'x="{}',
]


def test_no_cookie_of_another_name_signs_in(app: Flask) -> None:
    planted = value_of(new_cookie(app, "attacker@example.com"))

    names = [look_alike.format(NAME) for look_alike in LOOK_ALIKES]
    found = {name: email_of(app, f"{name}={planted}") for name in names}

    assert found == dict.fromkeys(names, "")


def test_no_cookie_of_another_name_takes_the_place_of_ours(app: Flask) -> None:
    planted = value_of(new_cookie(app, "attacker@example.com"))
    ours = new_cookie(app)["Cookie"]

    names = [look_alike.format(NAME) for look_alike in LOOK_ALIKES]
    found = {name: email_of(app, f"{name}={planted}; {ours}") for name in names}

    # One may hide ours, as long as nobody else is signed in by it: an open quotation mark reaches to the next one.
    assert {name: email for name, email in found.items() if email not in ("ada@example.com", "")} == {}
    assert sorted(set(found.values())) in (["ada@example.com"], ["", "ada@example.com"])


def test_no_credential_counts_anywhere_but_in_its_cookie(app: Flask) -> None:
    value = value_of(new_cookie(app))
    client = app.test_client(use_cookies=False)
    headers = [
        {"Authorization": f"Bearer {value}"},
        {"Authorization": f"Cookie {NAME}={value}"},
        {"X-Session": value},
        {NAME: value},
        {"Set-Cookie": f"{NAME}={value}"},
        {"Cookie2": f"{NAME}={value}"},
    ]

    for header in headers:
        assert client.get("/v1/auth/session", headers=header).status_code == 401, header
    for name in (NAME, "session", "token", "access_token"):
        assert client.get(f"/v1/auth/session?{name}={value}").status_code == 401, name
        assert client.post("/v1/auth/logout-all", json={name: value}).status_code == 401, name


# --- Fixation: an id that was there before the sign-in. ---


def test_no_id_that_a_browser_brings_along_becomes_that_of_a_sign_in(app: Flask, make_app: AppFactory) -> None:
    other = make_app(AUTH_TOKEN_SECRETS="another secret of the tests, long enough for production")
    attackers = value_of(new_cookie(app, "attacker@example.com"))
    never_signed_in = app.extensions["lumen.session_cookie"].ids.new().text
    brought = {
        "of the attacker": f"{NAME}={attackers}",
        "signed, and of nobody": f"{NAME}={never_signed_in}",
        "of another secret": f"{NAME}={value_of(new_cookie(other))}",
        "made up": f"{NAME}=1.1",
        "empty": f"{NAME}=",
        "twice": f"{NAME}=1.1; {NAME}={attackers}",
        "of a name like ours": f"\u2000{NAME}={attackers}",
        "a link": f"{NAME}={new_link(app, 'attacker@example.com')}",
    }

    for what, cookies in brought.items():
        cookie = cookie_set_by(app, new_link(app), cookies)
        assert email_of(app, cookie) == "ada@example.com", what
        assert json.dumps(cookie.partition("=")[2]) not in json.dumps(cookies), what
        assert email_of(app, cookies) in ("", "attacker@example.com"), what
    assert email_of(app, f"{NAME}={never_signed_in}") == ""

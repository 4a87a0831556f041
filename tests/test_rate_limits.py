"""Who is counted for what, and what a caller above the limit hears.

Windows begin with their first request, so limits per hour never end in the middle of a test.
"""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import AppFactory
from tests.support import eventually
from tests.support.journeys import HASH, request_link, sign_in
from tests.support.mailbox import Mailbox

ClientFactory = Callable[..., FlaskClient]

SIGNED_IN_ROUTES = [
    pytest.param("GET", "/v1/auth/session", None, id="session"),
    pytest.param("POST", "/v1/auth/logout-all", None, id="logout-all"),
    pytest.param("POST", "/v1/sessions/start", {"session_id": "one"}, id="start"),
    pytest.param("POST", "/v1/sessions/end", {"session_id": "one", "transcript_hash": HASH}, id="end"),
    pytest.param("GET", "/v1/sessions", None, id="list"),
    pytest.param("GET", "/v1/account", None, id="export"),
    pytest.param("DELETE", "/v1/account", None, id="delete"),
]


def ask(client: FlaskClient, email: object = "ada@example.com", ip: str = "203.0.113.1") -> TestResponse:
    """Ask for a link."""
    return client.post("/v1/auth/request-link", json={"email": email}, environ_base={"REMOTE_ADDR": ip})


def verify(client: FlaskClient, token: str = "nonsense", ip: str = "203.0.113.1") -> TestResponse:
    """Try to sign in."""
    return client.post("/v1/auth/verify", json={"token": token}, environ_base={"REMOTE_ADDR": ip})


def statuses(*answers: TestResponse) -> list[int]:
    return [answer.status_code for answer in answers]


@pytest.fixture
def limited(make_app: AppFactory) -> ClientFactory:
    """Makes a client of a service with limits: limited(LINK_PER_IP="3/hour")."""

    def make(**rules: str) -> FlaskClient:
        variables = {f"RATE_LIMIT_{name}": limits for name, limits in rules.items()}
        return make_app(**variables).test_client()

    return make


def test_links_are_limited_by_ip_whatever_the_email(limited: ClientFactory) -> None:
    client = limited(LINK_PER_IP="3/hour")

    answers = [ask(client, f"user{number}@example.com") for number in range(4)]

    assert statuses(*answers) == [200, 200, 200, 429]
    assert ask(client, ip="203.0.113.2").status_code == 200


def test_links_are_limited_by_email_whatever_the_ip(limited: ClientFactory) -> None:
    client = limited(LINK_PER_EMAIL="3/hour")

    answers = [ask(client, ip=f"203.0.113.{number}") for number in range(4)]

    assert statuses(*answers) == [200, 200, 200, 429]
    assert ask(client, "grace@example.com").status_code == 200


def test_no_mail_goes_out_above_the_limit(limited: ClientFactory, mailbox: Mailbox) -> None:
    client = limited(LINK_PER_EMAIL="2/hour")

    for _ in range(4):
        ask(client)

    assert len(mailbox.to("ada@example.com")) == 2


@pytest.mark.parametrize(
    "look_alike",
    [
        "Ada@EXAMPLE.com",
        " ada@example.com",
        "ada@example.com\t",
        "ADA@ｅｘａｍｐｌｅ.com",
        "ada@example。com",
        "aDa@Example.Com\n",
    ],
    ids=ascii,
)
def test_spellings_of_one_address_are_counted_as_one(limited: ClientFactory, look_alike: str) -> None:
    client = limited(LINK_PER_EMAIL="1/hour")

    assert statuses(ask(client, look_alike), ask(client)) == [200, 429]


@pytest.mark.parametrize("other", ["ada+1@example.com", "a.da@example.com", "ada@example.org"])
def test_other_addresses_are_counted_for_themselves(limited: ClientFactory, other: str) -> None:
    client = limited(LINK_PER_EMAIL="1/hour")

    assert statuses(ask(client, other), ask(client)) == [200, 200]


@pytest.mark.parametrize(
    "request_with",
    [{"json": {"email": "nobody"}}, {"json": {}}, {"data": b"{", "content_type": "application/json"}, {"data": b"x"}],
    ids=["invalid email", "no email", "invalid json", "wrong media type"],
)
def test_invalid_input_counts_by_ip(limited: ClientFactory, request_with: dict[str, Any]) -> None:
    client = limited(LINK_PER_IP="2/hour")

    for _ in range(2):
        assert client.post("/v1/auth/request-link", **request_with).status_code in (400, 415)

    assert client.post("/v1/auth/request-link", json={"email": "ada@example.com"}).status_code == 429


def test_attempts_to_sign_in_are_limited_by_ip(limited: ClientFactory) -> None:
    client = limited(VERIFY_PER_IP="3/hour")

    answers = [verify(client, token) for token in ("one", "two", "three", "four")]

    assert statuses(*answers) == [401, 401, 401, 429]
    assert verify(client, ip="203.0.113.2").status_code == 401


def test_a_good_link_is_not_used_up_above_the_limit(limited: ClientFactory, mailbox: Mailbox) -> None:
    client = limited(VERIFY_PER_IP="1/hour")
    token = request_link(client, mailbox)
    verify(client, ip="203.0.113.1")

    assert statuses(verify(client, token, ip="203.0.113.1")) == [429]
    assert statuses(verify(client, token, ip="203.0.113.2")) == [200]


def test_links_and_attempts_are_counted_apart(limited: ClientFactory) -> None:
    client = limited(LINK_PER_IP="1/hour", VERIFY_PER_IP="1/hour")

    assert statuses(ask(client), verify(client), ask(client), verify(client)) == [200, 401, 429, 429]


@pytest.mark.parametrize(("method", "path", "body"), SIGNED_IN_ROUTES)
def test_all_signed_in_routes_draw_on_one_share(
    limited: ClientFactory, mailbox: Mailbox, method: str, path: str, body: object
) -> None:
    client = limited(PER_USER="1/hour")
    sign_in(client, mailbox)  # it asks for /v1/auth/session once

    assert client.open(path, method=method, json=body).status_code == 429


def test_a_user_has_one_share_on_all_devices(limited: ClientFactory, mailbox: Mailbox) -> None:
    phone = limited(PER_USER="2/hour")
    laptop = phone.application.test_client()
    sign_in(phone, mailbox)
    sign_in(laptop, mailbox)

    assert statuses(phone.get("/v1/sessions"), laptop.get("/v1/sessions")) == [429, 429]


def test_one_users_share_is_nobody_elses(limited: ClientFactory, mailbox: Mailbox) -> None:
    ada = limited(PER_USER="2/hour")
    grace = ada.application.test_client()
    sign_in(ada, mailbox)
    sign_in(grace, mailbox, "grace@example.com")

    assert statuses(*(ada.get("/v1/sessions") for _ in range(3))) == [200, 429, 429]
    assert grace.get("/v1/sessions").status_code == 200


def test_a_user_above_the_limit_can_still_log_out(limited: ClientFactory, mailbox: Mailbox) -> None:
    client = limited(PER_USER="1/hour")
    sign_in(client, mailbox)
    assert client.get("/v1/sessions").status_code == 429

    assert client.post("/v1/auth/logout").status_code == 200
    assert client.get("/v1/sessions").status_code == 401


@pytest.mark.parametrize("limits", ["100/minute;3/hour", "3/hour;100/minute", "3/minute;100/hour"])
def test_each_of_several_limits_holds(limited: ClientFactory, limits: str) -> None:
    client = limited(VERIFY_PER_IP=limits)

    assert statuses(*(verify(client) for _ in range(4))) == [401, 401, 401, 429]


def test_a_refusal_says_so_in_the_envelope_and_when_to_come_back(limited: ClientFactory) -> None:
    client = limited(VERIFY_PER_IP="1/hour")
    verify(client)

    refused = verify(client)

    assert refused.get_json()["error"]["code"] == "rate_limited"
    assert refused.get_json()["error"]["request_id"] == refused.headers["X-Request-Id"]
    assert refused.headers.getlist("Retry-After") == [str(int(refused.headers["Retry-After"]))]
    assert 3500 < int(refused.headers["Retry-After"]) <= 3600


@pytest.mark.parametrize(("limits", "window"), [("1/minute;20/hour", 60), ("20/minute;1/hour", 3600), ("1/second", 1)])
def test_retry_after_is_within_the_window_that_is_full(limited: ClientFactory, limits: str, window: int) -> None:
    client = limited(VERIFY_PER_IP=limits)
    refused: list[TestResponse] = []

    def is_refused() -> bool:
        refused.append(verify(client))
        return refused[-1].status_code == 429

    eventually(is_refused)

    assert 1 <= int(refused[-1].headers["Retry-After"]) <= window


def test_who_waits_as_long_as_retry_after_says_waits_until_the_reset(limited: ClientFactory) -> None:
    client = limited(VERIFY_PER_IP="1/hour")
    verify(client)

    for _ in range(20):
        refused = verify(client)
        # X-RateLimit-Reset is a second late at most, for it is a whole one.
        assert time() + int(refused.headers["Retry-After"]) >= int(refused.headers["X-RateLimit-Reset"]) - 1


def test_limited_routes_say_how_much_is_left(limited: ClientFactory) -> None:
    client = limited(VERIFY_PER_IP="2/hour")
    now = time()

    answers = [verify(client) for _ in range(3)]

    assert [answer.headers["X-RateLimit-Limit"] for answer in answers] == ["2", "2", "2"]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]
    assert all(3500 < int(answer.headers["X-RateLimit-Reset"]) - now <= 3700 for answer in answers)


def test_what_is_not_refused_has_no_retry_after(limited: ClientFactory) -> None:
    client = limited(VERIFY_PER_IP="2/hour")

    answers = [ask(client), ask(client, "nobody"), verify(client), client.get("/v1/auth/session")]

    assert statuses(*answers) == [200, 400, 401, 401]
    assert not [answer for answer in answers if "Retry-After" in answer.headers]


@pytest.mark.parametrize(
    ("headers", "data", "status"),
    [
        ({"Origin": "https://evil.example"}, b"{}", 403),
        ({}, b"x" * 70_000, 413),
        ({"Content-Type": "text/plain"}, b"x", 429),
        ({"Content-Type": "application/json"}, b"{", 429),
    ],
    ids=["403 before 429", "413 before 429", "429 before 415", "429 before 400"],
)
def test_the_limit_by_ip_has_its_place_among_the_checks(
    limited: ClientFactory, headers: dict[str, str], data: bytes, status: int
) -> None:
    client = limited(LINK_PER_IP="1/hour")
    client.post("/v1/auth/request-link", json={})

    assert client.post("/v1/auth/request-link", headers=headers, data=data).status_code == status


def test_the_limit_by_user_comes_before_the_media_type(limited: ClientFactory, mailbox: Mailbox) -> None:
    client = limited(PER_USER="1/hour")
    sign_in(client, mailbox)

    assert client.post("/v1/sessions/start", data=b"x").status_code == 429

"""Attacks with a watch: what the time of an answer tells, as the size of an effect and not as its significance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
from flask import Flask
from flask.testing import FlaskClient

from lumen_api.auth import TokenSigner
from tests.conftest import SECRET, AppFactory
from tests.support.credentials import new_cookie, new_link
from tests.support.rows import add_user
from tests.support.smtp_sink import smtp_sink
from tests.support.timing import Call, Difference, smallest_difference

pytestmark = pytest.mark.faults

Record = Callable[[str, object], None]

# Percent of a request of 3 to 8 ms: two more questions to the database for those with an account took 5.
BOUND = 4.0


@pytest.fixture
def app(make_app: AppFactory) -> Iterator[Flask]:
    """The service without a log, and with a mail server that takes no time."""
    with smtp_sink() as url:
        yield make_app(SMTP_URL=url, LOG_LEVEL="CRITICAL")


def compared(record: Record, first: Call, second: Call, *, pairs: int) -> Difference:
    """The difference of two calls, which the table of figures gets too."""
    found = smallest_difference(first, second, pairs=pairs, below=BOUND)
    record("difference", str(found))
    return found


def changed(token: str, at: int) -> str:
    """`token` with another character at `at`."""
    return token[:at] + ("A" if token[at] != "A" else "B") + token[at:][1:]


def requests_for_links(client: FlaskClient, addresses: list[str]) -> Call:
    """Asks for a link to the next of the addresses."""
    turn = cycle(addresses)

    def ask() -> None:
        assert client.post("/v1/auth/request-link", json={"email": next(turn)}).status_code == 200

    return ask


def test_a_request_for_a_link_takes_as_long_for_an_address_with_an_account_as_for_one_without(
    app: Flask, database: str, record_property: Record
) -> None:
    known, unknown = ([f"{letter}{number:02}@example.com" for number in range(50)] for letter in "ab")
    for email in known:
        add_user(database, email)
        new_cookie(app, email)
    client = app.test_client(use_cookies=False)
    first, second = requests_for_links(client, known), requests_for_links(client, unknown)
    for _ in range(50):
        first(), second()

    found = compared(record_property, first, second, pairs=1000)

    assert found.percent < BOUND, found


def test_a_guess_whose_signature_is_right_but_for_its_end_is_refused_as_fast_as_any(record_property: Record) -> None:
    links = TokenSigner((SECRET,), purpose="magic link")
    good = links.new().text
    nearly, hardly = changed(good, len(good) - 1), changed(good, good.index(".") + 1)

    found = compared(record_property, lambda: links.digest(nearly), lambda: links.digest(hardly), pairs=50_000)

    assert found.percent < BOUND, found


@pytest.mark.parametrize("at", ["the first character", "the signature"])
def test_a_guess_that_begins_like_a_good_link_is_answered_as_fast_as_any(
    app: Flask, record_property: Record, at: str
) -> None:
    client, good = app.test_client(use_cookies=False), new_link(app)
    nearly = changed(good, len(good) - 1)
    hardly = changed(good, 0 if at == "the first character" else good.index(".") + 1)

    def verify(token: str) -> Call:
        def call() -> None:
            assert client.post("/v1/auth/verify", json={"token": token}).status_code == 401

        return call

    found = compared(record_property, verify(nearly), verify(hardly), pairs=1000)

    assert found.percent < BOUND, found

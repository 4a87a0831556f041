"""Whoever uses up the limit of somebody's address does not lock that person out: OWASP ASVS 5.0.0, 6.1.1 and 6.3.1."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.conftest import AppFactory
from tests.support.journeys import request_link, sign_in
from tests.support.mailbox import Mailbox

LINK = "/v1/auth/request-link"
VICTIM = {"email": "ada@example.com"}


@pytest.fixture
def victim(make_app: AppFactory, mailbox: Mailbox) -> FlaskClient:
    """Signed in on one device, with one more link in the mailbox, when a stranger uses up the address's limit."""
    client = make_app(RATE_LIMIT_LINK_PER_EMAIL="3/hour").test_client()
    sign_in(client, mailbox)
    request_link(client, mailbox)
    stranger = client.application.test_client()
    statuses = [
        stranger.post(LINK, json=VICTIM, environ_base={"REMOTE_ADDR": f"203.0.113.{number}"}).status_code
        for number in range(3)
    ]
    assert statuses == [200, 429, 429]
    assert client.post(LINK, json=VICTIM).status_code == 429
    return client


def test_a_spent_limit_of_an_address_ends_no_sign_in(victim: FlaskClient) -> None:
    assert victim.get("/v1/auth/session").status_code == 200
    assert victim.post("/v1/sessions/start", json={"session_id": "one"}).status_code == 200


def test_a_spent_limit_of_an_address_leaves_every_link_in_the_mailbox_good(
    victim: FlaskClient, mailbox: Mailbox
) -> None:
    # The last one is the stranger's doing, and signs in the owner of the mailbox all the same.
    token = mailbox.token_for("ada@example.com")

    other_device = victim.application.test_client()

    assert len(mailbox.to("ada@example.com")) == 3
    assert other_device.post("/v1/auth/verify", json={"token": token}).status_code == 200

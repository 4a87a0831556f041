"""Steps that many tests begin with."""

from __future__ import annotations

from flask.testing import FlaskClient

from tests.support.mailbox import Mailbox

HASH = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
OTHER_HASH = "486ea46224d1bb4fb680f34f7c9ad96a8f24ec88be73ea8e5a6c65260e9cb8a7"


def request_link(client: FlaskClient, mailbox: Mailbox, email: str = "ada@example.com") -> str:
    """Ask for a link, and take the token out of the mail."""
    answer = client.post("/v1/auth/request-link", json={"email": email})
    assert answer.status_code == 200, answer.text
    return mailbox.token_for(email)


def sign_in(client: FlaskClient, mailbox: Mailbox, email: str = "ada@example.com") -> str:
    """Sign `client` in, and say which user it is."""
    token = request_link(client, mailbox, email)
    answer = client.post("/v1/auth/verify", json={"token": token})
    assert answer.status_code == 200, answer.text
    user_id: str = client.get("/v1/auth/session").get_json()["user_id"]
    return user_id

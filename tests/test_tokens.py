"""Signed tokens: what is not ours is refused before the database is asked, and secrets can be changed."""

from __future__ import annotations

import json
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from lumen_api.auth import TokenSigner
from tests.conftest import AppFactory
from tests.support import free_port
from tests.support.journeys import request_link, sign_in
from tests.support.mailbox import Mailbox

OLD = "the old secret of the tests: long enough for production"
NEW = "the new secret of the tests: long enough for production"
COOKIE = "__Host-lumen_session"

LINKS = TokenSigner((OLD,), purpose="magic link")
GOOD = LINKS.new().text
RANDOM, _, SIGNATURE = GOOD.partition(".")


def flipped(text: str, position: int) -> str:
    """`text` with another character at `position`. "A" and "Q" differ in the bits that a last character has too."""
    return text[:position] + ("Q" if text[position] == "A" else "A") + text[position + 1 :]


def raw_cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie(COOKIE)
    assert cookie is not None
    return cookie.value


def session_with(app: Flask, cookie: str) -> TestResponse:
    """The answer to a caller with this cookie and no other."""
    return app.test_client(use_cookies=False).get("/v1/auth/session", headers={"Cookie": f"{COOKIE}={cookie}"})


# --- The signer. ---


def test_a_token_is_its_own() -> None:
    token = LINKS.new()

    assert LINKS.digest(token.text) == token.digest


def test_no_two_tokens_are_the_same() -> None:
    tokens = [LINKS.new() for _ in range(1000)]

    assert len({token.text for token in tokens}) == len({token.digest for token in tokens}) == 1000


def test_a_token_is_32_random_bytes_and_a_signature_safe_in_a_url_and_a_cookie() -> None:
    assert (len(RANDOM), len(SIGNATURE)) == (43, 43)
    assert set(GOOD) <= set(ascii_letters + digits + "-_.")


def test_a_digest_is_no_part_of_the_token() -> None:
    token = LINKS.new()

    assert len(token.digest) == 32
    assert token.digest.hex() not in token.text


@given(st.text())
def test_any_other_text_has_no_digest(text: str) -> None:
    assert LINKS.digest(text) is None


@given(st.text(alphabet=ascii_letters + digits + "-_", min_size=43, max_size=43))
def test_a_random_part_with_the_signature_of_another_has_no_digest(random: str) -> None:
    assert LINKS.digest(f"{random}.{SIGNATURE}") is None


def test_a_token_with_one_other_character_has_no_digest() -> None:
    assert not any(LINKS.digest(flipped(GOOD, position)) for position in range(len(GOOD)))


def test_a_shortened_token_has_no_digest() -> None:
    assert not any(LINKS.digest(GOOD[:length]) for length in range(len(GOOD)))


def last_character_changed(text: str) -> str:
    """The same bytes, if the two bits of a last character that stand for nothing are not looked at."""
    alphabet = ascii_uppercase + ascii_lowercase + digits + "-_"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


SPELLINGS = {
    "the last bits": last_character_changed(GOOD),
    "one =": f"{GOOD}=",
    "four =": f"{GOOD}====",
    "an accent": f"{GOOD}é",
    "spaces at the end": f"{GOOD}    ",
    "line ends": GOOD + "\n" * 4,
    "what is not base64": f"{RANDOM}.{SIGNATURE[:9]}!!!!{SIGNATURE[9:]}",
}


@pytest.mark.parametrize("text", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_token_has_one_spelling(text: str) -> None:
    assert text != GOOD
    assert LINKS.digest(text) is None


FORGERIES = {
    "nothing": "",
    "only a dot": ".",
    "many dots": "." * 5000,
    "the random part alone": RANDOM,
    "the signature stripped": f"{RANDOM}.",
    "the signature alone": f".{SIGNATURE}",
    "the parts swapped": f"{SIGNATURE}.{RANDOM}",
    "another dot": f"{RANDOM}..{SIGNATURE}",
    "signed twice": f"{GOOD}.{SIGNATURE}",
    "a space in front": f" {GOOD}",
    "a null byte in front": f"\0{GOOD}",
    "a line end in front": f"\n{GOOD}",
    "letters that look the same": GOOD.replace(".", "․"),
    "wide letters": "".join(chr(ord(char) + 0xFEE0) for char in GOOD),
    "not ASCII": "🔑.ключ",
    "percent-encoded": GOOD.replace(".", "%2E"),
    "in quotes": f'"{GOOD}"',
    "huge": "A" * 60_000,
    "huge with a signature": f"{'A' * 60_000}.{SIGNATURE}",
    "a JSON web token without a signature": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEifQ.",
}
forgeries = pytest.mark.parametrize("text", FORGERIES.values(), ids=FORGERIES.keys())


@forgeries
def test_a_forgery_has_no_digest(text: str) -> None:
    assert LINKS.digest(text) is None


def test_another_secret_does_not_know_the_token() -> None:
    assert TokenSigner((NEW,), purpose="magic link").digest(GOOD) is None


def test_the_same_secret_for_another_purpose_does_not_know_the_token() -> None:
    assert TokenSigner((OLD,), purpose="session").digest(GOOD) is None


def test_the_digest_depends_on_the_secret() -> None:
    old, new = (TokenSigner(secrets, purpose="magic link") for secrets in ((OLD, NEW), (NEW, OLD)))
    token = old.new()

    assert old.digest(token.text) == new.digest(token.text) == token.digest
    assert {old.digest(new.new().text), token.digest}.isdisjoint({None, new.new().digest})


# --- Without the database. ---


@pytest.fixture
def without_database(make_app: AppFactory) -> Flask:
    """The service while nobody listens where its database should be."""
    return make_app(DATABASE_URL=f"postgresql://lumen@127.0.0.1:{free_port()}/lumen", AUTH_TOKEN_SECRETS=OLD)


def test_only_a_token_of_ours_reaches_the_database(without_database: Flask) -> None:
    answer = without_database.test_client().post("/v1/auth/verify", json={"token": GOOD})
    session = session_with(without_database, TokenSigner((OLD,), purpose="session").new().text)

    assert [found.get_json()["error"]["code"] for found in (answer, session)] == ["database_unavailable"] * 2


def test_a_forged_link_is_refused_without_the_database(without_database: Flask) -> None:
    client = without_database.test_client()
    texts = [text for text in FORGERIES.values() if text and "\0" not in text]

    answers = [client.post("/v1/auth/verify", json={"token": text}) for text in texts]

    assert [(answer.status_code, answer.get_json()["error"]["code"]) for answer in answers] == [
        (401, "invalid_token")
    ] * len(texts)


def test_a_forged_cookie_is_refused_without_the_database(without_database: Flask) -> None:
    # As bytes on the wire: WSGI has each of them as one character. A line end never gets through HTTP.
    texts = [text.encode().decode("latin-1") for text in FORGERIES.values() if "\n" not in text]
    texts += [bytes(range(128, 256)).decode("latin-1"), '"\\377\\355\\240\\200"', "=" * 99, ";" * 99, '"' * 99]

    answers = [session_with(without_database, text) for text in texts]

    assert [answer.status_code for answer in answers] == [401] * len(texts)


@pytest.mark.parametrize("token", [None, "", 5, True, [], {}, ["a"], "\0", "\ud800"], ids=json.dumps)
def test_what_is_no_text_is_no_token(token: object, without_database: Flask) -> None:
    answer = without_database.test_client().post(
        "/v1/auth/verify", data=json.dumps({"token": token}), content_type="application/json"
    )

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (400, "missing_token")


# --- One purpose is not another. ---


def test_a_cookie_is_no_link(app: Flask, mailbox: Mailbox) -> None:
    client = app.test_client()
    sign_in(client, mailbox)

    answer = app.test_client().post("/v1/auth/verify", json={"token": raw_cookie_of(client)})

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "invalid_token")


def test_a_link_is_no_cookie(app: Flask, mailbox: Mailbox) -> None:
    token = request_link(app.test_client(), mailbox)

    assert session_with(app, token).status_code == 401
    assert app.test_client().post("/v1/auth/verify", json={"token": token}).status_code == 200


def test_the_wrong_kind_is_refused_without_the_database(without_database: Flask) -> None:
    link, cookie = (TokenSigner((OLD,), purpose=purpose).new().text for purpose in ("magic link", "session"))

    answer = without_database.test_client().post("/v1/auth/verify", json={"token": cookie})

    assert (answer.status_code, session_with(without_database, link).status_code) == (401, 401)


# --- Changing the secret. ---


def test_a_link_outlives_a_change_of_the_secret(make_app: AppFactory, mailbox: Mailbox) -> None:
    token = request_link(make_app(AUTH_TOKEN_SECRETS=OLD).test_client(), mailbox)

    client = make_app(AUTH_TOKEN_SECRETS=f"{NEW},{OLD}").test_client()

    assert client.post("/v1/auth/verify", json={"token": token}).status_code == 200


def test_a_session_outlives_a_change_of_the_secret(make_app: AppFactory, mailbox: Mailbox) -> None:
    client = make_app(AUTH_TOKEN_SECRETS=OLD).test_client()
    sign_in(client, mailbox)

    both = make_app(AUTH_TOKEN_SECRETS=f"{NEW},{OLD}")

    assert session_with(both, raw_cookie_of(client)).status_code == 200


def test_a_session_of_the_old_secret_can_be_ended(make_app: AppFactory, mailbox: Mailbox) -> None:
    client = make_app(AUTH_TOKEN_SECRETS=OLD).test_client()
    sign_in(client, mailbox)
    both, cookie = make_app(AUTH_TOKEN_SECRETS=f"{NEW},{OLD}"), raw_cookie_of(client)

    both.test_client(use_cookies=False).post("/v1/auth/logout", headers={"Cookie": f"{COOKIE}={cookie}"})

    assert session_with(both, cookie).status_code == 401


def test_the_newest_secret_signs(make_app: AppFactory, mailbox: Mailbox) -> None:
    client = make_app(AUTH_TOKEN_SECRETS=f"{NEW},{OLD}").test_client()
    sign_in(client, mailbox)
    token = request_link(client, mailbox)

    new = make_app(AUTH_TOKEN_SECRETS=NEW)

    assert session_with(new, raw_cookie_of(client)).status_code == 200
    assert new.test_client().post("/v1/auth/verify", json={"token": token}).status_code == 200


def test_a_secret_that_is_gone_opens_nothing(make_app: AppFactory, mailbox: Mailbox) -> None:
    client = make_app(AUTH_TOKEN_SECRETS=OLD).test_client()
    sign_in(client, mailbox)
    token = request_link(client, mailbox)

    new = make_app(AUTH_TOKEN_SECRETS=NEW)

    assert session_with(new, raw_cookie_of(client)).status_code == 401
    assert new.test_client().post("/v1/auth/verify", json={"token": token}).status_code == 401

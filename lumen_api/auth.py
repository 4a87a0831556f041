"""Signing in: signed one-time tokens, magic links, the session cookie, and the guard of signed-in routes."""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import ParamSpec, TypeVar

import itsdangerous
from flask import Flask, Response, current_app, g, request
from psycopg2.errors import ForeignKeyViolation

from lumen_api import db, rate_limits
from lumen_api.errors import ApiError, Unauthorized, envelope
from lumen_api.repositories import auth_sessions

P = ParamSpec("P")
R = TypeVar("R")


class InvalidToken(ApiError):
    # One answer for unknown, used, expired and forged: a difference would tell a guesser how close he is.
    status, code, message = 401, "invalid_token", "This link does not work any more. Ask for a new one."


@dataclass(frozen=True)
class Token:
    """A fresh credential: `text` goes to the person, and only `digest` to the database."""

    text: str
    digest: bytes


class TokenSigner:
    """Makes tokens for one purpose, and tells its own from any other text without asking the database.

    A token is 32 random bytes in base64url, a dot and an HMAC-SHA-256 (itsdangerous). The digest is an HMAC too,
    so that a copy of the database helps nobody. The first secret signs and hashes; a token that an older one has
    signed is hashed with that one, so links and sign-ins outlive a rotation.
    """

    def __init__(self, secrets_newest_first: tuple[str, ...], *, purpose: str) -> None:
        """`purpose` separates one kind of token from every other: no secret is used for two things."""
        self._keys = [
            (_signer(secret, purpose), derive_key(secret, f"{purpose} digest")) for secret in secrets_newest_first
        ]

    def new(self) -> Token:
        """A token that nobody has seen."""
        signer, digest_key = self._keys[0]
        random = secrets.token_urlsafe(32).encode()
        return Token(signer.sign(random).decode(), hmac.digest(digest_key, random, "sha256"))

    def digest(self, text: str) -> bytes | None:
        """What the database knows the token by, or None if no secret of ours has signed it for this purpose."""
        token = text.encode(errors="replace")
        random, _, _ = token.rpartition(b".")
        for signer, digest_key in self._keys:
            # Not unsign(): it takes other spellings of a signature as well, and a token has one.
            if hmac.compare_digest(signer.sign(random), token):
                return hmac.digest(digest_key, random, "sha256")
        return None


def _signer(secret: str, purpose: str) -> itsdangerous.Signer:
    # The purpose is in the key: a cookie is no link, and a link is no cookie. The key is derived here, once.
    return itsdangerous.Signer(derive_key(secret, purpose), key_derivation="none", digest_method=hashlib.sha256)


def derive_key(secret: str, use: str) -> bytes:
    """A key for one use, from which nobody learns the secret or the key of another use."""
    return hmac.digest(secret.encode(), f"lumen {use}".encode(), "sha256")


@dataclass(frozen=True)
class MagicLinks:
    """How links are made. `shown`: in the answer too, for a developer at this machine."""

    tokens: TokenSigner
    base_url: str
    ttl: timedelta
    shown: bool

    def url(self, token: Token) -> str:
        """The page that POSTs the token: opening the link alone, as a mail scanner does, uses nothing up."""
        return f"{self.base_url}/login/callback?token={token.text}"

    def shown_to_caller(self) -> bool:
        """True for a caller on the developer's own machine. A tunnel's peer is loopback too, but says for whom."""
        forwarded = "X-Forwarded-For" in request.headers or "Forwarded" in request.headers
        return self.shown and not forwarded and request.remote_addr in ("127.0.0.1", "::1")


@dataclass(frozen=True)
class SessionCookie:
    """The cookie of a sign-in (RFC 6265)."""

    ids: TokenSigner
    name: str
    secure: bool
    ttl: timedelta

    def digest(self) -> bytes | None:
        """What the database knows the caller's sign-in by, or None without a cookie of ours."""
        value = request.cookies.get(self.name)
        return self.ids.digest(value) if value else None

    def set(self, response: Response, session: Token) -> Response:
        """`response`, handing `session` to the browser."""
        response.set_cookie(
            self.name,
            session.text,
            max_age=self.ttl,
            path="/",
            secure=self.secure,
            httponly=True,
            samesite="Lax",
        )
        return response

    def cleared(self, response: Response) -> Response:
        """`response`, taking the cookie back.

        Never with Clear-Site-Data: that would wipe the conversations in the browser.
        """
        response.delete_cookie(self.name, path="/", secure=self.secure, httponly=True, samesite="Lax")
        return response


def init_app(app: Flask, *, links: MagicLinks, cookie: SessionCookie) -> None:
    """Make `links` and `cookie` the current app's."""
    app.extensions["lumen.magic_links"], app.extensions["lumen.session_cookie"] = links, cookie
    # The only foreign keys point to users: a row that cannot be written is one of an account deleted a moment ago.
    app.register_error_handler(ForeignKeyViolation, _account_is_gone)


def magic_links() -> MagicLinks:
    """The current app's."""
    links: MagicLinks = current_app.extensions["lumen.magic_links"]
    return links


def session_cookie() -> SessionCookie:
    """The current app's."""
    cookie: SessionCookie = current_app.extensions["lumen.session_cookie"]
    return cookie


def signed_in(view: Callable[P, R]) -> Callable[P, R]:
    """Guard a view: Unauthorized without a live sign-in, RateLimited above the user's share.

    The sign-in's owner is in `g.user_id` and the whole row in `g.sign_in`.
    """

    @functools.wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        id_hash = session_cookie().digest()
        if id_hash is None:
            raise Unauthorized
        with db.connection() as conn:
            sign_in = auth_sessions.find(conn, id_hash=id_hash)
        if sign_in is None:
            raise Unauthorized
        rate_limits.current().hit("per_user", sign_in.user_id)
        g.sign_in, g.user_id = sign_in, sign_in.user_id
        return view(*args, **kwargs)

    return guarded


def _account_is_gone(_: ForeignKeyViolation) -> Response:
    return envelope(Unauthorized())

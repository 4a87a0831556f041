"""Links and sign-ins in any number, made as the service makes them, but without a mail or a request."""

from __future__ import annotations

from flask import Flask

from lumen_api import auth, db
from lumen_api.repositories import auth_tokens


def new_link(app: Flask, email: str = "ada@example.com") -> str:
    """The token of a good link."""
    with app.app_context(), db.connection() as conn:
        links = auth.magic_links()
        token = links.tokens.new()
        auth_tokens.create(conn, token_hash=token.digest, email=email, ttl=links.ttl)
    return token.text


def new_cookie(app: Flask, email: str = "ada@example.com") -> dict[str, str]:
    """The header with the cookie of a new sign-in."""
    token = new_link(app, email)
    with app.app_context(), db.connection() as conn:
        links, cookie = auth.magic_links(), auth.session_cookie()
        session, token_hash = cookie.ids.new(), links.tokens.digest(token)
        assert token_hash is not None
        assert auth_tokens.redeem(
            conn, token_hash=token_hash, session_hash=session.digest, ttl=cookie.ttl, old_session_hash=None
        )
    return {"Cookie": f"{cookie.name}={session.text}"}

"""Sign-in by magic link."""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter

from flask import Blueprint, g, jsonify
from flask.typing import ResponseReturnValue

from lumen_api import db, rate_limits, rfc3339, validation
from lumen_api.auth import InvalidToken, magic_links, session_cookie, signed_in
from lumen_api.email import TIMEOUT, EmailUnavailable, RecipientRefused, mailer
from lumen_api.errors import Busy, DatabaseUnavailable
from lumen_api.observability import metrics
from lumen_api.observability.logging import log_event
from lumen_api.observability.tracing import traced
from lumen_api.rate_limits import limited_by_ip
from lumen_api.repositories import auth_sessions, auth_tokens

# Seconds. The caller has waited for the mail already.
TAKE_BACK = 1.0

bp = Blueprint("auth", __name__, url_prefix="/v1/auth")


@bp.post("/request-link")
@traced("auth.request_link")
@limited_by_ip("link_per_ip")
def request_link() -> ResponseReturnValue:
    """Mail a link. Nothing here depends on whether the address has an account, so the answer cannot tell."""
    email = validation.email(validation.read_json())
    rate_limits.current().hit("link_per_email", email)
    links = magic_links()
    token = links.tokens.new()
    with db.connection() as conn:
        auth_tokens.create(conn, token_hash=token.digest, email=email, ttl=links.ttl)
    url = links.url(token)
    try:
        mailer().send_link(to=email, url=url, seconds=TIMEOUT - (perf_counter() - g.started))
    except (RecipientRefused, EmailUnavailable) as error:
        _report("auth_request", error.outcome)
        # With the database away the row stays until it expires; nobody has its token.
        with suppress(Busy, DatabaseUnavailable), db.connection(within=TAKE_BACK) as conn:
            auth_tokens.delete(conn, token_hash=token.digest)
        if isinstance(error, EmailUnavailable):
            raise
        return {"status": "ok"}
    _report("auth_request", "sent")
    return {"status": "ok", **({"magic_link": url} if links.shown_to_caller() else {})}


@bp.post("/verify")
@traced("auth.verify")
@limited_by_ip("verify_per_ip")
def verify() -> ResponseReturnValue:
    """Turn the token of a link into a sign-in, once."""
    token_hash = magic_links().tokens.digest(validation.token(validation.read_json()))
    cookie = session_cookie()
    session = cookie.ids.new()
    if token_hash is None or not _redeem(token_hash, session.digest):
        _report("auth_verify", "invalid_token")
        raise InvalidToken
    _report("auth_verify", "signed_in")
    return cookie.set(jsonify(status="ok"), session)


def _redeem(token_hash: bytes, session_hash: bytes) -> bool:
    cookie = session_cookie()
    with db.connection() as conn:
        return auth_tokens.redeem(
            conn,
            token_hash=token_hash,
            session_hash=session_hash,
            ttl=cookie.ttl,
            old_session_hash=cookie.digest(),
        )


@bp.get("/session")
@signed_in
def session() -> ResponseReturnValue:
    """Who is signed in, and until when."""
    return {
        "status": "ok",
        "user_id": g.sign_in.user_id,
        "email": g.sign_in.email,
        "expires_at": rfc3339.format(g.sign_in.expires_at),
    }


@bp.post("/logout")
def logout() -> ResponseReturnValue:
    """End this sign-in. Without one that is done already."""
    validation.read_nothing()
    id_hash = session_cookie().digest()
    if id_hash is not None:
        with db.connection() as conn:
            auth_sessions.delete(conn, id_hash=id_hash)
    return session_cookie().cleared(jsonify(status="ok"))


@bp.post("/logout-all")
@signed_in
def logout_all() -> ResponseReturnValue:
    """End every sign-in of this user, on all devices."""
    validation.read_nothing()
    with db.connection() as conn:
        revoked = auth_sessions.delete_all(conn, user_id=g.user_id)
    return session_cookie().cleared(jsonify(status="ok", revoked=revoked))


def _report(event: str, outcome: str) -> None:
    """What came of a link: nothing about whose it is."""
    log_event(event, outcome=outcome)
    metrics.AUTH_EVENTS.record(1, event, outcome)

"""A person's right to a copy of everything that is stored, and to its end (GDPR, articles 15, 17 and 20)."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, g, jsonify
from flask.typing import ResponseReturnValue

from lumen_api import db, rfc3339, validation
from lumen_api.auth import session_cookie, signed_in
from lumen_api.blueprints.sessions import public
from lumen_api.errors import Unauthorized
from lumen_api.repositories import account, llm_usage
from lumen_api.repositories.account import Validity

bp = Blueprint("account", __name__, url_prefix="/v1/account")


@bp.get("")
@signed_in
def export() -> ResponseReturnValue:
    """All that is stored about the caller, as of one moment."""
    with db.transaction("repeatable read") as conn:
        user = account.find(conn, user_id=g.user_id)
        if user is None:
            raise Unauthorized
        links = account.links(conn, email=user.email)
        sign_ins = account.sign_ins(conn, user_id=g.user_id)
        sessions = account.sessions(conn, user_id=g.user_id)
        days = llm_usage.days(conn, user_id=g.user_id)
        reservations = llm_usage.reservations(conn, user_id=g.user_id)
    return {
        "status": "ok",
        "user": {"user_id": user.user_id, "email": user.email, "created_at": rfc3339.format(user.created_at)},
        "links": [_times(link) for link in links],
        "sign_ins": [_times(sign_in) for sign_in in sign_ins],
        "sessions": [public(session) for session in sessions],
        "usage": [{"day": day.day.isoformat(), "tokens": day.tokens} for day in days],
        "reservations": [
            {"day": item.day.isoformat(), "tokens": item.tokens, "deadline": rfc3339.format(item.deadline)}
            for item in reservations
        ],
    }


@bp.delete("")
@signed_in
def delete() -> ResponseReturnValue:
    """Delete the user with everything that belongs to it."""
    validation.read_nothing()
    with db.connection() as conn:
        account.delete(conn, user_id=g.user_id)
    return session_cookie().cleared(jsonify(status="ok"))


def _times(validity: Validity) -> dict[str, Any]:
    return {"created_at": rfc3339.format(validity.created_at), "expires_at": rfc3339.format(validity.expires_at)}

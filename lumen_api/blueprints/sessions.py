"""When a conversation began and ended, and the hash of its transcript. Clients send again until they hear a 2xx."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from flask import Blueprint, g, request
from flask.typing import ResponseReturnValue

from lumen_api import db, rfc3339, validation
from lumen_api.auth import signed_in
from lumen_api.errors import ApiError
from lumen_api.observability.tracing import traced
from lumen_api.repositories import sessions
from lumen_api.repositories.sessions import Position, Session

bp = Blueprint("sessions", __name__, url_prefix="/v1/sessions")


class InvalidCursor(ApiError):
    status, code, message = 400, "invalid_cursor", "The cursor is not one that this list gave out."


class SessionAlreadyEnded(ApiError):
    status, code, message = 409, "session_already_ended", "This session has already ended with another transcript."


@bp.post("/start")
@traced("session.start")
@signed_in
def start() -> ResponseReturnValue:
    """Record when a session began. Safe to send again: the first start stands."""
    body = validation.read_json()
    session_id, started_at = validation.session_id(body), validation.timestamp(body, "started_at")
    with db.connection() as conn:
        session = sessions.start(conn, user_id=g.user_id, session_id=session_id, started_at=started_at)
    return {"status": "ok", "session_id": session.session_id, "started_at": _time(session.started_at)}


@bp.post("/end")
@traced("session.end")
@signed_in
def end() -> ResponseReturnValue:
    """Record when a session ended, and its hash. Safe to send again, and before the start has arrived."""
    body = validation.read_json()
    session_id = validation.session_id(body)
    transcript_hash = validation.transcript_hash(body)
    ended_at = validation.timestamp(body, "ended_at")
    with db.connection() as conn:
        session = sessions.end(
            conn, user_id=g.user_id, session_id=session_id, transcript_hash=transcript_hash, ended_at=ended_at
        )
    if session.transcript_hash != transcript_hash:
        raise SessionAlreadyEnded
    return {"status": "ok", **public(session)}


@bp.get("")
@signed_in
def newest() -> ResponseReturnValue:
    """The caller's sessions, newest first, a page at a time."""
    limit = validation.limit()
    cursor = request.args.get("cursor")
    after = None if cursor is None else read_cursor(cursor)
    with db.connection() as conn:
        # One more than asked for: it tells whether there is another page.
        found = sessions.newest(conn, user_id=g.user_id, after=after, limit=limit + 1)
    page = found[:limit]
    return {
        "status": "ok",
        "sessions": [public(session) for session in page],
        "next_cursor": write_cursor(page[-1].position) if len(found) > limit else None,
    }


def public(session: Session) -> dict[str, Any]:
    """A session as the API shows it."""
    return {
        "session_id": session.session_id,
        "started_at": _time(session.started_at),
        "ended_at": _time(session.ended_at),
        "transcript_hash": session.transcript_hash,
    }


def _time(moment: datetime | None) -> str | None:
    return rfc3339.format(moment) if moment else None


def write_cursor(position: Position) -> str:
    """`position` as text that a client hands back: it names a place, so rows that come or go move nothing."""
    text = f"{rfc3339.format(position.moment)} {position.session_id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(text: str) -> Position:
    """The place that write_cursor() wrote. Raises InvalidCursor for anything else."""
    try:
        padded = text + "=" * (-len(text) % 4)
        moment, _, session_id = base64.b64decode(padded, altchars="-_", validate=True).decode("ascii").partition(" ")
        position = Position(rfc3339.parse(moment), session_id)
    except ValueError:
        raise InvalidCursor from None
    # Writing it again settles all other questions: there is one spelling of a place.
    known = position.moment >= validation.EARLIEST and validation.is_session_id(session_id)
    if not known or write_cursor(position) != text:
        raise InvalidCursor
    return position

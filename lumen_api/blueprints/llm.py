"""The model proxy: the browser talks to the model through us, so that the key stays here and budgets hold."""

from __future__ import annotations

from flask import Blueprint, g
from flask.typing import ResponseReturnValue

from lumen_api import db, rate_limits, rfc3339, validation
from lumen_api.auth import signed_in
from lumen_api.llm import calls, request
from lumen_api.repositories import llm_usage

bp = Blueprint("llm", __name__, url_prefix="/v1/llm")


@bp.post("/messages")
@signed_in
def messages() -> ResponseReturnValue:
    """What the model answers, whole or as a stream of events. Nothing of it stays here."""
    rate_limits.current().hit("llm_per_user", g.user_id)
    proxy = calls.current()
    asked = request.read(
        validation.read_json(), max_output_tokens=proxy.limits.max_output_tokens, request_id=g.request_id
    )
    return proxy.answer(asked, user_id=g.user_id)


@bp.get("/usage")
@signed_in
def usage() -> ResponseReturnValue:
    """The caller's budget of this UTC day."""
    with db.connection() as conn:
        today = llm_usage.today(conn, user_id=g.user_id)
    return {
        "status": "ok",
        "used": today.used,
        "reserved": today.reserved,
        "limit": calls.current().limits.daily_tokens,
        "resets_at": rfc3339.format(today.resets_at),
    }

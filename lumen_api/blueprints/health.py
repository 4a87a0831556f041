"""Is the process alive, and can it work?"""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from lumen_api import db, rate_limits
from lumen_api.errors import ApiError, Busy, DatabaseUnavailable, envelope

bp = Blueprint("health", __name__, url_prefix="/v1/health")

_EVERY_TABLE = """
select from users, auth_tokens, auth_sessions, sessions, llm_usage, llm_totals, llm_reservations limit 0
"""


class NotReady(ApiError):
    status, code, message = 503, "not_ready", "The service cannot work yet. Try again in a moment."
    retry_after = 2


@bp.get("")
def live() -> ResponseReturnValue:
    """The process answers. Touches nothing, so that a lost database does not restart every process."""
    return {"status": "ok"}


@bp.get("/ready")
def ready() -> ResponseReturnValue:
    """Whether requests can be served: the database is there and migrated.

    Without Redis they can: limits are then counted by each worker.
    """
    checks = {
        "database": "ok",
        "rate_limits": "ok" if rate_limits.current().reachable() else "degraded",
    }
    try:
        with db.connection() as conn:
            db.execute(conn, _EVERY_TABLE)
    except (Busy, DatabaseUnavailable):
        return envelope(NotReady(), checks={**checks, "database": "unavailable"})
    return {"status": "ok", "checks": checks}

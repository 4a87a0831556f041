"""Sign-ins: who is behind a cookie. (sessions.py has the conversations.)"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lumen_api.db import Connection, execute, fetch_one, statement


@dataclass(frozen=True)
class SignIn:
    """A live sign-in and its user."""

    user_id: str
    email: str
    expires_at: datetime


@statement
def find(conn: Connection, *, id_hash: bytes) -> SignIn | None:
    """The sign-in of a cookie, or None when it has ended."""
    row = fetch_one(
        conn,
        """
        select u.user_id::text, u.email, a.expires_at
          from auth_sessions a join users u using (user_id)
         where a.id_hash = %(id_hash)s and a.expires_at > now()
        """,
        id_hash=id_hash,
    )
    return SignIn(*row) if row else None


@statement
def delete(conn: Connection, *, id_hash: bytes) -> None:
    """End a sign-in."""
    execute(conn, "delete from auth_sessions where id_hash = %(id_hash)s", id_hash=id_hash)


@statement
def delete_all(conn: Connection, *, user_id: str) -> int:
    """End every sign-in of a user, and say how many were still good."""
    row = fetch_one(
        conn,
        """
        with gone as (delete from auth_sessions where user_id = %(user_id)s returning expires_at)
        select count(*) filter (where expires_at > now()) from gone
        """,
        user_id=user_id,
    )
    return int(row[0]) if row else 0


@statement
def purge(conn: Connection, *, batch: int) -> int:
    """Delete at most `batch` expired sign-ins and say how many. Locked ones are left alone."""
    return execute(
        conn,
        """
        delete from auth_sessions where id_hash = any (array(
            select id_hash from auth_sessions where expires_at <= now()
             order by expires_at limit %(batch)s for update skip locked))
        """,
        batch=batch,
    ).rowcount

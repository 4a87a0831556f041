"""A whole account: everything that is stored about a person, and its end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lumen_api.db import Connection, execute, fetch_all, fetch_one, statement
from lumen_api.repositories.sessions import Session


@dataclass(frozen=True)
class Validity:
    """From when until when a link or a sign-in is good."""

    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class User:
    """A person, as the service knows one."""

    user_id: str
    email: str
    created_at: datetime


@statement
def find(conn: Connection, *, user_id: str) -> User | None:
    """The user, or None."""
    row = fetch_one(
        conn,
        "select user_id::text, email, created_at from users where user_id = %(user_id)s",
        user_id=user_id,
    )
    return User(*row) if row else None


@statement
def links(conn: Connection, *, email: str) -> list[Validity]:
    """The times of the magic links mailed to `email` and not yet used or purged, oldest first."""
    rows = fetch_all(
        conn,
        "select created_at, expires_at from auth_tokens where email = %(email)s order by created_at",
        email=email,
    )
    return [Validity(*row) for row in rows]


@statement
def sign_ins(conn: Connection, *, user_id: str) -> list[Validity]:
    """The times of a user's sign-ins that have not been ended or purged, oldest first."""
    rows = fetch_all(
        conn,
        "select created_at, expires_at from auth_sessions where user_id = %(user_id)s order by created_at",
        user_id=user_id,
    )
    return [Validity(*row) for row in rows]


@statement
def sessions(conn: Connection, *, user_id: str) -> list[Session]:
    """All of a user's conversations, oldest first."""
    rows = fetch_all(
        conn,
        """
        select session_id, started_at, ended_at, transcript_hash
          from sessions
         where user_id = %(user_id)s
         order by coalesce(started_at, ended_at), session_id
        """,
        user_id=user_id,
    )
    return [Session(*row) for row in rows]


@statement
def delete(conn: Connection, *, user_id: str) -> None:
    """Delete a user, and with it links, sign-ins and conversations: all of it or nothing.

    The links are locked before the user, as redeem() does it: the other order deadlocks with a sign-in.
    """
    execute(
        conn,
        """
        with links as materialized (
            select token_hash from auth_tokens
             where email = (select email from users where user_id = %(user_id)s)
             order by token_hash
               for update),
        gone as (
            delete from auth_tokens t using links where t.token_hash = links.token_hash)
        delete from users where user_id = %(user_id)s and (select count(*) from links) >= 0
        """,
        user_id=user_id,
    )

"""Conversations, known only by their times and the hash of their transcript.

Calls arrive late, twice and in the wrong order, from clocks that are wrong. The statements say what stands: the
first start, the first end, never an end before its start, nothing ahead of the server's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from lumen_api.db import Connection, fetch_all, fetch_one, statement


@dataclass(frozen=True)
class Session:
    """One conversation. A missing time means that the call which brings it has not arrived."""

    session_id: str
    started_at: datetime | None
    ended_at: datetime | None
    transcript_hash: str | None

    @property
    def position(self) -> Position:
        """Where it stands in the list."""
        moment = self.started_at or self.ended_at
        assert moment is not None  # a CHECK of the table
        return Position(moment, self.session_id)


@dataclass(frozen=True)
class Position:
    """A place in a user's list, which is ordered by both."""

    moment: datetime
    session_id: str


@statement
def start(conn: Connection, *, user_id: str, session_id: str, started_at: datetime | None) -> Session:
    """Record a start; None: now. If one is there already it stands, and it is the one that comes back."""
    row = fetch_one(
        conn,
        """
        insert into sessions as s (user_id, session_id, started_at)
        values (%(user_id)s, %(session_id)s, least(coalesce(%(started_at)s, now()), now()))
            on conflict (user_id, session_id) do update
           set started_at = coalesce(s.started_at, least(excluded.started_at, s.ended_at))
        returning session_id, started_at, ended_at, transcript_hash
        """,
        user_id=user_id,
        session_id=session_id,
        started_at=started_at,
    )
    assert row is not None
    return Session(*row)


@statement
def end(conn: Connection, *, user_id: str, session_id: str, transcript_hash: str, ended_at: datetime | None) -> Session:
    """Record an end; None: now. If one is there already it stands, and it is the one that comes back."""
    row = fetch_one(
        conn,
        """
        insert into sessions as s (user_id, session_id, ended_at, transcript_hash)
        values (%(user_id)s, %(session_id)s, least(coalesce(%(ended_at)s, now()), now()), %(transcript_hash)s)
            on conflict (user_id, session_id) do update
           set ended_at = coalesce(s.ended_at, greatest(excluded.ended_at, s.started_at)),
               transcript_hash = coalesce(s.transcript_hash, excluded.transcript_hash)
        returning session_id, started_at, ended_at, transcript_hash
        """,
        user_id=user_id,
        session_id=session_id,
        transcript_hash=transcript_hash,
        ended_at=ended_at,
    )
    assert row is not None
    return Session(*row)


@statement
def newest(conn: Connection, *, user_id: str, after: Position | None, limit: int) -> list[Session]:
    """At most `limit` of a user's conversations, newest first, those that come `after` a place in that order."""
    # psycopg2 writes the values into the SQL, so the planner sees whether there is a place, and folds the `or` away.
    rows = fetch_all(
        conn,
        """
        select session_id, started_at, ended_at, transcript_hash
          from sessions
         where user_id = %(user_id)s
               and (%(moment)s is null or (coalesce(started_at, ended_at), session_id) < (%(moment)s, %(after_id)s))
         order by coalesce(started_at, ended_at) desc, session_id desc
         limit %(limit)s
        """,
        user_id=user_id,
        moment=after and after.moment,
        after_id=after and after.session_id,
        limit=limit,
    )
    return [Session(*row) for row in rows]

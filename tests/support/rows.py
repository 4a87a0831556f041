"""Rows that tests write without going through the API."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from tests.support import databases
from tests.support.journeys import HASH

SOON = timedelta(minutes=10)
Times = tuple[str, datetime | None, datetime | None]


def add_user(url: str, email: str = "ada@example.com") -> str:
    """A user who has never signed in. Returns the user_id."""
    ((user_id,),) = databases.query(url, "insert into users (email) values (%s) returning user_id::text", email)
    return str(user_id)


def add_sessions(url: str, user_id: str, sessions: Iterable[Times]) -> None:
    """Sessions with these ids, starts and ends; the ended ones have the same hash."""
    ids, starts, ends = zip(*sessions, strict=True)
    databases.query(
        url,
        """
        insert into sessions
        select %s, session_id, started_at, ended_at, case when ended_at is not null then %s end
          from unnest(%s::text[], %s::timestamptz[], %s::timestamptz[]) as given (session_id, started_at, ended_at)
        """,
        user_id,
        HASH,
        list(ids),
        list(starts),
        list(ends),
    )


def add_links(url: str, email: str, *, good: int = 0, expired: int = 0) -> None:
    """Links to `email` that nobody has the token of."""
    _add(url, "auth_tokens (token_hash, email, created_at, expires_at)", email, good, expired)


def add_sign_ins(url: str, user_id: str, *, good: int = 0, expired: int = 0) -> None:
    """Sign-ins that nobody has the cookie of."""
    _add(url, "auth_sessions (id_hash, user_id, created_at, expires_at)", user_id, good, expired)


def add_usage(
    url: str, user_id: str, *, used: int, reserved: int = 0, days_ago: int = 0, deadline: timedelta = SOON
) -> None:
    """Tokens of the model that a user has used on a day (UTC), in calls that are over and in one with a `deadline`."""
    databases.query(
        url,
        """
        with given as (
            select %s::uuid as user_id, (now() at time zone 'utc')::date - %s as day, %s as used, %s as reserved,
                   now() + %s as deadline),
        used as (insert into llm_usage select user_id, day, used + reserved from given),
        total as (
            insert into llm_totals as t select day, used + reserved from given
                on conflict (day) do update set tokens = t.tokens + excluded.tokens)
        insert into llm_reservations (user_id, day, tokens, deadline)
        select user_id, day, reserved, deadline from given where reserved > 0
        """,
        user_id,
        days_ago,
        used,
        reserved,
        deadline,
    )


def _add(url: str, into: str, owner: str, good: int, expired: int) -> None:
    databases.query(
        url,
        f"""
        insert into {into}
        select sha256(gen_random_uuid()::text::bytea), %s, now() - interval '1 day',
               now() + n * interval '1 second' + case when n > 0 then interval '1 hour' else interval '0' end
          from generate_series(%s, %s) as n
        """,
        owner,
        1 - expired,
        good,
    )


def spend_budget(url: str, email: str = "ada@example.com") -> None:
    """Make today's tokens of a user more than any budget."""
    databases.query(
        url,
        """
        insert into llm_usage select user_id, (now() at time zone 'utc')::date, 1e12 from users where email = %s
            on conflict (user_id, day) do update set tokens = excluded.tokens
        """,
        email,
    )

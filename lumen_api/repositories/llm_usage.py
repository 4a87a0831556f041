"""The budgets of the model proxy: what has been used and what is reserved, by UTC day.

A reservation counts as used from the moment it is made; the end of its call replaces it by what was used in truth. So
a process that dies needs no cleaning up after: what it had reserved stays charged in full.

Two statements go out in one round trip here, as one transaction: the first locks the user, and only the second, which
sees what others have committed before, counts. In one statement the count would be older than the lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from lumen_api.db import Connection, execute, fetch_all, fetch_one, statement


@dataclass(frozen=True)
class Budget:
    """What may be used in a UTC day, by one user and by all together, and how many calls a user may have at once."""

    daily_tokens: int
    total_daily_tokens: int
    calls_at_once: int


@dataclass(frozen=True)
class Reserved:
    """What came of an attempt: the reservation's id, or None; and the usage that it met, reservations included."""

    reservation_id: str | None
    tokens: int
    total_tokens: int
    calls: int
    resets_in: int  # seconds


@dataclass(frozen=True)
class Today:
    """A user's budget of the current UTC day."""

    used: int
    reserved: int
    resets_at: datetime


@dataclass(frozen=True)
class Day:
    """What a user has used on a day, reservations included."""

    day: date
    tokens: int


@dataclass(frozen=True)
class Reservation:
    """Tokens set aside for a call under way, until its deadline at most."""

    day: date
    tokens: int
    deadline: datetime


@statement
def reserve(conn: Connection, *, user_id: str, tokens: int, budget: Budget, lifetime: timedelta) -> Reserved:
    """Reserve `tokens` for `lifetime` if the budget allows it, by the rules of llm/policy.py."""
    row = fetch_one(
        conn,
        """
        select from users where user_id = %(user_id)s for no key update;

        with today as (
            select (now() at time zone 'utc')::date as day),
        mine as (
            select day,
                   coalesce((select u.tokens from llm_usage u
                              where u.user_id = %(user_id)s and u.day = today.day), 0) as tokens,
                   (select count(*) from llm_reservations r
                     where r.user_id = %(user_id)s and r.deadline > now()) as calls
              from today),
        total as (
            insert into llm_totals as t (day, tokens)
            select day, %(tokens)s from mine
             where tokens + %(tokens)s <= %(daily_tokens)s and calls < %(calls_at_once)s
                   and %(tokens)s <= %(total_daily_tokens)s
                on conflict (day) do update set tokens = t.tokens + excluded.tokens
             where t.tokens + excluded.tokens <= %(total_daily_tokens)s
            returning day),
        used as (
            insert into llm_usage as u (user_id, day, tokens) select %(user_id)s, day, %(tokens)s from total
                on conflict (user_id, day) do update set tokens = u.tokens + excluded.tokens),
        reserved as (
            insert into llm_reservations (user_id, day, tokens, deadline)
            select %(user_id)s, day, %(tokens)s, now() + %(lifetime)s from total
            returning reservation_id)
        select (select reservation_id::text from reserved), tokens,
               coalesce((select t.tokens from llm_totals t where t.day = mine.day), 0), calls,
               ceil(extract(epoch from (day + 1)::timestamp at time zone 'utc' - now()))::int
          from mine
        """,
        user_id=user_id,
        tokens=tokens,
        daily_tokens=budget.daily_tokens,
        total_daily_tokens=budget.total_daily_tokens,
        calls_at_once=budget.calls_at_once,
        lifetime=lifetime,
    )
    assert row is not None
    return Reserved(*row)


@statement
def settle(conn: Connection, *, user_id: str, reservation_id: str, tokens: int) -> None:
    """Replace a reservation by what its call has used, on the day of the reservation. A second time changes nothing.

    When the account has been deleted meanwhile, only everybody's budget is left to settle.
    """
    execute(
        conn,
        """
        select from users where user_id = %(user_id)s for no key update;

        with done as (
            delete from llm_reservations where reservation_id = %(reservation_id)s
            returning user_id, day, tokens - %(tokens)s as unused),
        used as (
            update llm_usage u set tokens = u.tokens - unused from done
             where u.user_id = done.user_id and u.day = done.day)
        update llm_totals t set tokens = t.tokens - unused from done where t.day = done.day
        """,
        user_id=user_id,
        reservation_id=reservation_id,
        tokens=tokens,
    )


@statement
def today(conn: Connection, *, user_id: str) -> Today:
    """A user's budget of this day. What is past its deadline has been used."""
    row = fetch_one(
        conn,
        """
        with today as (
            select (now() at time zone 'utc')::date as day),
        reserved as (
            select coalesce(sum(tokens), 0)::bigint as tokens from llm_reservations join today using (day)
             where user_id = %(user_id)s and deadline > now())
        select coalesce((select u.tokens from llm_usage u where u.user_id = %(user_id)s and u.day = today.day), 0)
               - reserved.tokens, reserved.tokens, (day + 1)::timestamp at time zone 'utc'
          from today, reserved
        """,
        user_id=user_id,
    )
    assert row is not None
    return Today(*row)


@statement
def days(conn: Connection, *, user_id: str) -> list[Day]:
    """All days on which a user has used the model and that have not been purged, oldest first."""
    rows = fetch_all(
        conn, "select day, tokens from llm_usage where user_id = %(user_id)s order by day", user_id=user_id
    )
    return [Day(*row) for row in rows]


@statement
def reservations(conn: Connection, *, user_id: str) -> list[Reservation]:
    """A user's calls that have not been settled or purged, oldest first."""
    rows = fetch_all(
        conn,
        "select day, tokens, deadline from llm_reservations where user_id = %(user_id)s order by deadline",
        user_id=user_id,
    )
    return [Reservation(*row) for row in rows]


@statement
def purge_usage(conn: Connection, *, batch: int) -> int:
    """Delete at most `batch` users' days before yesterday, which no call can be settled on, and say how many."""
    return execute(
        conn,
        """
        delete from llm_usage where (day, user_id) in (
            select day, user_id from llm_usage where day < (now() at time zone 'utc')::date - 1
             order by day limit %(batch)s for update skip locked)
        """,
        batch=batch,
    ).rowcount


@statement
def purge_reservations(conn: Connection, *, batch: int) -> int:
    """Delete at most `batch` reservations whose process has died, and say how many. They stay charged."""
    return execute(
        conn,
        """
        delete from llm_reservations where reservation_id = any (array(
            select reservation_id from llm_reservations where deadline <= now() - interval '1 hour'
             order by deadline limit %(batch)s for update skip locked))
        """,
        batch=batch,
    ).rowcount

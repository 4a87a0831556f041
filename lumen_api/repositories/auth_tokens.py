"""Magic links that were mailed and not yet used, and the one statement that redeems one."""

from __future__ import annotations

from datetime import timedelta

from lumen_api.db import Connection, execute, fetch_one, statement


@statement
def create(conn: Connection, *, token_hash: bytes, email: str, ttl: timedelta) -> None:
    """Make a link for `email`. Earlier ones stay good: people click the first mail."""
    execute(
        conn,
        """
        insert into auth_tokens (token_hash, email, expires_at)
        values (%(token_hash)s, %(email)s, now() + %(ttl)s)
        """,
        token_hash=token_hash,
        email=email,
        ttl=ttl,
    )


@statement
def delete(conn: Connection, *, token_hash: bytes) -> None:
    """Take a link back that never reached anybody."""
    execute(conn, "delete from auth_tokens where token_hash = %(token_hash)s", token_hash=token_hash)


@statement
def redeem(
    conn: Connection, *, token_hash: bytes, session_hash: bytes, ttl: timedelta, old_session_hash: bytes | None
) -> bool:
    """Use a link up: make its user if there is none, void the address's other links, begin a sign-in that lasts
    `ttl`, and end the one whose cookie came along. All of it, or nothing and False.

    Of any number of simultaneous calls exactly one is True. All links of the address are locked, in one order,
    before the user is touched: without the order, or the count that reads `mine` to its end, two links of one address
    deadlock. `do update` and not `do nothing`, because a user that another transaction has just made is invisible to
    a later select.
    """
    row = fetch_one(
        conn,
        """
        with mine as materialized (
            select token_hash, email from auth_tokens
             where email = (select email from auth_tokens
                             where token_hash = %(token_hash)s and expires_at > now())
             order by token_hash
               for update),
        link as (
            select email from mine where token_hash = %(token_hash)s and (select count(*) from mine) > 0),
        gone as (
            delete from auth_tokens t using mine
             where t.token_hash = mine.token_hash and exists (select from link)),
        usr as (
            insert into users (email) select email from link
                on conflict (email) do update set created_at = users.created_at
            returning user_id),
        ses as (
            insert into auth_sessions (id_hash, user_id, expires_at)
            select %(session_hash)s, user_id, now() + %(ttl)s from usr
            returning user_id),
        old as (
            delete from auth_sessions a using ses where a.id_hash = %(old_session_hash)s)
        select from ses
        """,
        token_hash=token_hash,
        session_hash=session_hash,
        ttl=ttl,
        old_session_hash=old_session_hash,
    )
    return row is not None


@statement
def purge(conn: Connection, *, batch: int) -> int:
    """Delete at most `batch` expired links and say how many. Links that somebody is redeeming are left alone."""
    return execute(
        conn,
        """
        delete from auth_tokens where token_hash = any (array(
            select token_hash from auth_tokens where expires_at <= now()
             order by expires_at limit %(batch)s for update skip locked))
        """,
        batch=batch,
    ).rowcount

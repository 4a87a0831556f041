"""Many callers at the same moment, in two gunicorn workers: one link signs in once, and nothing ever deadlocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle, islice

import pytest
from flask import Flask

from tests.conftest import ServiceFactory
from tests.support import databases, eventually
from tests.support.credentials import new_cookie, new_link
from tests.support.locks import at_once, held, waiting
from tests.support.rows import add_user
from tests.support.service import Service

CALLERS = 50
Call = Callable[[], int]


# PostgreSQL looks for a deadlock after 50 ms instead of 1 s, and a slow machine may take its time.
OPTIONS = "&application_name=racing&options=-c%20deadlock_timeout%3D50ms%20-c%20lock_timeout%3D5s"


@pytest.fixture
def service(serve: ServiceFactory, database: str) -> Iterator[Service]:
    """Two workers, and the certainty that PostgreSQL has seen no deadlock."""
    before = deadlocks(database)
    service = serve(workers=2, DATABASE_URL=database + OPTIONS)
    assert len(service.workers()) == 2
    yield service
    service.stop()
    # A server process hands its counts over when it ends.
    eventually(lambda: connections(database) == 0)
    assert deadlocks(database) == before


def deadlocks(database: str) -> int:
    """How many PostgreSQL has had to break."""
    ((count,),) = databases.query(database, "select deadlocks from pg_stat_database where datname = current_database()")
    return int(count)


def connections(database: str) -> int:
    """How many the workers have."""
    ((count,),) = databases.query(
        database,
        "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'racing'",
    )
    return int(count)


def verify(service: Service, token: str) -> Call:
    return lambda: service.call("POST", "/v1/auth/verify", {"token": token}).status


def start(service: Service, cookie: Mapping[str, str], session_id: str) -> Call:
    return lambda: service.call("POST", "/v1/sessions/start", {"session_id": session_id}, headers=cookie).status


def delete_account(service: Service, cookie: Mapping[str, str]) -> Call:
    return lambda: service.call("DELETE", "/v1/account", headers=cookie).status


def rows(database: str) -> dict[str, int]:
    """How many links, users and sign-ins there are."""
    ((links, users, sign_ins),) = databases.query(
        database,
        "select (select count(*) from auth_tokens), (select count(*) from users), (select count(*) from auth_sessions)",
    )
    return {"links": links, "users": users, "sign-ins": sign_ins}


# --- One link. ---


def test_of_fifty_simultaneous_verifies_one_signs_in_twenty_times_over(
    app: Flask, service: Service, database: str
) -> None:
    for round_ in range(20):
        token = new_link(app, f"ada{round_}@example.com")

        statuses = Counter(at_once([verify(service, token)] * CALLERS))

        busy = statuses.pop(503, 0)
        assert statuses == {200: 1, 401: CALLERS - 1 - busy}
        assert rows(database) == {"links": 0, "users": round_ + 1, "sign-ins": round_ + 1}
    # One worker has at most 8: both have taken part.
    assert connections(database) > 8


@pytest.mark.parametrize("known", [False, True], ids=["new address", "known address"])
def test_of_as_many_verifies_as_there_are_connections_waiting_for_one_lock_one_signs_in(
    known: bool, app: Flask, service: Service, database: str
) -> None:
    token = new_link(app)
    if known:
        add_user(database)
    with held(database, "select from auth_tokens for update") as holder:

        def release() -> int:
            eventually(lambda: len(waiting(database)) > 8)  # of both workers
            holder.close()
            return 0

        statuses = Counter(at_once([release, *[verify(service, token)] * CALLERS]))

    busy = statuses.pop(503, 0)  # who was one too many, or has waited too long for a thread
    assert statuses == {0: 1, 200: 1, 401: CALLERS - 1 - busy}
    assert rows(database) == {"links": 0, "users": 1, "sign-ins": 1}


# --- Several links of one address. ---


@pytest.mark.parametrize("links", [2, 5])
def test_of_many_verifies_of_several_links_of_one_address_one_signs_in(
    links: int, app: Flask, service: Service, database: str
) -> None:
    # Whoever wins has locked all links of the address that were there, so none of the others can win as well.
    for round_ in range(12):
        email = f"ada{round_}@example.com"
        if round_ % 2:
            add_user(database, email)
        tokens = [new_link(app, email) for _ in range(links)]

        statuses = Counter(at_once([verify(service, token) for token in islice(cycle(tokens), CALLERS)]))

        busy = statuses.pop(503, 0)
        assert statuses == {200: 1, 401: CALLERS - 1 - busy}
        assert rows(database) == {"links": 0, "users": round_ + 1, "sign-ins": round_ + 1}


def test_links_of_many_addresses_all_sign_in_at_once(app: Flask, service: Service, database: str) -> None:
    callers = 30  # as many as one worker takes
    tokens = [new_link(app, f"ada{number}@example.com") for number in range(callers)]

    assert Counter(at_once([verify(service, token) for token in tokens])) == {200: callers}
    assert rows(database) == {"links": 0, "users": callers, "sign-ins": callers}


def test_a_link_asked_for_during_a_sign_in_signs_in_the_same_user(app: Flask, service: Service, database: str) -> None:
    # The first sign-in waits where it makes its user: it has seen its links, and the new one is not among them.
    # The second one waits for the first, whose user was not there when it began.
    first = new_link(app)
    with held(database, "insert into users (email) values ('ada@example.com')") as holder:

        def ask_and_verify() -> int:
            eventually(lambda: len(waiting(database)) == 1)
            return verify(service, new_link(app))()

        def release() -> int:
            eventually(lambda: len(waiting(database)) == 2)
            holder.close()
            return 0

        statuses = at_once([verify(service, first), ask_and_verify, release])

    assert statuses == [200, 200, 0]
    assert rows(database) == {"links": 0, "users": 1, "sign-ins": 2}


@pytest.mark.parametrize("position", [0, 1], ids=["sorts first", "sorts last"])
@pytest.mark.parametrize("known", [False, True], ids=["new address", "known address"])
def test_a_sign_in_that_waits_for_another_link_of_its_address_keeps_nobody_from_the_user(
    known: bool, position: int, app: Flask, service: Service, database: str
) -> None:
    # The other link's sign-in may not have seen this link: it locks its own, and then the user.
    if known:
        add_user(database)
    links = app.extensions["lumen.magic_links"]
    tokens = sorted((new_link(app) for _ in range(2)), key=links.tokens.digest)
    mine, other = tokens[position], tokens[1 - position]
    with held(
        database, "select from auth_tokens where token_hash = %s for update", links.tokens.digest(other)
    ) as other_sign_in:

        def go_on() -> int:
            eventually(lambda: len(waiting(database)) == 1)
            other_sign_in.cursor().execute(
                """
                insert into users (email) values ('ada@example.com')
                    on conflict (email) do update set created_at = users.created_at
                """
            )
            other_sign_in.cursor().execute("commit")
            return 0

        assert at_once([verify(service, mine), go_on]) == [200, 0]


# --- The account goes at the same moment. ---


def test_deleting_an_account_and_signing_in_again_never_get_in_each_others_way(
    app: Flask, service: Service, database: str
) -> None:
    for round_ in range(40):
        email = f"ada{round_}@example.com"
        cookie = new_cookie(app, email)
        tokens = [new_link(app, email) for _ in range(3)]

        deleted, *statuses = at_once(
            [delete_account(service, cookie), *[verify(service, token) for token in tokens * 2]]
        )

        assert deleted == 200
        assert Counter(statuses) in ({401: 6}, {200: 1, 401: 5})
    # Whoever signed in again after the deletion is a new user, and has the one sign-in.
    left = rows(database)
    assert left["links"] == 0
    assert left["users"] == left["sign-ins"]


@pytest.mark.parametrize("first", ["delete", "verify"])
def test_deletion_and_sign_in_that_wait_for_the_same_user_both_get_through(
    first: str, app: Flask, service: Service, database: str
) -> None:
    cookie = new_cookie(app)
    tokens = [new_link(app) for _ in range(3)]
    calls = {"delete": delete_account(service, cookie), "verify": verify(service, tokens[1])}
    second = {"delete": "verify", "verify": "delete"}[first]
    with held(database, "select from users for update") as holder:

        def then() -> int:
            eventually(lambda: len(waiting(database)) == 1)
            return calls[second]()

        def release() -> int:
            eventually(lambda: len(waiting(database)) == 2)
            holder.close()
            return 0

        statuses = dict(zip([first, second], at_once([calls[first], then, release]), strict=False))

    assert statuses == {"delete": 200, "verify": 401 if first == "delete" else 200}
    assert rows(database) == {"links": 0, "users": 0, "sign-ins": 0}


def test_a_session_started_while_the_account_goes_gets_200_or_401(app: Flask, service: Service, database: str) -> None:
    for round_ in range(25):
        cookie = new_cookie(app, f"ada{round_}@example.com")

        deleted, *statuses = at_once(
            [delete_account(service, cookie), *[start(service, cookie, f"s{number}") for number in range(6)]]
        )

        assert deleted == 200
        assert set(statuses) <= {200, 401}
    assert rows(database)["users"] == 0
    assert databases.query(database, "select count(*) from sessions") == [(0,)]


def test_a_session_whose_user_goes_between_guard_and_insert_gets_401(
    app: Flask, service: Service, database: str
) -> None:
    cookie = new_cookie(app)
    with held(database, "delete from users") as deletion:

        def commit() -> int:
            eventually(lambda: waiting(database))
            deletion.cursor().execute("commit")
            return 0

        statuses = at_once([start(service, cookie, "one"), commit])

    assert statuses == [401, 0]

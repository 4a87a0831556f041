"""DATABASE_URL with several hosts: the first one that serves is used, whatever is wrong with those before it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter
from urllib.parse import quote

import pytest
from flask import Flask
from psycopg2.extensions import parse_dsn

from lumen_api import migrations
from tests.conftest import AppFactory
from tests.support import databases
from tests.support.outages import black_hole, refusal, silence

# Seconds: connecting and working, all hosts together.
LONGEST_ANSWER = 3.0

Nobody = Callable[[], AbstractContextManager[int]]


def behind(database: str, *ports: int, more: str = "") -> str:
    """DATABASE_URL whose last host is the one of `database`, after others on these ports."""
    server = parse_dsn(database)
    hosts = ",".join(["127.0.0.1"] * len(ports) + [quote(server["host"])])
    numbers = ",".join([*map(str, ports), "5432"])
    return f"postgresql://{server['user']}@/{server['dbname']}?host={hosts}&port={numbers}{more}"


def timed_link(app: Flask) -> float:
    """How long asking for a link takes."""
    start = perf_counter()
    answer = app.test_client().post("/v1/auth/request-link", json={"email": "ada@example.com"})
    assert answer.status_code == 200
    return perf_counter() - start


@pytest.mark.parametrize("nobody", [refusal, black_hole, silence], ids=["refuses", "vanished", "hangs"])
def test_the_second_host_serves_when_the_first_does_not(make_app: AppFactory, database: str, nobody: Nobody) -> None:
    with nobody() as port:
        assert timed_link(make_app(DATABASE_URL=behind(database, port))) < LONGEST_ANSWER


def test_the_third_host_serves_when_two_hang(make_app: AppFactory, database: str) -> None:
    with silence() as one, black_hole() as other:
        assert timed_link(make_app(DATABASE_URL=behind(database, one, other))) < LONGEST_ANSWER


def test_the_next_connection_begins_with_the_host_that_served(make_app: AppFactory, database: str) -> None:
    with silence() as port:
        app = make_app(DATABASE_URL=behind(database, port))
        first = timed_link(app)
        app.extensions["lumen.db"].close()
        second = timed_link(app)

    assert second < first / 2


@pytest.mark.parametrize("nobody", [refusal, black_hole, silence], ids=["refuse", "vanished", "hang"])
def test_when_no_host_serves_the_database_is_unavailable_within_three_seconds(
    make_app: AppFactory, nobody: Nobody
) -> None:
    with nobody() as one, nobody() as other:
        url = f"postgresql://lumen@127.0.0.1:{one},127.0.0.1:{other}/lumen"
        client = make_app(DATABASE_URL=url).test_client()
        start = perf_counter()
        answer = client.post("/v1/auth/request-link", json={"email": "ada@example.com"})
        took = perf_counter() - start

    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "database_unavailable")
    assert took < LONGEST_ANSWER


@pytest.mark.parametrize("attributes", ["read-write", "primary", "any"])
def test_a_host_is_used_only_if_it_is_of_the_kind_that_was_asked_for(
    make_app: AppFactory, database: str, attributes: str
) -> None:
    more = f"&target_session_attrs={attributes}"
    with refusal() as port:
        timed_link(make_app(DATABASE_URL=behind(database, port, more=more)))


def test_a_standby_that_was_asked_for_and_is_not_there_is_unavailable(make_app: AppFactory, database: str) -> None:
    client = make_app(DATABASE_URL=behind(database, more="&target_session_attrs=standby")).test_client()

    assert client.post("/v1/auth/request-link", json={"email": "ada@example.com"}).status_code == 503


def test_one_port_stands_for_all_hosts(make_app: AppFactory, database: str) -> None:
    server = parse_dsn(database)
    hosts = quote(f"/nowhere,{server['host']}", safe=",")

    timed_link(make_app(DATABASE_URL=f"postgresql://lumen@/{server['dbname']}?host={hosts}&port=5432"))


def test_hosts_may_be_given_with_their_addresses(make_app: AppFactory, database: str) -> None:
    # libpq: "hostaddr" has one entry for each host, and an empty one means that the host's name is looked up.
    with refusal() as port:
        timed_link(make_app(DATABASE_URL=behind(database, port, more="&hostaddr=127.0.0.1,")))


def test_migrations_find_the_host_that_serves(database: str) -> None:
    with refusal() as port:
        assert migrations.apply(behind(database, port)) == []


def test_special_characters_in_a_password_do_not_break_the_list_of_hosts(make_app: AppFactory, database: str) -> None:
    with refusal() as port:
        url = behind(database, port).replace("//lumen@", "//lumen:p%40ss%2Cword%27@")
        timed_link(make_app(DATABASE_URL=url))

    assert databases.query(database, "select count(*) from auth_tokens") == [(1,)]

"""Budgets of the model while many calls race, in two gunicorn workers, and when a worker dies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest
from flask import Flask

from tests.conftest import PLENTY, ServiceFactory
from tests.support import databases, eventually, processes
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import FOREVER, message, stream
from tests.support.credentials import new_cookie
from tests.support.llm import ASKED
from tests.support.llm_callers import begin, usage
from tests.support.llm_ledger import charged, charged_in_total, reservation, still_reserved
from tests.support.locks import at_once, held, waiting
from tests.support.rows import add_usage
from tests.support.service import Service

ADA, BOB = "ada@example.com", "bob@example.com"
CALLERS = 50
BUDGET = 10_000
ONE = reservation()

# A slow machine may take its time.
PATIENT = "&options=-c%20lock_timeout%3D10s%20-c%20statement_timeout%3D10s"
# All that a reservation can wait for.
LOCKS = "select from users for update; select from llm_usage for update; select from llm_totals for update"

MakeService = Callable[..., Service]


@pytest.fixture
def provider() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


@pytest.fixture
def make_service(serve: ServiceFactory, database: str, provider: AnthropicServer) -> MakeService:
    """Two workers. The arguments are variables: make_service(LLM_DAILY_TOKENS="5000")."""

    def make(**variables: str) -> Service:
        proxy = {"LLM_PROVIDER_KEY": API_KEY, "LLM_PROVIDER_URL": provider.url, "RATE_LIMIT_LLM_PER_USER": PLENTY}
        return serve(workers=2, DATABASE_URL=database + PATIENT, LLM_MAX_OUTPUT_TOKENS="100", **proxy, **variables)

    return make


@pytest.fixture
def connections() -> Iterator[ExitStack]:
    """Closed at the end of the test."""
    with ExitStack() as stack:
        yield stack


def user_of(database: str, email: str) -> str:
    ((user_id,),) = databases.query(database, "select user_id::text from users where email = %s", email)
    return str(user_id)


def ask(service: Service, cookie: Mapping[str, str]) -> tuple[int, str]:
    """Status and error code of a call."""
    answer = service.call("POST", "/v1/llm/messages", ASKED, headers=cookie)
    return answer.status, answer.json.get("error", {}).get("code", "")


def piled_up(service: Service, database: str, cookies: list[dict[str, str]]) -> Counter[tuple[int, str]]:
    """What calls hear that all want to reserve at the same moment, in both workers."""
    with held(database, LOCKS) as holder:

        def release() -> tuple[int, str]:
            eventually(lambda: len(waiting(database)) > 8)  # one worker has 8 connections
            holder.close()
            return 0, ""

        calls = [lambda cookie=cookie: ask(service, cookie) for cookie in cookies]
        return Counter(at_once([release, *calls])) - Counter([(0, "")])


# --- Room for one. ---


def test_with_room_for_one_call_fifty_at_once_of_a_user_make_one(
    app: Flask, make_service: MakeService, database: str, provider: AnthropicServer
) -> None:
    service = make_service(LLM_DAILY_TOKENS=str(BUDGET))
    cookie = new_cookie(app)
    add_usage(database, user_of(database, ADA), used=BUDGET - ONE)

    heard = piled_up(service, database, [cookie] * CALLERS)

    assert len(provider.finished()) == 1
    assert heard == {(200, ""): 1, (429, "quota_exceeded"): CALLERS - 1}
    assert charged(database) == {ADA: BUDGET - ONE + provider.served}
    assert usage(service, cookie) == (BUDGET - ONE + provider.served, 0)


def test_with_room_for_one_call_in_everybodys_budget_fifty_users_at_once_make_one(
    app: Flask, make_service: MakeService, database: str, provider: AnthropicServer
) -> None:
    service = make_service(LLM_TOTAL_DAILY_TOKENS=str(BUDGET))
    new_cookie(app, BOB)
    cookies = [new_cookie(app, f"ada{number}@example.com") for number in range(CALLERS)]
    add_usage(database, user_of(database, BOB), used=BUDGET - ONE)

    heard = piled_up(service, database, cookies)

    assert len(provider.finished()) == 1
    assert heard == {(200, ""): 1, (429, "quota_exceeded"): CALLERS - 1}
    assert charged_in_total(database) == sum(charged(database).values()) == BUDGET - ONE + provider.served


def test_a_call_that_fits_to_the_token_is_made_and_one_token_less_is_not_enough(
    app: Flask, make_service: MakeService, database: str, provider: AnthropicServer
) -> None:
    provider.behave(message(10, input=20))
    service = make_service(LLM_DAILY_TOKENS=str(ONE + 29))
    cookie = new_cookie(app)

    assert ask(service, cookie) == (200, "")  # uses 30
    assert ask(service, cookie) == (429, "quota_exceeded")
    databases.query(database, "update llm_usage set tokens = tokens - 1")
    assert ask(service, cookie) == (200, "")
    assert len(provider.finished()) == 2


# --- Calls at once. ---


def test_of_twenty_at_once_of_one_user_two_reach_the_provider_again_and_again(
    app: Flask, make_service: MakeService, provider: AnthropicServer, connections: ExitStack
) -> None:
    provider.behave(stream().until("content_block_delta", FOREVER))
    service = make_service()
    cookie = new_cookie(app)

    def call() -> tuple[int, HTTPConnection]:
        connection = begin(service, cookie, stream=True)
        connections.callback(connection.close)
        return connection.getresponse().status, connection

    for round_ in range(1, 4):
        statuses = Counter(status for status, _ in at_once([call] * 20))

        assert statuses == {200: 2, 429: 18}
        assert len(provider.requests) == 2 * round_
        connections.close()
        eventually(lambda: usage(service, cookie)[1] == 0)
    assert provider.served <= usage(service, cookie)[0]


# --- Workers that die. ---


def test_what_a_killed_worker_had_reserved_stays_charged_and_reserved_until_its_deadline(
    app: Flask, make_service: MakeService, database: str, provider: AnthropicServer, connections: ExitStack
) -> None:
    provider.behave(stream().until("content_block_delta", FOREVER))
    service = make_service()
    cookie = new_cookie(app)
    for _ in range(2):
        connection = begin(service, cookie, stream=True)
        connections.callback(connection.close)
        assert connection.getresponse().status == 200
    lost = 2 * reservation(stream=True)

    workers = service.workers()
    processes.kill(*workers)
    eventually(lambda: len(service.workers()) == 2 and not set(workers) & set(service.workers()))
    eventually(service.serves)

    provider.behave(message())
    assert usage(service, cookie) == (0, lost)
    assert ask(service, cookie) == (429, "too_many_streams")
    databases.query(database, "update llm_reservations set deadline = now()")
    assert usage(service, cookie) == (lost, 0)
    assert ask(service, cookie) == (200, "")
    assert usage(service, cookie) == (lost + 45, 0)
    databases.query(database, "update llm_reservations set deadline = now() - interval '2 hours'")
    assert app.test_cli_runner().invoke(args=["purge"]).exit_code == 0
    assert still_reserved(database) == {}
    assert usage(service, cookie) == (lost + 45, 0)
    assert charged_in_total(database) == lost + 45


def test_a_deadline_is_a_minute_after_the_longest_that_a_call_may_take(
    app: Flask, make_service: MakeService, database: str, provider: AnthropicServer, connections: ExitStack
) -> None:
    provider.behave(stream().until("content_block_delta", FOREVER))
    service = make_service(LLM_TOTAL_TIMEOUT="5m")
    connection = begin(service, new_cookie(app), stream=True)
    connections.callback(connection.close)
    assert connection.getresponse().status == 200

    ((left,),) = databases.query(database, "select extract(epoch from deadline - now())::int from llm_reservations")

    assert 300 < left <= 360

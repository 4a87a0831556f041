"""What a call costs in the end: exactly what was served, once, whatever happens to its caller, account or database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from functools import partial

import pytest
from flask.testing import FlaskClient

from lumen_api.db import Database
from lumen_api.repositories import llm_usage
from lumen_api.repositories.llm_usage import Budget
from tests.conftest import AppFactory
from tests.support import databases, eventually, logs
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import CUT, Answer, Cut, Wait, message, stream
from tests.support.anthropic_events import error_event, event, message_delta
from tests.support.journeys import sign_in
from tests.support.llm import ask, failure, signed_in, usage
from tests.support.llm_ledger import charged, charged_in_total, costs, reservation, served, still_reserved
from tests.support.locks import at_once, held, waiting
from tests.support.mailbox import Mailbox
from tests.support.outages import Server
from tests.support.pools import PoolFactory
from tests.support.rows import add_user

ADA = "ada@example.com"
LIMITLESS = Budget(daily_tokens=10**9, total_daily_tokens=10**9, calls_at_once=10**6)
MINUTE = timedelta(minutes=1)

# What comes in one read is settled before the caller has the first byte of it.
SLOW = stream(20).after("content_block_delta", Wait(0.3))

MakeCaller = Callable[..., FlaskClient]


@pytest.fixture
def provider() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


@pytest.fixture
def make_caller(make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer) -> MakeCaller:
    """Makes a signed-in client of a service with variables: make_caller(LLM_DAILY_TOKENS="5000")."""

    def make(**variables: str) -> FlaskClient:
        return signed_in(make_app(LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=provider.url, **variables), mailbox)

    return make


# --- Exactly. ---

STOP = event("message_stop")
BEGUN = stream(20, input=30).until("message_start", error_event())
ZERO = stream(20).until("content_block_stop", message_delta(0), STOP)
HIGHER = stream(20).after("content_block_delta", message_delta(90), nth=9).until("message_delta", CUT)
EXACT = [
    pytest.param([message(20, input=30)], 50, id="whole"),
    pytest.param([message(20, input=100, cached=40)], 120, id="whole, from the provider's cache and into it"),
    pytest.param([message(0, input=30)], 30, id="whole, with zero words"),
    pytest.param([stream(20, input=30)], 50, id="stream"),
    pytest.param([stream(20, input=100, cached=40)], 120, id="stream, from the provider's cache and into it"),
    pytest.param([stream(20).after("content_block_delta", message_delta(7), message_delta(9))], 45, id="last count"),
    pytest.param([ZERO], 25, id="an explicit zero"),
    pytest.param([BEGUN, stream(20, input=30)], 31 + 50, id="two tries, of which the first had begun"),
    pytest.param([BEGUN, BEGUN], 31 + 31, id="two tries that had begun and came to nothing"),
    # A word is 5 bytes, and 3 bytes are a token where nobody has counted.
    pytest.param([stream(20, cached=5).until("content_block_delta", CUT, nth=9)], 25 + 15, id="cut off: an estimate"),
    pytest.param([stream(20).until("message_start", CUT)], 25 + 1, id="cut off before a word"),
    pytest.param([HIGHER], 25 + 90, id="cut off after a count that is higher"),
]


@pytest.mark.parametrize(("said", "cost"), EXACT)
def test_a_call_costs_what_the_provider_has_reported(
    make_caller: MakeCaller, provider: AnthropicServer, database: str, said: list[Answer], cost: int
) -> None:
    caller = make_caller()
    provider.behave(*said)

    assert ask(caller, stream=said[-1].framing == "chunked").data

    assert served(provider.finished()) <= cost or said == [ZERO]
    assert usage(caller) == (cost, 0)
    assert charged_in_total(database) == cost


@pytest.mark.parametrize("end", [(), (CUT,)], ids=["complete", "cut off"])
def test_where_the_provider_counts_nothing_a_stream_costs_an_estimate_of_all_that_came(
    make_caller: MakeCaller, provider: AnthropicServer, end: tuple[Cut, ...]
) -> None:
    caller = make_caller()
    said = stream(20, usage=False)
    provider.behave(said.until("content_block_delta", *end, nth=20) if end else said)

    assert ask(caller, stream=True).data

    size = len(provider.finished()[0].body)
    assert usage(caller) == (-(-size // 3) + 34, 0)
    assert provider.served <= usage(caller)[0]


@pytest.mark.parametrize("place", ["head", "content_block_start", "content_block_delta"])
def test_a_caller_who_leaves_in_the_middle_pays_for_what_was_served(
    make_caller: MakeCaller, provider: AnthropicServer, place: str
) -> None:
    caller = make_caller()
    provider.behave(stream().after(place, Wait(0.2)))

    with closing(ask(caller, stream=True)) as answer:
        next(answer.iter_encoded())

    provider.finished()
    assert {usage(caller)[0]} == costs(provider.requests)
    assert provider.served <= usage(caller)[0] < reservation(stream=True)


def test_a_caller_who_leaves_pays_for_what_was_on_its_way(make_caller: MakeCaller, provider: AnthropicServer) -> None:
    caller = make_caller()
    provider.behave(stream(2000).at_once())  # more than is read at once

    with closing(ask(caller, max_tokens=4000, stream=True)) as answer:
        next(answer.iter_encoded())

    assert provider.finished()[0].served_output == 2000
    assert usage(caller) == (2025, 0)


# --- Once. ---


def test_a_reservation_is_settled_by_the_first_of_many_and_by_no_other(make_pool: PoolFactory, database: str) -> None:
    pool = make_pool(size=8)
    ada = add_user(database)
    for round_ in range(1, 21):
        with pool.connection() as conn:
            reserved = llm_usage.reserve(conn, user_id=ada, tokens=1000, budget=LIMITLESS, lifetime=MINUTE)
        assert reserved.reservation_id
        settle = partial(settle_in, pool, ada, reserved.reservation_id)

        at_once([partial(settle, 30)] * 8)
        settle(7)
        settle(5000)

        assert charged(database) == {ADA: 30 * round_}
        assert charged_in_total(database) == 30 * round_
        assert still_reserved(database) == {}


def settle_in(pool: Database, user_id: str, reservation_id: str, tokens: int) -> None:
    with pool.connection() as conn:
        llm_usage.settle(conn, user_id=user_id, reservation_id=reservation_id, tokens=tokens)


def test_a_call_that_costs_more_than_was_reserved_is_charged_in_full(
    make_caller: MakeCaller, provider: AnthropicServer, database: str
) -> None:
    caller = make_caller(LLM_DAILY_TOKENS="5000")
    provider.behave(message(20, input=6000))

    assert ask(caller).status_code == 200

    assert usage(caller) == (6020, 0)
    assert charged_in_total(database) == 6020
    assert failure(ask(caller))[:2] == (429, "quota_exceeded")


# --- The database goes away. ---


def test_without_a_database_there_is_no_call(
    make_caller: MakeCaller, provider: AnthropicServer, server: Server
) -> None:
    caller = make_caller(DATABASE_URL=server.url)
    server.stop()

    assert failure(ask(caller))[:2] == (503, "database_unavailable")
    assert provider.connections == 0
    server.start()
    assert usage(caller) == (0, 0)


def test_a_reservation_that_is_cut_off_is_no_call(
    make_caller: MakeCaller, provider: AnthropicServer, database: str
) -> None:
    caller = make_caller()
    with held(database, "select from users for update"), ThreadPoolExecutor(1) as browser:
        answer = browser.submit(ask, caller)
        eventually(lambda: waiting(database))
        databases.query(database, "select pg_terminate_backend(%s)", waiting(database)[0])
        assert failure(answer.result(10))[:2] == (503, "database_unavailable")

    assert provider.connections == 0
    assert usage(caller) == (0, 0)


def test_a_reservation_that_waits_too_long_is_no_call(
    make_caller: MakeCaller, provider: AnthropicServer, database: str
) -> None:
    caller = make_caller()
    with held(database, "select from users for update"):
        assert failure(ask(caller))[:2] == (503, "busy")  # after the role's lock_timeout

    assert provider.connections == 0
    assert usage(caller) == (0, 0)


@pytest.mark.parametrize("leaves", [False, True], ids=["to the end", "caller leaves"])
def test_a_call_that_cannot_be_settled_is_answered_charged_in_full_and_logged_without_a_charge(
    make_caller: MakeCaller, provider: AnthropicServer, server: Server, leaves: bool
) -> None:
    caller = make_caller(DATABASE_URL=server.url)
    provider.behave(SLOW)
    with logs.recorded() as events, closing(ask(caller, stream=True)) as answer:
        server.stop()
        if not leaves:
            assert answer.data.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    server.start()

    (line,) = [event for event in events if event["event"] == "llm_call"]
    assert line["charged_tokens"] is None
    assert (line["input_tokens"], line["output_tokens"]) == (25, 2 if leaves else 20)
    assert usage(caller) == (0, reservation(stream=True))
    databases.query(server.url, "update llm_reservations set deadline = now()")
    assert usage(caller) == (reservation(stream=True), 0)
    assert charged_in_total(server.url) == reservation(stream=True)


# --- The account goes away. ---


def test_a_deleted_account_is_no_fresh_budget(
    make_caller: MakeCaller, mailbox: Mailbox, provider: AnthropicServer, database: str
) -> None:
    caller = make_caller(LLM_MAX_OUTPUT_TOKENS="100", LLM_TOTAL_DAILY_TOKENS=str(reservation() + 70))
    provider.behave(message(20, input=25))
    for _ in range(2):
        assert ask(caller).status_code == 200
        assert caller.delete("/v1/account").status_code == 200
        sign_in(caller, mailbox)
        assert usage(caller) == (0, 0)

    assert failure(ask(caller))[:2] == (429, "quota_exceeded")
    assert len(provider.requests) == 2
    assert charged_in_total(database) == 90


@pytest.mark.parametrize("again", [False, True], ids=["gone", "signed in again"])
def test_a_call_under_way_while_its_account_is_deleted_is_settled_in_everybodys_budget(
    make_caller: MakeCaller, mailbox: Mailbox, provider: AnthropicServer, database: str, again: bool
) -> None:
    caller = make_caller()
    provider.behave(SLOW)
    with closing(ask(caller, stream=True)) as answer:
        assert charged_in_total(database) == reservation(stream=True)
        assert caller.delete("/v1/account").status_code == 200
        if again:
            sign_in(caller, mailbox)
        assert charged_in_total(database) == reservation(stream=True)
        assert b"message_stop" in answer.data

    assert charged_in_total(database) == provider.served == 45
    assert charged(database) == {}
    assert databases.query(database, "select from llm_reservations") == []


def test_a_call_by_an_account_that_is_deleted_while_it_reserves_is_not_made(
    make_caller: MakeCaller, provider: AnthropicServer, database: str
) -> None:
    caller = make_caller()
    with held(database, "delete from users") as deletion, ThreadPoolExecutor(1) as browser:
        answer = browser.submit(ask, caller)
        eventually(lambda: waiting(database))
        with deletion.cursor() as cursor:
            cursor.execute("commit")
        assert failure(answer.result(10))[:2] == (401, "unauthorized")

    assert provider.connections == 0
    assert charged_in_total(database) == 0

"""Budgets across UTC midnight: a call is charged to the day on which it began, and nothing is granted twice.

The day is the database's to say. Here its clock is one that the tests move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from flask.testing import FlaskClient

from tests.conftest import AppFactory, ServiceFactory
from tests.support import databases, eventually, processes
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import FOREVER, Answer, Wait, message, stream
from tests.support.credentials import new_cookie
from tests.support.llm import ask, failure, signed_in, usage
from tests.support.llm_callers import begin
from tests.support.llm_callers import usage as usage_of
from tests.support.llm_clock import Clock, clock
from tests.support.llm_ledger import reservation
from tests.support.mailbox import Mailbox

BEFORE, AFTER = "2099-11-23T23:59:59Z", "2099-11-24T00:00:00Z"
MONDAY, TUESDAY = "2099-11-23", "2099-11-24"
ONE = reservation(stream=True)

MakeCaller = Callable[..., FlaskClient]


def slow(words: int) -> Answer:
    """A stream with a pause after its first word: what comes in one read is settled before the caller has it."""
    return stream(words).after("content_block_delta", Wait(0.3))


@pytest.fixture
def time(database: str) -> Iterator[Clock]:
    """A second before midnight."""
    with clock(database, BEFORE) as hands:
        yield hands


@pytest.fixture
def provider() -> Iterator[AnthropicServer]:
    """Each call is 45 tokens."""
    with AnthropicServer() as server:
        server.behave(lambda request: slow(20) if request.json.get("stream") else message())
        yield server


@pytest.fixture
def make_caller(make_app: AppFactory, mailbox: Mailbox, provider: AnthropicServer, time: Clock) -> MakeCaller:
    """Makes a signed-in client of a service with variables: make_caller(LLM_DAILY_TOKENS="5000")."""
    proxy = {"LLM_PROVIDER_KEY": API_KEY, "LLM_PROVIDER_URL": provider.url, "LLM_MAX_OUTPUT_TOKENS": "100"}

    def make(**variables: str) -> FlaskClient:
        return signed_in(make_app(DATABASE_URL=time.url, **proxy, **variables), mailbox)

    return make


def resets_at(caller: FlaskClient) -> str:
    return str(caller.get("/v1/llm/usage").get_json()["resets_at"]).replace(".000000Z", "Z")


def days(database: str, table: str) -> dict[str, int]:
    return dict(databases.query(database, f"select day::text, sum(tokens)::int from {table} group by 1"))


def assert_charged(database: str, tokens: dict[str, int]) -> None:
    """By day, to the user and to everybody, and nothing is left to settle."""
    assert days(database, "llm_usage") == days(database, "llm_totals") == tokens
    assert days(database, "llm_reservations") == {}


def test_a_call_that_begins_before_midnight_is_charged_to_the_day_that_ends(
    make_caller: MakeCaller, time: Clock, database: str
) -> None:
    caller = make_caller()
    with closing(ask(caller, stream=True)) as answer:
        assert (usage(caller), resets_at(caller)) == ((0, ONE), AFTER)

        time.set(AFTER)
        assert (usage(caller), resets_at(caller)) == ((0, 0), "2099-11-25T00:00:00Z")
        assert b"message_stop" in answer.data

    assert usage(caller) == (0, 0)
    assert_charged(database, {MONDAY: 45})
    time.set(BEFORE)
    assert usage(caller) == (45, 0)


@pytest.mark.parametrize("budget", ["LLM_DAILY_TOKENS", "LLM_TOTAL_DAILY_TOKENS"])
def test_what_is_settled_after_midnight_makes_no_room_on_the_new_day(
    make_caller: MakeCaller, time: Clock, database: str, budget: str
) -> None:
    caller = make_caller(**{budget: str(ONE + 50)})
    with closing(ask(caller, stream=True)) as evening:
        assert failure(ask(caller)) == (429, "quota_exceeded", "1")
        time.set(AFTER)
        with closing(ask(caller, stream=True)) as morning:
            assert failure(ask(caller))[:2] == (429, "too_many_streams")
            assert b"message_stop" in evening.data
            assert failure(ask(caller)) == (429, "quota_exceeded", "86400")
            assert b"message_stop" in morning.data

    assert_charged(database, {MONDAY: 45, TUESDAY: 45})
    assert ask(caller).status_code == 200  # 45 and a reservation fit
    assert failure(ask(caller))[:2] == (429, "quota_exceeded")
    assert_charged(database, {MONDAY: 45, TUESDAY: 90})


def test_calls_of_both_days_are_settled_in_any_order_each_on_its_own_day(
    make_caller: MakeCaller, time: Clock, database: str, provider: AnthropicServer
) -> None:
    caller = make_caller()
    provider.behave(slow(10), slow(20), slow(30), slow(40))
    with ExitStack() as calls:
        first, second = (calls.enter_context(closing(ask(caller, stream=True))) for _ in range(2))
        time.set(AFTER)
        assert failure(ask(caller, stream=True))[:2] == (429, "too_many_streams")  # midnight frees none of them
        second.close()
        third = calls.enter_context(closing(ask(caller, stream=True)))
        assert days(database, "llm_reservations") == {MONDAY: ONE, TUESDAY: ONE}
        assert third.data
        fourth = calls.enter_context(closing(ask(caller, stream=True)))
        assert first.data
        assert fourth.data

    assert_charged(database, {MONDAY: 25 + 10 + 25 + 2, TUESDAY: 25 + 30 + 25 + 40})


def test_a_reservation_whose_worker_died_before_midnight_stays_charged_to_that_day(
    make_app: AppFactory, serve: ServiceFactory, provider: AnthropicServer, time: Clock, database: str
) -> None:
    provider.behave(stream().until("content_block_delta", FOREVER))
    service = serve(workers=2, DATABASE_URL=time.url, LLM_PROVIDER_KEY=API_KEY, LLM_PROVIDER_URL=provider.url)
    app = make_app(DATABASE_URL=time.url)
    cookie = new_cookie(app)
    with closing(begin(service, cookie, stream=True)) as call:
        assert call.getresponse().status == 200
        workers = service.workers()
        processes.kill(*workers)
    eventually(lambda: len(service.workers()) == 2 and not set(workers) & set(service.workers()))
    eventually(service.serves)

    assert usage_of(service, cookie) == (0, ONE)
    time.set("2099-11-24T00:10:58Z")
    assert usage_of(service, cookie) == (0, 0)
    time.set("2099-11-24T02:00:00Z")
    assert app.test_cli_runner().invoke(args=["purge"]).exit_code == 0
    assert_charged(database, {MONDAY: ONE})
    time.set(BEFORE)
    assert usage_of(service, cookie) == (ONE, 0)


def test_a_call_that_ends_long_after_its_reservation_was_purged_changes_nothing(
    make_caller: MakeCaller, time: Clock, database: str
) -> None:
    caller = make_caller()
    with closing(ask(caller, stream=True)) as answer:
        time.set("2099-11-24T23:59:59Z")
        assert caller.application.test_cli_runner().invoke(args=["purge"]).exit_code == 0
        assert answer.data

    assert_charged(database, {MONDAY: ONE})

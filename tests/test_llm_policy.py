"""May a call run? The pure rules, and that the reservation in SQL decides by the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumen_api.db import Database
from lumen_api.llm import policy
from lumen_api.llm.policy import Limits, Rule, Usage, estimate, refusal, tokens_in
from lumen_api.repositories import llm_usage
from lumen_api.repositories.llm_usage import Budget
from tests.support.rows import add_user

MODEL = "claude-sonnet-5-5"
LIMITS = Limits(
    models=(MODEL, "claude-haiku-5-5"),
    max_output_tokens=100,
    daily_tokens=1000,
    total_daily_tokens=5000,
    calls_at_once=2,
)
# One more token, or one more call, and it is too much.
FULL = Usage(tokens=990, total_tokens=4990, calls=1)


def test_what_just_fits_may_run() -> None:
    assert refusal(MODEL, 10, FULL, LIMITS) is None
    assert refusal(MODEL, 1000, policy.NOTHING, LIMITS) is None


@pytest.mark.parametrize(
    ("usage", "tokens", "rule"),
    [
        (FULL, 11, Rule.DAILY_TOKENS),
        (policy.NOTHING, 1001, Rule.DAILY_TOKENS),
        (replace(FULL, tokens=0, total_tokens=4991), 10, Rule.TOTAL_DAILY_TOKENS),
        (replace(FULL, tokens=0, total_tokens=5000), 1, Rule.TOTAL_DAILY_TOKENS),
        (replace(FULL, calls=2), 10, Rule.CALLS_AT_ONCE),
        (replace(policy.NOTHING, calls=3), 1, Rule.CALLS_AT_ONCE),
    ],
)
def test_what_does_not_fit_is_refused_by_the_rule_that_it_breaks(usage: Usage, tokens: int, rule: Rule) -> None:
    assert refusal(MODEL, tokens, usage, LIMITS) is rule


def test_of_several_broken_rules_the_one_that_is_over_first_is_named() -> None:
    everything = Usage(tokens=5000, total_tokens=5000, calls=2)

    assert refusal("another", 1, everything, LIMITS) is Rule.MODEL
    assert refusal(MODEL, 1, everything, LIMITS) is Rule.CALLS_AT_ONCE
    assert refusal(MODEL, 1, replace(everything, calls=1), LIMITS) is Rule.DAILY_TOKENS


@pytest.mark.parametrize("model", ["", "claude", MODEL.upper(), f"{MODEL} ", f"{MODEL}-20260101", f"{MODEL}\n"])
def test_a_model_is_offered_letter_by_letter_or_not_at_all(model: str) -> None:
    assert refusal(model, 0, policy.NOTHING, LIMITS) is Rule.MODEL
    assert all(refusal(offered, 0, policy.NOTHING, LIMITS) is None for offered in LIMITS.models)


def test_a_call_is_estimated_at_a_token_for_three_bytes_rounded_up_and_all_that_may_be_answered() -> None:
    assert [tokens_in(size) for size in (0, 1, 2, 3, 4, 6, 7)] == [0, 1, 1, 1, 2, 2, 3]
    assert tokens_in(2 * 1024 * 1024) == 699_051
    assert estimate(10, 4096) == 4 + 4096


@given(size=st.integers(0, 10**7), more=st.integers(0, 10**4), max_tokens=st.integers(1, 10**6))
def test_a_larger_call_is_never_estimated_smaller(size: int, more: int, max_tokens: int) -> None:
    assert estimate(size, max_tokens) > max_tokens - 1
    assert estimate(size + more, max_tokens) >= estimate(size, max_tokens)
    assert estimate(size, max_tokens + more) == estimate(size, max_tokens) + more


TOKENS = st.integers(0, 60)


@given(
    tokens=TOKENS,
    used=TOKENS,
    others=TOKENS,
    calls=st.integers(0, 3),
    daily=TOKENS,
    total=TOKENS,
    less=st.integers(0, 60),
)
def test_whatever_may_run_may_run_with_less_as_well(
    tokens: int, used: int, others: int, calls: int, daily: int, total: int, less: int
) -> None:
    limits = replace(LIMITS, daily_tokens=daily, total_daily_tokens=total)
    usage = Usage(tokens=used, total_tokens=used + others, calls=calls)
    if refusal(MODEL, tokens, usage, limits) is None:
        assert used + tokens <= daily
        assert used + others + tokens <= total
        assert refusal(MODEL, max(0, tokens - less), usage, limits) is None


# --- The same in SQL. ---

# Seconds until the deadlines of reservations.
DEADLINES = st.lists(st.sampled_from([-3600, -1, 60, 600]), max_size=4)


@dataclass(frozen=True)
class State:
    """Rows, and a call. A user without a row has used nothing; nor has anybody without a total."""

    used: int | None
    total: int | None
    yesterday: int
    deadlines: list[int]
    deadlines_of_others: list[int]
    tokens: int
    daily_tokens: int
    total_daily_tokens: int
    calls_at_once: int

    @property
    def usage(self) -> Usage:
        """What the rules are about."""
        calls = sum(deadline > 0 for deadline in self.deadlines)
        return Usage(tokens=self.used or 0, total_tokens=self.total or 0, calls=calls)

    @property
    def limits(self) -> Limits:
        """For the same state."""
        return replace(
            LIMITS,
            daily_tokens=self.daily_tokens,
            total_daily_tokens=self.total_daily_tokens,
            calls_at_once=self.calls_at_once,
        )


STATES = st.builds(
    State,
    used=st.none() | TOKENS,
    total=st.none() | TOKENS,
    yesterday=TOKENS,
    deadlines=DEADLINES,
    deadlines_of_others=DEADLINES,
    tokens=st.integers(1, 60),
    daily_tokens=st.integers(1, 90),
    total_daily_tokens=st.integers(1, 90),
    calls_at_once=st.integers(1, 3),
)

REMOVE = "delete from llm_reservations; delete from llm_usage; delete from llm_totals"
ADD = """
with today as (select (now() at time zone 'utc')::date as day),
used as (
    insert into llm_usage
    select %(ada)s::uuid, day, %(used)s from today where %(used)s is not null
     union all select %(ada)s::uuid, day - 1, %(yesterday)s from today
     union all select %(bob)s::uuid, day, 50 from today),
totals as (
    insert into llm_totals
    select day, %(total)s from today where %(total)s is not null
     union all select day - 1, %(yesterday)s from today),
mine as (
    insert into llm_reservations (user_id, day, tokens, deadline)
    select %(ada)s::uuid, day, 1, now() + s * interval '1 second' from today, unnest(%(deadlines)s::int[]) as s)
insert into llm_reservations (user_id, day, tokens, deadline)
select %(bob)s::uuid, day, 1, now() + s * interval '1 second' from today, unnest(%(deadlines_of_others)s::int[]) as s
"""
ROWS = """
select coalesce((select tokens from llm_usage where user_id = %(ada)s and day = (now() at time zone 'utc')::date), 0),
       coalesce((select tokens from llm_totals where day = (now() at time zone 'utc')::date), 0),
       (select count(*) from llm_reservations where user_id = %(ada)s and deadline > now())
"""


@settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(state=STATES)
def test_the_reservation_is_made_exactly_when_no_rule_stands_against_it(
    pool: Database, users: tuple[str, str], state: State
) -> None:
    ada, bob = users
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute(REMOVE)
        cursor.execute(ADD, {**vars(state), "ada": ada, "bob": bob})
        reserved = llm_usage.reserve(
            conn,
            user_id=ada,
            tokens=state.tokens,
            budget=Budget(state.daily_tokens, state.total_daily_tokens, state.calls_at_once),
            lifetime=timedelta(minutes=11),
        )
        cursor.execute(ROWS, {"ada": ada})
        rows = Usage(**dict(zip(("tokens", "total_tokens", "calls"), cursor.fetchone() or (), strict=True)))

    met = Usage(tokens=reserved.tokens, total_tokens=reserved.total_tokens, calls=reserved.calls)
    assert met == state.usage
    rule = refusal(MODEL, state.tokens, met, state.limits)
    assert (reserved.reservation_id is None) == (rule is not None), rule
    added = 0 if rule else state.tokens
    assert rows == Usage(
        tokens=met.tokens + added, total_tokens=met.total_tokens + added, calls=met.calls + (rule is None)
    )
    assert 0 < reserved.resets_in <= 86400


@pytest.fixture
def users(database: str) -> tuple[str, str]:
    """Two users; the calls are the first one's."""
    return add_user(database), add_user(database, "bob@example.com")

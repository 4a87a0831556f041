"""Where requests are counted: across workers and apps, and under keys that name nobody."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.conftest import AppFactory, ServiceFactory
from tests.support import eventually
from tests.support.journeys import sign_in
from tests.support.mailbox import Mailbox
from tests.support.outages import wait_for_redis
from tests.support.valkey import Valkey

OTHER_SECRET = "another secret of the tests, long enough for production"
IP = "203.0.113.77"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_redis(monkeypatch)


def verify(client: FlaskClient) -> TestResponse:
    """Try to sign in."""
    return client.post("/v1/auth/verify", json={"token": "nonsense"})


def statuses(*answers: TestResponse) -> list[int]:
    return [answer.status_code for answer in answers]


def verify_until_refused(client: FlaskClient, *, at_most: int = 20) -> int:
    """How many attempts were let through."""
    for passed in range(at_most):
        if verify(client).status_code == 429:
            return passed
    return at_most


def test_workers_count_together(serve: ServiceFactory, valkey: Valkey) -> None:
    service = serve(workers=2, REDIS_URL=valkey.url, RATE_LIMIT_VERIFY_PER_IP="10/hour")

    def attempt(_: int) -> int:
        return service.call("POST", "/v1/auth/verify", {"token": "nonsense"}).status

    def ten_of_thirty_pass() -> bool:
        with valkey.client() as counters, ThreadPoolExecutor(8) as threads:
            counters.flushall()
            answers = list(threads.map(attempt, range(30)))
        return (answers.count(401), answers.count(429)) == (10, 20)

    # Eventually, because a worker whose Redis takes more than 0.1 s, on a busy machine, counts for itself for a while.
    eventually(ten_of_thirty_pass, within=20)


def test_apps_with_one_redis_and_one_secret_count_together(make_app: AppFactory, valkey: Valkey) -> None:
    limits = {"REDIS_URL": valkey.url, "RATE_LIMIT_VERIFY_PER_IP": "5/hour"}
    first, second = make_app(**limits).test_client(), make_app(**limits).test_client()

    for client in (first, second, first):
        verify(client)

    assert verify_until_refused(second) == 2
    assert verify_until_refused(first) == 0


def test_apps_with_other_secrets_count_apart_in_one_redis(make_app: AppFactory, valkey: Valkey) -> None:
    limits = {"REDIS_URL": valkey.url, "RATE_LIMIT_VERIFY_PER_IP": "3/hour"}
    ours = make_app(**limits).test_client()
    theirs = make_app(**limits, AUTH_TOKEN_SECRETS=OTHER_SECRET).test_client()

    assert verify_until_refused(ours) == 3
    assert verify_until_refused(theirs) == 3


def test_a_restart_does_not_reset_the_counts(make_app: AppFactory, valkey: Valkey) -> None:
    limits = {"REDIS_URL": valkey.url, "RATE_LIMIT_VERIFY_PER_IP": "3/hour"}

    assert verify_until_refused(make_app(**limits).test_client()) == 3
    assert verify_until_refused(make_app(**limits).test_client()) == 0


def test_each_app_has_the_limits_of_its_own_configuration(make_app: AppFactory, valkey: Valkey) -> None:
    strict = make_app(RATE_LIMIT_VERIFY_PER_IP="1/hour").test_client()
    lax = make_app(RATE_LIMIT_VERIFY_PER_IP="7/hour").test_client()
    shared = make_app(RATE_LIMIT_VERIFY_PER_IP="4/hour", REDIS_URL=valkey.url).test_client()

    assert [verify_until_refused(client) for client in (lax, strict, shared)] == [7, 1, 4]


def test_apps_without_redis_count_for_themselves(make_app: AppFactory) -> None:
    first = make_app(RATE_LIMIT_VERIFY_PER_IP="3/hour").test_client()
    second = make_app(RATE_LIMIT_VERIFY_PER_IP="3/hour").test_client()

    assert [verify_until_refused(client) for client in (first, second)] == [3, 3]


def everything_counted(client: FlaskClient, mailbox: Mailbox) -> str:
    """Meet every limit once. The user's id."""
    client.environ_base["REMOTE_ADDR"] = IP
    return sign_in(client, mailbox)


def spellings(text: str) -> set[str]:
    """What `text` could be written as."""
    raw = text.encode()
    return {
        text,
        text.upper(),
        text.replace("-", ""),
        quote(text, safe=""),
        raw.hex(),
        raw.hex().upper(),
        base64.b64encode(raw).decode().rstrip("="),
        base64.urlsafe_b64encode(raw).decode().rstrip("="),
        base64.b32encode(raw).decode().rstrip("="),
    }


def test_keys_hold_neither_address_nor_ip_nor_user_id(make_app: AppFactory, valkey: Valkey, mailbox: Mailbox) -> None:
    client = make_app(REDIS_URL=valkey.url).test_client()
    user_id = everything_counted(client, mailbox)

    keys = valkey.keys()

    assert len(keys) == 4
    secrets = ("ada@example.com", "ada@", "example.com", IP, "203.0.113", user_id, user_id.partition("-")[0])
    for secret in secrets:
        assert not [key for key in keys for spelling in spellings(secret) if spelling in key], secret


def test_nobody_finds_a_key_without_the_secret(make_app: AppFactory, valkey: Valkey, mailbox: Mailbox) -> None:
    ours = make_app(REDIS_URL=valkey.url).test_client()
    user_id = everything_counted(ours, mailbox)
    keys = set(valkey.keys())
    with valkey.client() as counters:
        counters.flushall()
    theirs = make_app(REDIS_URL=valkey.url, AUTH_TOKEN_SECRETS=OTHER_SECRET).test_client()

    assert everything_counted(theirs, mailbox) == user_id
    assert len(valkey.keys()) == 4
    assert not keys & set(valkey.keys())


def test_every_key_goes_away_by_itself(make_app: AppFactory, valkey: Valkey, mailbox: Mailbox) -> None:
    limits = "100/minute;1000/hour"
    names = ("LINK_PER_IP", "LINK_PER_EMAIL", "VERIFY_PER_IP", "PER_USER")
    client = make_app(REDIS_URL=valkey.url, **{f"RATE_LIMIT_{name}": limits for name in names}).test_client()
    everything_counted(client, mailbox)

    keys = valkey.keys()
    with valkey.client() as counters:
        times_to_live = sorted(counters.ttl(key) for key in keys)

    assert len(times_to_live) == 8
    assert all(0 < seconds <= 60 for seconds in times_to_live[:4])
    assert all(60 < seconds <= 3600 for seconds in times_to_live[4:])


def test_the_last_moment_of_a_window_is_not_answered_with_retry_after_0(make_app: AppFactory, valkey: Valkey) -> None:
    client = make_app(REDIS_URL=valkey.url, RATE_LIMIT_VERIFY_PER_IP="1/hour").test_client()
    verify(client)
    (key,) = valkey.keys()
    refused: list[TestResponse] = []

    def is_refused_in_the_last_moment() -> bool:
        with valkey.client() as counters:
            counters.set(key, 1, px=400)
        refused.append(verify(client))
        return refused[-1].status_code == 429

    eventually(is_refused_in_the_last_moment)

    assert refused[-1].headers["Retry-After"] == "1"


def test_refused_requests_do_not_prolong_the_window(make_app: AppFactory, valkey: Valkey) -> None:
    client = make_app(REDIS_URL=valkey.url, RATE_LIMIT_VERIFY_PER_IP="1/hour").test_client()
    verify(client)
    (key,) = valkey.keys()
    with valkey.client() as counters:
        counters.expire(key, 50)

        assert statuses(verify(client), verify(client)) == [429, 429]
        assert 0 < counters.ttl(key) <= 50


def test_when_the_window_has_ended_requests_pass_again(make_app: AppFactory, valkey: Valkey) -> None:
    client = make_app(REDIS_URL=valkey.url, RATE_LIMIT_VERIFY_PER_IP="1/hour").test_client()
    assert statuses(verify(client), verify(client)) == [401, 429]
    (key,) = valkey.keys()
    with valkey.client() as counters:
        counters.pexpire(key, 1)
    eventually(lambda: not valkey.keys())

    assert verify(client).status_code == 401


def test_simultaneous_requests_are_all_counted_in_memory(make_app: AppFactory) -> None:
    app = make_app(RATE_LIMIT_VERIFY_PER_IP="100/hour")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: verify(app.test_client()), range(120)))

    assert sorted(statuses(*answers)) == [401] * 100 + [429] * 20


def test_one_round_trip_counts_all_limits_of_a_rule(make_app: AppFactory, valkey: Valkey) -> None:
    client = make_app(REDIS_URL=valkey.url, RATE_LIMIT_VERIFY_PER_IP="50/minute;200/hour").test_client()
    verify(client)  # which has the script sent
    with valkey.client() as redis:
        redis.config_resetstat()
        verify(client)
        calls = {name: figures["calls"] for name, figures in redis.info("commandstats").items()}

    assert calls == {"cmdstat_evalsha": 1, "cmdstat_incr": 2, "cmdstat_pttl": 2, "cmdstat_config|resetstat": 1}


def test_a_request_beyond_the_narrow_limit_is_not_counted_against_the_wide_one(
    make_app: AppFactory, valkey: Valkey
) -> None:
    client = make_app(REDIS_URL=valkey.url, RATE_LIMIT_VERIFY_PER_IP="2/second;5/hour").test_client()

    answers = [verify(client) for _ in range(4)]
    eventually(lambda: verify(client).status_code == 401)

    assert 429 in statuses(*answers)
    assert verify(client).headers["X-RateLimit-Limit"] == "2"

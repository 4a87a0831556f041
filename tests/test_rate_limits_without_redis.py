"""Redis away, hanging or out of order: requests go on, and every worker counts for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Barrier
from time import monotonic, perf_counter

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import AppFactory, ServiceFactory
from tests.support import eventually
from tests.support.journeys import sign_in
from tests.support.mailbox import Mailbox
from tests.support.outages import black_hole, refusal, silence, wait_for_redis
from tests.support.raw_server import RawServer, hang_up
from tests.support.valkey import Valkey

# Seconds. 0.3 is the contract's; the rest is for the request itself on a busy machine.
LONGEST_REQUEST = 0.45

# Seconds. Flask-Limiter looks 1, 2, 4, ... s apart whether Redis is back.
UNTIL_REDIS_IS_FOUND = 20.0

Outage = Callable[[Valkey], AbstractContextManager[None]]


def killed(valkey: Valkey) -> AbstractContextManager[None]:
    valkey.kill()
    return nullcontext()


@contextmanager
def paused(valkey: Valkey) -> Iterator[None]:
    valkey.pause()
    try:
        yield
    finally:
        valkey.resume()


def out_of_memory(valkey: Valkey) -> AbstractContextManager[None]:
    """It answers PING, and refuses every write."""
    with valkey.client() as client:
        client.config_set("maxmemory", "1")
    return nullcontext()


def not_to_be_read(valkey: Valkey) -> AbstractContextManager[None]:
    """Counting works, and asking for the count, for the headers, does not."""
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-get", "-ttl")
    return nullcontext()


OUTAGES = [killed, paused, out_of_memory, not_to_be_read]


def attempt(client: FlaskClient) -> int:
    """Try to sign in with nonsense: 401 unless something is wrong."""
    return client.post("/v1/auth/verify", json={"token": "nonsense"}).status_code


def timed_attempts(client: FlaskClient, count: int = 10) -> tuple[list[int], float]:
    """What `count` attempts were answered with, and how long the slowest took."""
    answers, slowest = [], 0.0
    for _ in range(count):
        start = perf_counter()
        answers.append(attempt(client))
        slowest = max(slowest, perf_counter() - start)
    return answers, slowest


def simultaneous_attempts(app: Flask, count: int = 8) -> list[int]:
    """What `count` threads hear that begin at the same time, as those of one worker may."""
    barrier = Barrier(count)

    def run(_: int) -> int:
        client = app.test_client()
        barrier.wait()
        return attempt(client)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("nobody", [refusal, silence, black_hole])
def test_without_redis_from_the_start_requests_succeed_and_wait_little(
    make_app: AppFactory, nobody: Callable[[], AbstractContextManager[int]], scheme: str
) -> None:
    with nobody() as port:
        client = make_app(REDIS_URL=f"{scheme}://127.0.0.1:{port}/0").test_client()
        answers, slowest = timed_attempts(client)

    assert answers == [401] * 10
    assert slowest < LONGEST_REQUEST


@pytest.mark.parametrize("nobody", [silence, black_hole])
def test_looking_whether_redis_is_back_takes_no_longer(
    make_app: AppFactory, nobody: Callable[[], AbstractContextManager[int]]
) -> None:
    with nobody() as port:
        client = make_app(REDIS_URL=f"redis://127.0.0.1:{port}/0").test_client()
        end = monotonic() + 1.5  # it looks after a second
        slowest = 0.0

        def until_then() -> bool:
            nonlocal slowest
            answers, took = timed_attempts(client, 1)
            assert answers == [401]
            slowest = max(slowest, took)
            return monotonic() > end

        eventually(until_then)

    assert 0.09 < slowest < LONGEST_REQUEST


@pytest.mark.parametrize("outage", OUTAGES)
def test_when_redis_fails_between_two_requests_they_succeed_and_wait_little(
    make_app: AppFactory, valkey: Valkey, outage: Outage
) -> None:
    client = make_app(REDIS_URL=valkey.url).test_client()
    assert attempt(client) == 401

    with outage(valkey):
        answers, slowest = timed_attempts(client)

    assert answers == [401] * 10
    assert slowest < LONGEST_REQUEST


@pytest.mark.parametrize("outage", OUTAGES)
def test_when_redis_fails_under_simultaneous_requests_they_all_succeed(
    make_app: AppFactory, valkey: Valkey, outage: Outage
) -> None:
    app = make_app(REDIS_URL=valkey.url)
    assert simultaneous_attempts(app) == [401] * 8

    with outage(valkey):
        answers = [simultaneous_attempts(app) for _ in range(3)]

    assert answers == [[401] * 8] * 3


@pytest.mark.parametrize("outage", OUTAGES)
def test_a_whole_journey_works_while_redis_is_away(
    make_app: AppFactory, mailbox: Mailbox, valkey: Valkey, outage: Outage
) -> None:
    client = make_app(REDIS_URL=valkey.url).test_client()

    with outage(valkey):
        sign_in(client, mailbox)
        assert client.post("/v1/sessions/start", json={"session_id": "one"}).status_code == 200
        assert client.post("/v1/auth/logout-all").status_code == 200


@pytest.mark.parametrize("outage", [killed, paused, out_of_memory])
def test_while_redis_is_away_the_limits_hold_in_memory(make_app: AppFactory, valkey: Valkey, outage: Outage) -> None:
    client = make_app(REDIS_URL=valkey.url, RATE_LIMIT_VERIFY_PER_IP="3/hour").test_client()

    with outage(valkey):
        answers = [attempt(client) for _ in range(5)]
        refused = client.post("/v1/auth/verify", json={"token": "nonsense"})

    assert answers == [401, 401, 401, 429, 429]
    assert refused.get_json()["error"]["code"] == "rate_limited"
    assert 3500 < int(refused.headers["Retry-After"]) <= 3600
    assert refused.headers["X-RateLimit-Remaining"] == "0"


@pytest.mark.parametrize("outage", [killed, paused])
def test_counting_goes_back_to_redis_when_it_returns(make_app: AppFactory, valkey: Valkey, outage: Outage) -> None:
    client = make_app(REDIS_URL=valkey.url).test_client()
    with outage(valkey):
        heard = {attempt(client)}
    if outage is killed:
        valkey.start()
    assert not valkey.keys()

    def counts_in_redis() -> bool:
        heard.add(attempt(client))
        return bool(valkey.keys())

    eventually(counts_in_redis, within=UNTIL_REDIS_IS_FOUND)

    assert heard == {401}


def test_a_restart_of_redis_between_two_requests_is_not_noticed(
    make_app: AppFactory, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_redis(monkeypatch)
    app = make_app(REDIS_URL=valkey.url)
    simultaneous_attempts(app)  # there are several connections now, and a script that the new server does not know

    valkey.kill()
    valkey.start()

    assert simultaneous_attempts(app) == [401] * 8
    assert len(valkey.keys()) == 1


def test_a_redis_that_hangs_up_on_a_new_connection_is_not_asked_again(make_app: AppFactory) -> None:
    with RawServer(hang_up) as server:
        assert attempt(make_app(REDIS_URL=f"redis://127.0.0.1:{server.port}/0").test_client()) == 401

        assert server.connections == 1


def test_no_request_fails_while_redis_comes_and_goes(make_app: AppFactory, valkey: Valkey) -> None:
    app = make_app(REDIS_URL=valkey.url)
    heard: set[int] = set()

    for change in (valkey.kill, valkey.start, valkey.pause, valkey.resume, valkey.kill):
        change()
        heard.update(simultaneous_attempts(app), simultaneous_attempts(app))

    assert heard == {401}


def test_each_worker_serves_and_counts_for_itself_when_redis_was_never_there(serve: ServiceFactory) -> None:
    with refusal() as port:
        service = serve(workers=2, REDIS_URL=f"redis://127.0.0.1:{port}/0", RATE_LIMIT_VERIFY_PER_IP="5/hour")

        def call(_: int) -> int:
            return service.call("POST", "/v1/auth/verify", {"token": "nonsense"}).status

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(call, range(64)))

    assert set(answers) == {401, 429}
    assert 5 <= answers.count(401) <= 10


def commands(valkey: Valkey) -> dict[str, int]:
    """How often each command was called, those of this question left out."""
    with valkey.client() as client:
        statistics = client.info("commandstats")
    counts = {name.removeprefix("cmdstat_"): int(of["calls"]) for name, of in statistics.items()}
    return {name: calls for name, calls in counts.items() if name not in ("info", "client|setinfo", "hello")}


def test_health_never_asks_redis(make_app: AppFactory, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_redis(monkeypatch)
    client = make_app(REDIS_URL=valkey.url).test_client()
    attempt(client)
    before = commands(valkey)

    assert [client.get("/v1/health").status_code for _ in range(5)] == [200] * 5
    assert commands(valkey) == before
    attempt(client)
    assert commands(valkey) != before


def test_health_does_not_look_whether_a_lost_redis_is_back(make_app: AppFactory, valkey: Valkey) -> None:
    client = make_app(REDIS_URL=valkey.url).test_client()
    with out_of_memory(valkey):
        attempt(client)
        attempt(client)
    before = commands(valkey)
    end = monotonic() + 1.5  # any other request would look after a second

    def healthy_until_then() -> bool:
        assert client.get("/v1/health").status_code == 200
        return monotonic() > end

    eventually(healthy_until_then)
    assert commands(valkey) == before
    eventually(lambda: attempt(client) and commands(valkey) != before)


def test_health_is_fast_while_redis_hangs(make_app: AppFactory, valkey: Valkey) -> None:
    client = make_app(REDIS_URL=valkey.url).test_client()
    with paused(valkey):
        start = perf_counter()
        answers = [client.get("/v1/health").status_code for _ in range(10)]
        took = perf_counter() - start

    assert answers == [200] * 10
    assert took < 0.5


def test_without_redis_configured_requests_are_counted_in_memory(make_app: AppFactory) -> None:
    client = make_app(RATE_LIMIT_VERIFY_PER_IP="3/hour").test_client()

    assert [attempt(client) for _ in range(5)] == [401, 401, 401, 429, 429]

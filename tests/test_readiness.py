"""Liveness asks nobody; readiness asks the database and Redis, and says which of them is missing."""

from __future__ import annotations

from time import perf_counter

import pytest
from werkzeug.test import TestResponse

from lumen_api import migrations
from tests.conftest import AppFactory
from tests.support import databases
from tests.support.migrating import tables
from tests.support.outages import Server, backends, black_hole, refusal, silence, wait_for_redis
from tests.support.valkey import Valkey

# Seconds: a second for the pool and two for the database, and what Redis may take.
LONGEST_ANSWER = 3.0


def assert_not_ready(answer: TestResponse, *, rate_limits: str) -> None:
    body = answer.get_json()
    assert (answer.status_code, body["error"]["code"]) == (503, "not_ready")
    assert body["checks"] == {"database": "unavailable", "rate_limits": rate_limits}
    assert set(body) == {"error", "checks"}
    assert int(answer.headers["Retry-After"]) >= 1
    assert body["error"]["request_id"] == answer.headers["X-Request-Id"]


def test_with_everything_there_the_service_is_ready(
    make_app: AppFactory, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_redis(monkeypatch)
    answer = make_app(REDIS_URL=valkey.url).test_client().get("/v1/health/ready")

    assert answer.status_code == 200
    assert answer.get_json() == {"status": "ok", "checks": {"database": "ok", "rate_limits": "ok"}}
    assert "Retry-After" not in answer.headers


def test_without_redis_configured_the_service_is_ready(make_app: AppFactory) -> None:
    answer = make_app().test_client().get("/v1/health/ready")

    assert answer.get_json() == {"status": "ok", "checks": {"database": "ok", "rate_limits": "ok"}}


def test_a_database_that_lacks_any_of_the_tables_is_not_ready(make_app: AppFactory, empty: str) -> None:
    migrations.apply(empty)
    client = make_app(DATABASE_URL=empty).test_client()
    statuses = {}
    for table in tables(empty):
        databases.query(empty, f"alter table {table} rename to away")
        statuses[table] = client.get("/v1/health/ready").status_code
        databases.query(empty, f"alter table away rename to {table}")

    assert len(statuses) == 7
    assert set(statuses.values()) == {503}
    assert client.get("/v1/health/ready").status_code == 200


def test_liveness_asks_nobody(make_app: AppFactory) -> None:
    with silence() as postgres, silence() as redis:
        urls = {"DATABASE_URL": f"postgresql://x@127.0.0.1:{postgres}/x", "REDIS_URL": f"redis://127.0.0.1:{redis}"}
        client = make_app(**urls).test_client()
        start = perf_counter()
        answers = [client.get("/v1/health") for _ in range(10)]
        took = perf_counter() - start

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.text for answer in answers} == {'{"status":"ok"}\n'}
    assert took < 0.5


def test_liveness_opens_no_connection(make_app: AppFactory, server: Server) -> None:
    client = make_app(DATABASE_URL=server.url).test_client()
    client.get("/v1/health")
    assert backends(server.url) == []

    client.get("/v1/health/ready")
    assert len(backends(server.url)) == 1


def test_redis_killed_is_degraded_and_still_ready(make_app: AppFactory, valkey: Valkey) -> None:
    client = make_app(REDIS_URL=valkey.url).test_client()
    client.get("/v1/health/ready")
    valkey.kill()

    answer = client.get("/v1/health/ready")

    assert answer.status_code == 200
    assert answer.get_json() == {"status": "ok", "checks": {"database": "ok", "rate_limits": "degraded"}}


def test_redis_hanging_is_degraded_quickly_and_still_ready(make_app: AppFactory, valkey: Valkey) -> None:
    client = make_app(REDIS_URL=valkey.url).test_client()
    client.get("/v1/health/ready")
    valkey.pause()
    try:
        start = perf_counter()
        answer = client.get("/v1/health/ready")
        took = perf_counter() - start
    finally:
        valkey.resume()

    assert (answer.status_code, answer.get_json()["checks"]["rate_limits"]) == (200, "degraded")
    assert took < 0.6


def test_redis_back_is_ok_at_once(make_app: AppFactory, valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_redis(monkeypatch)
    client = make_app(REDIS_URL=valkey.url).test_client()
    valkey.kill()
    assert client.get("/v1/health/ready").get_json()["checks"]["rate_limits"] == "degraded"

    valkey.start()

    assert client.get("/v1/health/ready").get_json()["checks"]["rate_limits"] == "ok"


def test_a_database_away_is_not_ready_and_ready_at_once_when_it_is_back(make_app: AppFactory, server: Server) -> None:
    client = make_app(DATABASE_URL=server.url).test_client()
    server.stop()
    assert_not_ready(client.get("/v1/health/ready"), rate_limits="ok")

    server.start()

    assert client.get("/v1/health/ready").status_code == 200


def test_a_database_hanging_is_not_ready_within_three_seconds(make_app: AppFactory, server: Server) -> None:
    client = make_app(DATABASE_URL=server.url).test_client()
    client.get("/v1/health/ready")
    with server.paused():
        start = perf_counter()
        answer = client.get("/v1/health/ready")
        took = perf_counter() - start

    assert_not_ready(answer, rate_limits="ok")
    assert took < LONGEST_ANSWER


def test_both_hanging_is_not_ready_within_three_seconds(make_app: AppFactory) -> None:
    with black_hole() as postgres, silence() as redis:
        urls = {"DATABASE_URL": f"postgresql://x@127.0.0.1:{postgres}/x", "REDIS_URL": f"redis://127.0.0.1:{redis}"}
        client = make_app(**urls).test_client()
        start = perf_counter()
        answer = client.get("/v1/health/ready")
        took = perf_counter() - start

    assert_not_ready(answer, rate_limits="degraded")
    assert took < LONGEST_ANSWER


def test_both_away_is_not_ready_at_once(make_app: AppFactory) -> None:
    with refusal() as port:
        urls = {"DATABASE_URL": f"postgresql://x@127.0.0.1:{port}/x", "REDIS_URL": f"redis://127.0.0.1:{port}"}
        answer = make_app(**urls).test_client().get("/v1/health/ready")

    assert_not_ready(answer, rate_limits="degraded")


def test_a_pool_in_full_use_is_not_ready(make_app: AppFactory) -> None:
    app = make_app(DATABASE_POOL_SIZE="1")
    with app.extensions["lumen.db"].connection():
        answer = app.test_client().get("/v1/health/ready")

    assert_not_ready(answer, rate_limits="ok")
    assert app.test_client().get("/v1/health/ready").status_code == 200

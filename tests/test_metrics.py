"""Metrics: what a collector receives from gunicorn and from `flask purge`, and that it is what is declared."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1 import metrics_pb2

from lumen_api.observability import metrics
from lumen_api.observability.metrics import Metric
from tests.conftest import ServiceFactory
from tests.support import eventually
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import error, message, stream
from tests.support.collector import Collector, attributes
from tests.support.llm import ASKED
from tests.support.observed import Observed, observed
from tests.support.outages import silence
from tests.support.programs import flask
from tests.support.rows import add_links, add_sign_ins, add_usage, add_user

ADA = "ada@example.com"
LINK, VERIFY, SESSION = "/v1/auth/request-link", "/v1/auth/verify", "/v1/auth/session"
MODEL = "/v1/llm/messages"
Counts = dict[tuple[Any, ...], float]


@pytest.fixture(scope="module")
def journey(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A service in which everything that is counted has happened, and that has stopped."""
    limits = {
        "RATE_LIMIT_LINK_PER_IP": "4/hour",
        "RATE_LIMIT_LINK_PER_EMAIL": "1/hour",
        "RATE_LIMIT_VERIFY_PER_IP": "2/hour",
        "RATE_LIMIT_PER_USER": "6/hour",
        "LLM_DAILY_TOKENS": "4170",
    }
    with (
        AnthropicServer() as provider,
        observed(
            postgres,
            tmp_path_factory.mktemp("metrics"),
            OTEL_TRACES_SAMPLER="always_on",
            LLM_PROVIDER_KEY=API_KEY,
            LLM_PROVIDER_URL=provider.url,
            **limits,
        ) as seen,
    ):
        assert seen.call("link", "POST", LINK, {"email": ADA}).status == 200
        seen.mailbox.answer_rcpt = lambda _: "550 5.1.1 nobody of that name"
        assert seen.call("link", "POST", LINK, {"email": "nobody@example.com"}).status == 200
        seen.mailbox.answer_rcpt = lambda _: "451 4.3.0 not now"
        assert seen.call("link", "POST", LINK, {"email": "later@example.com"}).status == 503
        assert seen.call("link", "POST", LINK, {"email": ADA}).status == 429
        assert seen.call("link", "POST", LINK, {"email": "other@example.com"}).status == 429
        assert seen.call("link", "POST", LINK, {"email": "other@example.com"}).status == 429
        signed_in = seen.call("verify", "POST", VERIFY, {"token": seen.mailbox.token_for(ADA)})
        assert signed_in.status == 200
        assert seen.call("verify", "POST", VERIFY, {"token": "a-forged-one"}).status == 401
        assert seen.call("verify", "POST", VERIFY, {"token": "a-forged-one"}).status == 429
        provider.behave(message(20), stream(20), error(401))
        for members, status in (({}, 200), ({"stream": True}, 200), ({}, 502), ({"max_tokens": 4096}, 429)):
            asked = seen.call("model", "POST", MODEL, {**ASKED, **members}, Cookie=signed_in.cookie)
            assert asked.status == status
        for status in (200, 200, 429):
            assert seen.call("session", "GET", SESSION, Cookie=signed_in.cookie).status == status
        assert seen.call("unknown", "GET", "/v1/nothing/here").status == 404
        assert seen.call("made up", "BREW", SESSION).status == 405
        assert seen.service.stop() == 0
        yield seen


def counts(collector: Collector, metric: Metric) -> Counts:
    """What a metric came to, by its attributes' values in the order in which they are declared; None: it has none."""
    found: Counts = {}
    for named, value in collector.points(metric.name):
        assert named.keys() <= set(metric.attributes)
        key = tuple(named.get(name) for name in metric.attributes)
        found[key] = found.get(key, 0) + value
    return found


# --- What is counted. ---


def test_links_are_counted_by_what_came_of_them(journey: Observed) -> None:
    assert counts(journey.collector, metrics.AUTH_EVENTS) == {
        ("auth_request", "sent"): 1,
        ("auth_request", "recipient_refused"): 1,
        ("auth_request", "email_unavailable"): 1,
        ("auth_verify", "signed_in"): 1,
        ("auth_verify", "invalid_token"): 1,
    }


def test_mails_are_counted_by_provider_and_outcome(journey: Observed) -> None:
    assert counts(journey.collector, metrics.EMAILS) == {
        ("smtp", "sent"): 1,
        ("smtp", "recipient_refused"): 1,
        ("smtp", "email_unavailable"): 1,
    }


def test_refusals_are_counted_by_rule(journey: Observed) -> None:
    assert counts(journey.collector, metrics.REFUSALS) == {
        ("link_per_email",): 1,
        ("link_per_ip",): 2,
        ("verify_per_ip",): 1,
        ("per_user",): 1,
        ("daily_tokens",): 1,
    }


def test_requests_are_counted_by_method_route_and_status_and_never_by_path(journey: Observed) -> None:
    found = counts(journey.collector, metrics.REQUEST_DURATION)

    assert found.pop(("GET", "http", "/v1/health", 200, None)) >= 1  # the start was waited for
    assert found == {
        ("POST", "http", LINK, 200, None): 2,
        ("POST", "http", LINK, 503, "SMTPRecipientsRefused"): 1,
        ("POST", "http", LINK, 429, None): 3,
        ("POST", "http", VERIFY, 200, None): 1,
        ("POST", "http", VERIFY, 401, None): 1,
        ("POST", "http", VERIFY, 429, None): 1,
        ("POST", "http", MODEL, 200, None): 2,
        ("POST", "http", MODEL, 502, "KeyRefused"): 1,
        ("POST", "http", MODEL, 429, None): 1,
        ("GET", "http", SESSION, 200, None): 2,
        ("GET", "http", SESSION, 429, None): 1,
        ("GET", "http", None, 404, None): 1,
        ("_OTHER", "http", None, 405, None): 1,
    }


def test_a_duration_is_in_seconds_with_the_buckets_of_the_conventions(journey: Observed) -> None:
    (duration,) = journey.collector.metrics("http.server.request.duration")

    assert duration.unit == "s"
    bounds = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
    for point in duration.histogram.data_points:
        assert list(point.explicit_bounds) == bounds
        assert 0 < point.sum < 60


def test_each_connection_that_was_used_was_waited_for_once_and_given_back(journey: Observed) -> None:
    # Three links and two that are taken back, a sign-in, a look at the cookie seven times; four reservations of which
    # three were settled.
    assert counts(journey.collector, metrics.CONNECTION_WAIT) == {("lumen",): 20}
    assert counts(journey.collector, metrics.CONNECTIONS) == {("lumen", "used"): 0}
    assert counts(journey.collector, metrics.CONNECTION_TIMEOUTS) == {}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def test_who_gets_no_connection_in_time_is_counted(serve: ServiceFactory, collector: Collector) -> None:
    with silence() as port, ThreadPoolExecutor(3) as pool:
        service = serve(
            workers=1,
            DATABASE_URL=f"postgresql://127.0.0.1:{port}/lumen",
            DATABASE_POOL_SIZE="1",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_METRIC_EXPORT_INTERVAL="100",
        )
        # One holds the only connection for longer than the others wait for it.
        asked = [pool.submit(service.call, "POST", LINK, {"email": ADA}) for _ in range(3)]
        eventually(lambda: counts(collector, metrics.CONNECTIONS) == {("lumen", "used"): 1})
        codes = sorted(each.result(10).json["error"]["code"] for each in asked)
        service.stop()

    assert codes == ["busy", "busy", "database_unavailable"]
    assert counts(collector, metrics.CONNECTION_TIMEOUTS) == {("lumen",): 2}
    assert counts(collector, metrics.CONNECTION_WAIT) == {}  # it never got one
    assert counts(collector, metrics.CONNECTIONS) == {("lumen", "used"): 0}


def test_a_purge_counts_the_rows_of_each_table(database: str, env: dict[str, str], collector: Collector) -> None:
    add_links(database, ADA, good=1, expired=5)
    user_id = add_user(database, ADA)
    add_sign_ins(database, user_id, good=1, expired=3)
    for days_ago in range(4):
        add_usage(database, user_id, used=1, days_ago=days_ago)
    add_usage(database, user_id, used=1, reserved=1, days_ago=5, deadline=-timedelta(days=1))

    done = flask("purge", {**env, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url})

    assert (done.returncode, done.stderr) == (0, "")
    assert counts(collector, metrics.PURGED) == {
        ("auth_tokens",): 5,
        ("auth_sessions",): 3,
        ("llm_usage",): 3,
        ("llm_reservations",): 1,
    }


# --- Nothing but what is declared. ---


def test_every_metric_arrives_as_it_is_declared(journey: Observed) -> None:
    declared = {metric.name: metric for metric in metrics.ALL}
    elsewhere = {metrics.CONNECTION_TIMEOUTS.name, metrics.PURGED.name}

    assert journey.collector.metric_names() == declared.keys() - elsewhere
    for name in journey.collector.metric_names():
        for found in journey.collector.metrics(name):
            assert (found.unit, found.description) == (declared[name].unit, declared[name].description)
            assert kind(found) == declared[name].kind


def kind(found: metrics_pb2.Metric) -> str:
    if found.HasField("histogram"):
        return "histogram"
    return "counter" if found.sum.is_monotonic else "up_down_counter"


def test_no_value_comes_with_an_example(journey: Observed) -> None:
    for name in journey.collector.metric_names():
        for found in journey.collector.metrics(name):
            for point in (*found.histogram.data_points, *found.sum.data_points):
                assert (list(point.exemplars), bool(attributes(point.attributes))) == ([], True)

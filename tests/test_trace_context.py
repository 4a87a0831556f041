"""Which requests are traced, whose trace they join, who the collector is told we are, and how to turn it off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from config import Config
from lumen_api.observability import telemetry
from tests.conftest import ServiceFactory
from tests.support import ROOT
from tests.support.collector import Collector
from tests.support.observed import Observed, observed
from tests.support.service import Service
from tests.test_config import PRODUCTION

CANARY = "canary"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"

MALFORMED = {
    "empty": "",
    "a word": CANARY,
    "too short": f"00-{TRACE[:-1]}-{PARENT}-01",
    "too long": f"00-{TRACE}0-{PARENT}-01",
    "no parent": f"00-{TRACE}-01",
    "not hexadecimal": f"00-{'g' * 32}-{PARENT}-01",
    "upper case": SAMPLED.upper(),
    "an id of zeros": f"00-{'0' * 32}-{PARENT}-01",
    "a parent of zeros": f"00-{TRACE}-{'0' * 16}-01",
    "a version that is none": f"ff-{TRACE}-{PARENT}-01",
    "more than its version has": f"{SAMPLED}-{CANARY}",
    "flags that are none": f"00-{TRACE}-{PARENT}-{CANARY}",
    "other digits": f"00-{'٤' * 32}-{PARENT}-01".encode().decode("latin-1"),
    "not UTF-8": f"00-{TRACE}-{PARENT}-\xff\xfe",
    "two at once": f"{SAMPLED},{SAMPLED}",
    "very long": f"00-{'a' * 4000}-{PARENT}-01",
}

ABOUT_US = {
    "OTEL_SERVICE_NAME": "everything",
    "OTEL_RESOURCE_ATTRIBUTES": "cloud.region=eu-central-1,team=a%2Cb%20c,deployment.environment.name=staging",
    "OTEL_EXPORTER_OTLP_HEADERS": "api-key=the-key,Authorization=Basic%20dTpw%3D,x-empty=",
}

# One service for all tests of a kind.


def asked(seen: Observed, step: str, **headers: str) -> None:
    assert seen.call(step, "GET", "/v1/auth/session", **headers).status == 401


@pytest.fixture(scope="module")
def everything(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """What became of requests where every trace of our own is sampled."""
    folder = tmp_path_factory.mktemp("everything")
    with observed(postgres, folder, OTEL_TRACES_SAMPLER_ARG="1", **ABOUT_US) as seen:
        asked(seen, "sampled", traceparent=SAMPLED, tracestate=f"{CANARY}={CANARY}", baggage=f"{CANARY}={CANARY}")
        asked(seen, "not-sampled", traceparent=NOT_SAMPLED, tracestate=f"{CANARY}={CANARY}")
        asked(seen, "stateful", tracestate=f"{CANARY}={CANARY}", baggage=f"{CANARY}={CANARY}", b3=f"{TRACE}-{PARENT}-1")
        for name, value in MALFORMED.items():
            asked(seen, name.replace(" ", "-"), traceparent=value, tracestate=f"{CANARY}={CANARY}")
        assert seen.service.stop() == 0
        yield seen


@pytest.fixture(scope="module")
def nothing(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """What became of requests where no trace of our own is sampled."""
    with observed(postgres, tmp_path_factory.mktemp("nothing"), OTEL_TRACES_SAMPLER_ARG="0") as seen:
        asked(seen, "sampled", traceparent=SAMPLED)
        asked(seen, "not-sampled", traceparent=NOT_SAMPLED)
        asked(seen, "alone")
        assert seen.service.stop() == 0
        yield seen


def spans_of(seen: Observed, step: str) -> list[Span]:
    return [span for span in seen.collector.spans() if span.trace_id.hex() == seen.trace(step)]


# --- Whose trace it is. ---


def test_a_callers_trace_is_joined(everything: Observed) -> None:
    (span,) = spans_of(everything, "sampled")

    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert everything.trace("sampled") == TRACE


def test_what_the_caller_does_not_sample_is_not_sampled(everything: Observed) -> None:
    assert everything.trace("not-sampled") == TRACE
    assert [span.trace_id.hex() for span in everything.collector.spans()].count(TRACE) == 1  # the sampled one


def test_what_the_caller_samples_is_sampled_whatever_the_ratio(nothing: Observed) -> None:
    (span,) = nothing.collector.spans()

    assert (span.name, span.trace_id.hex()) == ("GET /v1/auth/session", TRACE)
    assert nothing.trace("alone") != TRACE  # it had an id for the log all the same


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_traceparent_is_as_good_as_none(everything: Observed, name: str) -> None:
    (span,) = spans_of(everything, name.replace(" ", "-"))

    assert span.trace_id.hex() != TRACE
    assert span.parent_span_id == b""


@pytest.mark.parametrize("step", ["sampled", "stateful"])
def test_tracestate_and_baggage_go_nowhere(everything: Observed, step: str) -> None:
    (span,) = spans_of(everything, step)

    assert span.trace_state == ""
    assert CANARY not in everything.collector.text()
    assert CANARY not in everything.service.log.read_text()


def test_only_a_traceparent_makes_us_join(everything: Observed) -> None:
    (span,) = spans_of(everything, "stateful")

    assert (span.trace_id.hex() != TRACE, span.parent_span_id) == (True, b"")


# --- How many. ---


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def served(serve: ServiceFactory, collector: Collector, **variables: str) -> Service:
    return serve(workers=1, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **variables)


def test_one_request_in_ten_is_traced_unless_told_otherwise(serve: ServiceFactory, collector: Collector) -> None:
    service = served(serve, collector)
    for _ in range(200):
        service.call("GET", "/v1/health")
    service.stop()

    # 20 of 200, give or take 4: chance alone is outside once in 10 million times.
    assert 2 <= len(collector.spans()) <= 46


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("always_on", "AlwaysOnSampler"),
        ("always_off", "AlwaysOffSampler"),
        ("traceidratio", "TraceIdRatioBased{0.5}"),
        ("parentbased_always_on", "ParentBased{root:AlwaysOnSampler,"),
        ("parentbased_always_off", "ParentBased{root:AlwaysOffSampler,"),
        ("parentbased_traceidratio", "ParentBased{root:TraceIdRatioBased{0.5},"),
    ],
)
def test_a_sampler_is_the_one_that_the_specification_calls_so(name: str, meant: str) -> None:
    config = Config.from_env({**PRODUCTION, "OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": "0.5"})
    sampler = telemetry._SAMPLERS[config.otel_traces_sampler](config.otel_traces_sampler_arg)

    assert sampler.get_description().startswith(meant)


# --- Who we are. ---

SDK = {"telemetry.sdk.language", "telemetry.sdk.name", "telemetry.sdk.version"}


def test_by_default_we_are_lumen_api_and_say_no_more_than_needed(nothing: Observed) -> None:
    (resource,) = nothing.collector.resources()

    assert resource.keys() == SDK | {"service.name", "service.instance.id", "deployment.environment.name"}
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("lumen-api", "test")


def test_more_can_be_said_about_us(everything: Observed) -> None:
    (resource,) = everything.collector.resources()

    added = {name: value for name, value in resource.items() if name not in SDK | {"service.instance.id"}}
    assert added == {
        "service.name": "everything",
        "deployment.environment.name": "staging",
        "cloud.region": "eu-central-1",
        "team": "a,b c",
    }


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours"}, "ours"),
        ({"OTEL_SERVICE_NAME": "wins", "OTEL_RESOURCE_ATTRIBUTES": "service.name=loses"}, "wins"),
    ],
)
def test_the_service_may_be_named_among_the_attributes(variables: dict[str, str], name: str) -> None:
    assert Config.from_env({**PRODUCTION, **variables}).telemetry_resource["service.name"] == name


def test_headers_for_the_collector_arrive_decoded_with_both_signals(everything: Observed) -> None:
    payloads = everything.collector.payloads

    assert {payload.path for payload in payloads} == {"/v1/traces", "/v1/metrics"}
    for payload in payloads:
        headers = {name.lower(): value for name, value in payload.headers.items()}
        assert (headers["api-key"], headers["authorization"], headers["x-empty"]) == ("the-key", "Basic dTpw=", "")
    assert "the-key" not in everything.service.log.read_text()


# --- Off. ---


@pytest.mark.parametrize(
    ("name", "path"), [("OTEL_TRACES_EXPORTER", "/v1/metrics"), ("OTEL_METRICS_EXPORTER", "/v1/traces")]
)
def test_one_signal_can_be_turned_off(serve: ServiceFactory, collector: Collector, name: str, path: str) -> None:
    service = served(serve, collector, OTEL_TRACES_SAMPLER="always_on", **{name: "none"})
    service.call("GET", "/v1/auth/session")
    assert service.stop() == 0

    assert {payload.path for payload in collector.payloads} == {path}


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "true"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
    ],
    ids=["no endpoint", "disabled", "no exporter"],
)
def test_where_nothing_is_sent_nothing_is_imported_or_hooked_in(variables: dict[str, str]) -> None:
    script = """
import json, sys, wsgi
hooks = [f for table in ("before_request_funcs", "after_request_funcs", "teardown_request_funcs")
         for group in getattr(wsgi.app, table).values() for f in group]
print(json.dumps({"modules": sorted(sys.modules), "hooks": [getattr(f, "func", f).__module__ for f in hooks],
                  "wsgi_app": wsgi.app.wsgi_app.__module__}))
"""
    env = {"PATH": os.environ["PATH"], **PRODUCTION, "OTEL_TRACES_SAMPLER": "always_on", **variables}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True
    )

    found = json.loads(done.stdout.splitlines()[-1])
    unwanted = ("opentelemetry", "google.protobuf", "requests")
    assert [name for name in found["modules"] if name.startswith(unwanted)] == []
    assert {name.partition(".")[0] for name in found["hooks"]} == {"lumen_api"}
    assert found["wsgi_app"] == "lumen_api.headers"

"""Spans: what a request is made of, as a collector receives it from gunicorn, and nothing about a person in it."""

from __future__ import annotations

import inspect
import json
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags, TraceState

from lumen_api import repositories
from lumen_api.observability import tracing
from lumen_api.observability.telemetry import AllowedSpans
from tests.conftest import ServiceFactory
from tests.support.collector import Collector, attributes
from tests.support.journeys import HASH
from tests.support.mailbox import Mailbox
from tests.support.observed import Observed, observed
from tests.support.outages import refusal

CANARY = "canary"
ERROR = 2  # STATUS_CODE_ERROR


@pytest.fixture(scope="module")
def journey(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A service that has been asked everything and has stopped."""
    folder = tmp_path_factory.mktemp("tracing")
    with observed(postgres, folder, OTEL_TRACES_SAMPLER="always_on", TRUSTED_PROXY_HOPS="1") as seen:
        hostile = {"User_Agent": CANARY, "X_Forwarded_For": CANARY, "Host": CANARY, "Referer": f"http://{CANARY}"}
        cookie = seen.sign_in(f"{CANARY}@example.com")
        body = {"session_id": CANARY, "transcript_hash": HASH}
        seen.call("start", "POST", "/v1/sessions/start", {"session_id": CANARY}, Cookie=cookie, **hostile)
        seen.call("end", "POST", "/v1/sessions/end", body, Cookie=cookie, **hostile)
        seen.call("list", "GET", f"/v1/sessions?x={CANARY}", Cookie=cookie, **hostile)
        seen.call("export", "GET", "/v1/account", Cookie=cookie, **hostile)
        seen.call("unknown", "GET", f"/v1/{CANARY}?{CANARY}={CANARY}", **hostile)
        seen.call("method", "PUT", f"/v1/account?{CANARY}", **hostile)
        seen.call("made-up", CANARY.upper(), "/v1/account", **hostile)
        seen.call("unauthorized", "GET", "/v1/auth/session", Cookie=f"__Host-lumen_session={CANARY}", **hostile)
        seen.call("used", "POST", "/v1/auth/verify", {"token": CANARY}, **hostile)
        seen.mailbox.answer_rcpt = lambda address: f"451 4.3.0 no {address}"
        seen.call("unsent", "POST", "/v1/auth/request-link", {"email": f"{CANARY}@example.com"}, **hostile)
        assert seen.service.stop() == 0
        yield seen


def server_span(journey: Observed, step: str) -> Span:
    """The outermost span of a step."""
    trace = bytes.fromhex(journey.trace(step))
    (span,) = [span for span in journey.collector.spans() if span.trace_id == trace and not span.parent_span_id]
    assert span.kind == Span.SPAN_KIND_SERVER
    return span


# --- What there is. ---

DATABASE_AND_MAIL = {
    "auth_tokens.create": "auth.request_link",
    "email.send": "auth.request_link",
    "auth.request_link": "POST /v1/auth/request-link",
    "POST /v1/auth/request-link": None,
}


@pytest.mark.parametrize(
    ("step", "spans"),
    [
        ("request-link", DATABASE_AND_MAIL),
        ("unsent", {**DATABASE_AND_MAIL, "auth_tokens.delete": "auth.request_link"}),
        (
            "verify",
            {
                "auth_tokens.redeem": "auth.verify",
                "auth.verify": "POST /v1/auth/verify",
                "POST /v1/auth/verify": None,
            },
        ),
        (
            "start",
            {
                "auth_sessions.find": "session.start",
                "sessions.start": "session.start",
                "session.start": "POST /v1/sessions/start",
                "POST /v1/sessions/start": None,
            },
        ),
        (
            "end",
            {
                "auth_sessions.find": "session.end",
                "sessions.end": "session.end",
                "session.end": "POST /v1/sessions/end",
                "POST /v1/sessions/end": None,
            },
        ),
        (
            "list",
            {
                "auth_sessions.find": "GET /v1/sessions",
                "sessions.newest": "GET /v1/sessions",
                "GET /v1/sessions": None,
            },
        ),
        ("unauthorized", {"GET /v1/auth/session": None}),
    ],
)
def test_a_request_is_traced_with_its_parts(journey: Observed, step: str, spans: dict[str, str | None]) -> None:
    assert journey.collector.parents(journey.trace(step)) == spans


def test_what_waits_for_another_server_is_a_client_span_and_says_which(journey: Observed) -> None:
    spans = journey.collector.spans()

    clients = {span.name: attributes(span.attributes) for span in spans if span.kind == Span.SPAN_KIND_CLIENT}
    assert clients.pop("email.send") == {"lumen.email.provider": "smtp", "error.type": "SMTPRecipientsRefused"}
    assert {"auth_tokens.redeem", "sessions.newest", "account.find"} <= clients.keys()
    assert {name for name in clients if clients[name] != {"db.system.name": "postgresql"}} == set()


def functions(module: ModuleType) -> dict[str, bool]:
    """The public functions of a module that take a connection, and whether they have a span."""
    own = [f for _, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__]
    public = [f for f in own if "conn" in inspect.signature(f).parameters and not f.__name__.startswith("_")]
    return {f"{module.__name__}.{f.__name__}": hasattr(f, "__wrapped__") for f in public}


def test_every_statement_of_the_repositories_has_a_span_by_its_name() -> None:
    modules = [
        import_module(f"{repositories.__name__}.{found.name}") for found in pkgutil.iter_modules(repositories.__path__)
    ]
    traced = {name: traced for module in modules for name, traced in functions(module).items()}

    assert len(traced) >= 15
    assert [name for name, is_traced in traced.items() if not is_traced] == []


# --- What is in it, and what is not. ---


@pytest.mark.parametrize(
    ("step", "name", "method", "route", "status"),
    [
        ("start", "POST /v1/sessions/start", "POST", "/v1/sessions/start", 200),
        ("unauthorized", "GET /v1/auth/session", "GET", "/v1/auth/session", 401),
        ("unknown", "GET", "GET", None, 404),
        ("method", "PUT", "PUT", None, 405),
        ("made-up", "HTTP", "_OTHER", None, 405),  # as the conventions have it
    ],
)
def test_a_span_is_named_after_method_and_route_and_never_after_a_path(
    journey: Observed, step: str, name: str, method: str, route: str | None, status: int
) -> None:
    span = server_span(journey, step)

    said = {"http.request.method": method, "http.response.status_code": status}
    assert attributes(span.attributes) == ({**said, "http.route": route} if route else said)
    assert span.name == name


def test_no_span_holds_more_than_the_list_allows(journey: Observed) -> None:
    spans = journey.collector.spans()

    assert len(spans) > 25
    for span in spans:
        assert attributes(span.attributes).keys() <= tracing.ATTRIBUTES
        assert (list(span.events), list(span.links), span.status.message, span.trace_state) == ([], [], "", "")
        dropped = span.dropped_attributes_count + span.dropped_events_count + span.dropped_links_count
        assert dropped == 0  # nor how much was taken away


def test_nothing_that_a_caller_sent_reaches_the_collector(journey: Observed) -> None:
    text = journey.collector.text().lower()

    assert "sessions.start" in text
    for secret in (CANARY, HASH, "select ", "insert ", "example.com", "user_agent.original", "client.address"):
        assert secret not in text


@pytest.mark.parametrize("step", ["request-link", "verify", "start", "unknown", "method", "unauthorized", "used"])
def test_an_answer_below_500_is_no_error_of_the_service(journey: Observed, step: str) -> None:
    spans = [span for span in journey.collector.spans() if span.trace_id.hex() == journey.trace(step)]

    assert [span.name for span in spans if span.status.code == ERROR] == []
    assert "error.type" not in attributes(server_span(journey, step).attributes)


def test_a_mail_that_cannot_be_sent_is_an_error_by_its_class(journey: Observed) -> None:
    span = server_span(journey, "unsent")

    assert (span.status.code, attributes(span.attributes)["error.type"]) == (ERROR, "SMTPRecipientsRefused")


def test_a_database_that_is_away_is_an_error_by_its_class(serve: ServiceFactory, collector: Collector) -> None:
    with refusal() as port:
        database = f"postgresql://{CANARY}:{CANARY}@127.0.0.1:{port}/{CANARY}"
        service = serve(workers=1, DATABASE_URL=database, **to(collector), OTEL_TRACES_SAMPLER="always_on")
        answer = service.call("POST", "/v1/auth/request-link", {"email": "ada@example.com"})
        service.stop()

    assert answer.status == 503
    spans = [collector.span("POST /v1/auth/request-link"), collector.span("auth.request_link")]
    assert [(span.status.code, attributes(span.attributes)["error.type"]) for span in spans] == [
        (ERROR, "OperationalError"),
        (ERROR, "OperationalError"),
    ]
    assert CANARY not in collector.text()


# --- An instrumentation that knows too much. ---


def test_an_unknown_attribute_event_link_or_status_text_is_taken_away() -> None:
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(AllowedSpans(memory))
    elsewhere = SpanContext(1, 2, True, TraceFlags(1), TraceState([(CANARY, CANARY)]))
    link = Link(elsewhere, {CANARY: CANARY})

    with provider.get_tracer("an.instrumentation").start_as_current_span(f"GET /{CANARY}", links=[link]) as span:
        span.set_attributes({"http.request.method": "GET", "url.path": CANARY, CANARY: CANARY, "http.target": CANARY})
        span.add_event(CANARY, {CANARY: CANARY})
        span.record_exception(ValueError(CANARY))
        span.set_status(Status(StatusCode.ERROR, CANARY))
    provider.shutdown()

    (sent,) = memory.get_finished_spans()
    assert sent.name == "GET"
    assert dict(sent.attributes or {}) == {"http.request.method": "GET"}
    assert (sent.events, sent.links, sent.status.description) == ((), (), None)
    assert sent.status.status_code is StatusCode.ERROR
    assert CANARY not in sent.to_json()


# --- The log beside it. ---


@pytest.mark.parametrize("step", ["request-link", "verify", "unknown", "unsent"])
def test_every_line_of_a_request_carries_the_id_of_its_trace(journey: Observed, step: str) -> None:
    lines = journey.lines(step)

    assert lines
    assert {line.get("trace_id") for line in lines} == {server_span(journey, step).trace_id.hex()}


def test_without_a_collector_no_line_has_a_trace_id(serve: ServiceFactory, mailbox: Mailbox) -> None:
    parent = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    service = serve(workers=1)
    service.call("POST", "/v1/auth/request-link", {"email": "ada@example.com"}, headers=parent)
    service.stop()

    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert {"auth_request", "request"} <= {line["event"] for line in lines}
    assert not any("trace_id" in line for line in lines)
    assert mailbox.token_for("ada@example.com")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def to(collector: Collector) -> dict[str, str]:
    """The variables that send everything there."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}

"""Spans and metrics of calls of the model, by OpenTelemetry's names, as a collector receives them from gunicorn.

https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from lumen_api.observability import metrics, tracing
from tests.support import eventually
from tests.support.anthropic import API_KEY, AnthropicServer
from tests.support.anthropic_answers import FOREVER, error, message, stream
from tests.support.anthropic_events import MODEL, error_event
from tests.support.collector import attributes
from tests.support.llm import ASKED
from tests.support.observed import Observed, observed

MESSAGES = "/v1/llm/messages"
CHAT = f"chat {MODEL}"
ERROR = 2  # STATUS_CODE_ERROR
PACE = 0.05  # seconds between two words
MANY = "100000/minute"


@pytest.fixture(scope="module")
def journey(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A service that has been asked all kinds of calls and has stopped."""
    with AnthropicServer() as provider:
        proxy = {"LLM_PROVIDER_KEY": API_KEY, "LLM_PROVIDER_URL": provider.url, "RATE_LIMIT_LLM_PER_USER": MANY}
        folder = tmp_path_factory.mktemp("calls")
        with observed(postgres, folder, OTEL_TRACES_SAMPLER="always_on", **proxy) as seen:
            cookie = seen.sign_in("ada@example.com")
            for step, answer, streamed in (
                ("whole", message(20), False),
                ("streamed", stream(20, every=PACE), True),
                ("refused", error(403), True),
                ("rejected", error(400), False),
                ("broken", stream(20).until("content_block_delta", error_event("api_error"), nth=10), True),
            ):
                provider.behave(answer)
                seen.call(step, "POST", MESSAGES, {**ASKED, "stream": streamed}, Cookie=cookie)
            provider.behave(stream(20).until("content_block_delta", FOREVER, nth=10))
            leave(seen, "left", cookie)
            seen.call("not-allowed", "POST", MESSAGES, {**ASKED, "model": "another"}, Cookie=cookie)
            assert seen.service.stop() == 0
            yield seen


def leave(seen: Observed, step: str, cookie: str) -> None:
    """Ask for a stream that pauses, and hang up then."""
    with suppress(TimeoutError):
        seen.service.call(
            *("POST", MESSAGES, {**ASKED, "stream": True}),
            headers={"X-Request-Id": step, "Cookie": cookie},
            timeout=0.5,
        )
    eventually(lambda: seen.lines(step))


def spans(seen: Observed, step: str) -> dict[str, Span]:
    """The spans of a step, by their names."""
    return {span.name: span for span in seen.collector.spans() if span.trace_id.hex() == seen.trace(step)}


@pytest.mark.parametrize("step", ["whole", "streamed", "left"])
def test_a_call_is_a_part_of_its_request_and_has_its_settlement(journey: Observed, step: str) -> None:
    assert journey.collector.parents(journey.trace(step)) == {
        "auth_sessions.find": f"POST {MESSAGES}",
        "llm_usage.reserve": f"POST {MESSAGES}",
        "llm_usage.settle": CHAT,
        CHAT: f"POST {MESSAGES}",
        f"POST {MESSAGES}": None,
    }
    assert spans(journey, step)[CHAT].kind == Span.SPAN_KIND_CLIENT


def test_the_span_of_a_streamed_call_ends_with_the_stream(journey: Observed) -> None:
    call, settlement = spans(journey, "streamed")[CHAT], spans(journey, "streamed")["llm_usage.settle"]

    assert call.end_time_unix_nano - call.start_time_unix_nano >= 20 * PACE * 1e9
    assert call.end_time_unix_nano >= settlement.end_time_unix_nano


# Ten words are 50 bytes, for which 17 tokens are charged.
ATTRIBUTES: list[tuple[str, dict[str, Any], bool]] = [
    ("whole", {"gen_ai.usage.input_tokens": 25, "gen_ai.usage.output_tokens": 20}, False),
    ("streamed", {"gen_ai.usage.input_tokens": 25, "gen_ai.usage.output_tokens": 20}, False),
    ("refused", {"gen_ai.usage.output_tokens": 0, "error.type": "KeyRefused"}, True),
    ("rejected", {"gen_ai.usage.output_tokens": 0, "error.type": "ProviderRejected"}, False),
    (
        "broken",
        {"gen_ai.usage.input_tokens": 25, "gen_ai.usage.output_tokens": 17, "error.type": "ProviderError"},
        True,
    ),
    ("left", {"gen_ai.usage.input_tokens": 25, "gen_ai.usage.output_tokens": 17, "error.type": "ClientGone"}, False),
]


@pytest.mark.parametrize(("step", "said", "failed"), ATTRIBUTES, ids=[step for step, _, _ in ATTRIBUTES])
def test_a_span_says_what_was_asked_what_it_cost_and_why_it_failed(
    journey: Observed, step: str, said: dict[str, Any], failed: bool
) -> None:
    span = spans(journey, step)[CHAT]

    assert attributes(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.max_tokens": 100,
        "gen_ai.request.stream": step not in ("whole", "rejected"),
        **said,
    }
    assert (span.status.code == ERROR, span.status.message) == (failed, "")


def test_a_model_that_is_not_allowed_names_no_span(journey: Observed) -> None:
    assert [name for name in spans(journey, "not-allowed") if name.startswith("chat")] == []
    assert "another" not in journey.collector.text()


def test_calls_are_measured_by_model_and_error(journey: Observed) -> None:
    call = ("chat", "anthropic", MODEL)

    assert counts(journey, metrics.MODEL_DURATION) == {
        (*call, None): 2,
        (*call, "KeyRefused"): 1,
        (*call, "ProviderRejected"): 1,
        (*call, "ProviderError"): 1,
        (*call, "ClientGone"): 1,
    }
    assert counts(journey, metrics.MODEL_FIRST_CHUNK) == {call: 3}  # streamed, broken, left


def test_tokens_are_counted_by_their_type(journey: Observed) -> None:
    (tokens,) = journey.collector.metrics(metrics.MODEL_TOKENS.name)[-1:]
    sums = {attributes(point.attributes)["gen_ai.token.type"]: point.sum for point in tokens.histogram.data_points}

    assert sums == {"input": 4 * 25, "output": 20 + 20 + 17 + 17}


def counts(seen: Observed, metric: metrics.Metric) -> dict[tuple[Any, ...], float]:
    """How often a metric was measured, by its attributes' values; None: it has none."""
    points = seen.collector.points(metric.name)
    return {tuple(named.get(name) for name in metric.attributes): count for named, count in points}


def test_durations_have_the_conventions_buckets_and_are_true(journey: Observed) -> None:
    (duration,) = journey.collector.metrics(metrics.MODEL_DURATION.name)[-1:]
    (good,) = [point for point in duration.histogram.data_points if "error.type" not in attributes(point.attributes)]

    assert duration.unit == "s"
    assert list(good.explicit_bounds) == [0.01 * 2**n for n in range(14)]
    assert 20 * PACE <= good.sum < 30


def test_no_span_of_a_call_holds_more_than_the_list_allows(journey: Observed) -> None:
    for span in journey.collector.spans():
        assert attributes(span.attributes).keys() <= tracing.ATTRIBUTES
        assert (list(span.events), list(span.links), span.status.message) == ([], [], "")

"""The proof that nothing about a person is in what an operator sees: the log, the telemetry, the databases' own logs;
and nothing that was said to the model or by it, nor in any table.

Production with two workers, and callers with a canary in every place that they control. What fails beside them is in
test_privacy_faults.py; that the search would find a canary, in test_canaries.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app import create_app
from config import Config
from lumen_api.errors import ApiError
from lumen_api.observability import metrics
from lumen_api.server import refusals  # noqa: F401 - whose errors codes() finds
from tests.support import journey_of_a_canary as journey
from tests.support.anthropic_events import MODEL
from tests.support.caller import Caller
from tests.support.canaries import Canaries
from tests.support.collector import attributes
from tests.support.conversation_of_canaries import Conversation
from tests.support.production import production

Routes = set[tuple[str, str]]


@dataclass
class Seen:
    """What one drive through all routes has left behind."""

    level: str
    leaks: str
    strays: str  # of what goes between a caller and the model
    lines: list[dict[str, Any]]
    codes: set[str]
    spans: set[str]
    metrics: set[str]
    refused_rules: set[str]

    def of_requests(self) -> list[dict[str, Any]]:
        """The lines of requests."""
        return [line for line in self.lines if line["event"] == "request"]


@pytest.fixture
def seen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Seen]:
    """The drive, at the log level that the test names."""
    canaries = Canaries()
    with production(tmp_path, {**journey.LIMITS, "LOG_LEVEL": request.param}) as it:
        caller = Caller(it, canaries)
        cookie = journey.succeed(caller)
        journey.ask_for_everything(caller, sorted({rule for _, rule in routes()}))
        journey.garble(caller)
        conversation = Conversation(caller)
        conversation.hold()
        journey.fail(caller, cookie)
        strays = conversation.strays()
        leaks = it.leaks(canaries, conversation.canaries)
        refusals = [
            point for metric in it.collector.metrics("lumen.rate_limit.refusals") for point in metric.sum.data_points
        ]
        yield Seen(
            request.param,
            leaks,
            strays,
            it.records(),
            caller.codes,
            {span.name for span in it.collector.spans()},
            it.collector.metric_names(),
            {attributes(point.attributes)["lumen.rate_limit.rule"] for point in refusals},
        )


def routes() -> Routes:
    """Every method and rule of the URL map."""
    settings = {"APP_ENV": "test", "DATABASE_URL": "postgresql:///none", "SMTP_URL": "smtp://127.0.0.1:1"}
    app = create_app(Config.from_env({**settings, "EMAIL_FROM": "lumen@example.com"}))
    return {(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods or ()}


def codes(error: type[ApiError] = ApiError) -> set[str]:
    """The code of every error that the service can answer with, its worker included."""
    own = {error.code} if error.__module__.startswith("lumen_api.") and hasattr(error, "code") else set()
    return own.union(*map(codes, error.__subclasses__()))


@pytest.mark.parametrize("seen", ["INFO", "DEBUG"], indirect=True)
def test_nothing_about_a_person_is_left_behind(seen: Seen) -> None:
    assert seen.leaks == ""
    assert seen.strays == ""

    # Which says something only if all of it was there to be found.
    assert_every_route_was_asked(seen)
    assert_every_route_has_succeeded(seen)
    assert_every_error_was_provoked(seen)
    assert_gunicorn_has_refused_garbage(seen)
    assert_spans_and_metrics_have_arrived(seen)


def assert_every_route_was_asked(seen: Seen) -> None:
    written = {(line["method"], line["route"]) for line in seen.of_requests()}

    quiet = {route for route in routes() if "/health" in route[1]} if seen.level == "INFO" else set()
    assert routes() - quiet <= written
    assert {("GET", "unmatched"), ("_OTHER", "unmatched")} <= written


def assert_every_route_has_succeeded(seen: Seen) -> None:
    successes = {(line["method"], line["route"]) for line in seen.of_requests() if line["status"] == 200}

    automatic = {route for route in routes() if route[0] in ("HEAD", "OPTIONS")}
    quiet = {route for route in routes() if "/health" in route[1]} if seen.level == "INFO" else set()
    assert routes() - automatic - quiet <= successes


def assert_every_error_was_provoked(seen: Seen) -> None:
    logged = {line["error_code"] for line in seen.lines if line["event"] in ("request", "refused")} - {None}
    assert logged == codes() - journey.CODES_OF_FAULTS
    assert seen.codes == logged - journey.CODES_IN_THE_LOG_ALONE


def assert_gunicorn_has_refused_garbage(seen: Seen) -> None:
    complaints = [line for line in seen.lines if line.get("logger") == "gunicorn.error" and line["level"] == "warning"]

    assert len(complaints) >= 10


def assert_spans_and_metrics_have_arrived(seen: Seen) -> None:
    ours = {"session.start", "session.end", "auth.request_link", "auth.verify", "auth_tokens.redeem", "email.send"}
    ours |= {f"chat {MODEL}", "llm_usage.reserve", "llm_usage.settle"}
    assert {*ours, *(" ".join(route) for route in routes())} <= seen.spans
    elsewhere = {metrics.CONNECTION_TIMEOUTS.name, metrics.PURGED.name}
    assert seen.metrics == {metric.name for metric in metrics.ALL} - elsewhere
    of_callers = {"link_per_ip", "link_per_email", "verify_per_ip", "per_user"}
    assert seen.refused_rules == {*of_callers, "llm_per_user", "calls_at_once", "daily_tokens"}

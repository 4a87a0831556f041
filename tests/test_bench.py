"""The benchmark: what it measures, what it refuses to count, and that what is published is what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench import load, plot, report
from bench.__main__ import PLOT, RESULTS, run
from bench.report import Results
from bench.routes import ROUTES, Request
from bench.stand import Stand, stand, start
from tests.support import ROOT

FIGURES = {"requests_per_second", "p50_ms", "p99_ms", "server_cpu", "postgres_cpu", "sink_cpu"}
SESSION = next(route for route in ROUTES if route.name == "session")


# --- What is published. ---


@pytest.fixture
def results() -> Results:
    """Those in the repository."""
    published: Results = json.loads(RESULTS.read_text())
    return published


def test_the_results_hold_every_route_variant_and_round(results: Results) -> None:
    rounds = results["settings"]["rounds"]

    assert {route.name: set(route.variants) for route in ROUTES} == {
        name: set(variants) for name, variants in results["routes"].items()
    }
    for variants in results["routes"].values():
        for figures in variants.values():
            assert {name: len(values) for name, values in figures.items()} == dict.fromkeys(FIGURES, rounds)
            assert min(figures["requests_per_second"] + figures["p50_ms"] + figures["server_cpu"]) > 0


def test_the_picture_shows_the_results(results: Results) -> None:
    assert PLOT.read_text() == plot.svg(results)


def test_the_document_shows_the_results(results: Results) -> None:
    document = (ROOT / "docs" / "performance.md").read_text()

    for part in (report.goals, report.figures, report.memory):
        assert part(results) in document


def test_results_are_written_as_they_were(results: Results) -> None:
    assert json.loads(report.as_json(results)) == results
    assert RESULTS.read_text() == report.as_json(results)


# --- What follows from figures. ---


def made_of(floor: list[float], service: list[float]) -> Results:
    """Results of session checks alone, in requests per second and CPU seconds per 1,000."""

    def figures(rates: list[float]) -> dict[str, list[float]]:
        return {name: [1000 / rate for rate in rates] for name in FIGURES} | {"requests_per_second": rates}

    return {"routes": {"session": {"floor": figures(floor), "service": figures(service)}}}


@pytest.mark.parametrize(
    ("service", "verdict"),
    [([80.0, 90.0, 10.0], "met"), ([79.6, 79.6, 79.6], "met"), ([79.4, 79.4, 200.0], "MISSED")],
    ids=["exactly", "rounded", "one good round is not enough"],
)
def test_a_goal_is_met_by_the_median_of_the_rounds(service: list[float], verdict: str) -> None:
    assert report.goals(made_of([100.0] * 3, service)).rstrip(" |").endswith(verdict)


def test_rounds_are_compared_with_themselves_because_the_machine_changes_between_them() -> None:
    slow_and_fast = made_of([100.0, 1000.0, 100.0], [90.0, 900.0, 90.0])

    assert report.by_rate(slow_and_fast, SESSION).rounds == [0.9, 0.9, 0.9]
    assert report.by_cpu(slow_and_fast, SESSION).median == pytest.approx(0.9)


# --- A run. ---


@pytest.fixture(scope="module")
def bench() -> Iterator[Stand]:
    """PostgreSQL, Valkey, mail server, and bare Flask, which knows health alone."""
    with stand() as made:
        start(made, "flask", {})
        yield made


@pytest.mark.full
def test_a_short_run_measures_everything_of_a_route() -> None:
    found = run([SESSION], rounds=1, seconds=1)

    assert set(found["routes"]["session"]) == {"floor", "service"}
    assert set(found["routes"]["session"]["service"]) == FIGURES
    assert found["redis_commands"]["session"] > 0
    assert "session" in report.markdown(found)
    assert "<svg" in plot.svg(found)


@pytest.mark.full
def test_answers_that_are_not_good_are_not_counted(bench: Stand) -> None:
    with pytest.raises(SystemExit, match="answers were not good"):
        load.measure(bench, SESSION, bench.variants["flask"], 1)


@pytest.mark.full
def test_a_request_that_works_once_is_not_sent_twice(bench: Stand) -> None:
    few = replace(SESSION, once=True, make=lambda _stand, _count: [Request("GET", "/v1/health")] * 10)

    with pytest.raises(SystemExit, match="all 10 requests have been sent"):
        load.measure(bench, few, bench.variants["flask"], 1)

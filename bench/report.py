"""Medians, ratios, goals, and tables in Markdown that are aligned for the terminal too."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.routes import ROUTES, Route

Results = dict[str, Any]


@dataclass(frozen=True)
class Ratio:
    """The service as a part of its limit: in each round, and the median of the rounds."""

    rounds: list[float]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        return spread(self.rounds, 2)


def values(results: Results, route: str, variant: str, key: str) -> list[float]:
    """What the rounds have measured."""
    measured: list[float] = results["routes"][route][variant][key]
    return measured


def median(results: Results, route: str, variant: str, key: str) -> float:
    """Of the rounds."""
    return statistics.median(values(results, route, variant, key))


def by_rate(results: Results, route: Route) -> Ratio:
    """Requests per second, as a part of the limit's."""
    own, base = (values(results, route.name, name, "requests_per_second") for name in ("service", route.base))
    return Ratio([a / b for a, b in zip(own, base, strict=True)])


def by_cpu(results: Results, route: Route) -> Ratio:
    """Requests per CPU second of the server, as a part of the limit's."""
    own, base = (values(results, route.name, name, "server_cpu") for name in ("service", route.base))
    return Ratio([b / a for a, b in zip(own, base, strict=True)])


def measured_routes(results: Results) -> list[Route]:
    """Those that the results are about."""
    return [route for route in ROUTES if route.name in results["routes"]]


def spread(numbers: Sequence[float], digits: int) -> str:
    """The median, and the smallest and the largest where they differ."""
    low, middle, high = (f"{number:,.{digits}f}" for number in (min(numbers), statistics.median(numbers), max(numbers)))
    return middle if low == high else f"{middle} ({low}-{high})"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"

    return "\n".join(map(line, (heading, rule, *rows)))


def as_json(results: Results) -> str:
    """With each list of figures on one line."""
    text = json.dumps(results, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def markdown(results: Results) -> str:
    """Everything."""
    return "\n\n".join([goals(results), figures(results), memory(results), conditions(results)])


def goals(results: Results) -> str:
    """The service as a part of its limit."""
    rows = []
    for route in measured_routes(results):
        rate = by_rate(results, route)
        rates = (f"{median(results, route.name, name, 'requests_per_second'):,.0f}" for name in (route.base, "service"))
        verdict = "met" if round(rate.median, 2) >= route.goal else "MISSED"
        limit = "bare Flask" if route.base == "flask" else route.base
        rows.append([route.name, limit, *rates, str(rate), str(by_cpu(results, route)), f"{route.goal:.2f}", verdict])
    heading = ["route", "limit", "limit, req/s", "service, req/s", "ratio", "ratio by CPU", "goal", ""]
    return table(heading, rows)


def figures(results: Results) -> str:
    """All that was measured, as medians of the rounds."""
    columns = {"requests_per_second": 0, "p50_ms": 1, "p99_ms": 1, "server_cpu": 3, "postgres_cpu": 3}
    rows = [
        [f"{route.name}, {name}", *(spread(values(results, route.name, name, key), columns[key]) for key in columns)]
        for route in measured_routes(results)
        for name in route.variants
    ]
    return table(["", "req/s", "p50 ms", "p99 ms", "server CPU s/1,000", "PostgreSQL CPU s/1,000"], rows)


def memory(results: Results) -> str:
    """What a worker holds at the end."""
    sizes = results["worker_memory_mb"].items()
    return table(["worker of", "RSS MB"], [[name, " and ".join(f"{mb:.0f}" for mb in each)] for name, each in sizes])


def conditions(results: Results) -> str:
    """How it was measured."""
    settings, machine = results["settings"], results["machine"]
    commands = ", ".join(f"{name} {count}" for name, count in results["redis_commands"].items() if count)
    programs = ", ".join(f"{name} {text}" for name, text in machine.items() if name != "cores")
    load = "{rounds} rounds of {seconds} s; wrk with {connections} connections; {workers} workers of {threads} threads"
    lines = [
        f"Medians (smallest-largest) of {load.format(**settings)}.",
        f"Redis commands per request: {commands or 'none'}.",
        f"{results['date']}, {machine['cores']} cores, {programs}.",
    ]
    if "request-link" in results["routes"]:
        cost = median(results, "request-link", "service", "sink_cpu")
        lines.append(f"The mail server beside it used {cost:.3f} CPU s per 1,000 mails.")
    return "\n".join(lines)

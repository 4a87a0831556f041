"""gunicorn's worker classes and the sizes of ours, in turns on one machine: `python -m bench.workers` (5 minutes).

gevent is no dependency of the project: make an environment beside the project's own for it
(pip install -r requirements.txt -r requirements-dev.txt gevent). Without it, it is said and left out. Needs wrk.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.util import find_spec

from bench import load, report
from bench.routes import ROUTES, Route
from bench.stand import WORKERS, Stand, Variant, stand

ASKED = ("session", "start", "request-link")
FIGURES = {"requests_per_second": 0, "p99_ms": 0, "server_cpu": 2}


@dataclass(frozen=True)
class Choice:
    """Another way to serve. `arguments` win over gunicorn.conf.py."""

    name: str
    arguments: str = ""
    env: dict[str, str] = field(default_factory=dict)
    workers: int = WORKERS

    @property
    def missing(self) -> bool:
        """Whether it cannot be measured here."""
        return "gevent" in self.arguments and not find_spec("gevent")


def _threads(count: int) -> Choice:
    env = {"BENCH_THREADS": str(count), "DATABASE_POOL_SIZE": str(count)}
    return Choice(f"ours, {count} threads", "--config bench/sized_gunicorn.py", env)


CHOICES = (
    Choice("ours, 8 threads"),
    _threads(4),
    _threads(16),
    Choice("ours, 8 threads, a pool of 4", env={"DATABASE_POOL_SIZE": "4"}),
    Choice("gthread, 8 threads", "--worker-class gthread"),
    # Every connection is a greenlet. psycopg2 waits through lumen_api.db's wait callback, whose poll() gevent replaces.
    Choice("gevent", "--worker-class gevent --worker-connections 1000", {"DATABASE_POOL_SIZE": "16"}),
    Choice("sync", "--worker-class sync --threads 1"),
    Choice("sync, 8 workers", "--worker-class sync --threads 1", workers=8),
)


class Measured:
    """What the rounds have found of one choice."""

    def __init__(self) -> None:
        self.figures: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.memory: list[float] = []

    def take(self, everything: Stand, choice: Choice, routes: list[Route], seconds: int) -> None:
        """One round."""
        env = {**everything.env, **choice.env, "GUNICORN_CMD_ARGS": choice.arguments}
        variant = Variant("service", env, everything.folder, workers=choice.workers)
        everything.variants[choice.name] = variant
        variant.start()
        for route in routes:
            print(f"{choice.name}, {route.name} ...", flush=True)
            load.measure(everything, route, variant, 1)  # to warm up
            found = load.measure(everything, route, variant, seconds)
            for figure in FIGURES:
                self.figures[route.name, figure].append(found[figure])
        self.memory.append(sum(variant.memory()))
        variant.leave()

    def row(self) -> list[str]:
        """As the table shows it."""
        cells = [report.spread(self.figures[route, name], FIGURES[name]) for route in ASKED for name in FIGURES]
        return [*cells, report.spread(self.memory, 0)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    options = parser.parse_args()
    rounds, seconds = (1, 1) if options.quick else (3, 2)
    load.need_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing that was started stays behind
    routes = [route for route in ROUTES if route.name in ASKED]
    measured = {choice.name: Measured() for choice in CHOICES if not choice.missing}
    with stand() as everything:
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} ...", flush=True)
            for choice in CHOICES[:: -1 if number % 2 else 1]:
                if choice.name in measured:
                    measured[choice.name].take(everything, choice, routes, seconds)
    print(f"\n{_table(measured)}")


def _table(measured: dict[str, Measured]) -> str:
    units = ("req/s", "p99 ms", "CPU s/1,000")
    heading = ["", *(f"{route}, {unit}" for route in ASKED for unit in units), "memory MB"]
    width = len(heading) - 2
    rows = [
        [choice.name, *(measured[choice.name].row() if choice.name in measured else ["not installed", *[""] * width])]
        for choice in CHOICES
    ]
    return report.table(heading, rows)


if __name__ == "__main__":
    main()

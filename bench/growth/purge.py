"""What people notice of `flask purge`: the same traffic in turns while it works and while it is stopped.

Requests arrive by chance at a steady rate, whether or not earlier ones have been answered, and are timed from the
moment that they were to arrive.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from random import Random
from threading import local
from time import monotonic, sleep
from typing import Any

from bench.growth.latency import ROUTES, Asked, new_session, serving
from bench.growth.load import Loaded
from bench.growth.rows import Person
from bench.llm.report import percentile
from tests.support import ROOT, databases

RATE = 60  # requests per second
TURN = 3.0  # seconds
PATIENCE = 200.0  # seconds that the purge may work
MIX = [ROUTES["session"], ROUTES["list"], new_session, ROUTES["session"], ROUTES["usage"], ROUTES["request-link"]]


class Traffic:
    """Regular people at work."""

    def __init__(self, port: int, people: list[Person], threads: Executor) -> None:
        self._port = port
        self._people = people
        self._threads = threads
        self._own = local()
        self._numbers = count()
        self._random = Random(7)

    def turn(self, seconds: float) -> list[float]:
        """The latencies of what arrived in this time, in milliseconds."""
        answers = []
        arrival, end = monotonic(), monotonic() + seconds
        while (arrival := arrival + self._random.expovariate(RATE)) < end:
            sleep(max(0.0, arrival - monotonic()))
            answers.append(self._threads.submit(self._ask, next(self._numbers), arrival))
        return [answer.result() for answer in answers]

    def _ask(self, number: int, arrival: float) -> float:
        if not hasattr(self._own, "asked"):
            self._own.asked = Asked(HTTPConnection("127.0.0.1", self._port, timeout=10), [])
        who = self._people[number % len(self._people)]
        self._own.asked.time_of(MIX[number % len(MIX)](who), who)
        return (monotonic() - arrival) * 1000


def measured(large: Loaded, env: dict[str, str], folder: Path) -> dict[str, Any]:
    """Turns without, with, and without again, until everything that has expired is gone."""
    took: dict[str, list[float]] = {"without": [], "with": [], "again": []}
    beside = 0.0
    before = _expired(large.url)
    people = large.regulars[len(large.regulars) // 2 :]
    with serving(env, folder) as port, _purging(env, folder) as process, ThreadPoolExecutor(16) as threads:
        traffic = Traffic(port, people, threads)
        traffic.turn(TURN)
        while process.poll() is None and beside < PATIENCE:
            took["without"] += traffic.turn(TURN)
            process.send_signal(signal.SIGCONT)
            began = monotonic()
            while monotonic() - began < TURN and process.poll() is None:
                took["with"] += traffic.turn(TURN / 10)
            beside += monotonic() - began
            process.send_signal(signal.SIGSTOP)
            took["again"] += traffic.turn(TURN)
    return {
        "rows": before - _expired(large.url),
        "left": _expired(large.url),
        "seconds": beside,
        "rate": RATE,
        "requests": {name: len(values) for name, values in took.items()},
        "p50": {name: percentile(sorted(values), 50) for name, values in took.items()},
        "p99": {name: percentile(sorted(values), 99) for name, values in took.items()},
    }


@contextmanager
def _purging(env: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, stopped as soon as it has begun."""
    flask = [sys.executable, "-m", "flask", "--app", "app", "purge"]
    with (folder / "purge.log").open("wb") as log:
        process = subprocess.Popen(flask, cwd=ROOT, env={**env, "FLASK_SKIP_DOTENV": "1"}, stdout=log, stderr=log)
    process.send_signal(signal.SIGSTOP)
    try:
        yield process
        if process.poll():
            raise RuntimeError((folder / "purge.log").read_text())
    finally:
        process.kill()
        process.wait()


def _expired(url: str) -> int:
    ((rows,),) = databases.query(
        url,
        """
        set statement_timeout = 0;
        select (select count(*) from auth_tokens where expires_at <= now())
             + (select count(*) from auth_sessions where expires_at <= now())
             + (select count(*) from llm_usage where day < (now() at time zone 'utc')::date - 1)
             + (select count(*) from llm_reservations where deadline <= now() - interval '1 hour')
        """,
    )
    return int(rows)

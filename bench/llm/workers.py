"""gunicorn's worker classes: 100 and 500 streams under gthread, as configured, and under gevent."""

from __future__ import annotations

from importlib.util import find_spec

from bench.llm.report import percentile, spread, table
from bench.llm.scenarios import Bench
from bench.llm.streams import Run, proxied, users_for

# gunicorn reads them after gunicorn.conf.py. Under gevent every connection is a greenlet, up to --worker-connections,
# and psycopg2 waits through lumen_api.db's wait callback, whose select.poll() gevent replaces.
CLASSES = {"gthread": "", "gevent": "--worker-class gevent --worker-connections 1000"}


def measured(bench: Bench) -> str:
    """The table."""
    rows = []
    for count in (100, 500):
        runs: dict[str, list[Run]] = {name: [] for name in CLASSES}
        cookies = bench.deployment.cookies(users_for(count))
        for number in bench.rounds(3):
            for name, arguments in list(CLASSES.items())[:: -1 if number % 2 else 1]:
                if name == "gevent" and not find_spec("gevent"):
                    continue
                print(f"{count} streams, {name} ...", flush=True)
                with bench.deployment.serve(bench.provider.url, GUNICORN_CMD_ARGS=arguments) as proxy:
                    runs[name].append(proxied(proxy, cookies, count, bench.seconds(6)))
        rows += [_row(f"{count} streams, {name}", runs[name]) for name in CLASSES]
    heading = ["", "p50 ms", "p99 ms", "max ms", "session p99 ms", "memory MB", "CPU s/1,000 chunks", "cut"]
    return table(heading, rows)


def _row(what: str, runs: list[Run]) -> list[str]:
    if not runs:
        return [what, "not installed: pip install gevent", *[""] * 6]
    return [
        what,
        *(spread([percentile(run.delays, percent) for run in runs]) for percent in (50, 99, 100)),
        spread([percentile(run.sessions["steady"], 99) for run in runs]),
        spread([run.memory["during"] for run in runs], 0),
        spread([run.cpu for run in runs], 3),
        str(sum(len(run.incomplete) for run in runs)),
    ]

"""Does the service stay as fast as its data grows? `python -m bench.growth [--scale 0.01]`

Loads a million users and ten million sessions beside an almost empty database on the same PostgreSQL, with its default
settings; measures both in turns; writes bench/growth.json and docs/images/growth.svg. About 8 minutes and 7 GB in the
folder for temporary files, which is empty again afterwards. `--markdown` prints the tables of the last run instead;
`--scale` makes all of it smaller, for a look at the program, and writes nothing: it says little of the service.
"""

from __future__ import annotations

import argparse
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

from bench.growth import deletion, latency, load, purge, report, rows, statements
from bench.llm.service import online_cpus
from lumen_api.dev import embedded_postgres
from tests.support import databases
from tests.support.smtp_sink import smtp_sink
from tests.support.valkey import Valkey

REGULARS = 600


def main() -> None:
    """Measure, or show what has been measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the large database (default: 1)")
    parser.add_argument("--markdown", action="store_true", help="print the tables of the last run")
    options = parser.parse_args()
    if options.markdown:
        print(report.markdown(report.read()))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing that was started stays behind
    found = measured(options.scale)
    if options.scale == 1:
        report.write(found)
    print(report.markdown(found))


def measured(scale: float) -> dict[str, Any]:
    """Everything, in a folder that is gone afterwards."""
    started = monotonic()
    size = rows.large(scale, REGULARS)
    with _server() as (folder, dsn), _redis(folder) as redis_url, smtp_sink() as smtp_url:
        _say("loading")
        small = load.load(dsn, "small", rows.small(REGULARS))
        began = monotonic()
        large = load.load(dsn, "large", size)
        found: dict[str, Any] = {"size": asdict(size), "load": _loaded(large, monotonic() - began)}
        environments = {of: latency.environment(db.url, redis_url, smtp_url) for of, db in _both(small, large)}
        _say(f"loaded: {found['load']}; statements")
        found["statements"] = statements.compared(small, large)
        _say("routes")
        found["routes"] = latency.measured(small, large, environments, folder)
        _say("both ends of a list")
        ends = latency.ends_of_a_list(large, environments["large"], folder, REGULARS // 2)
        found["ends_of_a_list"] = {"pages": statements.pages_of_a_list(large), "p50": ends}
        _say("deletion")
        found["deletion"] = deletion.measured(large, environments["large"], folder)
        _say("purge")
        found["purge"] = purge.measured(large, environments["large"], folder)
    found["machine"] = f"{online_cpus()} CPUs, Python {platform.python_version()}, {monotonic() - started:.0f} s in all"
    return found


def _both(small: load.Loaded, large: load.Loaded) -> list[tuple[str, load.Loaded]]:
    return [("small", small), ("large", large)]


def _say(what: str) -> None:
    print(f"{what} ...", file=sys.stderr, flush=True)


@contextmanager
def _server() -> Iterator[tuple[Path, str]]:
    with tempfile.TemporaryDirectory(prefix="lumen-growth-") as name:
        folder = Path(name)
        try:
            yield folder, embedded_postgres.start(folder / "postgres")
        finally:
            embedded_postgres.leave(folder / "postgres")


@contextmanager
def _redis(folder: Path) -> Iterator[str]:
    valkey = Valkey(folder)
    try:
        yield valkey.start().url
    finally:
        valkey.kill()


def _loaded(large: load.Loaded, seconds: float) -> dict[str, float]:
    ((size,),) = databases.query(large.url, "select pg_database_size(current_database())")
    ((log,),) = databases.query(large.url, "select sum(size) from pg_ls_waldir()")
    return {"seconds": seconds, "gigabytes": size / 1e9, "with_log": float(size + log) / 1e9}


if __name__ == "__main__":
    main()

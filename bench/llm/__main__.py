"""The model proxy against a fast fake provider: `python -m bench.llm [proxy|candidates|workers] [--quick]`

    proxy       (default) what issue and documentation promise, measured; under 4 minutes
    candidates  HTTP clients reading the provider's stream, without the proxy
    workers     100 and 500 streams under gunicorn's gthread and under gevent

What is not installed is said and left out: httpx and gevent are no dependencies of the project, so make an
environment beside the project's own for them (pip install -r requirements.txt -r requirements-dev.txt httpx gevent).
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import resource
import signal
import sys
import time

from bench.llm import candidates, service, workers
from bench.llm.provider import Provider
from bench.llm.report import table
from bench.llm.scenarios import ALL, Bench, Row


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", default="proxy", choices=["proxy", "candidates", "workers"])
    parser.add_argument("--quick", action="store_true", help="one round of each, under a minute")
    names = [scenario.__name__ for scenario in ALL]
    parser.add_argument("--only", choices=names, action="append", help="only this scenario of the proxy's")
    options = parser.parse_args()
    # The service inherits it: a stream is two descriptors there.
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing that was started stays behind
    gc.disable()  # a pause of ours would look like the proxy's
    started, load = time.monotonic(), os.getloadavg()[0]
    with Provider() as provider:
        if options.what == "candidates":
            text = candidates.measured(provider, quick=options.quick)
        else:
            with service.deployment() as deployment:
                bench = Bench(deployment, provider, options.quick)
                text = workers.measured(bench) if options.what == "workers" else _proxy(bench, options.only or names)
    machine = f"{service.online_cpus()} CPUs, load {load:.1f} at the start, Python {platform.python_version()}"
    print(f"\n{text}\n\n{machine}, {time.monotonic() - started:.0f} s")


def _proxy(bench: Bench, names: list[str]) -> str:
    rows: list[Row] = []
    for scenario in ALL:
        if scenario.__name__ in names:
            print(f"{scenario.__name__} ...", flush=True)
            rows += scenario(bench)
    return table(("", "measured", "goal"), rows)


if __name__ == "__main__":
    main()

"""The service against its own limit, in turns on one machine: `make bench` (5 minutes).

    python -m bench                         everything: writes bench/results.json and docs/images/bench.svg
    python -m bench --quick --only session  one round of one route; writes nothing
    python -m bench --markdown              the tables of bench/results.json again

In every round each route is asked of each variant, by wrk, one after the other: bare WSGI, bare Flask, the floor (the
same SQL, Redis commands and mail, and nothing else; see bench/floor/) and the service. Needs wrk.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench import load, machine, plot, report
from bench.routes import ROUTES, Route
from bench.stand import Stand, stand, start
from tests.support import ROOT

RESULTS = ROOT / "bench" / "results.json"
PLOT = ROOT / "docs" / "images" / "bench.svg"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of one second")
    parser.add_argument("--only", nargs="+", choices=[route.name for route in ROUTES], help="only these routes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of load for each variant and route in a round")
    parser.add_argument("--output", type=Path, help="write the results here (default: only of everything)")
    parser.add_argument("--markdown", action="store_true", help="print the tables of bench/results.json")
    options = parser.parse_args()
    if options.markdown:
        print(report.markdown(json.loads(RESULTS.read_text())))
        return
    load.need_wrk()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing that was started stays behind
    rounds, seconds = (1, 1) if options.quick else (options.rounds, options.seconds)
    routes = [route for route in ROUTES if not options.only or route.name in options.only]
    started = time.monotonic()
    results = run(routes, rounds, seconds)
    print(f"\n{report.markdown(results)}\n\n{time.monotonic() - started:.0f} s", flush=True)
    everything = not options.quick and not options.only
    if output := options.output or (RESULTS if everything else None):
        output.write_text(report.as_json(results))
    if everything and not options.output:
        PLOT.write_text(plot.svg(results))


def run(routes: list[Route], rounds: int, seconds: int) -> dict[str, Any]:
    """Measure: the results, as they are written."""
    with stand() as everything:
        commands = _start(everything, routes)
        for route in routes:
            for variant in route.variants:
                load.measure(everything, route, everything.variants[variant], 1)  # to warm up
        measured: dict[str, dict[str, dict[str, list[float]]]] = {
            route.name: {variant: defaultdict(list) for variant in route.variants} for route in routes
        }
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} ...", flush=True)
            for route in routes:
                for name in route.variants[:: -1 if number % 2 else 1]:
                    found = load.measure(everything, route, everything.variants[name], seconds)
                    for key, value in found.items():
                        measured[route.name][name][key].append(round(value, 4))
        memory = {name: [round(mb, 1) for mb in variant.memory()] for name, variant in everything.variants.items()}
        return {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": machine.described(everything),
            "settings": {"rounds": rounds, "seconds": seconds, **machine.settings()},
            "redis_commands": commands,
            "worker_memory_mb": memory,
            "routes": measured,
        }


def _start(everything: Stand, routes: list[Route]) -> dict[str, int]:
    """Serve the variants: the service first, whose Redis commands the floor has to know."""
    service = start(everything, "service", {})
    commands = {route.name: load.redis_commands(everything, route, service) for route in routes}
    for name in dict.fromkeys(name for route in routes for name in route.variants if name != "service"):
        start(everything, name, commands)
    for name, variant in everything.variants.items():
        print(f"{name}: workers {', '.join(map(str, variant.workers()))}, port {variant.port}", flush=True)
    return commands


if __name__ == "__main__":
    main()

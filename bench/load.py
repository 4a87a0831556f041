"""One measurement: wrk, and what it has cost."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.routes import PER_SECOND, Request, Route
from bench.stand import Stand, Variant

CONNECTIONS = 16
# When Redis needs 0.1 s, as on a busy machine, the service counts in memory: it says so, and would be too fast.
NO_REDIS = b"counted in memory"
TRIES = 3
PAUSE = 5.0  # seconds, until it has found Redis again
SCRIPT = Path(__file__).parent / "requests.lua"
# What redis-py says of itself on a new connection.
_GREETINGS = {"CLIENT", "HELLO", "SELECT", "SCRIPT"}


def need_wrk() -> None:
    """End the program if there is no wrk."""
    if shutil.which("wrk") is None:
        sys.exit("make bench needs wrk (Debian: apt-get install wrk)")


def measure(stand: Stand, route: Route, variant: Variant, seconds: int) -> dict[str, float]:
    """Load `variant` with `route`. Ends the program if one answer is not good."""
    for _ in range(TRIES):
        read = variant.log.stat().st_size
        found = _measure(stand, route, variant, seconds)
        if NO_REDIS not in variant.log.read_bytes()[read:]:
            return found
        print(f"again, because {variant.name} has missed Redis in {route.name}", flush=True)
        time.sleep(PAUSE)
    sys.exit(f"{variant.name} has missed Redis in {TRIES} measurements: the machine is too busy")


def _measure(stand: Stand, route: Route, variant: Variant, seconds: int) -> dict[str, float]:
    file = stand.folder / "requests.tsv"
    requests = route.make(stand, PER_SECOND * seconds if route.once else PER_SECOND)
    file.write_text("".join(f"{r.method}\t{r.path}\t{r.cookie}\t{r.body}\n" for r in requests))
    before = _cpu(stand, variant)
    workers = variant.workers()
    result = _wrk(variant, seconds, [str(file), "once" if route.once else "again"])
    spent = {name: after - before[name] for name, after in _cpu(stand, variant).items()}
    what = f"{route.name} of {variant.name}"
    if result["bad"] or not result["requests"]:
        sys.exit(f"{what}: {result['bad']} of {result['requests']} answers were not good")
    if variant.workers() != workers:
        sys.exit(f"{what}: a worker has died")
    thousands = result["requests"] / 1000
    return {
        "requests_per_second": result["requests"] / result["seconds"],
        "p50_ms": result["p50_ms"],
        "p99_ms": result["p99_ms"],
        **{f"{name}_cpu": seconds / thousands for name, seconds in spent.items()},
    }


def _cpu(stand: Stand, variant: Variant) -> dict[str, float]:
    return {"server": variant.cpu(), "postgres": stand.postgres_cpu(), "sink": stand.sink_cpu()}


def _wrk(variant: Variant, seconds: int, arguments: list[str]) -> dict[str, Any]:
    url = f"http://127.0.0.1:{variant.port}"
    load = ["-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "5s", "-s", str(SCRIPT)]
    run = subprocess.run(["wrk", *load, url, "--", *arguments], capture_output=True, text=True, check=False)
    found = re.search(r"^RESULT (.*)$", run.stdout, re.MULTILINE)
    if run.returncode or not found:
        sys.exit(f"wrk has failed: {run.stderr or run.stdout}")
    result: dict[str, Any] = json.loads(found[1])
    return result


def ask(variant: Variant, request: Request) -> Any:
    """The answer to one request, which must be good."""
    body = json.loads(request.body) if request.body else None
    answer = variant.call(
        request.method, request.path, body, headers={"Cookie": request.cookie} if request.cookie else {}
    )
    if answer.status != 200 or answer.json["status"] != "ok":
        sys.exit(f"{variant.name} answers {answer.status} to {request.method} {request.path}: {answer.body.decode()}")
    return answer.json


def redis_commands(stand: Stand, route: Route, service: Variant, *, samples: int = 20) -> int:
    """How many Redis commands the service sends for a request. What a script does inside Redis is none."""
    requests = route.make(stand, 2 * samples)
    if not route.once:
        requests *= 2 * samples
    for request in requests[:samples]:
        ask(service, request)
    requests = requests[samples : 2 * samples]
    with stand.valkey.client() as client, stand.valkey.client() as teller, client.monitor() as monitor:
        for request in requests:
            ask(service, request)
        teller.echo("that was all")
        sent = 0
        while "that was all" not in (told := monitor.next_command())["command"]:
            sent += told["client_type"] != "lua" and told["command"].split()[0].upper() not in _GREETINGS
    return round(sent / len(requests))

"""Compare versions or settings of the service, in turns on one machine: `python -m bench.compare NAME[=FOLDER] ...`

    git worktree add /tmp/before main~5
    python -m bench.compare before=/tmp/before now now-again traced,OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318

A variant is a name, the folder of its checkout (default: this one), and variables after commas. Each is one gunicorn
worker on the same database; in every round each is asked by wrk (16 connections) for the session of somebody who is
signed in. A name twice shows the noise. Printed are medians: requests per second, and CPU seconds of the server per
1,000 requests, which neighbours disturb least. Needs wrk (apt-get install wrk).
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from lumen_api import migrations
from lumen_api.dev import embedded_postgres
from tests.support import ROOT, databases
from tests.support.mailbox import Mailbox
from tests.support.service import Service

EMAIL = "ada@example.com"
TICKS = os.sysconf("SC_CLK_TCK")


class Candidate(Service):
    """One that is measured, and not held to what it prints: an older version, or an overload, has another log."""

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Stop it."""
        if self.process:
            self.process.terminate()
            self.process.wait(40)

    def cpu(self) -> float:
        """Seconds of CPU time that the workers have used."""
        return sum(cpu_seconds(pid) for pid in self.workers())


@dataclass
class Variant:
    """One thing to compare, and what each round has measured."""

    name: str
    folder: Path
    variables: dict[str, str]
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)


def variant(text: str) -> Variant:
    """From the command line: NAME[=FOLDER][,VARIABLE=VALUE...]"""
    what, *variables = text.split(",")
    name, _, folder = what.partition("=")
    pairs = (pair.partition("=") for pair in variables)
    return Variant(name, Path(folder or ROOT).resolve(), {key: value for key, _, value in pairs})


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", type=variant)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=4, help="of load for each variant in a round")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dsn = embedded_postgres.start(folder / "postgres")
        stack.callback(embedded_postgres.leave, folder / "postgres")
        migrations.apply(dsn)
        mailbox = stack.enter_context(Mailbox())
        env = {
            "APP_ENV": "test",
            "DATABASE_URL": databases.url_of(dsn, "postgres"),
            "SMTP_URL": mailbox.url,
            "EMAIL_FROM": "Lumen <hello@example.com>",
            "AUTH_TOKEN_SECRETS": "a-secret-for-the-benchmark-and-nothing-else",
            "RATE_LIMIT_PER_USER": "1000000000/minute",
        }
        services: list[Service] = []
        for chosen in options.variants:
            candidate = Candidate({**env, **chosen.variables}, folder, workers=1, project=chosen.folder)
            services.append(stack.enter_context(candidate))
        cookie = sign_in(services[0], mailbox)
        for number in range(options.rounds):
            for chosen, service in list(zip(options.variants, services, strict=True))[:: 1 if number % 2 else -1]:
                measure(chosen, service, cookie, options.seconds)
    report(options.variants)


def sign_in(service: Service, mailbox: Mailbox) -> str:
    """A cookie that is good at every variant: they share the database and the secret."""
    service.call("POST", "/v1/auth/request-link", {"email": EMAIL})
    return service.call("POST", "/v1/auth/verify", {"token": mailbox.token_for(EMAIL)}).cookie


def measure(chosen: Variant, service: Service, cookie: str, seconds: int) -> None:
    """One round."""
    url = f"http://127.0.0.1:{service.port}/v1/auth/session"
    (worker,) = service.workers()
    before = cpu_seconds(worker)
    wrk = ["wrk", "-t1", "-c16", f"-d{seconds}s", "-H", f"Cookie: {cookie}", url]
    printed = subprocess.run(wrk, capture_output=True, text=True, check=True).stdout
    spent = cpu_seconds(worker) - before
    (requests,) = re.findall(r"(\d+) requests in", printed)
    assert "Non-2xx" not in printed, printed
    (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", printed)
    chosen.rates.append(float(rate))
    chosen.costs.append(spent / int(requests) * 1000)


def cpu_seconds(pid: int) -> float:
    """What a process has used, in user and kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def report(variants: list[Variant]) -> None:
    """The table: medians, and the ratio to the first variant, round by round."""
    print(f"{'':<16} {'requests/s':>10} {'CPU s/1,000':>12} {'CPU to ' + variants[0].name:>22}")
    for chosen in variants:
        ratios = sorted(cost / first for cost, first in zip(chosen.costs, variants[0].costs, strict=True))
        spread = f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})"
        rate, cost = statistics.median(chosen.rates), statistics.median(chosen.costs)
        print(f"{chosen.name:<16} {rate:>10.0f} {cost:>12.4f} {spread:>22}")


if __name__ == "__main__":
    main()

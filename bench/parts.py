"""What each part of a request costs, in one process and one thread: `python -m bench.parts` (1 minute).

The service without each part, in turns, a few requests at a time; what is printed are differences of medians. Here
nothing waits for Python's lock: with eight threads the same part costs about twice as much.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from types import MethodType
from typing import Any

from flask import Flask
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app import create_app
from bench import report
from bench.floor import app as floor
from bench.routes import ROUTES, Request
from bench.stand import Stand, stand
from config import Config

SERVICE, FLOOR, LOG_LINE = "the service", "the floor", "the log line"
ASKED = ("health", "session")
TURNS, AT_ONCE = 300, 25


def _without_hook(name: str) -> Callable[[Flask], None]:
    def take_out(app: Flask) -> None:
        tables: list[Any] = [app.before_request_funcs, app.after_request_funcs]
        for table in tables:
            table[None] = [hook for hook in table[None] if hook.__name__ != name]

    return take_out


def _without_hooks(app: Flask) -> None:
    app.before_request_funcs.clear()
    app.after_request_funcs.clear()


def _without_headers(app: Flask) -> None:
    app.wsgi_app = MethodType(Flask.wsgi_app, app)  # type: ignore[method-assign]  # as it was


def _without_limits(app: Flask) -> None:
    app.extensions["lumen.rate_limits"].hit = lambda *_: None


PARTS: dict[str, Callable[[Flask], None]] = {
    "limits": _without_limits,
    LOG_LINE: lambda _: None,  # _measured() turns it off
    "request id, log line and measurement": _without_hook("close_request"),
    "security headers": _without_headers,
    "CORS": _without_hook("let_allowed_pages_read"),
    "the look at the origin": _without_hook("refuse_foreign_pages"),
    "the size of the body": _without_hook("refuse_large_bodies"),
    "all hooks": _without_hooks,
}


def main() -> None:
    """Measure and print the table."""
    with stand() as everything, Path(os.devnull).open("w") as nowhere:
        applications = _applications(everything)
        for handler in logging.getLogger().handlers:
            handler.stream = nowhere  # type: ignore[attr-defined]  # all of ours have one
        routes = [route for route in ROUTES if route.name in ASKED]
        found = [_measured(applications, route.make(everything, 0)) for route in routes]
    rows = [[name, *(f"{medians[name]:.0f}" for medians in found)] for name in (SERVICE, FLOOR)]
    rows += [[part, *(f"{medians[SERVICE] - medians[part]:.0f}" for medians in found)] for part in PARTS]
    print(report.table(["CPU us of a request", *ASKED], rows))


def _applications(everything: Stand) -> dict[str, Flask]:
    config = Config.from_env(everything.env)
    made = {name: create_app(config) for name in (SERVICE, *PARTS)}
    for part, take_out in PARTS.items():
        take_out(made[part])
    os.environ.update(everything.env)
    os.environ[floor.REDIS_COMMANDS] = json.dumps({"session": 1})
    return made | {FLOOR: floor.create_app()}


def _measured(applications: dict[str, Flask], requests: list[Request]) -> dict[str, float]:
    """CPU microseconds of a request to each application."""
    found: dict[str, list[float]] = {name: [] for name in applications}
    asked = cycle(requests)
    for _ in range(TURNS):
        for name, app in applications.items():
            environs = [_environ(next(asked)) for _ in range(AT_ONCE)]
            logging.disable(logging.INFO if name == LOG_LINE else logging.NOTSET)
            began = time.process_time()
            statuses = {run_wsgi_app(app, environ)[1] for environ in environs}
            found[name].append((time.process_time() - began) / AT_ONCE * 1e6)
            assert statuses == {"200 OK"}, (name, statuses)
    return {name: statistics.median(each) for name, each in found.items()}


def _environ(request: Request) -> dict[str, Any]:
    return EnvironBuilder(request.path, method=request.method, headers=[("Cookie", request.cookie)]).get_environ()


if __name__ == "__main__":
    main()

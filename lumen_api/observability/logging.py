"""What the process says: one JSON object a line on stdout; in development the same events for a person to read.

Our own events are written with log_event(), whose fields we choose one by one: docs/observability.md has them all.
Of any other library's record only the place that wrote it, its level, its exception's class and its message's
template are kept, never a text that is filled in: gunicorn, for one, puts addresses and raw paths into its messages.
"""

from __future__ import annotations

import json
import logging
import logging.config
import re
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import g, has_request_context

from lumen_api import rfc3339
from lumen_api.observability import tracing

_events = logging.getLogger("lumen")

_PROJECT = str(Path(__file__).parents[2]) + "/"
# In this order: site-packages may lie in the standard library's folder, and both in the project's.
_LIBRARIES = tuple(sysconfig.get_path(name) + "/" for name in ("purelib", "platlib", "stdlib"))

# The innermost frames, and their characters. Lines below PIPE_BUF (4 KiB) are not torn apart when two workers write
# into one pipe.
_FRAMES = 30
_STACK = 3000
_encode = json.JSONEncoder(separators=(",", ":"), default=lambda value: type(value).__name__).encode
_ODD = re.compile(r"[^A-Za-z0-9_.<>:/-]")  # <frozen importlib._bootstrap> has a space


def log_event(
    event: str,
    level: int = logging.INFO,
    *,
    exc_info: BaseException | tuple[Any, Any, Any] | None = None,
    **fields: Any,
) -> None:
    """Write one event of ours. `fields` go out as they are: times, counts, outcomes and names of our own only.

    `exc_info`: an exception, or a triple as in sys.exc_info().
    """
    if _events.isEnabledFor(level):
        if isinstance(exc_info, BaseException):
            exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
        # Not with log(), which looks for the line of code that calls it.
        _events.handle(_events.makeRecord(_events.name, level, "", 0, event, (), exc_info, extra={"fields": fields}))


def log_problems(problems: list[tuple[str, str]]) -> None:
    """Write why the process does not start: a variable and what is wrong with it, a line each."""
    for variable, problem in problems:
        log_event("invalid_configuration", logging.ERROR, variable=variable, problem=problem)


def configure(level: str, *, env: str, readable: bool) -> None:
    """Send every record of this process to stdout, as JSON or (`readable`) for a person."""
    logging.config.dictConfig(settings(level, env=env, readable=readable))
    # Where writing a line fails, the standard library prints the record with its values. In JSON it stays silent.
    logging.raiseExceptions = readable


def settings(level: str, *, env: str, readable: bool) -> dict[str, Any]:
    """The same as configure(), as a dictConfig for gunicorn."""
    formatter = {"()": readable_formatter} if readable else {"()": JsonFormatter, "env": env}
    quiet = {"level": "WARNING"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"event": formatter},
        "handlers": {"stdout": {"class": "logging.StreamHandler", "stream": sys.stdout, "formatter": "event"}},
        "root": {"level": level, "handlers": ["stdout"]},
        "loggers": {
            "gunicorn.error": {"level": level, "propagate": True, "handlers": []},  # or it would keep its own level
            # They describe requests line by line, with addresses and paths; ours is the request log.
            "gunicorn.access": {"propagate": False, "handlers": []},
            "werkzeug": quiet,
            "flask-limiter": quiet,
            "yoyo": quiet,
        },
    }


def take_over() -> None:
    """Log what Python would print to stderr by itself: uncaught exceptions and warnings. For a process of our own."""
    sys.excepthook = lambda *error: _uncaught(error)
    sys.unraisablehook = lambda error: _uncaught((error.exc_type, error.exc_value, error.exc_traceback))
    threading.excepthook = lambda error: _uncaught(error[:3])
    warnings.showwarning = _warning


def _uncaught(error: Any) -> None:
    """`error`: class, instance, traceback; C has not always an instance."""
    if error[0] is not SystemExit:  # that is how a thread ends itself
        log_event("unhandled_error", logging.ERROR, exc_info=error)


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object, **__: object
) -> None:
    warning = message if isinstance(message, Warning) else category(message)
    log_event("warning", logging.WARNING, exc_info=warning, at=_place(filename, lineno))


class JsonFormatter(logging.Formatter):
    """A record as one JSON object."""

    def __init__(self, env: str) -> None:
        super().__init__()
        self._env = env

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": rfc3339.format(datetime.fromtimestamp(record.created, UTC)),
            # Libraries may have levels of their own.
            "level": logging.getLevelName(min(max(10, record.levelno // 10 * 10), 50)).lower(),
            "env": self._env,
            **(_own(record) if record.name == _events.name else _foreign(record)),
            **_error(record),
        }
        return _encode(line)


def _own(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", {})
    return {"event": record.msg, **({} if "request_id" in fields else current_ids()), **fields}


def _foreign(record: logging.LogRecord) -> dict[str, Any]:
    at = _place(record.module, record.lineno)
    fields = {"event": "library", **current_ids(), "logger": _ODD.sub("_", record.name), "at": at}
    if record.args and isinstance(record.msg, str):
        fields["template"] = record.msg[:500]  # "Connection in use: %s": what is filled in stays out
    return fields


def current_ids() -> dict[str, Any]:
    """What tells the current request's lines from another's: `request_id`, and `trace_id` when there is one."""
    if not has_request_context():
        return {}
    ids = {"request_id": g.get("request_id"), "trace_id": tracing.trace_id()}
    return {name: value for name, value in ids.items() if value}


def _error(record: logging.LogRecord) -> dict[str, Any]:
    kind, _, trace = record.exc_info or (None, None, None)
    if kind is None:
        return {}
    frames = traceback.extract_tb(trace)[-_FRAMES:]
    stack = [f"{_place(frame.filename, frame.lineno)}:{_ODD.sub('_', frame.name)}" for frame in frames]
    while sum(map(len, stack)) > _STACK:
        del stack[0]
    return {"error_class": _ODD.sub("_", kind.__name__), **({"stack": stack} if stack else {})}


def _place(filename: str, line: int | None) -> str:
    """The path from its package on, and the line: enough to find it, nothing about the machine."""
    roots = (root for root in (*_LIBRARIES, _PROJECT) if filename.startswith(root))
    short = filename.removeprefix(next(roots, filename.rpartition("/")[0] + "/"))
    return f"{_ODD.sub('_', short)}:{line}"


def readable_formatter() -> logging.Formatter:
    """A formatter for a person at a terminal."""
    import structlog  # in development alone

    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper("%H:%M:%S", utc=False),
            _with_fields,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer(
                colors=sys.stdout.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
            ),
        ]
    )


def _with_fields(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    record = event["_record"]
    if record.name != _events.name:
        return {**event, "logger": record.name}
    fields = _own(record)
    ids = {name: fields.pop(name) for name in ("request_id", "trace_id") if name in fields}
    return {**event, **{name: value for name, value in (fields | ids).items() if value is not None}}

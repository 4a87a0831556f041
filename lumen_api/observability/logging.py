"""One JSON object a line on stdout; in development the same events for a person to read.

Our own events are written with log_event(), whose fields we choose one by one. Of any other library's record
only the place that wrote it, its level, its exception's class and its message's template are kept, never a text that is
filled in: gunicorn, for one, puts addresses and raw paths into its messages.
"""

from __future__ import annotations

import json
import logging
import logging.config
import sys
import sysconfig
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lumen_api import rfc3339

_events = logging.getLogger("lumen")

_PROJECT = str(Path(__file__).parents[2]) + "/"
# In this order: site-packages may lie in the standard library's folder, and both in the project's.
_LIBRARIES = tuple(sysconfig.get_path(name) + "/" for name in ("purelib", "platlib", "stdlib"))


def log_event(event: str, level: int = logging.INFO, *, exc_info: BaseException | None = None, **fields: Any) -> None:
    """Write one event of ours. `fields` go out as they are: times, counts, outcomes and names of our own only."""
    _events.log(level, event, extra={"fields": fields}, exc_info=exc_info)


def configure(level: str, *, env: str, readable: bool) -> None:
    """Send every record of this process to stdout, as JSON or (`readable`) for a person."""
    logging.config.dictConfig(settings(level, env=env, readable=readable))


def settings(level: str, *, env: str, readable: bool) -> dict[str, Any]:
    """The same as configure(), as a dictConfig for gunicorn."""
    formatter = {"()": ReadableFormatter} if readable else {"()": JsonFormatter, "env": env}
    quiet = {"level": "WARNING"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"event": formatter},
        "handlers": {"stdout": {"class": "logging.StreamHandler", "stream": sys.stdout, "formatter": "event"}},
        "root": {"level": level, "handlers": ["stdout"]},
        "loggers": {
            "gunicorn.error": {"propagate": True, "handlers": []},
            # They describe requests line by line, with addresses and paths; ours is the request log.
            "gunicorn.access": {"propagate": False, "handlers": []},
            "werkzeug": quiet,
            "flask-limiter": quiet,
            "yoyo": quiet,
        },
    }


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    if record.name == _events.name:
        fields = {"event": record.msg, **getattr(record, "fields", {})}
    else:
        fields = {"event": "library", "logger": record.name, "at": f"{record.module}:{record.lineno}"}
        if record.args:
            fields["template"] = str(record.msg)  # "Connection in use: %s": what is filled in stays out
    if record.exc_info and record.exc_info[0] is not None:
        frames = traceback.extract_tb(record.exc_info[2])
        fields["error_class"] = record.exc_info[0].__name__
        fields["stack"] = [f"{_short(frame.filename)}:{frame.lineno}:{frame.name}" for frame in frames]
    return fields


def _short(filename: str) -> str:
    """The path from its package on: enough to find the line, nothing about the machine."""
    for root in (*_LIBRARIES, _PROJECT):
        if filename.startswith(root):
            return filename[len(root) :]
    return filename.rpartition("/")[2]


class JsonFormatter(logging.Formatter):
    """A record as one JSON object."""

    def __init__(self, env: str) -> None:
        super().__init__()
        self._env = env

    def format(self, record: logging.LogRecord) -> str:
        head = {
            "ts": rfc3339.format(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "env": self._env,
        }
        return json.dumps({**head, **_fields(record)}, separators=(",", ":"))


class ReadableFormatter(logging.Formatter):
    """A record for a person at a terminal, on the developer's own machine."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        if record.name != _events.name:
            return f"{time} {record.levelname.lower():<7} {record.name}: {super().format(record)}"
        shown = list(_fields(record).items())[1:]
        fields = " ".join(f"{key}={value}" for key, value in shown if value is not None)
        return f"{time} {record.levelname.lower():<7} {record.msg} {fields}"

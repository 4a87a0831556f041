"""gunicorn's entry for tests of the log: the service, with routes that make a process say what it should not print.

gunicorn tests.support.misbehaving:app
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

from flask import Response, stream_with_context

from app import create_app

CANARY = "canary"

warnings.warn(f"{CANARY} at import", stacklevel=1)

app = create_app()
logger = logging.getLogger("a.library")


class FailsAtItsEnd:
    """An object whose finalizer raises."""

    def __del__(self) -> None:
        raise ValueError(CANARY)


def misbehaves(function: Callable[[], object]) -> Callable[[], object]:
    """Serve a function at /its_name. What it returns does not matter."""

    def view() -> dict[str, str]:
        function()
        return {"status": "ok"}

    app.add_url_rule(f"/{function.__name__}", function.__name__, view)
    return function


@misbehaves
def warns() -> None:
    warnings.warn(CANARY, RuntimeWarning, stacklevel=1)


@misbehaves
def fails() -> None:
    raise ValueError(CANARY)


@misbehaves
def fails_in_a_thread() -> None:
    _in_a_thread(fails)


@misbehaves
def exits_a_thread() -> None:
    _in_a_thread(lambda: sys.exit(CANARY))


def _in_a_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function, name=CANARY)
    thread.start()
    thread.join()


@misbehaves
def fails_in_a_finalizer() -> None:
    FailsAtItsEnd()


@misbehaves
def fails_in_a_callback_from_c() -> None:
    ctypes.CFUNCTYPE(None)(fails)()


@misbehaves
def logs_with_wrong_arguments() -> None:
    text = f"{CANARY} %s %d"
    logger.warning(f"{CANARY} %s")  # noqa: G004
    logger.warning("%s %d", *text.split())


@misbehaves
def stops_everything() -> None:
    """For longer than gunicorn waits: no other thread runs while C holds Python's lock."""
    ctypes.PyDLL(None).sleep(60)


@app.route("/streams")
def streams() -> Response:
    """More than the sockets on the way hold."""

    def parts() -> Iterator[str]:
        for _ in range(1000):
            yield "x" * 100_000

    return Response(stream_with_context(parts()))


@app.route("/breaks")
def breaks() -> Response:
    """A stream that ends in the middle."""

    def parts() -> Iterator[str]:
        yield "x"
        raise ValueError(CANARY)

    return Response(parts())

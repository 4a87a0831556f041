"""Real servers for the tests, each started and stopped by its test."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from threading import Event
from time import monotonic

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def eventually(condition: Callable[[], object], *, within: float = 10.0) -> None:
    """Wait until `condition` holds: for things that happen in another process. Fails after `within` seconds."""
    deadline = monotonic() + within
    while not condition():
        assert monotonic() < deadline, f"not so within {within} s: {condition}"
        Event().wait(0.02)

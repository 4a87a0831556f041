"""A PostgreSQL server to be stopped, crashed and paused, and addresses where nobody answers."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from lumen_api import migrations, rate_limits
from lumen_api.dev import embedded_postgres
from lumen_api.dev.postgres_keeper import Cluster
from tests.support import databases, eventually


class Server:
    """A migrated server in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Starts it; `leave()` ends it."""
        self.folder = folder.resolve()
        self.dsn = embedded_postgres.start(self.folder)
        self.socket_folder = Path(parse_dsn(self.dsn)["host"])
        self.url = databases.url_of(self.dsn, "postgres")
        self._cluster = Cluster(self.folder / "postgres", embedded_postgres.binaries())
        migrations.apply(self.dsn)

    def leave(self) -> None:
        """End it for good."""
        embedded_postgres.leave(self.folder)

    def start(self) -> None:
        """Start it where it was stopped, and wait until it serves."""
        assert self._cluster.start(self.socket_folder, log=self.folder / "postgres.log") == 0

    def stop(self) -> None:
        """As an operator does it ("fast"): clients are told and hung up on."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """All its processes end at once ("immediate"), and the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def _end(self, number: signal.Signals) -> None:
        pid_file = self._cluster.data / "postmaster.pid"
        os.kill(databases.postmaster(self.folder), number)
        eventually(lambda: not pid_file.exists())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It hangs: connections are accepted by the kernel, and nothing is ever answered."""
        pids: list[int] = [pid for (pid,) in databases.query(self.url, "select pid from pg_stat_activity")]
        with ExitStack() as stack:
            # The postmaster first: it makes no new processes then.
            for pid in (databases.postmaster(self.folder), *pids):
                with suppress(ProcessLookupError):  # the backend that was asked is gone already
                    os.kill(pid, signal.SIGSTOP)
                    stack.callback(os.kill, pid, signal.SIGCONT)
            yield

    def clean(self) -> None:
        """As at the beginning, whatever a test has done."""
        self.start()
        databases.empty(self.url)


def backends(url: str, *, application: str = "lumen-api") -> list[int]:
    """The process ids of the connections to a database, the asking one left out."""
    statement = """
        select pid from pg_stat_activity
         where datname = current_database() and application_name = %s and pid <> pg_backend_pid()
         order by pid
    """
    return [pid for (pid,) in databases.query(url, statement, application)]


def wait_for_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let apps made from now on give Redis more than 0.1 s: on a busy machine it may need that, and a test that is
    not about time would see a worker count for itself, as it should."""
    for name in ("socket_connect_timeout", "socket_timeout"):
        monkeypatch.setitem(rate_limits._REDIS_OPTIONS, name, 5.0)


@contextmanager
def silence() -> Iterator[int]:
    """A port that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that does not even accept: its queue is full, and the kernel drops what comes, as a firewall does."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@contextmanager
def refusal() -> Iterator[int]:
    """A port where nobody listens, and nobody else can begin to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]

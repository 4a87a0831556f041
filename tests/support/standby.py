"""PostgreSQL twice: a primary with a streaming standby, on TCP ports of loopback, and an operator who promotes by hand.

with pair(folder) as (one, other):      # `one` is the primary, `other` follows it
    one.crash()
    other.promote()
    one.follow(other)                   # comes back as a standby
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from psycopg2 import OperationalError

from lumen_api import migrations
from lumen_api.dev import embedded_postgres
from lumen_api.dev.postgres_keeper import SETTINGS, SUPERUSER, Cluster
from tests.support import databases, eventually, free_port

DATABASE = "lumen"
PATIENCE = 30.0  # seconds that anything may take on a busy machine

# Processes end here, and never the machine: what they have written outlives them without fsync.
ON_LOOPBACK = {**SETTINGS, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}


class Node:
    """One PostgreSQL server. `admin` is where an operator signs in, on this server and no other."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made or started yet."""
        self.folder = folder.resolve()
        self.folder.mkdir(mode=0o700, parents=True)
        self.port = free_port()
        self.admin = f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/postgres"
        self._cluster = Cluster(self.folder / "postgres", embedded_postgres.binaries())
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """An empty cluster."""
        self._cluster.folder.mkdir()
        self._run("initdb", "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "-D")

    def start(self) -> None:
        """Start it, as what it was last, and wait until it answers."""
        options = [f"--{name}={value}" for name, value in {**ON_LOOPBACK, "port": self.port}.items()]
        with (self.folder / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._cluster.prefix, self._cluster.binaries / "postgres", "-D", self._cluster.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, within=PATIENCE)

    def stop(self) -> None:
        """As an operator does it ("fast"): a standby has all that its primary has written."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """All its processes end at once ("immediate")."""
        self._end(signal.SIGQUIT)

    def leave(self) -> None:
        """End it for good, if it runs."""
        if self._process:
            self.crash()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It hangs: the kernel accepts connections for it, and nothing is ever answered."""
        assert self._process
        postmaster = self._process.pid
        os.kill(postmaster, signal.SIGSTOP)  # first: it makes no new processes then
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        with ExitStack() as stack:
            stack.callback(os.kill, postmaster, signal.SIGCONT)
            for pid in map(int, children):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    stack.callback(os.kill, pid, signal.SIGCONT)
            yield

    def promote(self) -> None:
        """Make a primary of this standby, and wait until it takes writes."""
        assert databases.query(self.admin, "select pg_promote()") == [(True,)]

    def copy(self, primary: Node) -> None:
        """Become a standby of `primary`, from a copy of all it has (pg_basebackup). Ours is thrown away."""
        shutil.rmtree(self._cluster.folder, ignore_errors=True)
        self._cluster.folder.mkdir()
        source = f"--dbname={primary.admin}"
        self._run("pg_basebackup", source, "--checkpoint=fast", "--no-sync", "--write-recovery-conf", "-D")
        self.start()
        eventually(primary.is_followed, within=PATIENCE)

    def rewind(self, primary: Node) -> None:
        """Become a standby of `primary`, which was promoted when we went away, with the data we have (pg_rewind)."""
        databases.query(primary.admin, "checkpoint")
        source = f"--source-server={primary.admin}"
        self._run("pg_rewind", source, "--no-sync", "--write-recovery-conf", "--target-pgdata")
        self.start()
        eventually(primary.is_followed, within=PATIENCE)

    def is_followed(self) -> bool:
        """Whether a standby streams from it."""
        return databases.query(self.admin, "select from pg_stat_replication where state = 'streaming'") != []

    def is_standby(self) -> bool:
        """Whether it may only be read."""
        return databases.query(self.admin, "select pg_is_in_recovery()") == [(True,)]

    def wait_for_standbys(self) -> None:
        """From now on it acknowledges a commit when a standby has it, too (synchronous replication)."""
        databases.query(self.admin, "alter system set synchronous_standby_names = '*'")
        databases.query(self.admin, "select pg_reload_conf()")
        waited_for = "select from pg_stat_replication where sync_state = 'sync'"
        eventually(lambda: databases.query(self.admin, waited_for), within=PATIENCE)

    @property
    def url(self) -> str:
        """The service's database on this server alone."""
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{DATABASE}"

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self.folder / "postgres.log").read_text()
        with suppress(OperationalError):
            return bool(databases.query(self.admin, "select 1"))
        return False

    def _end(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)
        self._process.wait(30)
        self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        """A program of PostgreSQL's whose last argument is our data."""
        command: list[str | Path] = [*self._cluster.prefix, self._cluster.binaries / program, *arguments]
        done = subprocess.run([*command, self._cluster.data], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@contextmanager
def pair(folder: Path, *, synchronous: bool) -> Iterator[tuple[Node, Node]]:
    """A primary with the service's tables, and the standby that streams from it."""
    one, other = Node(folder / "one"), Node(folder / "other")
    try:
        one.create()
        one.start()
        # pg_rewind needs the log back to where the two parted.
        databases.query(one.admin, "alter system set wal_keep_size = '256MB'")
        databases.query(one.admin, f"create database {DATABASE}")
        migrations.apply(one.url)
        other.copy(one)
        if synchronous:
            one.wait_for_standbys()
        yield one, other
    finally:
        one.leave()
        other.leave()


def url_of(*nodes: Node) -> str:
    """DATABASE_URL: whichever of them takes writes."""
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    return f"postgresql://{SUPERUSER}@{hosts}/{DATABASE}?target_session_attrs=read-write"


# --- What may have become of the first host. Each yields the one that takes writes. ---


@contextmanager
def as_it_was(one: Node, _: Node) -> Iterator[Node]:
    """The first host is the primary."""
    yield one


@contextmanager
def gone(one: Node, other: Node) -> Iterator[Node]:
    """The first host is down."""
    one.crash()
    other.promote()
    yield other


@contextmanager
def hangs(one: Node, other: Node) -> Iterator[Node]:
    """The first host accepts connections and says nothing."""
    with one.paused():
        other.promote()
        yield other


@contextmanager
def follows(one: Node, other: Node) -> Iterator[Node]:
    """The first host is a standby of the second."""
    with gone(one, other):
        one.rewind(other)
        yield other

"""What is measured, and what it needs: PostgreSQL, Valkey, a mail server, users, and a gunicorn for each variant."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from psycopg2.extras import execute_values

from bench.compare import TICKS, Candidate, cpu_seconds
from bench.floor.app import REDIS_COMMANDS
from config import Config
from lumen_api import migrations
from lumen_api.auth import Token, TokenSigner
from lumen_api.dev import embedded_postgres
from tests.support import ROOT, databases, eventually, free_port, processes
from tests.support.programs import listens
from tests.support.valkey import Valkey

WORKERS = 2
SECRET = "a-secret-for-the-benchmark-and-nothing-else"
COOKIE = "__Host-lumen_session"
USERS = 100
SESSIONS = 50  # of each user, when the run begins
PLENTY = 1_000_000_000

# By their names in the results. `gunicorn` loads them by the second.
APPLICATIONS = {
    "wsgi": "bench.floor.plain:app",
    "flask": "bench.floor.bare:create_app()",
    "floor": "bench.floor.app:create_app()",
    "service": "wsgi:app",
}


class Variant(Candidate):
    """One application under our gunicorn.conf.py. Its log is written, but not read."""

    def __init__(self, name: str, env: dict[str, str], folder: Path, *, workers: int = WORKERS) -> None:
        super().__init__(env, folder, workers=workers)
        self.name = name
        self._workers = workers

    def start(self) -> Variant:
        """Start it and wait until all workers serve."""
        command = [sys.executable, "-m", "gunicorn", APPLICATIONS[self.name]]
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(command, cwd=self.project, env=self.env, stdout=file, stderr=file)
        eventually(self.serves, within=30)
        eventually(lambda: len(self.workers()) == self._workers)
        return self

    def memory(self) -> list[float]:
        """MB that each worker holds (RSS)."""
        return [processes.resident(pid) / 2**20 for pid in self.workers()]


@dataclass
class Stand:
    """Everything that runs."""

    folder: Path
    conn: Any  # to PostgreSQL, for preparations
    postmaster: int
    valkey: Valkey
    sink: subprocess.Popen[bytes]
    env: dict[str, str]
    cookies: list[str] = field(default_factory=list)
    variants: dict[str, Variant] = field(default_factory=dict)

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of one statement."""
        with self.conn.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def insert(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """Run `statement` with pages of `rows` in the place of its %s."""
        with self.conn.cursor() as cursor:
            execute_values(cursor, statement, rows, page_size=1000)

    def leave(self) -> None:
        """Stop the variants."""
        for variant in self.variants.values():
            variant.leave()

    def sink_cpu(self) -> float:
        """Seconds of CPU time that the mail server has used."""
        return cpu_seconds(self.sink.pid)

    def postgres_cpu(self) -> float:
        """Seconds of CPU time that all processes of PostgreSQL have used, those that have ended included."""
        fields = Path(f"/proc/{self.postmaster}/stat").read_text().rpartition(")")[2].split()
        used = (int(fields[13]) + int(fields[14])) / TICKS
        children = Path(f"/proc/{self.postmaster}/task/{self.postmaster}/children").read_text().split()
        for pid in [self.postmaster, *map(int, children)]:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                used += cpu_seconds(pid)
        return used


@contextmanager
def stand() -> Iterator[Stand]:
    """PostgreSQL, Valkey, mail server and users who are signed in; start() adds variants. In the end all is gone."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        dsn = embedded_postgres.start(folder / "server")
        stack.callback(embedded_postgres.leave, folder / "server")
        migrations.apply(dsn)
        valkey = Valkey(folder)
        stack.callback(valkey.kill)
        valkey.start()
        port = free_port()
        sink = subprocess.Popen([sys.executable, "-m", "bench.sink", str(port)], cwd=ROOT)
        stack.callback(_kill, sink)
        eventually(lambda: listens(port))
        url = databases.url_of(dsn, "postgres")
        env = {
            "APP_ENV": "test",
            "DATABASE_URL": url,
            "REDIS_URL": valkey.url,
            "SMTP_URL": f"smtp://127.0.0.1:{port}",
            "EMAIL_FROM": "Lumen <hello@example.com>",
            "AUTH_TOKEN_SECRETS": SECRET,
            **_no_limits(),
        }
        conn = databases.connect(url)
        stack.callback(conn.close)
        made = Stand(folder, conn, databases.postmaster(folder / "server"), valkey, sink, env)
        made.query("set statement_timeout = 0")  # the role's is the service's
        made.cookies = _users(made)
        stack.callback(made.leave)
        yield made


def start(stand: Stand, name: str, redis_commands: dict[str, int]) -> Variant:
    """Serve a variant. `redis_commands`: how many the floor sends for each route."""
    env = {**stand.env, REDIS_COMMANDS: json.dumps(redis_commands)}
    variant = stand.variants[name] = Variant(name, env, stand.folder)
    return variant.start()


def _no_limits() -> dict[str, str]:
    """Limits that nobody meets, in the windows that the defaults have: each is counted for itself."""
    settings = (setting for setting in Config.settings().values() if setting.name.startswith("RATE_LIMIT_"))
    return {setting.name: re.sub(r"\d+/", f"{PLENTY}/", setting.default or "") for setting in settings}


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def new_links(stand: Stand, count: int) -> list[str]:
    """The tokens of as many links, each for an address of its own. Those that are left of earlier ones are gone."""
    tokens = _tokens("magic link", count)
    rows = [(token.digest, f"{token.digest.hex()[:32]}@example.com") for token in tokens]
    stand.query("truncate auth_tokens")
    stand.insert(
        """
        insert into auth_tokens (token_hash, email, expires_at)
        select token_hash, email, now() + interval '1 day' from (values %s) given (token_hash, email)
        """,
        rows,
    )
    stand.query("analyze auth_tokens")
    return [token.text for token in tokens]


def new_sessions(stand: Stand, count: int) -> list[tuple[str, str]]:
    """As many conversations that have begun and not ended: the Cookie header of each's user, and its id."""
    made = [(number % USERS, str(uuid4())) for number in range(count)]
    stand.insert(
        """
        insert into sessions (user_id, session_id, started_at)
        select user_id, session_id, now()
          from (values %s) given (number, session_id)
          join users on email = 'user-' || to_char(number, 'FM0000') || '@example.com'
        """,
        made,
    )
    return [(stand.cookies[number], session_id) for number, session_id in made]


def _users(stand: Stand) -> list[str]:
    """Sign in users who have had conversations: the Cookie header of each, in the order of their addresses."""
    tokens = _tokens("session", USERS)
    stand.insert(
        """
        with given (email, id_hash) as (values %s),
        made as (insert into users (email) select email from given returning user_id, email)
        insert into auth_sessions (id_hash, user_id, expires_at)
        select id_hash, user_id, now() + interval '1 day' from given join made using (email)
        """,
        [(f"user-{number:04}@example.com", token.digest) for number, token in enumerate(tokens)],
    )
    stand.query(
        """
        insert into sessions (user_id, session_id, started_at, ended_at, transcript_hash)
        select user_id, gen_random_uuid()::text, now() - i * interval '1 hour', now() - i * interval '50 minutes',
               encode(sha256(i::text::bytea), 'hex')
          from users, generate_series(1, %s) i
        """,
        SESSIONS,
    )
    stand.query("vacuum analyze")
    return [f"{COOKIE}={token.text}" for token in tokens]


def _tokens(purpose: str, count: int) -> list[Token]:
    signer = TokenSigner((SECRET,), purpose=purpose)
    return [signer.new() for _ in range(count)]

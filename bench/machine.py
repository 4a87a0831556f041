"""What the figures were measured with. No names and no paths."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.load import CONNECTIONS
from bench.stand import WORKERS, Stand
from config import WORKER_THREADS


def described(stand: Stand) -> dict[str, Any]:
    """The machine and the versions."""
    ((postgres,),) = stand.query("show server_version")
    with stand.valkey.client() as client:
        info: dict[str, Any] = client.info("server")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "python": platform.python_version(),
        "postgresql": str(postgres).split()[0],
        "valkey": str(info.get("valkey_version") or info["redis_version"]),
        "wrk": _wrk(),
        **{name: version(name) for name in ("gunicorn", "flask", "psycopg2-binary", "redis")},
    }


def settings() -> dict[str, int]:
    """Of the load and of gunicorn."""
    return {"connections": CONNECTIONS, "workers": WORKERS, "threads": WORKER_THREADS}


def _processor() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _wrk() -> str:
    printed = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"wrk \S*?(\d+\.\d+\.\d+)", printed)
    return found[1] if found else "unknown"

"""Which processes there are: to see that none is left behind."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL


def of(folder: Path) -> dict[int, str]:
    """The processes that work in `folder` or have it on their command line: their ids and command lines."""
    found = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with suppress(OSError):  # it has ended meanwhile
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                # PostgreSQL's own children are named "postgres: checkpointer", but they work in its folder.
                if command and (str(folder) in command or (process / "cwd").readlink().is_relative_to(folder)):
                    found[int(process.name)] = command
    return found


def resident(pid: int) -> int:
    """Bytes of memory that a process holds (RSS)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def keepers(folder: Path) -> list[int]:
    """The keepers of the embedded PostgreSQL in `folder`."""
    return [pid for pid, command in of(folder).items() if "postgres_keeper.py" in command]


def kill(*pids: int) -> None:
    """kill -9."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, SIGKILL)

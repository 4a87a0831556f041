"""What a check came to, and how tools are run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """`details`: what to look at, a line each. "not checked" is no "ok": nobody knows."""

    state: Literal["ok", "found", "not checked"]
    summary: str
    details: tuple[str, ...] = ()


def judged(findings: list[str], *, of: str, notes: list[str] | None = None) -> Outcome:
    """ "ok" without findings. `of`: what was looked at. `notes`: what was accepted."""
    if findings:
        return Outcome("found", f"{len(findings)} in {of}", (*findings, *(notes or ())))
    return Outcome("ok", f"nothing in {of}", tuple(notes or ()))


def run(
    tool: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a tool that is installed beside this Python."""
    command = [str(Path(sys.executable).with_name(tool)), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)

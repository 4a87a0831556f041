"""Hashes: every pin has one, and wherever packages are installed pip is told to insist on them."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.audit.outcome import Outcome, judged

# Where somebody is told to install something, or a machine does it.
PLACES = ("Makefile", "Procfile", ".ci/*", "*.md", "docs/*.md", "clients/**/*.md", "scripts/*.sh")

_PIN = re.compile(r"[\w.-]+(\[[\w,]+\])?==\S+( ;[^#]+)?( +--hash=sha256:[0-9a-f]{64})+ *")


def check(root: Path) -> Outcome:
    """Pins without a hash, and installations that would take anything."""
    requirements = sorted(root.glob("requirements*.txt"))
    findings = [f"{file.name}: no hash: {line.split(' --hash')[0]}" for file in requirements for line in _loose(file)]
    places = [file for place in PLACES for file in sorted(root.glob(place))]
    findings += [f"{file.relative_to(root)}: {line}" for file in places for line in _trusting(file)]
    return judged(findings, of=f"{len(requirements)} files of pins and {len(places)} that may install them")


def _loose(file: Path) -> list[str]:
    return [line for line in _lines(file) if line.strip() and not re.match(r"\s*#", line) and not _PIN.fullmatch(line)]


def _trusting(file: Path) -> list[str]:
    return [line.strip() for line in _lines(file) if "pip install" in line and "--require-hashes" not in line]


def _lines(file: Path) -> list[str]:
    """Without comments of their own; a line that goes on behind a backslash is one."""
    return re.sub(r"\\\n\s*", " ", file.read_text()).splitlines()

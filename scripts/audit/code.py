"""Our own code: bandit's rules, as ruff has them (S)."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

from scripts.audit.outcome import Outcome, judged, run

# What runs in production or on a developer's machine. Tests do on purpose what the rules forbid.
PATHS = ("lumen_api", "scripts", "app.py", "config.py", "wsgi.py", "gunicorn.conf.py")

_NOQA = re.compile(r"# noqa:.*\bS[0-9]{3}\b")


def check(root: Path) -> Outcome:
    """Findings by pyproject.toml's rules, and as notes what these rules and `noqa` accept."""
    findings = _security(root)
    accepted = Counter(code for _, code, _ in _security(root, "--isolated", "--select", "S", "--ignore-noqa"))
    accepted.subtract(code for _, code, _ in findings)
    counts = ", ".join(f"{count} x {code}" for code, count in sorted(accepted.items()) if count > 0)
    notes = [f"accepted, with the reason in pyproject.toml or at its line: {counts}"] if counts else []
    return judged(
        [" ".join(finding) for finding in findings], of="the code, by ruff's S rules", notes=notes + _noqa(root)
    )


def _security(root: Path, *options: str) -> list[tuple[str, str, str]]:
    """Place, rule and message of each finding."""
    found = json.loads(run("ruff", "check", *options, "--output-format", "json", *_paths(root), cwd=root).stdout)
    return [
        (
            f"{Path(item['filename']).relative_to(root.resolve())}:{item['location']['row']}",
            item["code"],
            item["message"],
        )
        for item in found
        if re.match("S[0-9]", item["code"])
    ]


def _noqa(root: Path) -> list[str]:
    files = [
        file
        for path in _paths(root)
        for file in ([root / path] if path.endswith(".py") else (root / path).rglob("*.py"))
    ]
    return [
        f"accepted: {file.relative_to(root)}:{number}: {line.strip()}"
        for file in sorted(files)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if _NOQA.search(line)
    ]


def _paths(root: Path) -> list[str]:
    return [path for path in PATHS if (root / path).exists()]

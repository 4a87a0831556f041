"""`make audit`. Exit status: 0 all is well, 1 something was found, 3 nothing was, but something was not checked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from scripts.audit import code, migrations, packages, pins, secrets
from scripts.audit.outcome import Outcome

Check = Callable[[Path], Outcome]

CHECKS: dict[str, Check] = {
    "code": code.check,
    "packages": packages.check,
    "pins": pins.check,
    "migrations": migrations.check,
    "secrets": secrets.check,
}


def main(root: Path) -> int:
    """Print what each check came to, and return the exit status."""
    states = set()
    for name, check in CHECKS.items():
        outcome = check(root)
        states.add(outcome.state)
        print(f"{outcome.state:<12}{name:<11} {outcome.summary}", *outcome.details, sep="\n" + " " * 24, flush=True)
    return 1 if "found" in states else 3 if "not checked" in states else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[2]))

"""Migrations: none keeps others from a table for long, or breaks the code that still runs (squawk)."""

from __future__ import annotations

import json
from pathlib import Path

from yoyo import read_migrations

from scripts.audit.outcome import Outcome, judged, run

POSTGRESQL = "15"  # the oldest that README.md promises

# lumen_api/migrations.py sets both in the transaction in which yoyo runs a file. A file that says
# "-- transactional: false" has none, and sets them for itself.
IN_A_TRANSACTION = ("--assume-in-transaction", "--exclude=require-lock-timeout,require-statement-timeout")

# What a rollback is for.
UNDOES = {"ban-drop-table", "ban-drop-column"}


def check(root: Path) -> Outcome:
    """What squawk warns of, and as notes what a file tells it to ignore."""
    folder = root / "migrations"
    findings = [f"{file.name}: not SQL, so nobody checks it" for file in sorted(folder.glob("*.py"))]
    notes, count = [], 0
    for migration in read_migrations(str(folder)):
        migration.load()
        for file in sorted(folder.glob(f"{migration.id}*.sql")):
            findings += _lint(file, in_a_transaction=migration.use_transactions)
            ignored = [line for line in file.read_text().splitlines() if "squawk-ignore" in line]
            notes += [f"accepted in {file.name}: {line}" for line in ignored]
            count += 1
    return judged(findings, of=f"{count} files of migrations, by squawk", notes=notes)


def _lint(file: Path, *, in_a_transaction: bool) -> list[str]:
    options = IN_A_TRANSACTION if in_a_transaction else ()
    done = run("squawk", "--reporter=json", f"--pg-version={POSTGRESQL}", *options, file.name, cwd=file.parent)
    accepted = UNDOES if file.name.endswith(".rollback.sql") else set()
    return [
        f"{file.name}:{found['line'] + 1} {found['rule_name']}: {found['message']}"
        for found in json.loads(done.stdout)
        if found["rule_name"] not in accepted
    ]

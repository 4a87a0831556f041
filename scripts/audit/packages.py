"""Other people's code: known vulnerabilities of what requirements*.txt pin, by pip-audit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from scripts.audit.outcome import Outcome, judged, run

OSV = "https://api.osv.dev/v1/query"  # Open Source Vulnerabilities; PyPI's own advisories are among them


def check(root: Path, *, url: str = OSV, env: Mapping[str, str] = os.environ) -> Outcome:
    """pip-audit sends names and versions to `url`. What it gets no answer about is not checked."""
    files = [option for file in sorted(root.glob("requirements*.txt")) for option in ("-r", file.name)]
    options = ("--require-hashes", "--disable-pip", "--vulnerability-service=osv", f"--osv-url={url}", "--format=json")
    done = run("pip-audit", *files, *options, "--progress-spinner=off", cwd=root, env=env)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip-audit said nothing"]
        return _not_checked(url, *reason)
    findings = [
        f"{package['name']} {package['version']}: {known['id']}, fixed in: {', '.join(known['fix_versions']) or '-'}"
        for package in packages
        for known in package.get("vulns", [])
    ]
    skipped = [f"{package['name']}: {package['skip_reason']}" for package in packages if "skip_reason" in package]
    if not findings and (skipped or not packages):
        return _not_checked(url, *skipped)
    return judged(findings, of=f"{len(packages)} packages, by pip-audit", notes=skipped)


def _not_checked(url: str, *details: str) -> Outcome:
    where = f"{url} gave no answer; run `make audit` on a machine that reaches it"
    return Outcome("not checked", where, tuple(detail[:300] for detail in details))

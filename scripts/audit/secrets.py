"""Secrets that were ever committed (detect-secrets). What is taken out again stays in the history, for all to read."""

from __future__ import annotations

import subprocess
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from shutil import which
from typing import NamedTuple

from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

from scripts.audit.outcome import Outcome, judged

ALLOWED = Path(__file__).with_name("allowed_secrets.toml")

# detect-secrets' own, but for three: comments that turn it off, whole files that it trusts by their name, and
# the one that would show what it finds to the service which it may be a key of.
_FILTERS = (
    "is_indirect_reference",
    "is_likely_id_string",
    "is_not_alphanumeric_string",
    "is_potential_uuid",
    "is_prefixed_with_dollar_sign",
    "is_sequential_string",
    "is_templated_secret",
)


class Source(NamedTuple):
    """`where`: the blob's or commit's id, or the working tree."""

    where: str
    path: str
    content: bytes


def check(root: Path, allowed: Path = ALLOWED) -> Outcome:
    """What looks like a secret in any commit, any message and the working tree, and is not in `allowed`."""
    if not (root / ".git").exists() or not which("git"):
        return Outcome("not checked", "there is no .git folder here, or no git; run it in a clone")
    if _git(root, "rev-parse", "--is-shallow-repository").strip() == b"true":
        return Outcome("not checked", "this clone lacks the history (git fetch --unshallow)")
    known = tomllib.loads(allowed.read_text())
    sources = [source for source in _sources(root) if not any(fnmatch(source.path, path) for path in known["paths"])]
    values = {value for group in known["values"] for value in group["these"]}
    findings = [f"{place}: {kind}" for place, kind, value in _secrets(sources) if value not in values]
    return judged(findings, of=f"{len(sources)} files, commits and messages, by detect-secrets")


def _sources(root: Path) -> Iterator[Source]:
    """Whatever a ref leads to, and what is not committed yet."""
    paths = dict(
        line.partition(" ")[::2] for line in _git(root, "rev-list", "--all", "--objects").decode().splitlines()
    )
    batch, at = _git(root, "cat-file", "--batch", stdin="\n".join(paths).encode()), 0
    while at < len(batch):
        end = batch.index(b"\n", at)
        name, kind, size = batch[at:end].decode().split()
        at = end + 1 + int(size) + 1
        if kind != "tree":
            yield Source(name[:12], paths[name] or kind, batch[end + 1 : at - 1])
    changed = _git(root, "ls-files", "--modified", "--others", "--exclude-standard", "-z").decode()
    for path in filter(None, changed.split("\0")):
        if (root / path).is_file():
            yield Source("working tree", path, (root / path).read_bytes())


def _secrets(sources: list[Source]) -> Iterator[tuple[str, str, str]]:
    """Place, kind and value of each."""
    # A history is the same lines again and again: each is looked at once for each kind of file.
    seen: defaultdict[str, set[str]] = defaultdict(set)
    plugins = [{"name": name} for name in _plugins()]
    plugins.append({"name": "ProviderKeys", "path": Path(__file__).with_name("provider_keys.py").as_uri()})
    filters = [{"path": f"detect_secrets.filters.heuristic.{name}"} for name in _FILTERS]
    with (
        tempfile.TemporaryDirectory() as folder,
        transient_settings({"plugins_used": plugins, "filters_used": filters}),
    ):
        get_mapping_from_secret_type_to_class.cache_clear()  # or it does not look for ours
        for source in sources:
            copy = Path(folder) / Path(source.path).name
            lines = source.content.decode(errors="replace").replace("\r", " ").split("\n")
            new = {line: number for number, line in enumerate(lines, 1) if line not in seen[copy.suffix]}
            seen[copy.suffix].update(new)
            copy.write_text("\n".join(new))
            numbers = list(new.values())
            for found in scan_file(str(copy)):
                place = f"{source.where} {source.path}:{numbers[found.line_number - 1]}"
                yield place, found.type, found.secret_value or ""
            copy.unlink()


def _plugins() -> list[str]:
    plugins: dict[str, type] = get_mapping_from_secret_type_to_class()
    return [plugin.__name__ for plugin in plugins.values()]


def _git(root: Path, *arguments: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["git", *arguments], cwd=root, input=stdin, capture_output=True, check=True).stdout  # noqa: S607

"""Secrets in the history are found, and there are none here."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest

from scripts.audit import secrets
from tests.support import ROOT

pytestmark = pytest.mark.full  # git


def test_no_secret_was_ever_committed_here() -> None:
    found = secrets.check(ROOT)

    # A copy of the folder may have no history.
    assert found.state == ("ok" if (ROOT / ".git").exists() else "not checked"), found


# --- Each is in pieces here: the audit reads this file, too. ---

RANDOM = base64.b64encode(hashlib.sha256(b"a test").digest()).decode().rstrip("=").replace("/", "x").replace("+", "y")
COMMITTED = {
    "an AWS key": ("notes.txt", "id " + "AKIA" + "Q7ZTX3KD" * 2),
    "a private key": ("key.pem", "-----BEGIN RSA " + "PRIVATE KEY-----"),
    "Anthropic's key": ("run.sh", "echo sk-ant-" + "api03-" + RANDOM),
    "Resend's key": ("run.sh", "echo re_" + RANDOM[:8].replace("_", "x") + "_" + RANDOM[8:32]),
    "a password in a URL": ("deploy.sh", "psql postgresql://lumen:" + RANDOM[:20] + "@db.example.com/lumen"),
    "our own secret": (".env", "AUTH_TOKEN_SECRETS" + "=" + RANDOM),
    "our own secret in Python": ("settings.py", f'AUTH_TOKEN_SECRETS = "{RANDOM}"'),
    "one that says it is none": ("a.py", f'SECRET = "{RANDOM}"  # pragma: allowlist ' + "secret"),
}


class Repository:
    """A history of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit("README.md", "nothing yet\n")

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=A Test", "-c", "user.email=test@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=self.folder, check=True, capture_output=True)

    def commit(self, name: str, text: str, message: str = "a change") -> None:
        (self.folder / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", f"--message={message}")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


@pytest.mark.parametrize(("name", "line"), COMMITTED.values(), ids=COMMITTED.keys())
def test_a_secret_that_was_committed_and_taken_out_again_is_found(repository: Repository, name: str, line: str) -> None:
    repository.commit(name, f"first\n{line}\n")
    repository.commit(name, "first\n")

    found = secrets.check(repository.folder)

    assert found.state == "found"
    assert all(f" {name}:2: " in detail for detail in found.details)
    assert line not in str(found)


def test_a_secret_is_found_on_any_branch_in_a_message_and_before_it_is_committed(repository: Repository) -> None:
    key = COMMITTED["an AWS key"][1]
    repository.git("switch", "--quiet", "--create", "aside")
    repository.commit("aside.txt", key)
    repository.git("switch", "--quiet", "main")
    repository.commit("b.txt", "b", message=f"with {key.replace('Q7', 'Q8')}")
    (repository.folder / "new.ini").write_text(key.replace("Q7", "Q9"))

    places = {detail.split(":")[0].split(maxsplit=1)[1] for detail in secrets.check(repository.folder).details}

    assert places == {"aside.txt", "commit", "tree new.ini"}


def test_an_allowed_value_is_allowed_and_another_beside_it_is_not(repository: Repository, tmp_path: Path) -> None:
    key = "AKIA" + "Q7ZTX3KD" * 2
    allowed = tmp_path / ".git" / "allowed.toml"
    allowed.write_text(f'[paths]\n"vectors/*" = "hashes"\n[[values]]\nreason = "a test"\nthese = ["{key}"]\n')
    repository.commit("a.txt", key)
    ok = secrets.check(repository.folder, allowed)
    repository.commit("a.txt", f"{key}\n{key.replace('Q7', 'Q8')}\n")

    assert ok.state == "ok"
    assert [detail.split(":")[1] for detail in secrets.check(repository.folder, allowed).details] == ["2"]


def test_without_a_history_secrets_are_not_checked(tmp_path: Path) -> None:
    assert secrets.check(tmp_path).state == "not checked"


def test_with_half_a_history_secrets_are_not_checked(repository: Repository) -> None:
    repository.commit("a.txt", "a")
    repository.git("clone", "--quiet", "--depth=1", repository.folder.as_uri(), "half")

    assert secrets.check(repository.folder / "half").state == "not checked"

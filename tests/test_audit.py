"""`make audit` finds what it is for, says what it could not check, and finds nothing here."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from scripts.audit import __main__ as audit
from scripts.audit import code, migrations, packages, pins
from scripts.audit.outcome import Outcome
from tests.support import ROOT, free_port

PIN = f"jinja2==3.1.6 --hash=sha256:{'0' * 64}\n"

# --- Here. ---


@pytest.mark.parametrize("check", [code.check, pins.check, migrations.check], ids=lambda it: it.__module__)
def test_nothing_is_found_here(check: audit.Check) -> None:
    found = check(ROOT)

    assert found.state == "ok", found


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["ok", "ok"], 0),
        (["ok", "not checked"], 3),
        (["not checked", "found"], 1),
        (["found", "ok"], 1),
    ],
)
def test_the_exit_status_tells_what_was_found_from_what_was_not_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], states: list[str], status: int
) -> None:
    outcomes = {f"check {n}": Outcome(state, "of a test", ("a line",)) for n, state in enumerate(states)}  # type: ignore[arg-type]
    monkeypatch.setattr(audit, "CHECKS", {name: lambda _, it=it: it for name, it in outcomes.items()})

    assert audit.main(ROOT) == status
    assert [line[:12].strip() for line in capsys.readouterr().out.splitlines()[::2]] == states


# --- Code. ---


@pytest.mark.parametrize(
    "line",
    ["subprocess.run('ls ' + x, shell=True)", "eval(x)", "hashlib.md5(x)", "pickle.loads(x)", "tmp = '/tmp/lumen'"],
)
def test_unsafe_code_is_found_and_so_that_somebody_accepted_it(tmp_path: Path, line: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "app.py").write_text(f"import hashlib, pickle, subprocess\nx = b''\n{line}\n")
    found = code.check(tmp_path)
    rule = found.details[0].split()[1]
    (tmp_path / "app.py").write_text(
        f"import hashlib, pickle, subprocess\nx = b''\n{line}  # noqa: {rule} - a reason\n"
    )
    accepted = code.check(tmp_path)

    assert (found.state, accepted.state) == ("found", "ok")
    assert f"1 x {rule}" in accepted.details[0]
    assert "a reason" in accepted.details[1]


# --- Packages. ---


class Osv(BaseHTTPRequestHandler):
    """Knows one vulnerability, of jinja2 before 99."""

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        events = [{"introduced": "0"}, {"fixed": "99"}]
        package = {"ecosystem": "PyPI", "name": "jinja2"}
        known = {
            "id": "GHSA-of-a-test",
            "summary": "It is bad.",
            "details": "Very.",
            "affected": [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
        }
        answer = json.dumps({"vulns": [known]} if query["package"]["name"] == "jinja2" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def osv() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def audited(folder: Path, url: str, *pins: str) -> Outcome:
    (folder / "requirements.txt").write_text("".join(pins))
    return packages.check(folder, url=url, env={**os.environ, "HOME": str(folder), "XDG_CACHE_HOME": str(folder)})


def test_a_package_with_a_known_vulnerability_is_found(tmp_path: Path, osv: str) -> None:
    found = audited(tmp_path, osv, PIN, PIN.replace("jinja2", "click"))

    assert (found.state, found.details) == ("found", ("jinja2 3.1.6: GHSA-of-a-test, fixed in: 99",))


def test_packages_without_a_known_vulnerability_are_ok(tmp_path: Path, osv: str) -> None:
    assert audited(tmp_path, osv, PIN.replace("jinja2", "click")).state == "ok"


def test_packages_are_not_checked_when_nobody_can_be_asked(tmp_path: Path) -> None:
    found = audited(tmp_path, f"http://127.0.0.1:{free_port()}/v1/query", PIN)

    assert found.state == "not checked"
    assert "make audit" in found.summary
    assert "Connection refused" in found.details[0]


# --- Pins. ---


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("requirements.txt", "flask==3.1.3\n"),
        ("requirements.txt", PIN.replace("sha256", "md5")),
        ("requirements-dev.txt", PIN.replace("==", ">=")),
        ("requirements-dev.txt", "git+https://example.com/flask.git\n"),
        ("requirements-dev.txt", "--trusted-host example.com\n"),
        ("Makefile", "x:\n\tpython -m pip install --quiet \\\n\t\t-r requirements.txt\n"),
        ("Procfile", "release: pip install gunicorn\n"),
        ("README.md", "    .venv/bin/pip install -r requirements.txt\n"),
    ],
)
def test_an_installation_that_checks_no_hash_is_found(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / "requirements.txt").write_text(PIN)
    (tmp_path / file).write_text(text)

    found = pins.check(tmp_path)

    assert (found.state, len(found.details)) == ("found", 1)


@pytest.mark.parametrize("tampered", [False, True], ids=["as it was", "one bit changed"])
def test_pip_installs_what_has_the_hash_and_refuses_what_was_tampered_with(tmp_path: Path, tampered: bool) -> None:
    wheel = tmp_path / "honest-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("honest.py", "")
        archive.writestr("honest-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: honest\nVersion: 1\n")
        archive.writestr("honest-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("honest-1.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tmp_path / "requirements.txt").write_text(f"honest==1 --hash=sha256:{digest}\n")
    content = bytearray(wheel.read_bytes())
    content[10] ^= tampered  # the time of the first file: it unpacks as before
    wheel.write_bytes(content)

    options = ["--no-index", f"--find-links={tmp_path}", "--no-deps", f"--target={tmp_path / 'installed'}"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "--isolated",
        "install",
        "--require-hashes",
        *options,
        "-r",
        "requirements.txt",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode == 0, (tmp_path / "installed" / "honest.py").exists()) == (not tampered, not tampered)
    assert ("DO NOT MATCH THE HASHES" in done.stderr) == tampered


# --- Migrations. ---


def linted(folder: Path, sql: str, name: str = "9000.more.sql") -> Outcome:
    """A folder with this one migration."""
    (folder / "migrations").mkdir()
    (folder / "migrations" / name).write_text(sql)
    return migrations.check(folder)


@pytest.mark.parametrize(
    ("rule", "sql"),
    [
        ("require-concurrent-index-creation", "create index users_created_at on users (created_at);"),
        ("adding-field-with-default", "alter table users add column n uuid not null default gen_random_uuid();"),
        ("adding-required-field", "alter table users add column n text not null;"),
        ("changing-column-type", "alter table users alter column created_at type date;"),
        ("adding-not-nullable-field", "alter table sessions alter column started_at set not null;"),
        ("adding-foreign-key-constraint", "alter table sessions add column other uuid references users;"),
        ("constraint-missing-not-valid", "alter table users add constraint c check (length(email) > 3);"),
        ("disallowed-unique-constraint", "alter table sessions add constraint c unique (session_id);"),
        ("ban-drop-column", "alter table users drop column email;"),
        ("renaming-column", "alter table users rename column email to mail;"),
        ("renaming-table", "alter table users rename to people;"),
        ("syntax-error", "alter tabel users add n text;"),
        ("require-lock-timeout", "-- transactional: false\nalter table users add column if not exists n text;"),
    ],
)
def test_a_migration_that_locks_others_out_or_breaks_running_code_is_found(tmp_path: Path, rule: str, sql: str) -> None:
    found = linted(tmp_path, f"{sql}\n")

    assert found.state == "found"
    assert f" {rule}: " in " ".join(found.details)


INDEX = "create index concurrently if not exists users_created_at on users (created_at);"


@pytest.mark.parametrize(
    "sql",
    [
        "alter table users add column n text;",
        "create table more (n bigint primary key);\ncreate index more_n on more (n);",
        "-- transactional: false\nset lock_timeout = '5s';\nset statement_timeout = 0;\n" + INDEX,
    ],
    ids=["a column that may be null", "a table and its index", "an index beside traffic"],
)
def test_a_migration_that_keeps_nobody_waiting_is_ok(tmp_path: Path, sql: str) -> None:
    assert linted(tmp_path, f"{sql}\n") == Outcome("ok", "nothing in 1 files of migrations, by squawk")


def test_what_a_migration_tells_squawk_to_ignore_is_shown(tmp_path: Path) -> None:
    ignore = "-- squawk-ignore ban-drop-column"
    found = linted(tmp_path, f"{ignore}\nalter table users drop column email;\n")

    assert (found.state, found.details) == ("ok", (f"accepted in 9000.more.sql: {ignore}",))


def test_a_migration_that_is_no_sql_is_found(tmp_path: Path) -> None:
    assert linted(tmp_path, "steps = []\n", "9000.more.py").state == "found"

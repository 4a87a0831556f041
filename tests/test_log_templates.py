"""The templates that other libraries' lines show are constants: no library fills one in and hands it on as one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

from tests.support import ROOT

METHODS = {"debug", "info", "warning", "warn", "error", "exception", "critical", "fatal", "log"}
# Those with a condition behind them, like `; sys_platform == 'win32'`, are not installed everywhere.
PINNED = re.findall(r"^([A-Za-z0-9._-]+)==[^;\n]+\\$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)


def filled_in(source: str) -> Iterator[ast.Call]:
    """Calls like log.error(f"no {thing}: %s", reason): with a message that holds a value, and arguments beside it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            given = node.args[1:] if node.func.attr == "log" else node.args
            message = given[0] if len(given) > 1 else None
            if (
                isinstance(message, ast.JoinedStr | ast.BinOp | ast.Call)
                and "log" in ast.unparse(node.func.value).lower()
            ):
                yield node


@pytest.mark.parametrize(
    "call",
    [
        'log.error(f"no {thing}: %s", reason)',
        'log.log(10, f"no {thing}: %s", reason)',
        'self.log.warning("no %s: %%s" % thing, reason)',
        'logger.exception("no " + thing + ": %s", reason)',
        'logger.info("no {}: %s".format(thing), reason)',
    ],
)
def test_a_template_that_holds_a_value_is_found(call: str) -> None:
    assert len(list(filled_in(call))) == 1


@pytest.mark.parametrize(
    "call", ['log.error("no %s", thing)', 'log.error(f"no {thing}")', "log.error(TEMPLATE, thing)"]
)
def test_a_constant_template_and_a_message_without_arguments_are_fine(call: str) -> None:
    assert list(filled_in(call)) == []


@pytest.mark.parametrize("name", PINNED)
def test_no_library_of_production_hands_on_a_template_that_holds_a_value(name: str) -> None:
    found = []
    for file in distribution(name).files or []:
        path = Path(str(file.locate()))
        if path.suffix == ".py" and "log" in (source := path.read_text(encoding="utf-8")):
            found += [(str(file), call.lineno) for call in filled_in(source)]

    assert found == []

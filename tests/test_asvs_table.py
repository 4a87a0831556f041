"""docs/asvs.md has every requirement of OWASP ASVS 5.0.0 once, names tests that exist, and counts right."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pytest

from tests.support import ROOT

DOCUMENT = (ROOT / "docs/asvs.md").read_text()
STATES = ("met", "not applicable", "open")
TESTS = {
    name for file in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
}

# The standard's own list: each section, and the levels of its requirements in their order.
SECTIONS = """
1.1 22, 1.2 1111122223, 1.3 112222222223, 1.4 222, 1.5 123,
2.1 122, 2.2 112, 2.3 12223, 2.4 23,
3.1 3, 3.2 113, 3.3 12223, 3.4 11222233, 3.5 11122333, 3.6 3, 3.7 22333,
4.1 12233, 4.2 23333, 4.3 22, 4.4 1222,
5.1 2, 5.2 112333, 5.3 113, 5.4 222,
6.1 122, 6.2 111111112222, 6.3 11223333, 6.4 112233, 6.5 22222333, 6.6 2223, 6.7 33, 6.8 2222,
7.1 222, 7.2 1111, 7.3 22, 7.4 11222, 7.5 223, 7.6 22,
8.1 1233, 8.2 1123, 8.3 133, 8.4 23,
9.1 111, 9.2 1222,
10.1 22, 10.2 223, 10.3 22223, 10.4 1111122222233333, 10.5 22222, 10.6 22, 10.7 222,
11.1 2233, 11.2 22233, 11.3 11233, 11.4 1222, 11.5 23, 11.6 23, 11.7 33,
12.1 12233, 12.2 11, 12.3 22223,
13.1 2333, 13.2 222223, 13.3 2233, 13.4 1222233,
14.1 22, 14.2 12223333, 14.3 122,
15.1 12233, 15.2 12233, 15.3 1222222, 15.4 3333,
16.1 2, 16.2 22222, 16.3 2222, 16.4 222, 16.5 2223,
17.1 23, 17.2 22223333, 17.3 22
"""
LEVELS = {
    f"{section}.{place}": int(level)
    for section, levels in re.findall(r"([0-9.]+) ([123]+)", SECTIONS)
    for place, level in enumerate(levels, 1)
}
ORDER = list(LEVELS)


@dataclass(frozen=True)
class Row:
    """One row: about one requirement, or about several that follow each other."""

    numbers: tuple[str, ...]
    levels: str
    asks: str
    state: str
    how: str


def row(line: str) -> Row:
    first, levels, asks, state, how = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
    begin, _, end = first.partition("–")
    return Row(tuple(ORDER[ORDER.index(begin) : ORDER.index(end or begin) + 1]), levels, asks, state, how)


ROWS = [row(line) for line in re.findall(r"(?m)^\| [0-9]+\.[0-9]+\.[0-9].*$", DOCUMENT)]
OF_STATE = {state: [found for found in ROWS if found.state == state] for state in STATES}


def by_number(found: Row) -> str:
    return found.numbers[0]


# --- The standard. ---


def test_the_list_is_as_long_as_the_standard() -> None:
    assert Counter(LEVELS.values()) == {1: 70, 2: 183, 3: 92}
    assert Counter(number.partition(".")[0] for number in ORDER)["6"] == 47
    assert Counter(number.partition(".")[0] for number in ORDER)["7"] == 19


def test_every_requirement_is_there_once_and_in_its_order() -> None:
    assert [number for found in ROWS for number in found.numbers] == ORDER


def test_a_row_has_the_levels_of_its_requirements() -> None:
    wrong = [
        found.numbers
        for found in ROWS
        if found.levels != ", ".join(sorted({str(LEVELS[number]) for number in found.numbers}))
    ]

    assert wrong == []


# --- The states. ---


def test_a_row_is_met_or_not_applicable_or_open() -> None:
    assert [found.numbers for found in ROWS if found.state not in STATES] == []


@pytest.mark.parametrize("found", OF_STATE["met"], ids=by_number)
def test_what_is_met_is_shown_by_a_test_or_a_file(found: Row) -> None:
    tests = re.findall(r"`(test_\w+)`", found.how)
    files = re.findall(r"`((?:[\w.-]+/)*[\w-]+\.[a-z]+)`", found.how)
    files += [f"docs/{link}" for link in re.findall(r"\]\(([^)#:]+)", found.how)]
    headings = re.findall(r"\]\(#([\w-]+)\)", found.how)

    assert tests or files or headings
    assert [name for name in tests if name not in TESTS] == []
    assert [name for name in files if not (ROOT / name).exists()] == []
    assert [name for name in headings if name not in anchors()] == []


def anchors() -> set[str]:
    """What GitHub makes of the headings."""
    titles = re.findall(r"(?m)^#+ (.+)$", DOCUMENT)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("found", OF_STATE["not applicable"] + OF_STATE["open"], ids=by_number)
def test_what_is_not_met_says_why_or_what_it_would_take(found: Row) -> None:
    assert len(found.how) >= 10
    assert found.asks


# --- The summary. ---


def counted(level: int | None, state: str | None) -> int:
    """How many requirements are of a level and in a state; None: of any."""
    return sum(
        level in (None, LEVELS[number]) for found in ROWS if state in (None, found.state) for number in found.numbers
    )


def test_the_summary_counts_right() -> None:
    lines = ["| level | met | not applicable | open | all |", "|---|---|---|---|---|"]
    for level in (1, 2, 3, None):
        cells = [str(counted(level, state)) for state in (*STATES, None)]
        lines.append(f"| {level or 'all'} | {' | '.join(cells)} |")
    summary = "\n".join(lines)

    assert summary in DOCUMENT, f"it should be:\n{summary}"


def test_what_is_left_to_operators_is_counted_right() -> None:
    of_operators = [
        number for found in OF_STATE["not applicable"] if found.how.startswith("Operator: ") for number in found.numbers
    ]

    assert f"{len(of_operators)} of those that do not apply" in DOCUMENT, f"there are {len(of_operators)}"


def test_the_open_ones_of_level_1_are_named_at_the_top() -> None:
    numbers = [number for found in OF_STATE["open"] for number in found.numbers if LEVELS[number] == 1]
    (said,) = re.findall(r"(?m)^Open at level 1: (.+)\.$", DOCUMENT)

    assert said == (", ".join(numbers) or "nothing")

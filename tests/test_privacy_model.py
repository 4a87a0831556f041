"""Nothing that was said to the model or by it gets out while something of ours fails and quotes it.

What the provider and the caller do wrong is in test_privacy.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import ROOT, databases, eventually
from tests.support.anthropic_answers import FOREVER, Wait, message
from tests.support.buggy_provider import WSGI
from tests.support.caller import Caller
from tests.support.canaries import Canaries
from tests.support.conversation_of_canaries import Conversation
from tests.support.journey_of_a_canary import LIMITS
from tests.support.production import Production, production

DEBUG = {**LIMITS, "LOG_LEVEL": "DEBUG"}


@contextmanager
def conversation(it: Production) -> Iterator[Conversation]:
    """Somebody who is signed in. In the end nothing of it all is anywhere."""
    canaries = Canaries()
    held = Conversation(Caller(it, canaries))
    held.sign_in("Ada")
    yield held
    assert held.strays() == ""
    assert it.leaks(canaries, held.canaries) == ""


def calls(it: Production) -> list[str | None]:
    """The error classes of the calls in the log."""
    return [line["error_class"] for line in it.records() if line["event"] == "llm_call"]


@pytest.fixture
def buggy(tmp_path: Path) -> Path:
    """A checkout with a bug in its provider."""
    folder = tmp_path / "buggy"
    folder.mkdir()
    for path in ROOT.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "wsgi.py").unlink()
    (folder / "wsgi.py").write_text(WSGI)
    return folder


def test_what_an_exception_of_our_own_quotes_goes_no_further(tmp_path: Path, buggy: Path) -> None:
    with production(tmp_path, DEBUG, workers=1, project=buggy) as it, conversation(it) as held:
        system = held.said.word("system")
        held.ask(held.whole(), system=f"{system} whole")
        held.ask(held.stream(), stream=True, system=f"{system} first")
        endless = held.stream().after("content_block_start", Wait(0.3)).until("content_block_delta", FOREVER)
        held.ask(endless, stream=True, system=f"{system} middle")
        held.leave(endless, after=1, system=f"{system} close")

        eventually(lambda: len(calls(it)) == 4)
        assert calls(it)[:3] == ["RuntimeError"] * 3
        eventually(lambda: len(failures(it)) == 4)


def failures(it: Production) -> list[str]:
    """The stacks of the failures of the provider's code, as logged."""
    stacks = [
        str(line["stack"]) for line in it.records() if line.get("error_class") == "RuntimeError" and "stack" in line
    ]
    return [stack for stack in stacks if "tests/support/buggy_provider.py" in stack]


# Where a call writes, what its row is quoted by, and what the caller hears.
QUOTE = """
    create function quote_row() returns trigger language plpgsql as $$
        begin raise exception using message = coalesce(new, old)::text, detail = coalesce(new, old)::text; end $$;
"""
RESERVING = [("llm_totals", "insert"), ("llm_usage", "insert"), ("llm_reservations", "insert")]
SETTLING = [("llm_usage", "update"), ("llm_reservations", "delete")]


def test_what_the_database_quotes_of_a_call_goes_no_further(tmp_path: Path) -> None:
    with production(tmp_path, DEBUG, workers=1) as it, conversation(it) as held:
        databases.query(it.server.url, QUOTE)
        for table, event in RESERVING + SETTLING:
            databases.query(
                it.server.url,
                f"create trigger fault before {event} on {table} for each row execute function quote_row()",
            )
            if (table, event) in SETTLING:
                # The answer is there: it is charged by its reservation, and nobody is told.
                assert held.ask(message(), stream=False).status == 200
            else:
                held.expect("internal_error", message(), stream=False)
            databases.query(it.server.url, f"drop trigger fault on {table}")

        errors = [line.get("error_class") for line in it.records() if line["event"] == "unhandled_error"]
        assert errors.count("RaiseException") == len(RESERVING + SETTLING)

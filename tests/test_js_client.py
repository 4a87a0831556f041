"""clients/js/lumen-client.mjs: its own tests, on a scripted network and against a running service. Node runs them."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.conftest import ServiceFactory
from tests.support import ROOT
from tests.support.programs import node

pytestmark = pytest.mark.full  # Node

SCRIPTED = tuple(
    f"test/{name}.test.mjs"
    for name in (
        *("lumen-client", "outbox", "outbox-storage"),
        *("server-sent-events", "model-calls", "model-calls-end"),
    )
)
WITH_SERVICE = "test/lumen-client-service.test.mjs"


def run_in_node(*files: str, **env: str) -> list[str]:
    """Run the tests in `files`, all of which must pass, and return their names."""
    done = subprocess.run(
        [node(), "--test", "--test-reporter=tap", *files],
        cwd=ROOT / "clients" / "js",
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.findall(r"# (?:SKIP|TODO)", done.stdout) == []
    return re.findall(r"^ok \d+ - (.+)$", done.stdout, re.MULTILINE)


def test_the_client_and_its_outbox_do_what_they_say() -> None:
    assert len(run_in_node(*SCRIPTED)) > len(SCRIPTED)


def test_the_client_makes_the_whole_journey_with_the_real_service(serve: ServiceFactory) -> None:
    """In development, where request-link answers with the link."""
    service = serve(APP_ENV="development", SMTP_URL="", EMAIL_FROM="")

    names = run_in_node(WITH_SERVICE, LUMEN_URL=f"http://127.0.0.1:{service.port}")

    assert "the whole journey: link, sign-in, session, list, export, logout" in names

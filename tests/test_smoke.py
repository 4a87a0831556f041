"""scripts/smoke.sh: what it says of a service that works, and of one that does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ServiceFactory
from tests.support import ROOT, free_port
from tests.support.mailbox import Mailbox

pytestmark = pytest.mark.full  # curl

SCRIPT = str(ROOT / "scripts" / "smoke.sh")
DEVELOPMENT = {"APP_ENV": "development", "SMTP_URL": "", "EMAIL_FROM": ""}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def smoke(scratch: Path, *arguments: str, shell: tuple[str, ...] = (), **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*shell, SCRIPT, *arguments],
        cwd=scratch,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(scratch), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert list(scratch.iterdir()) == []  # neither cookies nor tokens are left lying around
    return done


def verdicts(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.split()[0] for line in done.stdout.splitlines()]


def test_in_development_the_whole_journey_passes_in_every_shell(serve: ServiceFactory, scratch: Path) -> None:
    service = serve(workers=1, **DEVELOPMENT)

    for shell in ((), ("sh",), ("bash",)):
        done = smoke(scratch, f"http://localhost:{service.port}/", shell=shell)

        assert (done.returncode, done.stderr) == (0, "")
        assert verdicts(done) == [*["PASS"] * 14, "all"]


def test_elsewhere_the_journey_ends_with_a_mail(serve: ServiceFactory, mailbox: Mailbox, scratch: Path) -> None:
    service = serve(workers=1)

    done = smoke(scratch, f"http://127.0.0.1:{service.port}", SMOKE_EMAIL="operator@example.com")

    assert done.returncode == 0
    assert verdicts(done) == [*["PASS"] * 5, "----", "all"]
    assert len(mailbox.to("operator@example.com")) == 1


def test_nobody_at_home_fails_everywhere(scratch: Path) -> None:
    done = smoke(scratch, f"http://127.0.0.1:{free_port()}")

    assert done.returncode == 1
    assert set(verdicts(done)) == {"FAIL"}


def test_a_lost_database_fails_where_it_is_needed(serve: ServiceFactory, scratch: Path) -> None:
    service = serve(workers=1, DATABASE_URL=f"postgresql://127.0.0.1:{free_port()}/lumen")

    done = smoke(scratch, f"http://127.0.0.1:{service.port}")

    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert ["not_ready" in failed[0], "database_unavailable" in failed[1]] == [True, True]
    assert len(failed) == 2
    assert "all passed" not in done.stdout


def test_without_an_address_it_says_how_it_is_called(scratch: Path) -> None:
    done = smoke(scratch)

    assert done.returncode != 0
    assert "usage: scripts/smoke.sh URL" in done.stderr

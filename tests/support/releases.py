"""The last release's code, and people who travel from it to today's and back in the middle of a journey."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from threading import Event
from time import monotonic

from tests.support import ROOT
from tests.support.journeys import HASH
from tests.support.mailbox import Mailbox
from tests.support.service import Answer, Service

FOLDER = ROOT / "tests" / "releases"
ARCHIVE = FOLDER / "last.tar.gz"


def unpack(folder: Path) -> Path:
    """The last release, ready to be served by `Service(..., project=...)`."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def commit() -> str:
    """The commit that git archive has written down."""
    with tarfile.open(ARCHIVE) as archive:
        return archive.pax_headers["comment"]


def migration_files() -> dict[str, bytes]:
    """The last release's migrations and rollbacks, by the file's name."""
    found = {}
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.startswith("migrations/") else None
            if file:
                found[Path(member.name).name] = file.read()
    return found


class Traveller:
    """One person, and how many `refusals` they met: announced 503s.

    Each request goes to the next of `services` in turn, and again to the same one for `patience` seconds while it is
    refused.
    """

    def __init__(self, services: Sequence[Service], mailbox: Mailbox, email: str, *, patience: float = 0.0) -> None:
        self.refusals = 0
        self._services = cycle(services)
        self._mailbox = mailbox
        self._email = email
        self._patience = patience
        self._cookie: dict[str, str] = {}

    def journey(self) -> None:
        """All that one can do without the model. Fails at the first answer that is not as it should be."""
        session = {"session_id": "one"}
        self.sign_in()
        assert self.ask("GET", "/v1/auth/session").json["email"] == self._email
        self.ask("POST", "/v1/sessions/start", session)
        self.ask("POST", "/v1/sessions/end", {**session, "transcript_hash": HASH})
        (listed,) = self.ask("GET", "/v1/sessions").json["sessions"]
        assert (listed["session_id"], listed["transcript_hash"]) == ("one", HASH)
        self.export()
        self.ask("POST", "/v1/auth/logout")
        self.ask("GET", "/v1/auth/session", status=401)
        self.sign_in()
        self.sign_in()  # on another device
        assert self.ask("POST", "/v1/auth/logout-all").json["revoked"] == 1
        self.sign_in()
        self.ask("DELETE", "/v1/account")
        self.ask("GET", "/v1/auth/session", status=401)

    def sign_in(self) -> None:
        """By a new link, mailed."""
        self.ask("POST", "/v1/auth/request-link", {"email": self._email})
        answer = self.ask("POST", "/v1/auth/verify", {"token": self._mailbox.token_for(self._email)})
        self._cookie = {"Cookie": answer.cookie}

    def export(self) -> None:
        """All that is stored about the person, or an announced 503: what reads every table may wait for all of them."""
        answer = next(self._services).call("GET", "/v1/account", headers=self._cookie)
        assert answer.status == 200 or refused(answer), (answer.status, answer.body)
        self.refusals += refused(answer)

    def ask(self, method: str, path: str, body: object = None, *, status: int = 200) -> Answer:
        """The answer, which has to have this status."""
        service, until = next(self._services), monotonic() + self._patience
        while True:
            answer = service.call(method, path, body, headers=self._cookie)
            if not refused(answer) or monotonic() >= until:
                break
            self.refusals += 1
            Event().wait(0.05)
        assert answer.status == status, (method, path, answer.status, answer.body)
        return answer


def refused(answer: Answer) -> bool:
    """Whether it is a 503 that says when to come again."""
    return answer.status == 503 and answer.headers.get("Retry-After", "").isdigit()

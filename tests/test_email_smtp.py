"""Mail through SMTP: encrypted, the certificate checked, signed in where asked for, and each refusal told apart."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from flask import Flask
from werkzeug.test import TestResponse

from tests.conftest import AppFactory
from tests.support import databases, free_port
from tests.support.journeys import request_link
from tests.support.mailbox import Mailbox
from tests.support.raw_server import RawServer, Talk, dripping, hang_up, script, silent

USER, PASSWORD = "post@example.com", "p@ss:w/rd%41? #"
CREDENTIALS = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"

# A server that asks for a password without TLS is what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")

# What a server says in turn: greeting, EHLO, MAIL, RCPT, DATA.
REPLIES = (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n")


def ask(app: Flask) -> TestResponse:
    return app.test_client().post("/v1/auth/request-link", json={"email": "ada@example.com"})


def assert_unavailable(answer: TestResponse, database: str) -> None:
    """503, and nothing that could be redeemed."""
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "email_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    assert databases.query(database, "select from auth_tokens") == []


class Guarded(Mailbox):
    """A mailbox that takes mail from USER alone, and keeps what it was told."""

    def __init__(self, **smtp: Any) -> None:
        super().__init__(authenticator=self._check, auth_required=True, **{"auth_require_tls": False, **smtp})
        self.attempts: list[str] = []

    def __enter__(self) -> Guarded:
        super().__enter__()
        return self

    def _check(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: LoginPassword
    ) -> AuthResult:
        self.attempts.append(mechanism)
        return AuthResult(success=given == (USER.encode(), PASSWORD.encode()), handled=False)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process trusts `ca`, and nobody else."""
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


def certificate(ca: trustme.CA, name: str, *, until: datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name, not_after=until).configure_cert(context)
    return context


# --- Encryption. ---


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_smtps_is_tls_from_the_first_byte(make_app: AppFactory, ca: trustme.CA, host: str) -> None:
    with Mailbox(tls=certificate(ca, host)) as mailbox:
        assert request_link(make_app(SMTP_URL=f"smtps://{host}:{mailbox.port}").test_client(), mailbox)


@pytest.mark.usefixtures("trusted")
def test_starttls_is_used_where_it_is_offered(make_app: AppFactory, ca: trustme.CA) -> None:
    # This server takes no mail before STARTTLS.
    with Mailbox(tls_context=certificate(ca, "127.0.0.1"), require_starttls=True) as mailbox:
        assert request_link(make_app(SMTP_URL=mailbox.url).test_client(), mailbox)


def test_a_certificate_that_nobody_vouches_for_is_refused(make_app: AppFactory, ca: trustme.CA, database: str) -> None:
    with Mailbox(tls=certificate(ca, "localhost")) as mailbox:
        assert_unavailable(ask(make_app(SMTP_URL=f"smtps://localhost:{mailbox.port}")), database)
        assert mailbox.messages == []


def test_starttls_with_a_certificate_that_nobody_vouches_for_is_refused(
    make_app: AppFactory, ca: trustme.CA, database: str
) -> None:
    with Mailbox(tls_context=certificate(ca, "127.0.0.1")) as mailbox:
        assert_unavailable(ask(make_app(SMTP_URL=mailbox.url)), database)
        assert mailbox.messages == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_for_another_host_is_refused(make_app: AppFactory, ca: trustme.CA, database: str) -> None:
    with Mailbox(tls=certificate(ca, "mail.example.com")) as mailbox:
        assert_unavailable(ask(make_app(SMTP_URL=f"smtps://localhost:{mailbox.port}")), database)
        assert mailbox.messages == []


@pytest.mark.usefixtures("trusted")
def test_an_expired_certificate_is_refused(make_app: AppFactory, ca: trustme.CA, database: str) -> None:
    with Mailbox(tls=certificate(ca, "localhost", until=datetime(2021, 1, 1, tzinfo=UTC))) as mailbox:
        assert_unavailable(ask(make_app(SMTP_URL=f"smtps://localhost:{mailbox.port}")), database)
        assert mailbox.messages == []


def test_smtps_never_falls_back_to_plain_text(make_app: AppFactory, mailbox: Mailbox, database: str) -> None:
    assert_unavailable(ask(make_app(SMTP_URL=f"smtps://127.0.0.1:{mailbox.port}")), database)
    assert mailbox.messages == []


def test_a_server_elsewhere_gets_nothing_without_starttls(make_app: AppFactory, database: str) -> None:
    # "127.1" leads to this machine, but the service cannot know that before it asks. It offers no STARTTLS.
    with Guarded() as server:
        assert_unavailable(ask(make_app(SMTP_URL=f"smtp://{CREDENTIALS}@127.1:{server.port}")), database)
        assert (server.attempts, server.messages) == ([], [])


# --- Signing in. ---


@pytest.mark.parametrize(("mechanism", "other"), [("PLAIN", "LOGIN"), ("LOGIN", "PLAIN")])
def test_credentials_come_out_of_the_url_as_they_were_meant(make_app: AppFactory, mechanism: str, other: str) -> None:
    with Guarded(auth_exclude_mechanism=[other]) as server:
        url = f"smtp://{CREDENTIALS}@127.0.0.1:{server.port}"
        request_link(make_app(SMTP_URL=url).test_client(), server)
        assert server.attempts == [mechanism]


@pytest.mark.usefixtures("trusted")
def test_credentials_go_out_after_starttls_only(make_app: AppFactory, ca: trustme.CA) -> None:
    context = certificate(ca, "127.0.0.1")
    with Guarded(tls_context=context, auth_require_tls=True) as server:
        request_link(make_app(SMTP_URL=f"smtp://{CREDENTIALS}@127.0.0.1:{server.port}").test_client(), server)


def test_a_wrong_password_is_our_fault_and_not_the_callers(make_app: AppFactory, database: str) -> None:
    with Guarded() as server:
        assert_unavailable(ask(make_app(SMTP_URL=f"smtp://{USER}:wrong@127.0.0.1:{server.port}")), database)
        assert server.messages == []


def test_a_server_that_asks_for_credentials_we_lack_is_our_fault(make_app: AppFactory, database: str) -> None:
    with Guarded() as server:
        assert_unavailable(ask(make_app(SMTP_URL=server.url)), database)


# --- Refusals. ---


@pytest.mark.parametrize(
    "reply",
    ["550 5.1.1 no such user", "550 no such user", "551 5.1.6 moved", "553 5.1.3 bad address", "556 5.1.10 null MX"],
)
def test_a_recipient_refused_for_good_is_answered_like_any_other(
    make_app: AppFactory, mailbox: Mailbox, database: str, capfd: pytest.CaptureFixture[str], reply: str
) -> None:
    app = make_app()
    taken = ask(app)
    databases.query(database, "truncate auth_tokens")
    mailbox.clear()
    mailbox.answer_rcpt = lambda _: reply

    refused = ask(app)

    assert (refused.status_code, refused.data) == (taken.status_code, taken.data)
    assert databases.query(database, "select from auth_tokens") == []
    assert mailbox.messages == []
    printed = "".join(capfd.readouterr())
    assert '"outcome":"recipient_refused"' in printed
    assert "ada@" not in printed


@pytest.mark.parametrize(
    "reply",
    [
        "450 4.2.1 mailbox busy",
        "451 4.3.0 try later",
        "452 4.2.2 mailbox full",
        "421 4.3.2 going down",
        "503 5.5.1 out of order",
        "530 5.7.0 authentication required",
        "554 5.7.1 relay access denied",
    ],
)
def test_any_other_refusal_at_the_recipient_is_a_failure(
    make_app: AppFactory, mailbox: Mailbox, database: str, reply: str
) -> None:
    mailbox.answer_rcpt = lambda _: reply

    assert_unavailable(ask(make_app()), database)
    assert mailbox.messages == []


class Strict(Mailbox):
    """A mailbox that likes neither sender nor content, as `at` says."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    async def handle_MAIL(  # noqa: N802  (aiosmtpd's name)
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return "550 5.7.1 sender refused" if self.at == "MAIL" else "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        return "554 5.6.0 content refused"


@pytest.mark.parametrize("at", ["MAIL", "DATA"])
def test_a_refused_sender_or_content_is_a_failure(make_app: AppFactory, database: str, at: str) -> None:
    with Strict(at) as server:
        assert_unavailable(ask(make_app(SMTP_URL=server.url)), database)


# --- Servers that are away, hang up, talk nonsense or hang. ---


def test_a_server_that_is_away_is_a_failure(make_app: AppFactory, database: str) -> None:
    assert_unavailable(ask(make_app(SMTP_URL=f"smtp://127.0.0.1:{free_port()}")), database)


@pytest.mark.parametrize("after", range(6), ids=["connect", "greeting", "EHLO", "MAIL", "RCPT", "DATA"])
def test_a_server_that_hangs_up_is_a_failure(make_app: AppFactory, database: str, after: int) -> None:
    with RawServer(script(*REPLIES[:after], then=hang_up)) as server:
        assert_unavailable(ask(make_app(SMTP_URL=f"smtp://127.0.0.1:{server.port}")), database)


@pytest.mark.parametrize(
    "replies",
    [
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [b"2" * 100_000],
        [b"\xff\xfe\r\n"],
        [b"554 5.3.2 no service\r\n"],
        [b"220 hi\r\n", b"500 what?\r\n", b"500 what?\r\n"],
        [*REPLIES, b"999 what?\r\n"],
    ],
    ids=["HTTP", "endless line", "not ASCII", "no service", "no EHLO", "no such code"],
)
def test_a_server_that_talks_nonsense_is_a_failure(make_app: AppFactory, database: str, replies: list[bytes]) -> None:
    with RawServer(script(*replies, then=hang_up)) as server:
        assert_unavailable(ask(make_app(SMTP_URL=f"smtp://127.0.0.1:{server.port}")), database)


@pytest.fixture
def stuck() -> Iterator[list[RawServer]]:
    """Servers that hang, each at another place."""
    talks: list[Talk] = [script(*REPLIES[:after], then=silent) for after in (0, 1, 5)]
    with ExitStack() as stack:
        yield [stack.enter_context(RawServer(talk)) for talk in (*talks, dripping(b"220-hi\r\n"))]


def test_a_server_that_hangs_or_drips_is_a_failure_within_five_seconds(
    make_app: AppFactory, database: str, stuck: list[RawServer]
) -> None:
    apps = [make_app(SMTP_URL=f"smtp://127.0.0.1:{server.port}") for server in stuck]

    def timed(app: Flask) -> tuple[TestResponse, float]:
        began = monotonic()
        return ask(app), monotonic() - began

    with ThreadPoolExecutor(len(apps)) as pool:
        answers = list(pool.map(timed, apps))

    for answer, seconds in answers:
        assert_unavailable(answer, database)
        assert seconds < 6  # five, and one for a busy machine

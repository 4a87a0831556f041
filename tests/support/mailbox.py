"""An SMTP server that keeps what it is given."""

from __future__ import annotations

import email
import email.policy
import re
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from threading import Lock
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support import free_port


def accept(_: str) -> str | None:
    """Every recipient is fine."""
    return None


class Mailbox:
    """A running server. `answer_rcpt(address)` may return another SMTP reply to RCPT than "250 OK"."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, **smtp: Any) -> None:
        """`tls`: from the first byte. Any other argument is one of aiosmtpd's SMTP."""
        self.port = free_port()
        self.messages: list[EmailMessage] = []
        self.answer_rcpt: Callable[[str], str | None] = accept
        self._lock = Lock()
        self._controller = Controller(
            self, hostname="127.0.0.1", port=self.port, server_hostname="localhost", ssl_context=tls, **smtp
        )

    def __enter__(self) -> Mailbox:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()

    @property
    def url(self) -> str:
        """SMTP_URL without TLS, as only a loopback host may be used."""
        return f"smtp://127.0.0.1:{self.port}"

    def clear(self) -> None:
        """Forget all mails and special answers."""
        self.messages.clear()
        self.answer_rcpt = accept

    def to(self, address: str) -> list[EmailMessage]:
        """The mails that `address` got, oldest first."""
        with self._lock:
            return [message for message in self.messages if message["To"] == address]

    def token_for(self, address: str) -> str:
        """The token in the last mail to `address`."""
        return token_in(text_of(self.to(address)[-1]))

    # What aiosmtpd calls.

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        reply = self.answer_rcpt(address)
        if reply is None:
            envelope.rcpt_tos.append(address)
        return reply or "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        with self._lock:
            self.messages.append(message)
        return "250 OK"


def text_of(message: EmailMessage) -> str:
    """The plain-text part."""
    part = message.get_body(("plain",))
    assert part is not None
    return str(part.get_content())


def token_in(text: str) -> str:
    """The token of the one link in `text`."""
    (token,) = re.findall(r"/login/callback\?token=(\S+)", text)
    return str(token)

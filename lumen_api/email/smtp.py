"""Mail through an SMTP server, encrypted and with its certificate checked."""

from __future__ import annotations

import smtplib
import ssl
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from lumen_api.email import TIMEOUT, Mail, RecipientRefused

# Registered ports: RFC 8314 (implicit TLS) and RFC 6409 (submission).
_DEFAULT_PORT = {"smtps": 465, "smtp": 587}


class Smtp:
    """`smtps://` speaks TLS from the first byte (RFC 8314); `smtp://` insists on STARTTLS, but for a loopback host."""

    def __init__(self, url: str, *, sender: str) -> None:
        """`url`: smtp[s]://user:password@host:port. `sender`: an address, with a display name or without."""
        parts = urlsplit(url)
        self._implicit_tls = parts.scheme == "smtps"
        self._host = parts.hostname or ""
        self._port = parts.port or _DEFAULT_PORT[parts.scheme]
        self._credentials = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._sender = sender
        self._sender_address = _only_address(sender)
        self._tls = ssl.create_default_context()

    def send(self, mail: Mail) -> None:
        """See Provider.send()."""
        server = self._connect()
        try:
            if self._credentials:
                server.login(*self._credentials)
            server.send_message(self._message(mail), self._sender_address.addr_spec, [mail.to])
        except smtplib.SMTPRecipientsRefused as error:
            code, _ = error.recipients[mail.to]
            # RFC 5321, section 4.2.1: 5yz is for good, and y = 5 is about the receiving mail system. The other
            # codes, like "530 authentication required", are about us.
            if 550 <= code <= 559:
                raise RecipientRefused from None
            raise
        finally:
            server.close()  # and no QUIT: the mail is accepted or not, and its answer would change nothing

    def _connect(self) -> smtplib.SMTP:
        # The name is given because smtplib would ask the DNS for this machine's own.
        ehlo = self._sender_address.domain
        if self._implicit_tls:
            return smtplib.SMTP_SSL(self._host, self._port, ehlo, timeout=TIMEOUT, context=self._tls)
        server = smtplib.SMTP(self._host, self._port, ehlo, timeout=TIMEOUT)
        try:
            server.ehlo()
            if server.has_extn("starttls") or not _is_loopback(self._host):
                server.starttls(context=self._tls)
        except BaseException:
            server.close()
            raise
        return server

    def _message(self, mail: Mail) -> EmailMessage:
        message = EmailMessage(policy=SMTP)
        message["From"] = self._sender
        message["To"] = mail.to
        message["Subject"] = mail.subject
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain=self._sender_address.domain)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notes, please
        message.set_content(mail.text)
        message.add_alternative(mail.html, subtype="html")
        return message


def _only_address(sender: str) -> Address:
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    address: Address = message["From"].addresses[0]
    return address


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Mail through an SMTP server, encrypted and with its certificate checked."""

from __future__ import annotations

import smtplib
import socket
import ssl
from binascii import b2a_qp
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from functools import partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

from lumen_api.email import TIMEOUT, End, Mail, RecipientRefused

# Registered ports: RFC 8314 (implicit TLS) and RFC 6409 (submission).
_DEFAULT_PORT = {"smtps": 465, "smtp": 587}

_HERE = "here comes a text"  # in the frame of all messages


class Smtp:
    """`smtps://` speaks TLS from the first byte (RFC 8314); `smtp://` insists on STARTTLS, but for a loopback host."""

    name = "smtp"

    def __init__(self, url: str, *, sender: str) -> None:
        """`url`: smtp[s]://user:password@host:port. `sender`: an address, with a display name or without."""
        parts = urlsplit(url)
        self._implicit_tls = parts.scheme == "smtps"
        self._host = parts.hostname or ""
        self._port = parts.port or _DEFAULT_PORT[parts.scheme]
        self._credentials = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        self._frame = _frame(sender)
        self._sender_address = _only_address(sender)
        self._tls = ssl.create_default_context()

    def send(self, mail: Mail, at_end: End) -> None:
        """See Provider.send()."""
        server = self._server(at_end)
        try:
            self._connect(server, at_end)
            server.sendmail(self._sender_address.addr_spec, [mail.to], self._message(mail))
        except smtplib.SMTPRecipientsRefused as error:
            code, text = error.recipients[mail.to]
            # RFC 5321, section 4.2.1: 5yz is for good, and y = 5 is about the receiving mail system. Other codes,
            # like "530 authentication required", are about us, and so is policy (RFC 3463): "554 5.7.1 relay denied".
            if 550 <= code <= 559 and not text.startswith(b"5.7."):
                raise RecipientRefused from None
            raise
        finally:
            server.close()  # and no QUIT: the mail is accepted or not, and its answer would change nothing

    def _server(self, at_end: End) -> smtplib.SMTP:
        # The name is given because smtplib would ask the DNS for this machine's own.
        ehlo = self._sender_address.domain
        if self._implicit_tls:
            server: smtplib.SMTP = smtplib.SMTP_SSL(local_hostname=ehlo, timeout=TIMEOUT, context=self._tls)
        else:
            server = smtplib.SMTP(local_hostname=ehlo, timeout=TIMEOUT)
        # Whom the certificate must name. smtplib sets it only when it connects in the constructor.
        server._host = self._host  # type: ignore[attr-defined]  # typeshed does not list it
        # The one place where a socket can be had before smtplib reads from it.
        opened = server._get_socket  # type: ignore[attr-defined]

        def watched(*address: Any) -> socket.socket:
            sock: socket.socket = opened(*address)
            # smtplib's timeout is for each read, and a server that drips would keep us for ever.
            at_end.callback(partial(_hang_up, sock))
            return sock

        server._get_socket = watched  # type: ignore[attr-defined]
        return server

    def _connect(self, server: smtplib.SMTP, at_end: End) -> None:
        code, text = server.connect(self._host, self._port)
        if code != 220:
            raise smtplib.SMTPConnectError(code, text)
        server.ehlo()
        if not self._implicit_tls and (server.has_extn("starttls") or not _is_loopback(self._host)):
            server.starttls(context=self._tls)
            assert server.sock
            at_end.callback(partial(_hang_up, server.sock))  # which is another one now
        if self._credentials:
            server.login(*self._credentials)

    def _message(self, mail: Mail) -> bytes:
        headers = {
            "To": mail.to,
            "Subject": mail.subject,
            "Date": formatdate(),
            "Message-ID": make_msgid(domain=self._sender_address.domain),
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        begin, between, end = self._frame
        return lines.encode("ascii") + begin + _encoded(mail.text) + between + _encoded(mail.html) + end


def _frame(sender: str) -> list[bytes]:
    """What all messages have in common: before, between and after their two texts.

    Made once: the email package takes as long for a message as everything else that happens to a request.
    """
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notes, please
    message.set_content(_HERE, cte="quoted-printable")
    message.add_alternative(_HERE, subtype="html", cte="quoted-printable")
    head, empty, body = message.as_bytes().partition(b"\r\n\r\n")
    begin, *others = body.split(f"{_HERE}\r\n".encode())
    return [head + empty + begin, *others]


def _encoded(text: str) -> bytes:
    return b2a_qp("\r\n".join([*text.splitlines(), ""]).encode(), istext=True)


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        sock.shutdown(socket.SHUT_RDWR)


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

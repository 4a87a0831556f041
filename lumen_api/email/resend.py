"""Mail through Resend's HTTP API (https://resend.com/docs/api-reference/emails/send-email)."""

from __future__ import annotations

import urllib3

from lumen_api.email import TIMEOUT, End, Mail, RecipientRefused

API = "https://api.resend.com/emails"


class ResendError(Exception):
    """Resend has not accepted the mail."""


class Resend:
    """A connection to Resend is kept open between mails."""

    name = "resend"

    def __init__(self, api_key: str, *, sender: str, api: str = API) -> None:
        """`sender`: an address of a domain that the account has verified."""
        self._sender = sender
        self._api = api
        self._http = urllib3.PoolManager(
            headers={"Authorization": f"Bearer {api_key}", "User-Agent": "lumen-api"},
            timeout=urllib3.Timeout(total=TIMEOUT),
            retries=False,  # nor redirects: the key is for one host
        )

    def send(self, mail: Mail, _: End) -> None:
        """See Provider.send()."""
        body = {
            "from": self._sender,
            "to": [mail.to],
            "subject": mail.subject,
            "text": mail.text,
            "html": mail.html,
            "headers": {"Auto-Submitted": "auto-generated"},
        }
        response = self._http.request("POST", self._api, json=body)
        match response.status, _json(response):
            case 200, {"id": str()}:
                return
            case 400 | 422, {"name": "validation_error", "message": str(message)} if "`to`" in message:
                raise RecipientRefused
        raise ResendError


def _json(response: urllib3.BaseHTTPResponse) -> object:
    try:
        return response.json()
    except ValueError:  # something in between has answered, or a part of the answer is missing
        return None

"""The playground at `/`: the API's journey in one page, without build step or framework. For development alone.

It uses clients/js, the modules that a web app would use, and shows the mails that the provider for development keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flask import Blueprint, Flask, Response, current_app, request
from flask.typing import ResponseReturnValue

from lumen_api.auth import magic_links
from lumen_api.email import Mail
from lumen_api.errors import NotFound

bp = Blueprint("playground", __name__)

_FOLDERS = (Path(__file__).parent, Path(__file__).parents[3] / "clients" / "js")
_TYPES = {".css": "text/css", ".mjs": "text/javascript", ".svg": "image/svg+xml"}

_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'"
_OWN = " ".join(f"{kind}-src 'self';" for kind in ("script", "style", "connect", "frame", "img"))
_PAGE = f"{_NOTHING}; {_OWN} frame-ancestors 'none'"
# A mail has its styles in itself: there is no other way in mails.
_MAIL = f"{_NOTHING}; style-src 'unsafe-inline'; frame-ancestors 'self'"


def init_app(app: Flask, mails: Sequence[Mail]) -> None:
    """Serve the playground. `mails`: those that were sent, oldest first."""
    app.extensions["lumen.mails"] = mails
    app.register_blueprint(bp)


@bp.get("/")
@bp.get("/login/callback")
def page() -> ResponseReturnValue:
    """The one page. A magic link leads to it too; it POSTs the token, so that opening the link uses nothing up."""
    return _html((_FOLDERS[0] / "index.html").read_text(), _PAGE)


@bp.get("/playground/<name>")
def file(name: str) -> ResponseReturnValue:
    """A style sheet, a module or the icon."""
    for folder in _FOLDERS:
        # By comparing names: none that a caller makes up becomes a path.
        for path in folder.iterdir():
            if path.name == name and path.suffix in _TYPES:
                return Response(path.read_bytes(), mimetype=_TYPES[path.suffix])
    raise NotFound


@bp.get("/playground/mail")
def mail() -> ResponseReturnValue:
    """What the newest mail to the address `to` says beside its body."""
    newest = _newest_mail()
    return {"status": "ok", "subject": newest.subject, "text": newest.text}


@bp.get("/playground/mail.html")
def mail_body() -> ResponseReturnValue:
    """The newest mail to the address `to`, as a mail program shows it."""
    # A click leads to where a mail program would open it, and not into the frame.
    return _html(_newest_mail().html.replace("<head>", '<head><base target="_top">', 1), _MAIL)


def _newest_mail() -> Mail:
    """As careful as the link in request-link's answer: a link signs in whoever reads it."""
    local_page = request.host.partition(":")[0] in ("localhost", "127.0.0.1")  # and no name rebound to this machine
    mails: Sequence[Mail] = current_app.extensions["lumen.mails"]
    address = request.args.get("to", "").strip().lower()
    found = [mail for mail in mails if mail.to == address]
    if not (found and local_page and magic_links().shown_to_caller()):
        raise NotFound
    return found[-1]


def _html(text: str, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    return Response(text, mimetype="text/html", headers=headers)

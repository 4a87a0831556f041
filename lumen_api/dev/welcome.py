"""What a newcomer sees in the terminal: where the service is, and a whole journey to paste into another one."""

from __future__ import annotations

import click
from werkzeug.serving import is_running_from_reloader

# The README has the same lines, for the default port.
JOURNEY = r"""
URL=http://localhost:8080
JSON='Content-Type: application/json'
LINK=$(curl -s $URL/v1/auth/request-link -H "$JSON" -d '{"email":"ada@example.com"}')
TOKEN=$(echo "$LINK" | sed 's/.*token=\([^"]*\)".*/\1/')
curl -c cookies.txt $URL/v1/auth/verify -H "$JSON" -d '{"token":"'$TOKEN'"}'
curl -b cookies.txt $URL/v1/auth/session
curl -b cookies.txt $URL/v1/sessions/start -H "$JSON" -d '{"session_id":"first"}'
HASH=2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
curl -b cookies.txt $URL/v1/sessions/end -H "$JSON" -d '{"session_id":"first","transcript_hash":"'$HASH'"}'
curl -b cookies.txt $URL/v1/sessions
"""


def text(port: int) -> str:
    """The greeting of a service on `port`."""
    url = f"http://localhost:{port}"
    journey = JOURNEY.replace("http://localhost:8080", url).replace("\n", "\n  ").rstrip()
    return f"\nLumen is at {url} (Ctrl-C stops it): open it in a browser, or paste this into a terminal:\n{journey}\n"


def greet_flask_run(port: int) -> None:
    """Print it if this is `flask run`, and not its reloader starting over."""
    context = click.get_current_context(silent=True)
    if context and context.info_name == "run" and not is_running_from_reloader():
        click.echo(text(port))

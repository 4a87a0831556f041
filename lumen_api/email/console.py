"""For a developer's machine: the link appears in the terminal, and who asked for it does not."""

from __future__ import annotations

import sys

from lumen_api.email import Mail


class Console:
    """Prints the link."""

    name = "console"

    def send(self, mail: Mail) -> None:
        """See Provider.send()."""
        print(f"\n  Magic link: {mail.url}\n", file=sys.stderr, flush=True)

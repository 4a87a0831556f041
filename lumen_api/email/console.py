"""For a developer's machine: the link appears in the terminal, and who asked for it does not.

The playground shows the last mails as they would arrive.
"""

from __future__ import annotations

import sys
from collections import deque

from lumen_api.email import End, Mail


class Console:
    """Prints the link, and keeps the last `mails`."""

    name = "console"

    def __init__(self) -> None:
        self.mails: deque[Mail] = deque(maxlen=20)

    def send(self, mail: Mail, _: End) -> None:
        """See Provider.send()."""
        self.mails.append(mail)
        print(f"\n  Magic link: {mail.url}\n", file=sys.stderr, flush=True)

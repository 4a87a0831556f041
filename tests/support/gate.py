"""A place where a server of the tests stops until it may go on."""

from __future__ import annotations

from threading import Event


class Gate:
    """For `mailbox.answer_rcpt`: a mail stops here, in the middle, until open()."""

    def __init__(self) -> None:
        self.reached = Event()
        self._open = Event()

    def __call__(self, _: str) -> None:
        self.reached.set()
        self._open.wait(30)

    def open(self) -> None:
        """Let this mail go on, and all others."""
        self._open.set()

"""A mail server that takes everything at once and keeps nothing, in a process of its own: for measurements.

python -m tests.support.smtp_sink PORT
"""

from __future__ import annotations

import socketserver
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import ROOT, eventually, free_port
from tests.support.programs import listens


class _Session(socketserver.StreamRequestHandler):
    """As much SMTP as a client needs that sends one mail (RFC 5321)."""

    def handle(self) -> None:
        self.wfile.write(b"220 sink\r\n")
        for line in self.rfile:
            if line[:4].upper() == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline() not in (b".\r\n", b""):
                    pass
            self.wfile.write(b"250 sink\r\n")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def smtp_sink() -> Iterator[str]:
    """Its SMTP_URL, until the end of the block."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.support.smtp_sink", str(port)], cwd=ROOT)
    try:
        eventually(lambda: listens(port))
        yield f"smtp://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    with _Server(("127.0.0.1", int(sys.argv[1])), _Session) as server:
        server.serve_forever()

"""Health, as bare WSGI (PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from bench.floor import EXTENSIONS

BODY = b'{"status":"ok"}\n'


class Plain:
    """The smallest application that there is."""

    extensions = EXTENSIONS

    def __call__(
        self, _: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
    ) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))])
        return [BODY]


app = Plain()

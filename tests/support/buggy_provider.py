"""A provider whose code fails, and quotes all that it has read.

The last word of the request's `system` says where in a stream: "first" (before the first event), "middle" (behind text)
or "close" (when it is left). WSGI is gunicorn's entry to a service that has it.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import NoReturn

from lumen_api.llm.anthropic import Anthropic
from lumen_api.llm.provider import Account, Chunks
from lumen_api.llm.request import Request
from lumen_api.llm.watch import Watch

WSGI = """
from lumen_api.llm import anthropic
from tests.support.buggy_provider import Buggy

anthropic.Anthropic = Buggy

from app import create_app

app = create_app()
"""


def fail(said: bytes, answered: bytes) -> NoReturn:
    """Raise, with both texts wherever an exception can have one."""
    texts = said.decode(), answered.decode()
    try:
        raise UnicodeDecodeError("utf-8", said + answered, 0, 1, " ".join(texts))
    except UnicodeDecodeError as cause:
        error = RuntimeError(*texts, {"said": texts[0]})
        error.add_note(" ".join(texts))
        raise error from ExceptionGroup(" ".join(texts), [cause, KeyError(*texts)])


class Buggy(Anthropic):
    """See provider.Provider."""

    def send(self, request: Request, watch: Watch, account: Account) -> bytes:
        """See Provider.send()."""
        said = request.content
        fail(said, super().send(request, watch, account))

    def stream(self, request: Request, watch: Watch, account: Account) -> Chunks:
        """See Provider.stream()."""
        said = request.content
        place = json.loads(said)["system"].rpartition(" ")[2]
        heard = b""
        with failing_at_its_end(said, place):
            for chunk in super().stream(request, watch, account):
                heard += chunk if isinstance(chunk, bytes) else b""
                if place == "first" or (place == "middle" and b"content_block_delta" in heard):
                    fail(said, heard)
                yield chunk


@contextmanager
def failing_at_its_end(said: bytes, place: str) -> Generator[None]:
    """Fail when the block is left, if that is the place."""
    try:
        yield
    finally:
        if place == "close":
            fail(said, said)

"""A worker that has too much to do refuses requests without parsing them: nothing may hide behind those either."""

from __future__ import annotations

from lumen_api.server import framing
from tests.support.attackers import HIDDEN, hidden_requests


def stays_open_after(received: bytes) -> bool:
    """Whether a worker that is too busy would read another request from this connection."""
    head = framing.head_of(bytearray(received))
    return head is not None and head.may_be_followed and head.is_all_of(bytearray(received))


def test_a_busy_worker_reads_nothing_behind_a_request_of_doubtful_length() -> None:
    open_after: dict[str, list[int]] = {}
    for name, sent in hidden_requests():
        # The head alone, a part of the body, all of it: whatever has come when the worker looks.
        end = sent.index(b"\r\n\r\n") + 4
        cuts = [cut for cut in range(end, len(sent) + 1) if stays_open_after(sent[:cut])]
        if cuts:
            open_after[name] = cuts

    assert open_after == {}


def test_a_busy_worker_keeps_the_connection_of_an_honest_client() -> None:
    assert stays_open_after(HIDDEN)
    assert not stays_open_after(HIDDEN[:-1])

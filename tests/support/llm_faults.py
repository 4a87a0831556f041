"""What can happen to calls of the model, by chance: the same for the same seed and number of the call."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from random import Random

from tests.support import eventually
from tests.support.anthropic import Request
from tests.support.anthropic_answers import (
    CUT,
    FOREVER,
    RESET,
    Answer,
    Raw,
    Step,
    Wait,
    error,
    html,
    message,
    redirect,
    stream,
)
from tests.support.anthropic_events import COMMENT, PING, error_event, message_delta
from tests.support.llm import ASKED
from tests.support.service import Service

REFUSALS = [
    *(error(status) for status in (400, 401, 403, 404, 413, 429, 500, 504, 529)),
    error(429, retry_after="7"),
    error(529, retry_after="1"),
    html(502),
    redirect("http://127.0.0.1:1"),
]


BEFORE: list[tuple[Step, ...]] = [(RESET,), (CUT,), (Wait(0.1), RESET), (FOREVER,)]
# No reset: it would take back what the provider has written already.
MIDDLE: list[tuple[Step, ...]] = [
    (CUT,),
    (),
    (FOREVER,),
    (error_event(),),
    (error_event("api_error"),),
    (Raw(b"40\r\nevent: con"), CUT),
    (Raw(b"no chunk"),),
]

# When a caller leaves, and how often.
LEAVES = {"never": 5, "at once": 1, "before the first byte": 3, "in the middle": 3, "at the end": 2}


class Faults:
    """For AnthropicServer.behave(): what the provider says to each try of a call. Half of the time it works."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tries = Counter[str]()

    def have_met(self, calls: int) -> bool:
        """Whether the provider has seen so many."""
        return len(self._tries) >= calls

    def met(self, call: str) -> bool:
        """Whether the provider has seen a call."""
        return call in self._tries

    def __call__(self, request: Request) -> Answer:
        call = request.headers["x-request-id"]
        self._tries[call] += 1
        random = Random(f"{self._seed} {call} {self._tries[call]}")
        works = _stream(random) if request.json["stream"] else _message(random)
        return works if random.random() < 0.5 else _failing(random, works)


def _stream(random: Random) -> Answer:
    words, tokens = random.randrange(1, 40), random.randrange(10, 34)
    said = stream(words, every=random.choice([0, 0, 0.002, 0.01]), input=tokens, cached=random.choice([0, 0, 3]))
    said = said.after("content_block_delta", message_delta(1), nth=random.randrange(1, words + 1))
    between: list[Step] = [PING, COMMENT, Wait(0.05)]
    return said.after(random.choice(["head", "message_start"]), random.choice(between))


def _message(random: Random) -> Answer:
    return message(random.randrange(40), input=random.randrange(10, 34), after=random.choice([0, 0.02, 0.1]))


def _failing(random: Random, works: Answer) -> Answer:
    """A refusal, or `works` up to some place."""
    if random.random() < 0.4:
        return random.choice(REFUSALS)
    names = {getattr(step, "name", "") for step in works.steps} - {"", "comment", "ping"}
    place = random.choice(["request", "head", *sorted(names)])
    if place == "request":
        return works.until("request", *random.choice(BEFORE))
    return works.until(place, *random.choice(MIDDLE if works.framing == "chunked" else MIDDLE[:1]))


@dataclass(frozen=True)
class Caller:
    """One call: how it is made, and how its caller leaves."""

    number: int
    cookie: Mapping[str, str]
    seed: int
    faults: Faults

    @property
    def stream(self) -> bool:
        return Random(f"{self.seed} {self.number} stream").random() < 0.75

    @property
    def request_id(self) -> str:
        return f"call-{self.number}"

    def run(self, service: Service) -> None:
        """Make the call, on a service that may be restarting, and read as much of the answer as its caller wants."""
        random = Random(f"{self.seed} {self.number}")
        body = json.dumps({**ASKED, "stream": self.stream})
        headers = {**self.cookie, "Content-Type": "application/json", "X-Request-Id": self.request_id}
        connection = HTTPConnection("127.0.0.1", service.port, timeout=30)
        eventually(lambda: _connected(connection), within=30)
        try:
            connection.request("POST", "/v1/llm/messages", body, headers)
            self._read(connection, random)
        except (OSError, HTTPException):
            pass  # its worker was killed or stopped
        finally:
            connection.close()

    def _read(self, connection: HTTPConnection, random: Random) -> None:
        (leaves,) = random.choices(list(LEAVES), list(LEAVES.values()))
        if leaves == "before the first byte":
            answered = select.poll()
            answered.register(connection.sock, select.POLLIN)
            eventually(lambda: self.faults.met(self.request_id) or answered.poll(0))
        elif leaves == "in the middle":
            response = connection.getresponse()
            response.read(random.randrange(1, 4000))
        elif leaves == "at the end":
            response = connection.getresponse()
            while (line := response.readline()) and b"message_stop" not in line:
                pass
        elif leaves == "never":
            connection.getresponse().read()
        if random.random() < 0.5 and connection.sock:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no FIN


def _connected(connection: HTTPConnection) -> bool:
    try:
        connection.connect()
    except OSError:
        return False
    return True

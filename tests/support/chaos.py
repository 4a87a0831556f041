"""What happens to the service and to everything that it works with, at random."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.message import EmailMessage
from functools import partial
from http.client import HTTPException
from random import Random
from threading import Event
from typing import NamedTuple

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.support import databases, eventually, processes
from tests.support.gate import Gate
from tests.support.mailbox import Mailbox, accept, text_of, token_in
from tests.support.outages import Server, backends
from tests.support.service import Service
from tests.support.valkey import Valkey


class Postbox(Mailbox):
    """A mailbox that finds the tokens for an address at once, among thousands of mails."""

    def __init__(self) -> None:
        super().__init__()
        self._tokens: dict[str, list[str]] = {}

    def __enter__(self) -> Postbox:
        super().__enter__()
        return self

    def tokens_for(self, address: str) -> list[str]:
        """Those in the mails to `address`, oldest first."""
        return list(self._tokens.get(address, []))

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        reply = await super().handle_DATA(server, session, envelope)
        message: EmailMessage = self.messages.pop()
        self._tokens.setdefault(str(message["To"]), []).append(token_in(text_of(message)))
        return reply


@dataclass(frozen=True)
class Stage:
    """All that can break."""

    service: Service
    server: Server
    valkey: Valkey
    postbox: Postbox


Fault = Callable[[Stage, Random], None]  # it is over when the function returns


def kill_a_worker(stage: Stage, random: Random) -> None:
    """SIGKILL: it answers nothing that it has accepted."""
    lost = random.choice(stage.service.workers())
    processes.kill(lost)
    eventually(lambda: len(stage.service.workers()) == 2 and lost not in stage.service.workers(), within=30)


def reload(stage: Stage, _: Random) -> None:
    """SIGHUP: new workers come, and the old ones end."""
    old = set(stage.service.workers())
    assert stage.service.process
    stage.service.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(stage.service.workers()) == 2 and old.isdisjoint(stage.service.workers()), within=30)


def restart(stage: Stage, _: Random) -> None:
    """SIGTERM, and a supervisor starts it again."""
    assert stage.service.process
    stage.service.process.send_signal(signal.SIGTERM)
    assert stage.service.process.wait(30) == 0
    stage.service.start()


def crash_postgresql(stage: Stage, _: Random) -> None:
    """Immediate shutdown: what was not in the log on disk is lost."""
    stage.server.crash()
    stage.server.start()


def freeze_postgresql(stage: Stage, random: Random) -> None:
    """It accepts connections and says nothing."""
    with stage.server.paused():
        Event().wait(random.choice([0.5, 0.5, 1.0, 2.5, 7.0]))


def hang_up(stage: Stage, _: Random) -> None:
    """PostgreSQL ends the connections of the service."""
    databases.query(
        stage.server.url,
        "select pg_terminate_backend(pid) from pg_stat_activity where pid = any (%s)",
        backends(stage.server.url),
    )


def kill_valkey(stage: Stage, random: Random) -> None:
    """It comes back with nothing in it."""
    stage.valkey.kill()
    Event().wait(random.uniform(0, 1.5))
    stage.valkey.start()


def delay_mails(stage: Stage, random: Random) -> None:
    """The SMTP server answers late."""
    _hold_mails(stage, random.uniform(0.3, 1.5))


def hold_mails(stage: Stage, _: Random) -> None:
    """The SMTP server answers when the service has given up."""
    _hold_mails(stage, 4.5)


def _hold_mails(stage: Stage, seconds: float) -> None:
    gate = Gate()
    stage.postbox.answer_rcpt = gate
    gate.reached.wait(5)
    Event().wait(seconds)
    stage.postbox.answer_rcpt = accept
    gate.open()


def name_of(fault: Fault) -> str:
    """In words, for a table."""
    return fault.__name__.replace("_", " ")


class Lane(NamedTuple):
    """Faults that come one after the other, in random order, with a pause of so many seconds at most before each."""

    faults: list[Fault]
    pause: float


# One round is fifteen faults. The lanes know nothing of each other: their faults meet as it happens.
SERVICE = Lane([kill_a_worker, kill_a_worker, kill_a_worker, reload, restart], pause=0.7)
LANES = [
    SERVICE,
    Lane([crash_postgresql, crash_postgresql, freeze_postgresql, hang_up, hang_up], pause=1.0),
    Lane([kill_valkey, kill_valkey, kill_valkey], pause=2.0),
    Lane([delay_mails, hold_mails], pause=2.5),
]
KINDS = {name_of(fault) for lane in LANES for fault in lane.faults}


class Happened(NamedTuple):
    """A fault, and when it was (monotonic seconds)."""

    kind: str
    began: float
    ended: float


def _distance(moment: float, fault: Happened) -> float:
    """Seconds between them; 0 during the fault."""
    return max(fault.began - moment, moment - fault.ended, 0.0)


class Chaos:
    """Faults by a random hand: the same ones for the same seed. `happened` has them in the order of their ends."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.happened: list[Happened] = []
        self.back_after: list[float] = []  # seconds from a crash of PostgreSQL to the first good answer
        self.seed = seed

    def run(self, rounds: int) -> None:
        """So many times every fault. Returns when all are over."""
        with ThreadPoolExecutor(len(LANES)) as threads:
            list(threads.map(partial(self._run_lane, rounds), LANES))

    def kinds(self) -> Counter[str]:
        """How many there were of each kind."""
        return Counter(fault.kind for fault in self.happened)

    def blamed(self, moment: float) -> str:
        """What an unanswered connection is put down to: of the faults that end processes of ours, the nearest one."""
        ours = {name_of(fault) for fault in SERVICE.faults}
        return min((fault for fault in self.happened if fault.kind in ours), key=partial(_distance, moment)).kind

    def _run_lane(self, rounds: int, lane: Lane) -> None:
        random = Random(f"{self.seed} {lane.faults[0].__name__}")
        for fault in [fault for _ in range(rounds) for fault in random.sample(lane.faults, len(lane.faults))]:
            Event().wait(random.uniform(0.1, lane.pause))
            began = time.monotonic()
            fault(self.stage, random)
            self.happened.append(Happened(name_of(fault), began, time.monotonic()))
            if fault is crash_postgresql:
                eventually(self._ready, within=30)
                self.back_after.append(time.monotonic() - began)

    def _ready(self) -> bool:
        try:
            return self.stage.service.call("GET", "/v1/health/ready", timeout=5).status == 200
        except (OSError, HTTPException):
            return False

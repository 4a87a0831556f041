"""What the databases hold: rows as the service makes them.

Random uuids; conversations in the order of their time, so that those of a user are spread over the whole table; most
users with few of them and some with thousands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from struct import Struct
from time import time
from uuid import UUID

from lumen_api.auth import Token, TokenSigner

SECRET = "a-secret-for-the-benchmark-and-nothing-else"
MICROSECONDS = 1_000_000
SINCE_2000 = 946_684_800  # seconds, where PostgreSQL's timestamps begin
HOUR = 3600
DAY = 24 * HOUR
YEARS = 2 * 365 * DAY

Packed = Iterator[bytes]


@dataclass(frozen=True)
class Size:
    """How many rows. The first users are `regulars` with `sessions_of_regular` each, then `heavies`; who of the
    others has how many is left to chance, by a power law, and the last tenth of them has none.
    """

    users: int
    sessions: int
    regulars: int
    sessions_of_regular: int = 25
    heavies: int = 0
    sessions_of_heavy: int = 10_000
    sign_ins: int = 0
    expired_sign_ins: int = 0
    expired_links: int = 0
    days_of_usage: int = 0  # each of another user
    expired_days_of_usage: int = 0
    calls: int = 0  # of the model, under way
    expired_calls: int = 0


def large(scale: float, regulars: int) -> Size:
    """At scale 1: a million users, ten million sessions, and a million expired rows for the purge."""

    def rows(count: int) -> int:
        return round(count * scale)

    return Size(
        users=rows(1_000_000),
        sessions=rows(10_000_000),
        regulars=regulars,
        heavies=6,
        sessions_of_heavy=max(200, min(10_000, rows(1_000_000) // 2)),
        sign_ins=rows(300_000),
        expired_sign_ins=rows(500_000),
        expired_links=rows(400_000),
        days_of_usage=rows(200_000),
        expired_days_of_usage=rows(99_000),
        calls=rows(20_000),
        expired_calls=rows(1_000),
    )


def small(regulars: int) -> Size:
    """Almost empty, but enough for one user's rows to lie apart from each other, as they do in the large one."""
    return Size(
        users=3 * regulars,
        sessions=50 * regulars,
        regulars=regulars,
        sign_ins=regulars,
        expired_sign_ins=3 * regulars,
        expired_links=3 * regulars,
        days_of_usage=regulars,
        expired_days_of_usage=3 * regulars,
        calls=regulars,
        expired_calls=1000,
    )


@dataclass(frozen=True)
class Person:
    """Somebody whose credentials are known."""

    user_id: str
    email: str
    cookie: Token
    link: Token


class Rows:
    """The rows of each table, in PostgreSQL's binary COPY format: nobody has to write or read times as text."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.random = Random(7)
        self.now = int(time())
        self.today = (self.now - SINCE_2000) // DAY
        self.ids = [_version_4(piece) for piece in _pieces(16, size.users)]

    def people(self) -> list[Person]:
        """The regulars and the heavies."""
        cookies, links = TokenSigner((SECRET,), purpose="session"), TokenSigner((SECRET,), purpose="magic link")
        count = self.size.regulars + self.size.heavies
        return [
            Person(str(UUID(bytes=self.ids[n])), self.email(n).decode(), cookies.new(), links.new())
            for n in range(count)
        ]

    def email(self, user: int) -> bytes:
        return b"user-%08d@example.com" % user

    def owners(self) -> Iterator[int]:
        """Whose each session is, from the oldest to the newest."""
        size = self.size
        known = [n for n in range(size.regulars) for _ in range(size.sessions_of_regular)]
        known += [size.regulars + n for n in range(size.heavies) for _ in range(size.sessions_of_heavy)]
        self.random.shuffle(known)
        first = size.regulars + size.heavies
        others = (size.users - first) * 0.9
        every = size.sessions / len(known)
        chance = self.random.random
        given = 0
        for n in range(size.sessions):
            if n >= given * every and given < len(known):
                yield known[given]
                given += 1
            else:
                yield first + int(others * chance() ** 2)

    def users(self) -> Packed:
        pack = Struct(">hi16si25siq").pack
        began = self.at(-YEARS - DAY)
        for n, user_id in enumerate(self.ids):
            yield pack(3, 16, user_id, 25, self.email(n), 8, began)

    def sessions(self) -> Packed:
        ended, going_on = Struct(">hi16si36siqiqi64s").pack, Struct(">hi16si36siqii").pack
        ids = self.ids
        names, hashes = _pieces(18, self.size.sessions), _pieces(32, self.size.sessions)
        first, step = self.at(-YEARS), (YEARS - 60) * MICROSECONDS / self.size.sessions
        for n, (owner, name, digest) in enumerate(zip(self.owners(), names, hashes, strict=True)):
            started = first + int(n * step)
            if n % 20:
                lasted = 5_000_000 + name[0] * 7_000_000  # up to half an hour
                yield ended(5, 16, ids[owner], 36, _name(name), 8, started, 8, started + lasted, 64, _hex(digest))
            else:  # its end never came
                yield going_on(5, 16, ids[owner], 36, _name(name), 8, started, -1, -1)

    def sign_ins(self, known: list[Person]) -> Packed:
        row = Struct(">hi32si16siqiq").pack
        for person in known:
            user_id = UUID(person.user_id).bytes
            yield row(4, 32, person.cookie.digest, 16, user_id, 8, self.at(-60), 8, self.at(12 * HOUR))
        for digest, ends in self._validities(
            self.size.sign_ins, self.size.expired_sign_ins, live=(2 * HOUR, 12 * HOUR)
        ):
            user_id = self.ids[self.random.randrange(len(known), self.size.users)]
            yield row(4, 32, digest, 16, user_id, 8, self.at(ends - 12 * HOUR), 8, self.at(ends))

    def links(self, known: list[Person]) -> Packed:
        row = Struct(">hi32si25siqiq").pack
        for person in known:
            yield row(4, 32, person.link.digest, 25, person.email.encode(), 8, self.at(-60), 8, self.at(12 * HOUR))
        for digest, ends in self._validities(self.size.sign_ins // 100, self.size.expired_links, live=(HOUR, 2 * HOUR)):
            email = self.email(self.random.randrange(len(known), self.size.users))
            yield row(4, 32, digest, 25, email, 8, self.at(ends - 600), 8, self.at(ends))

    def usage(self) -> Packed:
        row = Struct(">hi16siiiq").pack
        for n in range(self.size.days_of_usage):
            yield row(3, 16, self.ids[n], 4, self.today, 8, 1000)
        for n in range(self.size.expired_days_of_usage):
            yield row(3, 16, self.ids[n], 4, self.today - 2 - n % 30, 8, 1000)

    def totals(self) -> Packed:
        for days in range(2 * 365):
            yield Struct(">hiiiq").pack(2, 4, self.today - days, 8, 1_000_000)

    def calls(self) -> Packed:
        row = Struct(">hi16siiiqiq").pack
        for n in range(-self.size.expired_calls, self.size.calls):
            deadline = self.at(HOUR if n >= 0 else -DAY)
            yield row(4, 16, self.ids[-1 - abs(n)], 4, self.today, 8, 100, 8, deadline)

    def at(self, seconds: float) -> int:
        """A timestamp, so far from now."""
        return int((self.now - SINCE_2000 + seconds) * MICROSECONDS)

    def _validities(self, good: int, expired: int, live: tuple[int, int]) -> Iterator[tuple[bytes, float]]:
        """A digest and when it ends, from now; the expired ones over the last month."""
        for digest in _pieces(32, good):
            yield digest, self.random.uniform(*live)
        for digest in _pieces(32, expired):
            yield digest, -self.random.uniform(60, 30 * DAY)


def _pieces(width: int, count: int) -> Packed:
    """Random bytes."""
    for start in range(0, count, 4096):
        block = os.urandom(width * min(4096, count - start))
        for at in range(0, len(block), width):
            yield block[at : at + width]


def _version_4(random: bytes) -> bytes:
    """A uuid as gen_random_uuid() makes them."""
    return random[:6] + bytes((random[6] & 0x0F | 0x40, random[7], random[8] & 0x3F | 0x80)) + random[9:]


def _hex(data: bytes) -> bytes:
    return data.hex().encode()


def _name(random: bytes) -> bytes:
    """The id of a conversation, 36 bytes long as the clients' uuids are."""
    return random.hex().encode()

"""Texts that must never be seen again, and a search that knows them in disguise."""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import quote, quote_plus
from uuid import UUID

# A long text is searched for by its first and its last so many characters: a shortened one is one as well.
PIECE = 12
# The search first looks up whether a needle's beginning occurs at all. No needle may be shorter.
GRAM = 8


class Canaries:
    """All that were let out, by what they stand for."""

    def __init__(self) -> None:
        self._needles: dict[str, str] = {}  # in lower case, as the text is in which they are searched
        self._words: dict[str, str] = {}

    def __or__(self, others: Canaries) -> Canaries:
        """All of both, for one search."""
        both = Canaries()
        both._needles = self._needles | others._needles
        return both

    def word(self, what: str) -> str:
        """A word for one place that a caller controls: always the same for this place, and found nowhere else."""
        if what not in self._words:
            self._words[what] = f"Zq{secrets.token_hex(9)}"
            self.watch(what, self._words[what])
        return self._words[what]

    def email(self, who: str) -> str:
        """An address. Its case is mixed, as people type it; what is mailed is lower case."""
        address = f"{self.word(f'local part of {who}')}@{self.word(f'domain of {who}')}.example.com"
        self._hashes(f"address of {who}", address.lower())
        return address

    def address(self, what: str, ip: IPv4Address | IPv6Address) -> str:
        """An IP address, in every spelling."""
        spellings = {str(ip), ip.exploded, str(int(ip)), ip.packed.hex(), ip.reverse_pointer}
        if isinstance(ip, IPv6Address):
            network = ip_network((int(ip), 64), strict=False)
            spellings |= {str(network), network.network_address.exploded[:19]}
            self.identity(f"network of {what}", str(network))
        for spelling in spellings:
            self.watch(what, spelling)
        self.identity(what, str(ip))
        return str(ip)

    def uuid(self, what: str, value: str) -> str:
        """A UUID, with dashes and without."""
        self.watch(what, UUID(value).hex)
        self.identity(what, value)
        return value

    def token(self, what: str, text: str) -> str:
        """A signed token: random part and signature."""
        for part in text.split("."):
            self.watch(what, part)
        return text

    def identity(self, what: str, text: str) -> None:
        """What names a person: also its hashes, because without a key they can be looked up."""
        self.watch(what, text)
        self._hashes(what, text)

    def digest(self, what: str, value: bytes) -> None:
        """Bytes that are only ever shown encoded."""
        for needle in (*_hex_or_base64(value[:PIECE]), *_hex_or_base64(value[-PIECE:])):
            self._add(what, needle)

    def watch(self, what: str, text: str) -> None:
        """Any other text."""
        pieces = (text[:PIECE], text[-PIECE:]) if len(text) > PIECE + 2 else (text,)
        for piece in pieces:
            for disguise in _disguises(piece):
                self._add(f"{what} ({text})", disguise)

    def find(self, text: str | bytes) -> list[str]:
        """Every canary in `text`, with what is around it."""
        lower = (text if isinstance(text, str) else text.decode("latin-1")).lower()
        grams = {lower[start : start + GRAM] for start in range(len(lower) - GRAM + 1)}
        found = {}
        for needle, what in self._needles.items():
            if what not in found and needle[:GRAM] in grams and needle in lower:
                start = lower.index(needle)
                found[what] = f"{what} in …{' '.join(lower[max(0, start - 150) : start + 150].split())}…"
        return list(found.values())

    def _hashes(self, what: str, text: str) -> None:
        for algorithm in ("md5", "sha1", "sha256"):
            self.digest(f"{algorithm} of {what}", hashlib.new(algorithm, text.encode()).digest())

    def _add(self, what: str, needle: str) -> None:
        assert len(needle) >= GRAM, f"{needle} is too short to be told from chance"
        self._needles.setdefault(needle.lower(), what)


def _disguises(text: str) -> Iterator[str]:
    yield text
    for encode in (quote, quote_plus):
        once = encode(text, safe="")
        yield from (once, encode(once, safe=""))
    yield "".join(f"\\u{ord(char):04x}" for char in text)
    for cased in {text, text.lower(), text.upper(), text.swapcase()}:
        data = cased.encode()
        yield "".join(f"%{byte:02x}" for byte in data)
        yield "".join(f"\\x{byte:02x}" for byte in data)
        yield from _hex_or_base64(data)


def _hex_or_base64(data: bytes) -> Iterator[str]:
    yield data.hex()
    for encode in (b64encode, urlsafe_b64encode):
        for before in range(3):  # it depends on what stands in front of it, and its last digit on what follows
            digits = encode(bytes(before) + data).decode()
            yield digits[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]


def addresses_in(text: str) -> set[str]:
    """Everything in `text` that reads as an IP address, whoever's it is."""
    v4 = re.findall(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)", text)
    v6 = re.findall(r"(?<![\w:.])[0-9a-fA-F:]*:[0-9a-fA-F:]*:[0-9a-fA-F:.]*(?![\w:])", text)
    return {candidate for candidate in (*v4, *v6) if _is_address(candidate.rstrip("."))}


def _is_address(candidate: str) -> bool:
    try:
        ip_address(candidate)
    except ValueError:
        return False
    return candidate != "::"  # as in C++, or between two colons

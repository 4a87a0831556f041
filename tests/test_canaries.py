"""The search that the proof of privacy relies on: it finds a canary in every disguise, and nothing else."""

from __future__ import annotations

import codecs
import hashlib
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, quote_plus

import pytest

from tests.support.canaries import Canaries, addresses_in

IPV6 = IPv6Address("2001:db8:5ca1:ab1e:1234:5678:9abc:def0")

Disguise = Callable[[str], str]
DISGUISES: dict[str, Disguise] = {
    "plain": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "swapped case": str.swapcase,
    "shortened": lambda text: text[:13] + "…",
    "its end": lambda text: "…" + text[-24:],
    "in a path": lambda text: f'{{"path":"/v1/{text}/x"}}',
    "URL-encoded": lambda text: quote(f"/é {text}", safe=""),
    "URL-encoded for a form": lambda text: quote_plus(f"/é {text}"),
    "URL-encoded twice": lambda text: quote(quote(f"/é {text}", safe=""), safe=""),
    "URL-encoded throughout": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "escaped throughout": lambda text: "".join(f"\\u{ord(char):04X}" for char in text),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal of lower case": lambda text: text.lower().encode().hex().upper(),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64 behind one byte": lambda text: b64encode(f"a{text}b".encode()).decode(),
    "base64 behind two bytes": lambda text: b64encode(f"ab{text}c".encode()).decode(),
    "base64 of upper case": lambda text: b64encode(f"abc{text}d".upper().encode()).decode(),
    "base64 for URLs": lambda text: urlsafe_b64encode(f"?>?{text}".encode()).decode().rstrip("="),
    "base64 in another case": lambda text: b64encode(text.encode()).decode().swapcase(),
    "repr of bytes": lambda text: repr(b"\xff" + text.encode()),
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES.keys())
@pytest.mark.parametrize("kind", ["word", "email", "token", "uuid", "ip", "ipv6"])
def test_a_canary_is_found_in_every_disguise(kind: str, disguise: Disguise) -> None:
    canaries = Canaries()
    text = {
        "word": lambda: canaries.word("path"),
        "email": lambda: canaries.email("user"),
        "token": lambda: canaries.token("cookie", "Jx-_0q9vXc2LkP3mZt8RwYh5NbVf1sDe.u7Kq-OiG_4aTzE6n"),
        "uuid": lambda: canaries.uuid("user_id", "4f9b3c52-7d1e-4a68-9f30-2b6c8e5d7a11"),
        "ip": lambda: canaries.address("peer", IPv4Address("203.0.113.200")),
        "ipv6": lambda: canaries.address("peer", IPV6),
    }[kind]()

    assert canaries.find(f"before {disguise(text)} after")


@pytest.mark.parametrize(
    "leak",
    [
        "user 4f9b3c527d1e4a689f302b6c8e5d7a11",
        "2001:0db8:5ca1:ab1e:1234:5678:9abc:def0",
        "2001:DB8:5CA1:AB1E::/64",
        IPV6.packed.hex(),
        str(int(IPV6)),
        IPV6.reverse_pointer,
        "cb0071c8",
        str(0xCB0071C8),
        hashlib.sha256(b"203.0.113.200").hexdigest(),
        hashlib.md5(b"4f9b3c52-7d1e-4a68-9f30-2b6c8e5d7a11").hexdigest(),
        b64encode(hashlib.sha1(b"2001:db8:5ca1:ab1e::/64").digest()).decode(),
        "\\x" + bytes(range(32)).hex(),
        json.dumps({"id_hash": codecs.encode(bytes(range(32)), "base64").decode()}),
    ],
)
def test_what_stands_for_a_person_is_found_in_its_other_spellings(leak: str) -> None:
    canaries = Canaries()
    canaries.uuid("user_id", "4f9b3c52-7d1e-4a68-9f30-2b6c8e5d7a11")
    canaries.address("peer", IPv4Address("203.0.113.200"))
    canaries.address("peer 6", IPV6)
    canaries.digest("id_hash", bytes(range(32)))

    assert canaries.find(f"before {leak} after")


def test_a_find_says_what_it_is_and_where_it_was() -> None:
    canaries = Canaries()
    word = canaries.word("User-Agent")

    (found,) = canaries.find(f"nothing here\nlogged {word} by mistake\n".encode())

    assert found.startswith("User-Agent")
    assert "by mistake" in found


def test_canaries_of_two_kinds_are_found_together_and_told_apart() -> None:
    said, answered = Canaries(), Canaries()
    texts = {said.word("prompt"), answered.word("answer")}

    for text in texts:
        assert len((said | answered).find(text)) == 1
    assert [len(each.find(" ".join(texts))) for each in (said, answered)] == [1, 1]


def test_texts_without_a_canary_are_clean() -> None:
    canaries, others = Canaries(), Canaries()
    canaries.email("user")
    canaries.address("peer", IPv4Address("203.0.113.200"))
    canaries.digest("id_hash", bytes(range(32)))

    assert canaries.find(f"{others.email('user')} 203.0.113.20 Zq {'ab' * 500}") == []


def test_addresses_are_told_from_versions_and_times() -> None:
    text = (
        'flask/app.py:12:run 2026-01-31T08:30:00.000000Z PostgreSQL 18.6 "1.45.1" std::string 12:30:45 1.2.3.4.5'
        " 203.0.113.9, [2001:db8::7]:80 ip=10.0.0.1. ::ffff:192.0.2.1 x::1 peer '127.0.0.1' <::1>"
    )

    assert addresses_in(text) == {
        *("203.0.113.9", "2001:db8::7", "10.0.0.1", "::ffff:192.0.2.1", "192.0.2.1", "127.0.0.1", "::1"),
    }

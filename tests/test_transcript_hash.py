"""The transcript hash in Python: the vectors, the proof that a payload says what was hashed, and how long it takes."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import unicodedata
from collections import defaultdict, deque
from enum import Enum
from itertools import product
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumen_api.transcript_hash import ROLES, TranscriptError, transcript_hash, transcript_payload
from tests.support import ROOT

# Each {"name", "messages", "payload", "hash"} or {"name", "messages", "error": true}. Payloads are written by hand.
VECTORS_FILE = ROOT / "tests" / "vectors" / "transcript_hash.json"
VECTORS: list[dict[str, Any]] = json.loads(VECTORS_FILE.read_text())
HASHED = [vector for vector in VECTORS if "error" not in vector]
REFUSED = [vector for vector in VECTORS if "error" in vector]

# By their definition in ECMA-262, 12.2 and 12.3: the space separators of Unicode, and what has no category of its own.
WHITE_SPACE = {chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) == "Zs"} | set(
    "\t\n\v\f\r\u2028\u2029\ufeff"
)

Messages = list[dict[str, str]]


def name_of(vector: dict[str, Any]) -> str:
    name: str = vector["name"]
    return name


def says(*contents: str) -> Messages:
    return [{"role": "user", "content": content} for content in contents]


# --- The vectors. ---


@pytest.mark.parametrize("vector", HASHED, ids=name_of)
def test_a_vector_has_its_payload_and_its_hash(vector: dict[str, Any]) -> None:
    assert transcript_payload(vector["messages"]) == vector["payload"]
    assert transcript_hash(vector["messages"]) == vector["hash"]


@pytest.mark.parametrize("vector", REFUSED, ids=name_of)
def test_a_vector_without_a_transcript_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(TranscriptError):
        transcript_payload(vector["messages"])
    with pytest.raises(TranscriptError):
        transcript_hash(vector["messages"])


def test_the_hash_of_a_vector_is_the_sha_256_of_its_payload() -> None:
    digests = {vector["name"]: hashlib.sha256(vector["payload"].encode()).hexdigest() for vector in HASHED}

    assert digests == {vector["name"]: vector["hash"] for vector in HASHED}


def test_the_vectors_are_many_with_names_of_their_own_in_ascii() -> None:
    assert len(HASHED) >= 60
    assert len(REFUSED) >= 20
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)
    assert VECTORS_FILE.read_bytes().isascii()  # so that no editor and no git setting changes a character


def test_every_white_space_character_and_both_neighbours_have_a_vector() -> None:
    contents = "".join(message["content"] for vector in HASHED for message in vector["messages"])
    neighbours = {chr(ord(character) + step) for character in WHITE_SPACE for step in (-1, 1)}

    assert set(contents) >= WHITE_SPACE
    assert {hex(ord(character)) for character in neighbours - set(contents)} == set()


def test_the_digest_in_the_document_is_that_of_its_example() -> None:
    document = (ROOT / "docs" / "transcript-hash.md").read_text()
    (digest,) = re.findall(r"(?m)^    ([0-9a-f]{64})$", document)
    (command,) = re.findall(r"(?m)^    (printf .*) \| sha256sum$", document)
    printed = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout

    assert [digest] == [vector["hash"] for vector in HASHED if vector["payload"].encode() == printed]


# --- What a vector cannot say: it went through JSON. ---


def test_white_space_is_ecmascripts_and_nothing_else_in_all_of_unicode() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    contents = transcript_payload(says(*characters)).split("\n")[1::3]

    assert {character for character, content in zip(characters, contents, strict=True) if not content} == WHITE_SPACE
    assert len(WHITE_SPACE) == 25


@pytest.mark.parametrize(
    ("halves", "whole"),
    [
        ("\ud83d\ude00", "\U0001f600"),
        ("a\ud83d\ude00\ud83d", "a\U0001f600\ufffd"),
        ("\ude00\ud83d\ude00", "\ufffd\U0001f600"),
        ("\ud800\udc00\udbff\udfff", "\U00010000\U0010ffff"),
        ("\U0001f600\ud83d\ude00", "\U0001f600\U0001f600"),
        ("\ud83d\u3000\ude00", "\ufffd \ufffd"),
        ('"\\\ud83d\ude00\\ud83d', '"\\\U0001f600\\ud83d'),
    ],
)
def test_two_halves_of_a_pair_are_one_character_as_in_ecmascript(halves: str, whole: str) -> None:
    assert transcript_payload(says(halves)) == f"user\n{whole}"


def test_halves_of_a_pair_are_not_joined_across_messages() -> None:
    assert transcript_payload(says("\ud83d", "\ude00")) == "user\n\ufffd\n---\nuser\n\ufffd"


def test_a_role_of_an_enumeration_is_its_value() -> None:
    class Role(str, Enum):  # noqa: UP042, it is what clients have
        USER = "user"

    assert transcript_payload([{"role": Role.USER, "content": "Hello."}]) == "user\nHello."


def test_a_tuple_of_messages_is_a_transcript() -> None:
    assert transcript_hash(tuple(says("Hello."))) == transcript_hash(says("Hello."))


@pytest.mark.parametrize(
    "messages", [deque(says("Hello.")), iter(says("Hello.")), b"user", [b"user"], [{"role": "user", "content": b"a"}]]
)
def test_what_json_cannot_say_is_refused_too(messages: Any) -> None:
    with pytest.raises(TranscriptError):
        transcript_hash(messages)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "a transcript is a list of at least one message"),
        ([*says("a"), {"role": "tool", "content": "b"}], "messages[1].role must be one of system, user, assistant"),
        ([*says("a", "b"), {"role": "user"}], "messages[2].content must be text"),
    ],
)
def test_an_error_says_where_and_nothing_of_the_conversation(messages: Messages, message: str) -> None:
    with pytest.raises(TranscriptError, match=f"^{re.escape(message)}$"):
        transcript_hash(messages)


# --- What was hashed can be read from the payload. ---

PIECES = st.sampled_from(
    ["---", "\n", "\r\n", "\n---\n", "user", "assistant", " ", "\u2028", "\u0085", "\ud83d", "\ude00"]
)
CONTENTS = st.lists(PIECES | st.text(st.characters(), max_size=5), max_size=6).map("".join)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": CONTENTS}), min_size=1, max_size=5
)
examples = settings(max_examples=500, deadline=None, derandomize=True)


def normalized(messages: Messages) -> list[tuple[str, str]]:
    """By the rules, character by character: slow, and another way than the product's."""
    return [(message["role"], _normalized(message["content"])) for message in messages]


def _normalized(content: str) -> str:
    well_formed = content.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if content else ""
    words = [""]
    for character in well_formed:
        if character in WHITE_SPACE:
            words.append("")
        else:
            words[-1] += character
    return " ".join(word for word in words if word)


def parsed(payload: str) -> list[tuple[str, str]]:
    """By lines, three to a message: its role, its content, and the line between two messages."""
    lines = [*payload.split("\n"), "---"]
    assert set(lines[2::3]) == {"---"}
    return list(zip(lines[::3], lines[1::3], strict=True))


@examples
@given(MESSAGES)
def test_a_payload_parses_back_into_the_normalised_list(messages: Messages) -> None:
    assert parsed(transcript_payload(messages)) == normalized(messages)


@examples
@given(MESSAGES)
def test_a_normalised_list_has_the_same_payload(messages: Messages) -> None:
    again = [{"role": role, "content": content} for role, content in normalized(messages)]

    assert transcript_payload(again) == transcript_payload(messages)


def test_of_all_short_lists_those_with_the_same_payload_are_equal_but_for_white_space() -> None:
    contents = ["".join(pieces) for length in range(4) for pieces in product(["\n", "---", "user", " "], repeat=length)]
    messages = [{"role": role, "content": content} for role in ("user", "system") for content in contents]
    with_payload: dict[str, set[tuple[tuple[str, str], ...]]] = defaultdict(set)
    for transcript in ([message] for message in messages):
        with_payload[transcript_payload(transcript)].add(tuple(normalized(transcript)))
    for first, second in product(messages, messages):
        with_payload[transcript_payload([first, second])].add(tuple(normalized([first, second])))

    assert len(with_payload) > 1000
    assert [payload for payload, lists in with_payload.items() if len(lists) != 1] == []


# --- How long it takes. ---


def megabyte(content: str) -> Messages:
    """One message of a megabyte in UTF-8: `content` again and again."""
    return says(content * (1_000_000 // len(content.encode("utf-8", "surrogatepass"))))


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(megabyte("I want to feel calmer today. "), id="prose"),
        pytest.param(megabyte("a "), id="a run of white space after every letter"),
        pytest.param(megabyte("\u4e00\u3000"), id="ideographs and their spaces"),
        pytest.param(megabyte(" "), id="one run of white space"),
        pytest.param(megabyte("\ud800"), id="unpaired surrogates"),
        pytest.param(megabyte("\ud800 "), id="unpaired surrogates between white space"),
        pytest.param(megabyte("\U0001f600\ud800 "), id="astral characters, unpaired surrogates, white space"),
        pytest.param(says("") * 100_000, id="empty messages, a megabyte with their roles"),
        pytest.param(says("\ud800") * 77_000, id="tiny messages, a megabyte with their roles"),
    ],
)
def test_a_megabyte_is_hashed_within_a_fraction_of_a_second(messages: Messages) -> None:
    took = []
    for _ in range(5):
        began = perf_counter()
        transcript_hash(messages)
        took.append(perf_counter() - began)

    # Under 0.1 s on a machine that does nothing else; here the other tests run at the same time.
    assert min(took) < 0.3

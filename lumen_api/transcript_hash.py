"""The transcript hash, in the standard library alone.

Rules: docs/transcript-hash.md. Vectors that hold every implementation to them: tests/vectors/transcript_hash.json.
The server never computes one for a request; this is for tools, for tests and for clients in Python.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence

ROLES = ("system", "user", "assistant")

# What ECMAScript's `\s` does not match, written out: Python's has U+0085 and U+001C to U+001F, and lacks U+FEFF.
_WORD = re.compile("[^\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+")
_SURROGATE = re.compile("[\ud800-\udfff]")


class TranscriptError(ValueError):
    """There is no transcript to hash: the list is empty, or a message is none."""


def transcript_hash(messages: Sequence[Mapping[str, str]]) -> str:
    """SHA-256 of the payload, as 64 lower-case hexadecimal digits.

    `messages`: a list or tuple, each message with a `role` and a `content`; other members do not count.
    Raises TranscriptError when it is empty, a role is unknown or a content is no text.
    """
    return hashlib.sha256(transcript_payload(messages).encode()).hexdigest()


def transcript_payload(messages: Sequence[Mapping[str, str]]) -> str:
    r"""What is hashed: three lines to a message, its role, its normalised content and `---`, the last without `\n---`.

    Raises TranscriptError as transcript_hash() does.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise TranscriptError("a transcript is a list of at least one message")
    payload = "\n---\n".join(_lines(number, message) for number, message in enumerate(messages))
    return _well_formed(payload) if _SURROGATE.search(payload) else payload


def _lines(number: int, message: Mapping[str, str]) -> str:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in ROLES:
        raise TranscriptError(f"messages[{number}].role must be one of {', '.join(ROLES)}")
    content = message.get("content")
    if not isinstance(content, str):
        raise TranscriptError(f"messages[{number}].content must be text")
    # Its \r\n need no step of their own: they are white space like all other.
    normalized = " ".join(_WORD.findall(content))
    # Not an f-string: of an Enum that is a str too, it takes the member's name in some versions of Python.
    return "\n".join((role, normalized))


def _well_formed(text: str) -> str:
    """With U+FFFD for each unpaired surrogate."""
    # JSON has UTF-16's units: on the way back two halves of a pair are one character, as they are in ECMAScript.
    return _SURROGATE.sub("\ufffd", json.loads(json.dumps(text)))

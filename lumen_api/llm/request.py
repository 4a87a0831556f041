"""The shape of a request: the Anthropic Messages API's, as much of it as is passed on.

https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from lumen_api.errors import ApiError

MAX_MESSAGES = 500
MAX_STOP_SEQUENCES = 4
ROLES = ("user", "assistant")


class InvalidRequest(ApiError):
    """`message` names the member that is wrong, and never its value."""

    status, code, message = 400, "invalid_request", "The request is not one for the model."

    def __init__(self, member: str, rule: str) -> None:
        """Like InvalidRequest("messages[3].role", "must be user or assistant")."""
        super().__init__()
        self.message = f"{member} {rule}."


@dataclass
class Request:
    """What the model is asked. `content`: the JSON for the provider. `id`: the X-Request-Id that it gets."""

    id: str
    model: str
    max_tokens: int
    stream: bool
    content: bytes
    size: int  # of `content`, in bytes

    def forget(self) -> None:
        """The provider has it: an answer takes minutes, in which up to 2 MiB would stay in memory."""
        self.content = b""


def read(body: dict[str, Any], *, max_output_tokens: int, request_id: str) -> Request:
    """The request in a body. Raises InvalidRequest. What is not named here is left out."""
    known: dict[str, Any] = {
        "model": _text(body.get("model"), "model"),
        "messages": _messages(body.get("messages")),
        "max_tokens": _max_tokens(body.get("max_tokens"), max_output_tokens),
    }
    for name, reader in _OPTIONAL.items():
        if body.get(name) is not None:
            known[name] = reader(body[name], name)
    content = json.dumps(known, ensure_ascii=False, separators=(",", ":")).encode()
    return Request(request_id, known["model"], known["max_tokens"], known.get("stream", False), content, len(content))


def _messages(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise InvalidRequest("messages", f"must be a list of 1 to {MAX_MESSAGES} messages")
    return [_message(message, f"messages[{number}]", first=number == 0) for number, message in enumerate(value)]


def _message(value: object, member: str, *, first: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(member, "must be an object")
    role = value.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{member}.role", "must be user or assistant")
    if first and role != "user":
        raise InvalidRequest(f"{member}.role", "must be user")
    return {"role": role, "content": _content(value.get("content"), f"{member}.content")}


def _content(value: object, member: str) -> object:
    """A text, or a list of text blocks."""
    if not isinstance(value, list):
        return _text(value, member, "must be a text or a list of text blocks")
    if not value:
        raise InvalidRequest(member, "must not be empty")
    return [_block(block, f"{member}[{number}]") for number, block in enumerate(value)]


def _block(value: object, member: str) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("type") != "text":
        raise InvalidRequest(member, 'must be a block of type "text"')
    return {"type": "text", "text": _text(value.get("text"), f"{member}.text")}


def _text(value: object, member: str, rule: str = "must be a text") -> str:
    if not isinstance(value, str):
        raise InvalidRequest(member, rule)
    if not value:
        raise InvalidRequest(member, "must not be empty")
    # JSON can spell them, but UTF-8 has no unpaired surrogates, and many programs take NUL for the end.
    if "\x00" in value or (not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value)):
        raise InvalidRequest(member, "holds a character that no text has")
    return value


def _max_tokens(value: object, maximum: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise InvalidRequest("max_tokens", f"must be a whole number from 1 to {maximum}")
    return value


def _temperature(value: object, member: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise InvalidRequest(member, "must be a number from 0 to 1")
    return value


def _stop_sequences(value: object, member: str) -> list[str]:
    if not isinstance(value, list) or len(value) > MAX_STOP_SEQUENCES:
        raise InvalidRequest(member, f"must be a list of at most {MAX_STOP_SEQUENCES} texts")
    return [_text(text, f"{member}[{number}]") for number, text in enumerate(value)]


def _stream(value: object, member: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(member, "must be true or false")
    return value


_OPTIONAL = {"system": _content, "temperature": _temperature, "stop_sequences": _stop_sequences, "stream": _stream}

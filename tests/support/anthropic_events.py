"""The events of Anthropic's streams and the JSON of its messages, byte for byte as it writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from secrets import token_hex
from typing import Any

MODEL = "claude-sonnet-5-5"


@dataclass(frozen=True)
class Data:
    """Bytes of the body. `name`: the event's; `input` and `output`: the tokens that are served with the last byte."""

    data: bytes
    name: str = ""
    input: int = 0
    output: int = 0


def event(name: str, members: Mapping[str, Any] | None = None) -> Data:
    """A server-sent event as Anthropic writes it."""
    return _event({"type": name, **(members or {})})


def text(words: str) -> Data:
    """An event with text; each of its words is a token."""
    delta = {"index": 0, "delta": {"type": "text_delta", "text": words}}
    return _event({"type": "content_block_delta", **delta}, output=len(words.split()))


def message_delta(output: int | None, stop_reason: str | None = "end_turn", **usage: int) -> Data:
    """The event that says how many tokens there have been so far; None: it does not say."""
    counts = {} if output is None else {"usage": {**usage, "output_tokens": output}}
    return event("message_delta", {"delta": {"stop_reason": stop_reason, "stop_sequence": None}, **counts})


def error_event(error_type: str = "overloaded_error", message: str = "Overloaded") -> Data:
    """An error inside a stream."""
    return event("error", error_members(error_type, message))


def message_start(model: str, *, input: int, usage: dict[str, Any] | None) -> Data:
    """The first event. `input`: the tokens that are served with it, whatever it says of them in `usage`."""
    said = {} if usage is None else {"usage": usage}
    return _event({"type": "message_start", "message": {**message_members(model), "content": [], **said}}, input=input)


def message_members(model: str) -> dict[str, Any]:
    """The members of a message that do not depend on what it says."""
    stop = {"stop_reason": None, "stop_sequence": None}
    return {"model": model, "id": f"msg_01{token_hex(11)}", "type": "message", "role": "assistant", **stop}


def usage_members(total: int, cached: int, output: int) -> dict[str, Any]:
    """Token counts. `total` of the input, of which `cached` came from a cache and as many went into it."""
    return {
        "input_tokens": total - 2 * cached,
        "cache_creation_input_tokens": cached,
        "cache_read_input_tokens": cached,
        "output_tokens": output,
        "service_tier": "standard",
    }


def error_members(error_type: str, message: str) -> dict[str, Any]:
    """The JSON of an error."""
    return {"type": "error", "error": {"type": error_type, "message": message}}


def to_json(data: object) -> bytes:
    """Without a space, and in UTF-8."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def _event(data: dict[str, Any], *, input: int = 0, output: int = 0) -> Data:
    return Data(b"event: %s\ndata: %s\n\n" % (data["type"].encode(), to_json(data)), data["type"], input, output)


PING = event("ping")
COMMENT = Data(b": a comment\n\n", "comment")

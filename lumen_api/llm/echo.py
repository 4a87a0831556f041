"""The built-in provider of development: it says what it was told, in Anthropic's events, without a network."""

from __future__ import annotations

import json
from typing import Any

from lumen_api.llm.policy import tokens_in
from lumen_api.llm.provider import Account, Chunks, Pause
from lumen_api.llm.request import Request
from lumen_api.llm.watch import Watch

PAUSE = 0.03  # seconds between two words


class Echo:
    """See provider.Provider."""

    name = "echo"

    def close(self) -> None:
        """See Provider.close()."""

    def send(self, request: Request, watch: Watch, account: Account) -> bytes:
        """See Provider.send()."""
        words = _answer(request)
        watch.pause(PAUSE)
        message = _message(request, [{"type": "text", "text": "".join(words)}], "end_turn", output_tokens=len(words))
        account.read(message["usage"], final=True)
        account.last.complete = True
        return json.dumps(message).encode()

    def stream(self, request: Request, watch: Watch, account: Account) -> Chunks:  # noqa: ARG002
        """See Provider.stream()."""
        words = _answer(request)
        message = _message(request, [], None, output_tokens=1)
        account.read(message["usage"], final=False)
        yield _event("message_start", message=message)
        yield _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        for word in words:
            yield Pause(None, PAUSE)
            account.last.text_bytes += len(word.encode())
            yield _event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
        yield _event("content_block_stop", index=0)
        usage = {"output_tokens": len(words)}
        account.read(usage, final=True)
        yield _event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)
        account.last.complete = True
        yield _event("message_stop")


def _answer(request: Request) -> list[str]:
    """Words with the spaces before them, one token each."""
    content = json.loads(request.content)["messages"][-1]["content"]
    text = content if isinstance(content, str) else " ".join(block["text"] for block in content)
    words = f"You said: {text}".split(" ")[: request.max_tokens]
    return [words[0], *(f" {word}" for word in words[1:])]


def _message(
    request: Request, content: list[dict[str, Any]], stop_reason: str | None, *, output_tokens: int
) -> dict[str, Any]:
    return {
        "id": f"msg_{request.id}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens_in(request.size), "output_tokens": output_tokens},
    }


def _event(kind: str, **members: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n".encode()

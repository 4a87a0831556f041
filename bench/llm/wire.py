"""What is asked of the fake provider, and its events as bytes.

The order travels as the text of the first message, because that is all that the proxy passes on.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

PATH = "/v1/messages"
MODEL = "claude-haiku-5-5"

# A text delta begins with the time at which it was sent: time.monotonic_ns() in 19 digits.
SENT_AT = re.compile(rb'"text":"(\d{19})')
END = b'"message_stop"'
ERROR = b"event: error"


@dataclass(frozen=True)
class Order:
    """What the fake provider shall do with a call.

    `chunks` text deltas, `rate` of them a second, each with `padding` bytes beside its time; `name`: what the call's
    end is reported under; `silent`: no byte at all is answered; `chunked`: False ends the body with the connection.
    """

    chunks: int = 0
    rate: float = 20
    padding: int = 8
    name: str = ""
    silent: bool = False
    chunked: bool = True

    @classmethod
    def read(cls, body: bytes) -> tuple[Order, bool]:
        """The order in a request's body, and whether a stream is asked for."""
        request = json.loads(body)
        content = request["messages"][0]["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        return cls(**json.loads(text)), request.get("stream", False)

    def body(self, *, stream: bool = True) -> bytes:
        """A request in the shape of Anthropic's Messages API."""
        message = {"role": "user", "content": json.dumps(asdict(self))}
        return json.dumps({"model": MODEL, "max_tokens": 1024, "messages": [message], "stream": stream}).encode()


def request(path: str, body: bytes | None = None, headers: str = "") -> bytes:
    """An HTTP/1.1 request; `headers`: lines that end in CRLF."""
    if body is None:
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n".encode()
    json_headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{json_headers}\r\n".encode() + body


def event(name: str, **members: object) -> bytes:
    """One server-sent event of Anthropic's."""
    return f"event: {name}\ndata: {json.dumps({'type': name, **members}, separators=(',', ':'))}\n\n".encode()


def chunk(data: bytes) -> bytes:
    """`data` in the chunked transfer coding (RFC 9112, section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


MESSAGE: dict[str, Any] = {
    "id": "msg_bench",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 25, "output_tokens": 1},
}
START = (
    event("message_start", message=MESSAGE)
    + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    + event("ping")
)
STOP = (
    event("content_block_stop", index=0)
    + event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 15})
    + event("message_stop")
)
WHOLE = json.dumps({**MESSAGE, "content": [{"type": "text", "text": "Hello."}], "stop_reason": "end_turn"}).encode()


def delta(order: Order) -> bytes:
    """The text delta of `order`, with %d where its time belongs. It has the same length whatever the time is."""
    text = f"{'0' * 19} {'x' * order.padding}"
    data = event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
    return (chunk(data) if order.chunked else data).replace(b"0" * 19, b"%019d")

"""Requests in which another one is hidden, for whoever reads their length in another way (request smuggling).

The shapes are those of RFC 9112, section 11.2, and of the collections that its attackers use: a length said twice, or
said in a way that one server understands and the next does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from tests.support.raw_http import request

LINK = "/v1/auth/request-link"
JSON = "Content-Type: application/json"

# Whoever takes the hidden request for one sends a mail to this address.
HIDDEN_ADDRESS = "hidden@example.com"
_HIDDEN_BODY = json.dumps({"email": HIDDEN_ADDRESS}).encode()
HIDDEN = request("POST", LINK, JSON, f"Content-Length: {len(_HIDDEN_BODY)}", close=False) + _HIDDEN_BODY

BEHIND_THE_CHUNKS = b"0\r\n\r\n" + HIDDEN
_SIZE = b"%x\r\n" % len(HIDDEN)
WITHIN_A_CHUNK = _SIZE + HIDDEN + b"\r\n0\r\n\r\n"

TRANSFER_ENCODINGS = {
    "chunked": "Transfer-Encoding: chunked",
    "capitals": "TRANSFER-ENCODING: CHUNKED",
    "a tab": "Transfer-Encoding:\tchunked",
    "a vertical tab": "Transfer-Encoding: \x0bchunked",
    "a form feed": "Transfer-Encoding: chunked\x0c",
    "a no-break space": "Transfer-Encoding: chunked\xa0",
    "a space before the colon": "Transfer-Encoding : chunked",
    "a tab before the colon": "Transfer-Encoding\t: chunked",
    "a NUL": "Transfer-Encoding: chunked\x00",
    "quotes": 'Transfer-Encoding: "chunked"',
    "a parameter": "Transfer-Encoding: chunked;q=1",
    "a comma": "Transfer-Encoding: ,chunked",
    "identity": "Transfer-Encoding: identity",
    "identity, chunked": "Transfer-Encoding: identity, chunked",
    "chunked, identity": "Transfer-Encoding: chunked, identity",
    "chunked twice": "Transfer-Encoding: chunked, chunked",
    "two lines": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "a longer word": "Transfer-Encoding: xchunked",
    "nothing": "Transfer-Encoding:",
    "a folded line": "Transfer-Encoding:\r\n chunked",
    "a folded name": "X-Folded: x\r\n Transfer-Encoding: chunked",
    "a bare line feed": "X-Bare: x\nTransfer-Encoding: chunked",
    "a bare carriage return": "X-Bare: x\rTransfer-Encoding: chunked",
    "a space in front": " Transfer-Encoding: chunked",
}

# "%d" (and "%x") is the length of a body that is the hidden request; any other number makes it no part of the body.
LENGTHS = {
    "two": "Content-Length: %d\r\nContent-Length: 0",
    "two the other way round": "Content-Length: 0\r\nContent-Length: %d",
    "the same twice": "Content-Length: %d\r\nContent-Length: %d",
    "a list": "Content-Length: %d, 0",
    "a list of the same": "Content-Length: %d, %d",
    "a plus": "Content-Length: +%d",
    "a minus": "Content-Length: -%d",
    "a minus nothing": "Content-Length: -0",
    "an underscore": "Content-Length: 1_0",
    "hexadecimal": "Content-Length: 0x%x",
    "octal": "Content-Length: 0o%o",
    "a fraction": "Content-Length: %d.0",
    "an exponent": "Content-Length: 1e2",
    "a space within": "Content-Length: 1 0",
    "a word behind": "Content-Length: %d x",
    "quotes": 'Content-Length: "%d"',
    "other digits": "Content-Length: \xb2\xb3",
    "a space before the colon": "Content-Length : %d",
    "nothing": "Content-Length:",
    "a folded line": "Content-Length: 1\r\n 0",
    "a bare line feed": "X-Bare: x\nContent-Length: %d",
    "a bare carriage return": "X-Bare: x\rContent-Length: %d",
    "a NUL": "Content-Length: %d\x00",
}

# A chunk that ends elsewhere for a reader who is less strict.
CHUNKS = {
    "a sign": b"+" + WITHIN_A_CHUNK,
    "hexadecimal with 0x": b"0x" + WITHIN_A_CHUNK,
    "a space in front": b" " + WITHIN_A_CHUNK,
    "an underscore": b"0_" + WITHIN_A_CHUNK,
    "a minus": b"-0\r\n\r\n" + HIDDEN,
    "a size above 64 bits": b"10000000000000000\r\n\r\n" + HIDDEN,
    "an extension with a line feed": b"1;\n%b\r\n0\r\n\r\n" % HIDDEN,
    "a line feed for an end": _SIZE.replace(b"\r\n", b"\n") + HIDDEN + b"\n0\n\n",
    "a carriage return for an end": b"0\r\r" + HIDDEN,
    "other bytes for an end": b"1\r\nxXX" + BEHIND_THE_CHUNKS,
    "no end": b"1\r\nx" + BEHIND_THE_CHUNKS,
}


def hidden_requests() -> Iterator[tuple[str, bytes]]:
    """Each shape's name, and its bytes. None of them is a request that two servers are sure to read alike."""
    for name, line in TRANSFER_ENCODINGS.items():
        yield f"length beside: {name}", _post(line, f"Content-Length: {len(BEHIND_THE_CHUNKS)}") + BEHIND_THE_CHUNKS
        yield f"length before: {name}", _post(f"Content-Length: {len(_SIZE)}", line) + WITHIN_A_CHUNK
    for name, line in LENGTHS.items():
        yield f"length: {name}", _post(line.replace("%d", str(len(HIDDEN))).replace("%x", f"{len(HIDDEN):x}")) + HIDDEN
    for name, body in CHUNKS.items():
        yield f"chunk: {name}", _post("Transfer-Encoding: chunked") + body


def post(path: str, body: object, *headers: str) -> bytes:
    """A whole request, after which the connection ends."""
    data = json.dumps(body).encode()
    return request("POST", path, JSON, f"Content-Length: {len(data)}", *headers) + data


def _post(*headers: str) -> bytes:
    return request("POST", LINK, JSON, *headers, close=False)

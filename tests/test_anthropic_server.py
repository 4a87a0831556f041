"""The fake of Anthropic's API: what the tests of the proxy take for granted about it."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from time import monotonic

import pytest
import trustme

from tests.support import eventually
from tests.support.anthropic import API_KEY, VERSION, AnthropicServer, honest
from tests.support.anthropic_answers import CONTINUE, CUT, FOREVER, RESET, Answer, Raw, error, message, redirect, stream
from tests.support.anthropic_events import COMMENT, error_event, text

HEADERS = {"x-api-key": API_KEY, "anthropic-version": VERSION, "content-type": "application/json"}
ASKED = {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello"}]}
EVENTS = ["message_start", "content_block_start", "ping", *["content_block_delta"] * 3]
EVENTS += ["content_block_stop", "message_delta", "message_stop"]


@pytest.fixture
def server() -> Iterator[AnthropicServer]:
    with AnthropicServer() as server:
        yield server


def ask(connection: HTTPConnection, **members: object) -> HTTPResponse:
    connection.request("POST", "/v1/messages", json.dumps({**ASKED, **members}), HEADERS)
    return connection.getresponse()


def call(server: AnthropicServer, **members: object) -> tuple[HTTPResponse, bytes]:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        response = ask(connection, **members)
        return response, response.read()


def asked() -> bytes:
    """A request."""
    body = json.dumps({**ASKED, "stream": True}).encode()
    lines = [f"{name}: {value}" for name, value in {**HEADERS, "content-length": str(len(body))}.items()]
    return "\r\n".join(["POST /v1/messages HTTP/1.1", *lines, "", ""]).encode() + body


def raw(server: AnthropicServer) -> socket.socket:
    """A connection on which it was sent."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    sock.sendall(asked())
    return sock


def rest(sock: socket.socket) -> bytes:
    """All that still comes."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def names(body: bytes) -> list[str]:
    return [line[7:].decode() for line in body.splitlines() if line.startswith(b"event: ")]


def test_it_streams_the_events_in_their_order_and_counts_the_tokens(server: AnthropicServer) -> None:
    server.behave(stream(3, input=30, cached=10))

    response, body = call(server)

    assert response.headers["transfer-encoding"] == "chunked"
    assert names(body) == EVENTS
    events = [json.loads(part.split(b"data: ")[1]) for part in body.split(b"\n\n") if part]
    usage = events[0]["message"]["usage"]
    assert [usage[f"{kind}input_tokens"] for kind in ("", "cache_creation_", "cache_read_")] == [10, 10, 10]
    assert usage["output_tokens"] == 1
    assert events[-2]["usage"] == {"output_tokens": 3}
    (request,) = server.finished()
    assert (request.served_input, request.served_output, request.end) == (30, 3, "complete")
    assert (request.json, request.headers["X-API-Key"]) == (ASKED, API_KEY)


def test_an_honest_one_answers_what_was_asked_for(server: AnthropicServer) -> None:
    _, whole = call(server, max_tokens=7)
    _, streamed = call(server, max_tokens=7, stream=True)

    assert json.loads(whole)["usage"]["output_tokens"] == 7
    assert names(streamed).count("content_block_delta") == 7
    assert server.served == sum(r.served_input for r in server.finished()) + 14


@pytest.mark.parametrize(
    ("headers", "members", "status", "error_type"),
    [
        ({"x-api-key": "wrong"}, {}, 401, "authentication_error"),
        ({"anthropic-version": ""}, {}, 400, "invalid_request_error"),
        ({"content-type": "text/plain"}, {}, 400, "invalid_request_error"),
        ({}, {"metadata": {"user_id": "ada"}}, 400, "invalid_request_error"),
    ],
)
def test_a_wrong_request_is_refused_and_leaves_the_script_alone(
    server: AnthropicServer, headers: dict[str, str], members: dict[str, object], status: int, error_type: str
) -> None:
    server.behave(message(1), error(529))
    with closing(HTTPConnection("127.0.0.1", server.port)) as connection:
        connection.request("POST", "/v1/messages", json.dumps({**ASKED, **members}), {**HEADERS, **headers})
        response = connection.getresponse()
        refusal = json.loads(response.read())
        assert (response.status, refusal["error"]["type"]) == (status, error_type)
        assert refusal["request_id"] == response.headers["request-id"]
        assert ask(connection).status == 200


def test_answers_come_in_their_order_and_the_last_one_stays(server: AnthropicServer) -> None:
    server.behave(error(429, retry_after="7"), redirect("http://elsewhere"), error(529))

    answers = [call(server)[0] for _ in range(4)]

    assert [answer.status for answer in answers] == [429, 307, 529, 529]
    assert answers[0].headers["retry-after"] == "7"
    assert answers[1].headers["location"] == "http://elsewhere/v1/messages"
    assert server.served == 0


@pytest.mark.parametrize(
    "answer",
    [
        stream(3).at_once(),
        stream(3).chunks_of(1),
        stream(3).writes_of(1),
        stream(3).gzipped(),
        stream(3).framed("close"),
        stream(3).framed("length"),
        stream(3).newlines("\r"),
        stream(3).newlines("\r\n").gzipped().chunks_of(7).writes_of(5),
        stream(3, word="Grüße ").chunks_of(2),
        stream(3).after("message_start", COMMENT),
        stream(3).after("request", Raw(CONTINUE)).with_headers(connection="close"),
    ],
)
def test_however_it_is_written_the_events_and_the_ledger_are_the_same(server: AnthropicServer, answer: Answer) -> None:
    server.behave(answer)

    response, body = call(server)

    assert names(gzip.decompress(body) if response.headers["content-encoding"] else body) == EVENTS
    (request,) = server.finished()
    assert (request.served_input, request.served_output, request.end) == (25, 3, "complete")


@pytest.mark.parametrize(
    ("answer", "error", "served"),
    [
        (stream().until("request", CUT), HTTPException, 0),
        (stream().until("request", Raw(b"HTTP/1.1 20"), CUT), HTTPException, 0),
        (stream().until("head", CUT), IncompleteRead, 0),
        (stream().until("message_start", Raw(b"40\r\nevent: con"), CUT), IncompleteRead, 25),
        (stream().until("content_block_delta", CUT, nth=10), IncompleteRead, 35),
        (message().with_headers(content_length="500").until("head", Raw(b'{"id'), CUT), IncompleteRead, 0),
    ],
)
def test_a_cut_connection_ends_where_the_script_says(
    server: AnthropicServer, answer: Answer, error: type[Exception], served: int
) -> None:
    server.behave(answer)

    with pytest.raises(error):
        call(server)
    (request,) = server.finished()
    assert (request.end, server.served) == ("cut", served)


def test_a_reset_is_not_an_end(server: AnthropicServer) -> None:
    server.behave(stream().until("request", RESET))
    with raw(server) as sock, pytest.raises(ConnectionResetError):
        rest(sock)


def test_a_stream_may_end_properly_without_its_last_event(server: AnthropicServer) -> None:
    server.behave(stream().until("message_start", error_event()), stream().until("content_block_delta"))

    assert names(call(server)[1]) == ["message_start", "error"]
    assert names(call(server)[1])[-1] == "content_block_delta"


@pytest.mark.parametrize("place", ["request", "head", "content_block_delta"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_in_a_silence_is_noticed_at_once(server: AnthropicServer, place: str, reset: bool) -> None:
    server.behave(stream().until(place, FOREVER))
    with raw(server) as sock:
        eventually(lambda: server.requests)
        if place != "request":
            sock.recv(1)
        if reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    left = monotonic()

    (request,) = server.finished()

    assert request.end == "client_gone"
    assert request.left is not None
    assert request.left - left < 0.1
    eventually(lambda: server.open == 0)


def test_the_ledger_holds_exactly_what_a_client_gets_that_reads_on_after_its_fin(server: AnthropicServer) -> None:
    server.behave(stream(10_000, every=0.001))
    with raw(server) as sock:
        seen = sock.recv(65536)
        sock.shutdown(socket.SHUT_WR)
        seen += rest(sock)

    (request,) = server.finished()
    assert request.end == "client_gone"
    assert request.served_output == seen.count(b"text_delta") < 1000


def test_a_client_that_reads_nothing_is_noticed_when_it_leaves(server: AnthropicServer) -> None:
    server.behave(stream().after("message_start", text("x" * 20_000_000)))
    with raw(server) as sock:
        # So much is there that the long event is being written: it cannot fit into the buffers.
        eventually(lambda: len(sock.recv(50_000, socket.MSG_PEEK)) == 50_000)
        assert server.requests[0].end is None
        sock.shutdown(socket.SHUT_WR)

        (request,) = server.finished()

    assert (request.end, request.served_input, request.served_output) == ("client_gone", 25, 0)


def test_a_hundred_and_fifty_streams_at_once_are_served_and_summed_up(server: AnthropicServer) -> None:
    server.behave(lambda request: honest(request, words=10, every=0.05))
    socks = [raw(server) for _ in range(150)]
    eventually(lambda: server.open == 150)
    for sock in socks:
        with sock, sock.makefile("rb") as lines:
            assert any(b"message_stop" in line for line in lines)

    assert len(server.finished()) == server.connections == 150
    assert sum(request.served_output for request in server.requests) == 1500


def test_the_end_of_the_block_ends_everything_at_once() -> None:
    before = threading.active_count()
    with AnthropicServer() as server:
        server.behave(stream().until("message_start", FOREVER))
        socks = [raw(server) for _ in range(50)]
        socks += [socket.create_connection(("127.0.0.1", server.port))]
        eventually(lambda: len(server.requests) == 50)
        started = monotonic()
    assert monotonic() - started < 2
    assert threading.active_count() == before
    assert {request.end for request in server.requests} == {"server_closed"}
    for sock in socks:
        sock.close()


def test_a_connection_is_kept_until_the_server_closes_it(server: AnthropicServer) -> None:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        ask(connection).read()
        ask(connection, stream=True).read()
        assert [request.connection for request in server.requests] == [1, 1]

        server.close_idle()

        with pytest.raises((HTTPException, ConnectionError)):
            ask(connection)
    assert (server.connections, len(server.requests)) == (1, 2)


def test_an_answer_may_come_before_the_body_of_the_request(server: AnthropicServer) -> None:
    server.behave(error(413).without_reading())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(b"POST /v1/messages HTTP/1.1\r\ncontent-length: 1000000\r\n\r\n")
        assert rest(sock).startswith(b"HTTP/1.1 413 ")


def test_it_speaks_tls() -> None:
    ca = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.issue_cert("localhost").configure_cert(ours)
    ca.configure_trust(theirs)

    with AnthropicServer(tls=ours) as server:
        server.behave(stream(3), stream(3).until("content_block_delta", FOREVER))
        for last in (b"\r\n0\r\n\r\n", b"text_delta"):
            with (
                socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock,
                theirs.wrap_socket(sock, server_hostname="localhost") as tls,
            ):
                tls.sendall(asked())
                seen = b""
                while last not in seen:
                    seen += tls.recv(65536)
        assert [request.end for request in server.finished()] == ["complete", "client_gone"]

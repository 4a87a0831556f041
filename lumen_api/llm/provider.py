"""What a provider of models is, and what a call has used."""

from __future__ import annotations

import socket
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Protocol

from lumen_api.llm.policy import tokens_in
from lumen_api.llm.request import Request
from lumen_api.llm.watch import Watch

# After so many seconds without an event a comment tells proxies and clients that the call is alive.
SILENCE = 15.0
COMMENT = b": the model is still at work\n\n"


@dataclass(frozen=True, slots=True)
class Pause:
    """There is nothing to pass on before `sock` can be read, or `seconds` have passed."""

    sock: socket.socket | None
    seconds: float


# A stream: bytes to pass on, and pauses, in which whoever reads it waits in its own way.
Chunks = Generator[bytes | Pause, None, None]

_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass
class Tokens:
    """What one try has used, as far as the provider has said."""

    # Of input, to charge while the provider, which has the request, has said nothing.
    at_least: int = 0
    # The most that the model may write.
    at_most: int = 0
    # As in the API's "usage" objects.
    counts: dict[str, int] = field(default_factory=dict)
    # Whether the output's count is the last word, and not the one at the beginning.
    final: bool = False
    # Bytes of the model's text that have come, for an answer that is cut off before it is counted.
    text_bytes: int = 0
    # The answer has come to its end.
    complete: bool = False

    @property
    def input(self) -> int | None:
        """Tokens of input, or None while they are not known."""
        return sum(self.counts.get(kind, 0) for kind in _INPUT) if "input_tokens" in self.counts else None

    @property
    def output(self) -> int:
        """Tokens of output: the last count, or of an answer without an end an estimate of what has come."""
        counted = self.counts.get("output_tokens", 0)
        if self.complete and self.final:
            return counted
        return max(counted, min(tokens_in(self.text_bytes), self.at_most))

    @property
    def charged(self) -> int:
        """What the user's budget is charged with."""
        return self.output + (self.at_least if self.input is None else self.input)


@dataclass
class Account:
    """What a call has used, in its last try and in those before. `request_id`: the provider's."""

    request: Request
    request_id: str | None = None
    # The answer has begun, or at least something has been passed on: from now on nothing can be tried again.
    begun: bool = False
    last: Tokens = field(default_factory=Tokens)
    earlier: int = 0

    def begin(self) -> None:
        """The provider gets the request. A stream tells soon what it costs; anything else only when it is over."""
        self.earlier += self.last.charged
        size, most = tokens_in(self.request.size), self.request.max_tokens
        self.last = Tokens(size, most) if self.request.stream else Tokens(size + most)

    def unreadable(self) -> None:
        """The provider has answered, in a way that does not tell what it has cost."""
        self.last = Tokens(tokens_in(self.request.size) + self.request.max_tokens)

    def refused(self) -> None:
        """The provider has done nothing."""
        self.last = Tokens()

    def read(self, usage: object, *, final: bool) -> None:
        """Take over the counts of a "usage" object. They are cumulative: the last one counts, a zero too."""
        for name in (*_INPUT, "output_tokens"):
            value = usage.get(name) if isinstance(usage, dict) else None
            if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
                self.last.counts[name] = value
                self.last.final = final

    @property
    def charged(self) -> int:
        """What the user's budget is charged with."""
        return self.earlier + self.last.charged


class Provider(Protocol):
    """Answers requests. Both methods raise ProviderError, and whatever `watch` raises; they close what they opened."""

    name: str  # OpenTelemetry's gen_ai.provider.name

    def send(self, request: Request, watch: Watch, account: Account) -> bytes:
        """The answer as one JSON document."""

    def stream(self, request: Request, watch: Watch, account: Account) -> Chunks:
        """The answer as server-sent events, byte for byte as they come.

        It waits by itself until the provider has the request, and with pauses from then on. What is raised before the
        first bytes can still be answered with a status. close() ends the call, and waits a little too.
        """

    def close(self) -> None:
        """Give back what is kept between calls."""

"""One HTTP request and its reply, whatever carries it: ASGI now, our own HTTP/1.1 and HTTP/2 listener next.

A transport makes an `Exchange` of every request and hands it to a handler, a plain function that
returns at once. The reply is given exactly once, then or later: whole by `respond`, or as a stream
by `stream`, whose writer coroutine then owns the connection's way out. Because nothing has to wait
inside a handler, no task stands between a connection and a call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

__all__ = ["Exchange", "Handler", "Headers", "Sink", "StreamWriter"]

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]


class Sink(ABC):
    """The way out of one streamed reply. Only the stream's writer uses it: one writer, whole frames."""

    __slots__ = ()

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send `data`, and wait until the transport takes more, within the transport's stall limit.

        Raises:
            TransportError: The peer is gone, or took nothing for the whole stall limit; the connection is dead.
        """

    @abstractmethod
    async def end(self, trailers: Headers = ()) -> None:
        """End the reply in order. `trailers` need HTTP/2, or chunked HTTP/1.1 with a peer that takes them."""


StreamWriter: TypeAlias = Callable[[Sink], Awaitable[None]]


class Exchange(ABC):
    """A request that has arrived whole, and the one reply it gets.

    Attributes:
        method: Upper-case, e.g. ``POST``.
        path: Decoded, without the prefix under which an application is mounted; begins with ``/``.
        prefix: That prefix (``""`` where there is none), for URLs that go to the client.
        query: Raw, without the question mark.
        body: All of the request's body.
        principal: Who asks, once authenticated; ``""`` is nobody.
        loopback: It arrived on a socket that only this machine reaches.
        gone: The peer went away before the reply was complete.
        replied: `respond` or `stream` was called.
        on_gone: Called once, on the loop, when `gone` becomes true; set it before returning from the handler.
        verdicts: What was found out from method, path, query and headers alone. A transport that knows a head again
            gives the same dict again, and what is in it need not be looked up (1.3 us of an echo call). Each key is
            its owner's own; an owner puts in a few small values that it cannot put in twice.
    """

    __slots__ = (
        "body",
        "gone",
        "loopback",
        "method",
        "on_gone",
        "path",
        "prefix",
        "principal",
        "query",
        "replied",
        "verdicts",
    )

    def __init__(
        self, method: str, path: str, query: bytes, prefix: str = "", verdicts: dict[str, Any] | None = None
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.prefix = prefix
        self.body = b""
        self.principal = ""
        self.loopback = True
        self.gone = False
        self.replied = False
        self.on_gone: Callable[[], None] | None = None
        self.verdicts: dict[str, Any] = {} if verdicts is None else verdicts

    @abstractmethod
    def header(self, name: bytes) -> str | None:
        """The value of the header `name` (given in lower case), or None; of several, the first."""

    @abstractmethod
    def header_values(self, name: bytes) -> list[str]:
        """All values of the header `name` (given in lower case), one for each line that carried it."""

    def doubled(self, names: frozenset[bytes]) -> bytes | None:
        """Which of the headers `names` (in lower case) was given more than once, if one was."""
        return next((name for name in names if len(self.header_values(name)) > 1), None)

    @abstractmethod
    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Reply at once and whole. Quietly does nothing when the peer is gone; a second reply is a bug and raises."""

    @abstractmethod
    def stream(self, status: int, headers: Headers, writer: StreamWriter) -> None:
        """Reply with a stream: send the head, then run `writer` as the owner of the way out until it returns."""

    def leave(self) -> None:
        """The transport says that the peer is gone. Idempotent."""
        if not self.gone:
            self.gone = True
            on_gone, self.on_gone = self.on_gone, None  # once; and whoever waited need not be kept for it
            if on_gone is not None:
                on_gone()


Handler: TypeAlias = Callable[[Exchange], None]

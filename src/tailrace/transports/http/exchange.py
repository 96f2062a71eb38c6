"""A request whose head is in one place, and one on an HTTP/1.1 connection with the way out of its reply.

What they are told they pass on to the connection (`h1`), which decides whether their turn has not passed
and is the only one that writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tailrace.core.exchange import Exchange, Headers, Sink, StreamWriter
from tailrace.errors import TransportError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from tailrace.transports.http.h1 import H1Connection
    from tailrace.transports.http.head import Head

__all__ = ["H1Exchange", "HeadExchange", "ReplyStream", "field_lines", "last_chunk"]


class HeadExchange(Exchange):
    """A request whose headers are in its head, in either version of HTTP.

    Attributes:
        head: Its head.
        task: The writer of its streamed reply.
    """

    __slots__ = ("head", "task")

    def __init__(self, head: Head, loopback: bool) -> None:
        super().__init__(head.method, head.path, head.query, verdicts=head.verdicts)
        self.head = head
        self.loopback = loopback
        self.trailers = head.trailers
        self.task: asyncio.Task[Any] | None = None

    def header(self, name: bytes) -> str | None:
        """The first value of a header."""
        return self.head.headers.get(name)

    def header_values(self, name: bytes) -> list[str]:
        """All values of a header."""
        first = self.head.headers.get(name)
        if first is None:
            return []
        return [first, *(value for key, value in self.head.repeated if key == name)]

    def fields(self) -> Iterable[tuple[bytes, str]]:
        """All header fields."""
        return [*self.head.headers.items(), *self.head.repeated]

    def doubled(self, names: frozenset[bytes]) -> bytes | None:
        """Which of these headers was given more than once."""
        repeated = self.head.repeated  # nearly always empty
        return next((name for name, _ in repeated if name in names), None) if repeated else None

    def claim(self) -> None:
        """Its one reply is given now."""
        if self.replied:
            raise RuntimeError("this exchange has its reply already")
        self.replied = True


class H1Exchange(HeadExchange):
    """A request on an HTTP/1.1 connection.

    Attributes:
        lingers: It was refused while its client may still send.
    """

    __slots__ = ("_connection", "lingers")

    def __init__(self, connection: H1Connection, head: Head, loopback: bool) -> None:
        super().__init__(head, loopback)
        if not head.modern:
            self.version = "1.0"
        self.lingers = False
        self._connection = connection

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        """Reply whole."""
        if not self.gone:
            self.claim()
            try:
                self._connection.reply(self, status, headers, body, trailers if self.trailers else ())
            except ValueError:  # it cannot be sent like this: another may
                self.replied = False
                raise

    def stream(self, status: int, headers: Headers, writer: StreamWriter, first: bytes = b"") -> None:
        """Reply with a stream."""
        if not self.gone:
            self.claim()
            try:
                self._connection.open_stream(self, status, headers, writer, first)
            except ValueError:
                self.replied = False
                raise


def last_chunk(trailers: Headers) -> bytes:
    """The end of a chunked body (RFC 9112, 7.1.2)."""
    return b"0\r\n%b\r\n" % field_lines(trailers)


def field_lines(headers: Headers) -> bytes:
    """Header or trailer fields.

    Raises:
        ValueError: One contains a line break.
    """
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers):
        raise ValueError("a header of a reply contains a line break")
    return lines


class ReplyStream(Sink):
    """The way out of one streamed reply: chunked for HTTP/1.1, up to the connection's end for HTTP/1.0."""

    __slots__ = ("_bare", "_chunked", "_connection", "_exchange")

    def __init__(self, connection: H1Connection, exchange: H1Exchange, chunked: bool) -> None:
        self._connection = connection
        self._exchange = exchange
        self._chunked = chunked
        self._bare = exchange.head.method == "HEAD"

    async def run(self, writer: StreamWriter) -> None:
        """Run the writer; if it returns without having ended the stream, the connection breaks off."""
        try:
            await writer(self)
        except TransportError:
            pass  # the peer's end of it
        finally:
            self._exchange.leave()  # whatever it was, this reply carries nothing any more
            self._connection.stream_ended(self._exchange, b"" if self._bare else None)

    async def write(self, data: bytes) -> None:
        """Send a part of the reply."""
        if self._bare:
            raise TransportError("the reply to HEAD has no body")
        await self._connection.stream_on(self._exchange, self.framed(data))

    def framed(self, data: bytes) -> bytes:
        """A part of the body, as it is sent."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data

    async def end(self, trailers: Headers = ()) -> None:
        """Complete the reply. Trailers go to a client that says it takes them (RFC 9110, 6.5.1)."""
        tail = b""
        if self._chunked and not self._bare:
            tail = last_chunk(trailers if self._exchange.trailers else ())
        self._connection.stream_ended(self._exchange, tail)

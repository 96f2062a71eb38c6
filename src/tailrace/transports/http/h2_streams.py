"""A request on an HTTP/2 connection, which is a stream of it, and the way out of its reply, as the core sees them.

They keep what concerns the stream alone; what they are told they pass on to the connection (`h2`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.core.exchange import Headers, Sink, StreamWriter
from tailrace.errors import TransportError
from tailrace.transports.http.exchange import HeadExchange

if TYPE_CHECKING:
    import asyncio

    from tailrace.transports.http.h2 import H2Connection
    from tailrace.transports.http.head import Head
    from tailrace.transports.incoming import Incoming

__all__ = ["H2Exchange", "H2Sink"]

_NEVER = float("inf")


class H2Exchange(HeadExchange):
    """A stream.

    Attributes:
        number: Of the stream.
        window: Bytes of data that the client takes.
        credit: Bytes of data that the client may send.
        ended: The client has ended its half.
        over: It is closed, in order or not; nothing is sent on it any more.
        received: Bytes of the body that have come.
        spent: Bytes of its credit that can be given again.
        gathered: The body, as long as it is not whole and the server wants it so.
        incoming: The body, where it is read as it comes.
        body_due: When it has to be whole.
        waiter: Its reply waits for room.
        stalls_at: When it has waited too long for its window.
    """

    __slots__ = (
        "_connection",
        "body_due",
        "credit",
        "ended",
        "gathered",
        "incoming",
        "number",
        "over",
        "received",
        "spent",
        "stalls_at",
        "waiter",
        "window",
    )

    def __init__(
        self, connection: H2Connection, number: int, head: Head, loopback: bool, window: int, credit: int
    ) -> None:
        super().__init__(head, loopback)
        self.version = "2"
        self.number = number
        self.window = window
        self.credit = credit
        self.ended = False
        self.over = False
        self.received = 0
        self.spent = 0
        self.gathered: bytes | bytearray = b""
        self.incoming: Incoming | None = None
        self.body_due = _NEVER
        self.waiter: asyncio.Future[None] | None = None
        self.stalls_at = 0.0
        self._connection = connection

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        """Reply whole."""
        if not self.gone:
            self.claim()
            try:
                self._connection.reply(self, status, headers, body, trailers)
            except ValueError:  # it cannot be sent like this: another may
                self.replied = False
                raise

    def stream(self, status: int, headers: Headers, writer: StreamWriter) -> None:
        """Reply with a stream."""
        if not self.gone:
            self.claim()
            try:
                self._connection.open_stream(self, status, headers, writer)
            except ValueError:
                self.replied = False
                raise

    def wake(self) -> None:
        """Whoever waits for room looks again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def taken(self, size: int) -> None:
        """Its reader took some of the body."""
        self._connection.taken(self, size)


class H2Sink(Sink):
    """The way out of one streamed reply."""

    __slots__ = ("_bare", "_connection", "_stream")

    def __init__(self, connection: H2Connection, stream: H2Exchange, bare: bool) -> None:
        self._connection = connection
        self._stream = stream
        self._bare = bare  # the reply has no body

    async def run(self, writer: StreamWriter) -> None:
        """Run the writer; if it returns without having ended the stream, that is reset."""
        try:
            await writer(self)
        except TransportError:
            pass  # the peer's end of it
        finally:
            if self._bare:
                self._connection.end(self._stream, ())
            self._connection.break_off(self._stream)
            self._stream.leave()  # whatever it was, this reply carries nothing any more

    async def write(self, data: bytes) -> None:
        """Send a part of the reply."""
        if self._bare:
            raise TransportError("this reply has no body")
        await self._connection.transmit(self._stream, data)

    async def end(self, trailers: Headers = ()) -> None:
        """Complete the reply."""
        if self._stream.over:
            raise TransportError("the stream is over")
        self._connection.end(self._stream, trailers)

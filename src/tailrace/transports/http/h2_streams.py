"""A request on an HTTP/2 connection, which is a stream of it, and the way out of its reply, as the core sees them.

They keep what concerns the stream alone; the table that all streams of a connection are in (`h2_table`)
knows what else has to happen when one ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.core.exchange import Headers, Sink, StreamWriter
from tailrace.errors import TransportError
from tailrace.transports.http.exchange import HeadExchange
from tailrace.transports.http.h2_heads import encode_fields
from tailrace.wire.h2_frames import END_STREAM, ErrorCode
from tailrace.wire.hpack import content_length

if TYPE_CHECKING:
    import asyncio

    from tailrace.transports.http.h2_table import Streams
    from tailrace.transports.http.head import Head
    from tailrace.transports.incoming import Incoming

__all__ = ["H2Exchange", "H2Sink"]

_NEVER = float("inf")
_NO_BODY = frozenset({204, 304})


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
        "_streams",
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

    def __init__(self, streams: Streams, number: int, head: Head, loopback: bool, window: int, credit: int) -> None:
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
        self.waiter: asyncio.Future[bool] | None = None
        self.stalls_at = 0.0
        self._streams = streams

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        """Reply whole."""
        if self.gone:
            return
        self.claim()
        try:
            block = self._streams.listener.reply_block(status, headers)
            last = encode_fields(trailers) if trailers else b""
        except ValueError:  # it cannot be sent like this: another may
            self.replied = False
            raise
        if self.over:
            return
        self.on_gone = None
        if not trailers and status not in _NO_BODY:
            block += content_length(len(body))
        if self._is_bare(status):
            body = last = b""
        self._reply(block, body, last)

    def stream(self, status: int, headers: Headers, writer: StreamWriter, first: bytes = b"") -> None:
        """Reply with a stream."""
        if self.gone:
            return
        self.claim()
        try:
            block = self._streams.listener.reply_block(status, headers)
        except ValueError:
            self.replied = False
            raise
        if not self.over:
            out, bare = self._streams.out, self._is_bare(status)
            out.put_headers(self.number, block, 0)
            if first and not bare and out.fits(self, len(first)):
                out.put_data(self, first)
                first = b""
            sink = H2Sink(self._streams, self, bare)
            self.task = self._streams.listener.server.tasks.start(sink.run(writer, first), name="tailrace-stream")

    def wake(self) -> None:
        """Whoever waits for room looks again."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(False)

    def taken(self, size: int) -> None:
        """Its reader took some of the body."""
        self._streams.taken(self, size)

    def finish(self, last: bytes) -> None:
        """The reply is complete; `last` is the block of its trailers."""
        if self.over:
            return
        if last:
            self._streams.out.put_headers(self.number, last, END_STREAM)
        else:
            self._streams.out.end_data(self)
        self._streams.replied(self)

    def _is_bare(self, status: int) -> bool:
        """The reply has no body, whatever the handler says."""
        return self.head.method == "HEAD" or status in _NO_BODY

    def _reply(self, block: bytes, body: bytes, last: bytes) -> None:
        """Send a whole reply, at once where the windows have room for it."""
        out = self._streams.out
        if not (body or last):
            out.put_headers(self.number, block, END_STREAM)
            return self._streams.replied(self)
        out.put_headers(self.number, block, 0)
        if not out.fits(self, len(body)):
            return self._reply_later(body, last)
        if body:
            out.put_data(self, body, 0 if last else END_STREAM)
        if last:
            out.put_headers(self.number, last, END_STREAM)
        return self._streams.replied(self)

    def _reply_later(self, body: bytes, last: bytes) -> None:
        """A whole reply that has to wait: there is room for some, over all connections."""
        listener = self._streams.listener
        listener.unread += len(body)
        if listener.unread > listener.settings.unread:
            listener.unread -= len(body)
            listener.refused += 1
            self._streams.reset(self.number, ErrorCode.ENHANCE_YOUR_CALM)
            return self._streams.drop(self, None)
        rest = self._send_rest(body, last)
        self.task = listener.server.tasks.start(rest, name="tailrace-reply")
        return None

    async def _send_rest(self, body: bytes, last: bytes) -> None:
        try:
            await self._streams.out.transmit(self, body)
            self.finish(last)
        except TransportError:
            pass
        finally:
            self._streams.listener.unread -= len(body)
            self._streams.break_off(self)


class H2Sink(Sink):
    """The way out of one streamed reply."""

    __slots__ = ("_bare", "_stream", "_streams")

    def __init__(self, streams: Streams, stream: H2Exchange, bare: bool) -> None:
        self._streams = streams
        self._stream = stream
        self._bare = bare

    async def run(self, writer: StreamWriter, first: bytes = b"") -> None:
        """Run the writer, behind the `first` bytes that the windows had no room for; if it returns without having ended
        the stream, that is reset."""
        try:
            if first:
                await self._streams.out.transmit(self._stream, first)
            await writer(self)
        except TransportError:
            pass  # the peer's end of it
        finally:
            if self._bare:
                self._stream.finish(b"")
            self._streams.break_off(self._stream)
            self._stream.leave()  # whatever it was, this reply carries nothing any more

    async def write(self, data: bytes) -> None:
        """Send a part of the reply."""
        if self._bare:
            raise TransportError("this reply has no body")
        await self._streams.out.transmit(self._stream, data)

    async def end(self, trailers: Headers = ()) -> None:
        """Complete the reply."""
        if self._stream.over:
            raise TransportError("the stream is over")
        self._stream.finish(encode_fields(trailers))

"""HTTP/1.1 on one connection: requests in, in order, one at a time; replies out, whole or streamed.

Bytes that come while a reply is pending belong to the request's body, where the server reads that as a
stream; behind its end they wait in a bounded buffer (pipelining). Nothing is sent but by
`H1Connection._send`. A reply that the peer does not take holds up its own connection only: the next
request is not looked at, a stream's writer waits, and the sweep cuts the connection at the stall limit.
"""

from __future__ import annotations

import asyncio
import logging
import string
from enum import Enum
from typing import TYPE_CHECKING, cast

from tailrace.errors import TransportError
from tailrace.transports.http.body import Body, ChunkedBody, SizedBody
from tailrace.transports.http.exchange import H1Exchange, ReplyStream, last_chunk
from tailrace.transports.http.h2 import H2Connection
from tailrace.transports.http.head import CHUNKED, NO_HEAD, BadRequest, Head
from tailrace.transports.http.sockets import is_loopback
from tailrace.transports.http.unread import Unread
from tailrace.transports.incoming import Incoming
from tailrace.wire.h2_frames import PREFACE

if TYPE_CHECKING:
    from tailrace.core.exchange import Headers, StreamWriter
    from tailrace.transports.http.listener import Listener

__all__ = ["H1Connection"]

logger = logging.getLogger("tailrace.http")

_NEVER = float("inf")
_LINGER = 2.0  # seconds in which a refused client's bytes are read and dropped, so that it can read why
_LEFT_OVER = 256 * 1024  # of a body behind its reply: dropped within `_LINGER`; over it the connection is closed
_H2_LINE = len("PRI * HTTP/2.0\r\n\r\n")
_FIRST_BYTES = frozenset(b"!#$%&'*+-.^_`|~\r" + string.ascii_letters.encode() + string.digits.encode())
_NO_BODY = frozenset({204, 304})


class State(Enum):
    """Where a connection stands with its current request."""

    IDLE = "idle"  # between two requests; in front of the first
    HEAD = "head"  # a head has begun
    BODY = "body"
    REPLY = "reply"  # the request is handed over; bytes that come now are of its body, or looked at later
    LEFT_OVER = "left over"  # the reply is complete; what is left of the request's body is dropped
    LINGER = "linger"  # all is said; what the peer sends is dropped
    CLOSED = "closed"  # the transport was told to close, or is


class H1Connection(asyncio.Protocol):
    """One connection, and the requests on it.

    Args:
        listener: Limits, clock and table.

    Attributes:
        deadline: When the listener's clock has it, `expired` is called.
    """

    __slots__ = (
        "_body",
        "_closes",
        "_dropped",
        "_exchange",
        "_fresh",
        "_gathered",
        "_input",
        "_known",
        "_listener",
        "_loopback",
        "_max_body",
        "_paused",
        "_reading",
        "_room",
        "_searched",
        "_source",
        "_state",
        "_transport",
        "_unread",
        "deadline",
    )

    def __init__(self, listener: Listener) -> None:
        self.deadline = listener.after(listener.settings.idle_time)
        self._listener = listener
        self._known = listener.heads.known
        self._state = State.IDLE
        self._input = bytearray()
        self._searched = 0  # of the input; no head ends there
        self._max_body = listener.settings.max_body
        self._body: Body | None = None  # not complete yet
        self._gathered = 0  # bytes of it
        self._source: Incoming | None = None  # of it, where the server reads it as it comes
        self._exchange: H1Exchange | None = None
        self._closes = listener.draining  # behind the current reply
        self._dropped = 0  # of what is left over
        self._fresh = True  # no request has come
        self._reading = True
        self._paused = False  # the transport takes no more
        self._room: asyncio.Future[None] | None = None
        self._loopback = True
        self._transport: asyncio.Transport
        self._unread: Unread

    # --- from the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance
        self._unread = Unread(self._listener, self._transport)
        self._loopback = is_loopback(transport.get_extra_info("sockname"))
        if self._listener.add(self):
            if self._closes:  # accepted just before the listener was closed
                self._end(State.CLOSED)
        elif self._listener.crowded:
            self._listener.discard(self)
            self.abort()
        else:
            self._refuse(503, f"{self._listener.settings.max_connections} connections are open; try again later")

    def data_received(self, data: bytes) -> None:
        # The usual case, one whole request, takes a short way past the buffer: 3 us less of 14, and 8 less
        # if its head is one that came before.
        if self._state is State.IDLE and not self._input and not self._paused:
            end = data.find(b"\r\n\r\n") + 4
            head = self._known.get(data[:end])
            if head is None and 3 < end <= self._listener.settings.max_headers:
                if end == _H2_LINE and self._fresh and data.startswith(PREFACE[:_H2_LINE]):
                    return self._become_h2(data)
                head = self._parse(data[:end])
                if head is None:
                    return None
            if head is not None and head.length == len(data) - end <= self._max_body:
                self._exchange = exchange = H1Exchange(self, head, self._loopback)
                if self._listener.server.streams(exchange):
                    self._source = exchange.source = Incoming(self._taken)
                    if head.length:
                        self._source.put(data[end:])
                    self._source.finish()
                else:
                    exchange.body = data[end:]
                return self._hand_over(exchange)
        self._input += data
        return self._advance()

    def eof_received(self) -> None:
        self._leave()  # see `listener`: a peer that ends its half is gone. The transport flushes and closes itself
        self._end(State.CLOSED)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = State.CLOSED
        self._unread.forget()
        self._listener.discard(self)
        self._leave()

    def pause_writing(self) -> None:
        self._paused = True
        self._unread.watch()
        self.deadline = 0.0  # each sweep looks whether the peer takes anything

    def resume_writing(self) -> None:
        self._paused = False
        self._unread.forget()
        self._rest()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._state is State.IDLE and self._input:
            self._listener.loop.call_soon(self._advance)

    # --- from the listener ---

    def expired(self) -> None:
        """A limit of time is over: for the peer to take, to send, or to begin."""
        settings = self._listener.settings
        if self._paused:
            return self.abort() if self._unread.is_stalled() else None
        if self._state is State.IDLE or (not self._input.strip(b"\r\n") and self._state is State.HEAD):
            return self._end(State.CLOSED)
        self._listener.expired += 1
        if self._state is State.HEAD:
            return self._refuse(408, f"the head did not arrive within {settings.header_time:g} s")
        if self._state is State.BODY:
            return self._refuse(408, f"the body did not arrive within {settings.body_time:g} s")
        if self._state is State.LEFT_OVER:
            return self._end(State.CLOSED)
        return self.abort()

    def retire(self) -> None:
        """Nothing now: the next reply's head says that the connection closes behind it (`_reply_head`). Behind a reply
        whose head did not say so, the client's next request may be on its way already."""

    def drain(self) -> None:
        """Close now if idle, else behind the current reply."""
        self._closes = True
        if self._state is State.IDLE:
            self._end(State.CLOSED)

    def abort(self) -> None:
        """Cut it: what is not yet sent is lost."""
        self._state = State.CLOSED
        self.deadline = _NEVER
        self._transport.abort()

    def _rest(self) -> None:
        """The deadline of the state it is in."""
        settings = self._listener.settings
        match self._state:
            case State.IDLE:
                seconds = settings.idle_time
            case State.HEAD:
                seconds = settings.header_time
            case State.BODY:
                seconds = settings.body_time
            case State.REPLY:
                seconds = _NEVER  # a call has its own limits
            case State.LEFT_OVER | State.LINGER:
                seconds = _LINGER
            case State.CLOSED:
                seconds = settings.stall  # for what is not yet sent
        self.deadline = 0.0 if self._paused else self._listener.after(seconds)

    # --- requests ---

    def _advance(self) -> None:
        """Look at the input, as far as the state lets us. Never inside another request's stack."""
        if self._state is State.IDLE and self._input and not self._paused:
            self._state = State.HEAD
            self._searched = 0
            self._rest()
        if self._state is State.HEAD:
            self._read_head()
        elif self._state is State.BODY:
            self._read_body()
        elif self._state is State.REPLY and self._body is not None:
            self._read_stream(self._body)
        elif self._state is State.LEFT_OVER:
            self._drop_left_over()
        elif self._state in (State.LINGER, State.CLOSED):
            self._input.clear()
        self._bound_input()

    def _bound_input(self) -> None:
        """Read on while there is room. What is not looked at, or not read, is `look_ahead` and one read at most."""
        held = len(self._input) + (self._source.held if self._source is not None else 0)
        wanted = held <= self._listener.settings.look_ahead or self._state in (State.HEAD, State.BODY)
        if wanted is not self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _read_head(self) -> None:
        most = self._listener.settings.max_headers
        end = self._input.find(b"\r\n\r\n", self._searched, most) + 4
        if end == 3:
            if len(self._input) >= most:
                return self._refuse(431, f"the head is over {most} bytes")
            if not _begins_well(self._input, self._searched):
                return self._refuse(400, "this is not HTTP/1.1")
            self._searched = max(0, len(self._input) - 3)
            return None
        if end == _H2_LINE and self._fresh and self._input.startswith(PREFACE[:_H2_LINE]):
            return self._become_h2(bytes(self._input))
        raw = bytes(self._input[:end])
        del self._input[:end]
        head = self._parse(raw)
        if head is None:
            return None
        self._exchange = exchange = H1Exchange(self, head, self._loopback)
        if self._listener.server.streams(exchange):
            return self._hand_over_stream(exchange, head)
        if head.length > self._max_body:
            return self._refuse(413, f"the body is over {self._max_body} bytes")
        self._body = ChunkedBody(self._max_body) if head.length == CHUNKED else SizedBody(head.length)
        self._state = State.BODY
        if not self._body.done:
            self._rest()
            if head.expects and not self._input:
                self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return self._read_body()

    def _become_h2(self, data: bytes) -> None:
        """The client knows that HTTP/2 is spoken here (RFC 9113, 3.3): all it says belongs to that."""
        connection = H2Connection(self._listener)
        self._state = State.CLOSED  # for this protocol: nobody calls it any more
        self._input.clear()
        self._listener.replace(self, connection)
        self._transport.set_protocol(connection)
        connection.take_over(self._transport, data)

    def _parse(self, raw: bytes) -> Head | None:
        """The head in these bytes; None if it was refused, which this then did."""
        try:
            return self._listener.heads.read(raw)
        except BadRequest as bad:
            return self._refuse(bad.status, bad.message)

    def _read_body(self) -> None:
        body, exchange = self._body, self._exchange
        assert body is not None
        assert exchange is not None
        try:
            taken = body.feed(self._input)
        except BadRequest as bad:
            return self._refuse(bad.status, bad.message)
        del self._input[:taken]
        if body.done:
            exchange.body = body.take()
            self._let_go()
            return self._hand_over(exchange)
        self._gathered += taken
        self._listener.arriving += taken
        settings = self._listener.settings
        if self._listener.arriving > settings.arriving and self._gathered > settings.look_ahead:
            return self._refuse(503, "too many large bodies are on their way; try again later")
        return None

    def _let_go(self) -> None:
        """No more of the body is gathered here."""
        self._body = None
        self._listener.arriving -= self._gathered
        self._gathered = 0

    def _hand_over_stream(self, exchange: H1Exchange, head: Head) -> None:
        """The server has the request now, and reads its body as it comes."""
        self._source = exchange.source = Incoming(self._taken)
        self._body = body = ChunkedBody(None) if head.length == CHUNKED else SizedBody(head.length)
        if head.expects and not self._input:  # first: it cannot stand behind the reply's head
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._read_stream(body)
        self._hand_over(exchange)

    def _read_stream(self, body: Body) -> None:
        """What has come of it is the reader's."""
        source = self._source
        assert source is not None
        try:
            taken = body.feed(self._input)
        except BadRequest as bad:  # the handler's reply is the answer; nobody knows where the next request begins
            self._listener.refused += 1
            self._closes = True
            self._body = None
            self._input.clear()
            if self._exchange is not None:
                self._exchange.lingers = True
            return source.fail(TransportError(bad.message))
        del self._input[:taken]
        data = body.take()
        if data:
            source.put(data)
        if body.done:
            self._body = None
            source.finish()
        return None

    def _taken(self, size: int) -> None:
        """The reader took some."""
        self._bound_input()

    @staticmethod
    def _ends_soon(body: Body) -> bool:
        """So little is left of it that it can be dropped behind its reply."""
        return body.left is not None and body.left <= _LEFT_OVER

    def _drop_left_over(self) -> None:
        """The reply was complete before its request: the connection is kept if that ends soon."""
        body = self._body
        assert body is not None
        try:
            taken = body.feed(self._input)
        except BadRequest:
            return self._end(State.LINGER)
        del self._input[:taken]
        self._dropped += len(body.take())
        if body.done:
            self._body = None
            return self._next()
        if self._dropped > _LEFT_OVER:
            return self._end(State.LINGER)
        return None

    def _hand_over(self, exchange: H1Exchange) -> None:
        """The request is whole, or its body a stream: the server replies, now or later."""
        self._state = State.REPLY
        self._fresh = False
        self.deadline = _NEVER
        listener = self._listener
        listener.requests += 1
        if not exchange.head.keep:
            self._closes = True
        try:
            listener.server.handle(exchange)
        except Exception:
            logger.exception("a request could not be handled path=%s", exchange.path[:256])
            if not exchange.replied:
                listener.server.refuse(exchange, 500, "internal error")

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no good request, and close: nobody knows where the next one would begin."""
        self._listener.refused += 1
        self._closes = True
        exchange = self._exchange
        if exchange is None:
            self._exchange = exchange = H1Exchange(self, NO_HEAD, self._loopback)
        exchange.lingers = True
        self._let_go()
        self._state = State.REPLY
        self._listener.server.refuse(exchange, status, message)

    # --- replies ---

    def reply(self, exchange: H1Exchange, status: int, headers: Headers, body: bytes, trailers: Headers = ()) -> None:
        """Send a whole reply."""
        if exchange is self._exchange:
            exchange.on_gone = None
            if self._body is not None and not self._ends_soon(self._body):
                self._closes = True  # said in the head: a next request would run into the connection's end
            bare = exchange.head.method == "HEAD" or status in _NO_BODY
            length = b"" if status in _NO_BODY else b"content-length: %d\r\n" % len(body)
            if trailers and not bare:
                length = b"transfer-encoding: chunked\r\n"
                body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + last_chunk(trailers)
            self._send(self._reply_head(exchange, status, headers, length) + (b"" if bare else body))
            if self._paused and not self._unread.count():  # the writer of a stream waits for its reader instead
                return self.abort()
            self._replied(exchange)
        return None

    def open_stream(
        self, exchange: H1Exchange, status: int, headers: Headers, writer: StreamWriter, first: bytes
    ) -> None:
        """Send a reply's head, with the `first` bytes of its body, and start its writer."""
        if exchange is self._exchange:
            chunked = exchange.head.modern
            if not chunked:
                self._closes = True  # HTTP/1.0: the end of the connection is the end of the reply
            framing = b"transfer-encoding: chunked\r\n" if chunked else b""
            stream = ReplyStream(self, exchange, chunked)
            body = b"" if exchange.head.method == "HEAD" else stream.framed(first)
            self._send(self._reply_head(exchange, status, headers, framing) + body)
            exchange.task = self._listener.server.tasks.start(stream.run(writer), name="tailrace-stream")

    async def stream_on(self, exchange: H1Exchange, data: bytes) -> None:
        """Send a part of a stream, and wait until the peer takes more.

        Raises:
            TransportError: There is no peer any more.
        """
        if exchange is not self._exchange:
            raise TransportError("the peer is gone")
        if data:
            self._send(data)
        while self._paused and exchange is self._exchange:
            self._room = self._listener.loop.create_future()
            try:
                await self._room
            finally:
                self._room = None
        if exchange is not self._exchange:
            raise TransportError("the peer is gone, or took nothing for too long")

    def stream_ended(self, exchange: H1Exchange, tail: bytes | None) -> None:
        """A stream is over: in order, with these last bytes, or (None) broken off, which the peer has to see."""
        if exchange is self._exchange:
            if tail:
                self._send(tail)
            self._closes = self._closes or tail is None
            self._replied(exchange)

    def _reply_head(self, exchange: H1Exchange, status: int, headers: Headers, framing: bytes) -> bytes:
        self._closes = self._closes or self._listener.retiring
        if self._closes:
            framing += b"connection: close\r\n"
        elif not exchange.head.modern:
            framing += b"connection: keep-alive\r\n"
        return self._listener.reply_lines(status, headers) + framing + b"\r\n"

    def _replied(self, exchange: H1Exchange) -> None:
        """The reply is complete. The next request begins in a stack of its own."""
        self._exchange = None
        source, self._source = self._source, None
        if source is not None:
            source.stop()
        if self._body is not None:  # it is complete before its request
            if self._closes:
                return self._end(State.LINGER)
            self._state = State.LEFT_OVER
            self._dropped = 0
            self._rest()
            return self._bound_input()
        if self._closes and exchange.lingers:
            return self._end(State.LINGER)
        return self._next()

    def _next(self) -> None:
        """Room for the next request, which may be here already."""
        if self._closes:
            return self._end(State.LINGER if self._input else State.CLOSED)
        self._state = State.IDLE
        self.deadline = 0.0 if self._paused else self._listener.idles_until
        if self._input:
            self._listener.loop.call_soon(self._advance)
        return None

    # --- the way out ---

    def _send(self, data: bytes) -> None:
        """The only place that writes to the transport."""
        if self._state is not State.CLOSED:
            self._transport.write(data)

    def _end(self, state: State) -> None:
        """All is said. A peer that may still be sending is listened to for a while: closing with unread bytes
        makes the kernel send a RST, which can overtake the answer (RFC 9112, 9.6)."""
        if self._state is State.CLOSED:
            return
        self._state = state
        self._rest()
        if state is State.CLOSED:
            self._transport.close()
        else:
            self._input.clear()
            self._bound_input()
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def _leave(self) -> None:
        """Nobody is there any more: who waits for the peer learns of it."""
        exchange, self._exchange = self._exchange, None
        source, self._source = self._source, None
        self._let_go()
        self._input.clear()
        if source is not None:
            source.fail(TransportError("the peer is gone"))
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if exchange is not None:
            if exchange.task is not None:
                exchange.task.cancel()
            exchange.leave()


def _begins_well(data: bytearray, searched: int) -> bool:
    """Can a head begin like this? Another protocol, or a line end that is none, is not waited for until the end."""
    bare = data.count(b"\n", searched) != data.count(b"\r\n", max(0, searched - 1))
    return not bare and data[0] in _FIRST_BYTES

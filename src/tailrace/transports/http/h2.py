"""HTTP/2 on one connection (RFC 9113): requests in, side by side, each a stream; replies out, as each is ready.

Framing is our own (`h2_frames`, `hpack`), because it costs a seventh of what the libraries' does and keeps no
state that we keep as well; a test compares it with theirs, and h2spec is run against it. What a client may hold
is bounded: streams by number, each body's unread part by its window, all of them together by `HELD`, what is
not sent by `h2_out`, and what it may do for nothing by `h2_floods`.

Credit for the connection is given back when data comes, that of a stream when it is read: who does not
read one stream holds up its sender only.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import TYPE_CHECKING, cast

from tailrace.errors import ClientGone, StreamReset, TransportError
from tailrace.transports.http.h2_floods import Floods
from tailrace.transports.http.h2_frames import (
    ACK,
    DATA,
    END_STREAM,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_STREAM,
    MAX_WINDOW,
    NO_RFC7540_PRIORITIES,
    NUMBER,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    frame,
    goaway,
    settings,
    window_update,
)
from tailrace.transports.http.h2_heads import Malformed, check_trailers, encode_fields, read_head
from tailrace.transports.http.h2_out import PART, Outgoing
from tailrace.transports.http.h2_reader import Block, Reader
from tailrace.transports.http.h2_streams import H2Exchange, H2Sink
from tailrace.transports.http.head import CHUNKED, NO_HEAD, BadRequest, Head
from tailrace.transports.http.hpack import TABLE_SIZE, Decoder, FieldsTooLarge, HpackError, content_length, encode
from tailrace.transports.http.sockets import is_loopback, unsent
from tailrace.transports.incoming import Incoming

if TYPE_CHECKING:
    from tailrace.core.exchange import Headers, StreamWriter
    from tailrace.transports.http.hpack import Field
    from tailrace.transports.http.listener import Listener

__all__ = ["H2Connection"]

logger = logging.getLogger("tailrace.http")

CREDIT = 1024 * 1024  # the connection's window for what the client sends
HELD = 32 * 1024 * 1024  # bytes of bodies that have come and are not taken; over it no credit is given
BACKLOG = 256 * 1024  # bytes of ours that the client does not take, from which on nothing it says is looked at
_FORGOTTEN = 1024  # streams that we reset last: what was on its way is no fault
_KNOWN = 64  # heads by their blocks
_NEVER = float("inf")
_LINGER = 2.0  # seconds in which the bytes of a client that was let go are dropped, so that it can read why
_LAST_CALL = 1.0  # seconds for a client to hear that the connection ends, until it does
_DRAINING = b"draining"  # what our pings say
_ALIVE = b"alive?\r\n"
_NO_BODY = frozenset({204, 304})
_CONTINUE = encode([(b":status", b"100")])
_NO_TABLE = b"\x20"  # we keep no table: said where the client wants a smaller one (RFC 7541, 4.2)


class State(Enum):
    """Where a connection stands."""

    PREFACE = "preface"  # until its settings come
    OPEN = "open"
    DRAINING = "draining"  # no new requests are wanted; those on their way are still served
    LAST = "last"  # the last request is named; later ones are not looked at
    LINGER = "linger"  # all is said; what the peer sends is dropped
    CLOSED = "closed"


class H2Connection(asyncio.Protocol):
    """One connection, and the streams on it.

    Args:
        listener: Limits, clock and table.

    Attributes:
        deadline: When the listener's clock has it, `expired` is called.
    """

    __slots__ = (
        "_asked_at",
        "_credit",
        "_decoder",
        "_drain_due",
        "_floods",
        "_forgotten",
        "_head_due",
        "_heard_at",
        "_held",
        "_highest",
        "_initial_window",
        "_known",
        "_leaving",
        "_left_over",
        "_listener",
        "_loopback",
        "_out",
        "_reader",
        "_reading",
        "_stalls_at",
        "_state",
        "_streams",
        "_transport",
        "_unsent",
        "deadline",
    )

    def __init__(self, listener: Listener) -> None:
        self.deadline = listener.after(listener.settings.header_time)
        self._listener = listener
        self._loopback = True
        self._state = State.PREFACE
        self._reader = Reader(self)
        self._streams: dict[int, H2Exchange] = {}
        self._highest = 0  # of the streams that were opened
        self._left_over: dict[int, H2Exchange] = {}  # the reply is complete, the request is not
        self._forgotten: dict[int, None] = {}
        self._decoder = Decoder(listener.settings.max_headers)
        self._known: dict[bytes, Head] = {}
        self._head_due = self.deadline  # for the preface; then, for the frames of header fields that are not complete
        self._credit = CREDIT
        self._held = 0
        self._initial_window = WINDOW  # of the streams, as the client has it
        self._floods = Floods(listener)
        self._heard_at = listener.clock
        self._asked_at = -1.0
        self._leaving = False  # the client opens no more streams
        self._drain_due = 0.0
        self._reading = True
        self._unsent = 0
        self._stalls_at = 0.0
        self._transport: asyncio.Transport
        self._out: Outgoing

    # --- from the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._begin(cast("asyncio.Transport", transport))  # uvloop's are none by inheritance
        if not self._listener.add(self):
            self._end(ErrorCode.ENHANCE_YOUR_CALM, "too many connections are open; try again later")
        elif self._listener.draining:
            self._finish()

    def take_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """The connection was another protocol's, which has read this much of it."""
        self._begin(transport)
        self.data_received(data)

    def _begin(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loopback = is_loopback(transport.get_extra_info("sockname"))
        self._out = Outgoing(self._listener, transport)
        limits = self._listener.settings
        wanted = {
            MAX_CONCURRENT_STREAMS: limits.max_streams,
            INITIAL_WINDOW_SIZE: limits.stream_window,
            MAX_HEADER_LIST_SIZE: limits.max_headers,
            NO_RFC7540_PRIORITIES: 1,
        }
        self._out.put(settings(wanted) + window_update(0, CREDIT - WINDOW))

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._listener.clock
        try:
            self._reader.feed(data)
        except ConnectionFault as fault:
            self._listener.refused += 1
            return self._end(fault.code, fault.message)
        return self._bound_output()

    def eof_received(self) -> None:
        self._leave_all()  # see `listener`: a peer that ends its half is gone
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = State.CLOSED
        self._out.close()
        self._listener.discard(self)
        self._leave_all()

    def pause_writing(self) -> None:
        self._out.paused = True
        if self._state in (State.LINGER, State.CLOSED):
            return
        self._unsent = unsent(self._transport)
        self._stalls_at = self._listener.after(self._listener.settings.stall)
        self.deadline = 0.0  # each sweep looks whether the peer takes anything

    def resume_writing(self) -> None:
        self._out.paused = False
        self._rest()
        self._bound_output()
        self._out.grant()

    def _bound_output(self) -> None:
        """A client that does not take what we say is not listened to. (Replies' heads and acknowledgements have no
        window.)"""
        wanted = not self._out.paused or self._transport.get_write_buffer_size() <= BACKLOG
        if wanted is not self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # --- from the listener ---

    def expired(self) -> None:
        """Twice a second, as long as something is open: is a limit of time over?"""
        listener, clock = self._listener, self._listener.clock
        if self._state is State.LINGER and self._transport.get_write_buffer_size():
            return self._close()
        if self._state in (State.LINGER, State.CLOSED):
            return self.abort()
        if self._out.paused and self._check_stall():
            return None
        if clock >= self._head_due:
            limit = listener.settings.header_time
            return self._expire(ErrorCode.PROTOCOL_ERROR, f"settings or header fields did not come within {limit:g} s")
        if self._out.stalled:
            return self._expire(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window stayed closed for too long")
        if self._state is State.DRAINING and clock >= self._drain_due:
            self._name_last()
        for stream in [stream for stream in self._left_over.values() if clock >= stream.body_due]:
            self._give_up(stream)
        if not (self._streams or self._left_over):
            return None if self._out.paused or self._head_due != _NEVER else self._finish()
        for stream in list(self._streams.values()):
            self._check_stream(stream, clock)
        if self._streams:
            self._check_alive(clock)
        return None

    def drain(self) -> None:
        """Take no new requests, and close behind the last reply. Those on their way are still served: the client is
        told first that the connection will end, and a moment later which request is the last (RFC 9113, 6.8)."""
        if not self._streams:
            return self._finish()
        if self._state in (State.PREFACE, State.OPEN):
            self._state = State.DRAINING
            self._drain_due = self._listener.after(_LAST_CALL)
            self._out.put(goaway(MAX_STREAM, ErrorCode.NO_ERROR) + frame(PING, 0, 0, _DRAINING))
        return None

    def abort(self) -> None:
        """Cut it: what is not yet sent is lost."""
        self._state = State.CLOSED
        self.deadline = _NEVER
        self._out.close()
        self._transport.abort()

    def _check_stall(self) -> bool:
        left = unsent(self._transport)
        if left < self._unsent:
            self._unsent = left
            self._stalls_at = self._listener.after(self._listener.settings.stall)
        elif self._listener.clock >= self._stalls_at:
            self._listener.expired += 1
            self.abort()
            return True
        return False

    def _check_stream(self, stream: H2Exchange, clock: float) -> None:
        """Has its body not come, or its reply not been taken, in time?"""
        if stream.over:
            return
        if clock >= stream.body_due:
            self._listener.expired += 1
            self._refuse(stream, 408, f"the body did not arrive within {self._listener.settings.body_time:g} s")
        elif stream.waiter is not None and stream.window <= 0 and clock >= stream.stalls_at:
            self._listener.expired += 1
            self._reset(stream.number, ErrorCode.CANCEL)
            self._drop(stream, ClientGone("the client took nothing of the reply for too long"))

    def _check_alive(self, clock: float) -> None:
        """A client that has requests open, and says nothing, is asked whether it is there."""
        limit = self._listener.settings.ping_time
        if self._asked_at > self._heard_at:
            if clock - self._asked_at >= limit and self._reading:
                self._listener.expired += 1
                self.abort()
        elif clock - self._heard_at >= limit:
            self._asked_at = clock
            self._out.put(frame(PING, 0, 0, _ALIVE))

    def _rest(self) -> None:
        """The deadline of the state it is in: while anything is open, each sweep looks at it."""
        busy = self._streams or self._left_over or self._head_due != _NEVER or self._out.paused
        if self._state in (State.OPEN, State.DRAINING, State.LAST):
            self.deadline = 0.0 if busy else self._listener.idles_until

    # --- what the client sends (fulfils `h2_reader.Frames`) ---

    def on_fields(self, number: int, block: bytes, ended: bool) -> None:
        """A request's head, or its trailers."""
        self._head_due = _NEVER
        stream = self._streams.get(number)
        if stream is None and number > self._highest:
            return self._open(number, block, ended)
        try:
            fields = self._decode(block)
        except FieldsTooLarge as large:
            raise StreamFault(ErrorCode.ENHANCE_YOUR_CALM, str(large)) from None
        if stream is None:
            if self._left_over.pop(number, None) is not None or number in self._forgotten:
                return self._floods.control("late HEADERS")
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that is closed")
        if stream.ended:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS behind the end of the stream")
        if not ended:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "trailers have to end the stream")
        try:
            check_trailers(fields)
        except Malformed as malformed:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, str(malformed)) from None
        return self._end_body(stream)

    def on_block(self, block: Block) -> None:
        """A head that is not complete yet."""
        self._floods.block(len(block.data), block.frames)
        if self._head_due == _NEVER:
            self._head_due = self._listener.after(self._listener.settings.header_time)
            self.deadline = 0.0

    def on_data(self, number: int, data: bytes, size: int, ended: bool) -> None:
        """A part of a request's body."""
        self._credit -= size
        if self._credit < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        stream = self._streams.get(number)
        if stream is None or stream.ended:
            self._give_credit()
            return self._on_late_data(number, stream, ended)
        if data:
            self._floods.worked()
        elif not ended:
            self._floods.control("empty DATA")
        stream.credit -= size
        if stream.credit < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window")
        stream.received += len(data)
        if stream.head.length != CHUNKED and stream.received > stream.head.length:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the body is longer than its content-length")
        if stream.incoming is not None:
            self._held += len(data)
            stream.spent += size - len(data)  # padding: nobody reads it
            stream.incoming.put(data)
        elif stream.received > self._listener.settings.max_body:
            self._give_credit()
            return self._refuse(stream, 413, f"the body is over {self._listener.settings.max_body} bytes")
        else:
            self._gather(stream, data, size, ended)
        self._give_credit()
        return self._end_body(stream) if ended else None

    def on_reset(self, number: int, code: int) -> None:
        """The client gives a request up."""
        if number > self._highest:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on a stream that was not opened")
        stream = self._streams.get(number)
        if stream is None:
            self._left_over.pop(number, None)
            return self._floods.control("RST_STREAM")
        self._drop(stream, StreamReset())
        return self._floods.reset()

    def on_settings(self, values: dict[int, int]) -> None:
        """What the client wants us to keep to."""
        self._floods.control("SETTINGS")
        if self._state is State.PREFACE:
            self._state = State.OPEN
            self._head_due = _NEVER
            self._rest()
        if INITIAL_WINDOW_SIZE in values:
            self._resize_windows(values[INITIAL_WINDOW_SIZE])
        self._out.frame_size = min(values.get(MAX_FRAME_SIZE, self._out.frame_size), PART)
        if values.get(HEADER_TABLE_SIZE, TABLE_SIZE) < TABLE_SIZE:
            self._out.prefix = _NO_TABLE
        self._out.put(frame(SETTINGS, ACK, 0))

    def on_ping(self, payload: bytes, answer: bool) -> None:
        """It wants to know whether we are there, or answers that it is."""
        self._floods.control("PING")
        if not answer:
            self._out.put(frame(PING, ACK, 0, payload))
        elif payload == _DRAINING and self._state is State.DRAINING:
            self._name_last()

    def on_goaway(self) -> None:
        """It opens no more streams; those that are open go on."""
        self._floods.control("GOAWAY")
        self._leaving = True
        if not self._streams:
            self._finish()

    def on_window(self, number: int, size: int) -> None:
        """It takes more of a reply, or of all."""
        self._floods.control("WINDOW_UPDATE")
        out = self._out
        if not number:
            if out.window + size > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
            out.window += size
            return out.progressed()
        stream = self._streams.get(number)
        if stream is None:
            if number > self._highest:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was not opened")
            return None
        if stream.window + size > MAX_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large")
        self._widen(stream, size)
        return None

    def on_nothing(self, what: str) -> None:
        """Counted, and passed over."""
        self._floods.control(what)

    def on_fault(self, number: int, fault: StreamFault) -> None:
        """The client broke the protocol on one stream: that is reset, and the others go on."""
        self._listener.refused += 1
        self._reset(number, fault.code)
        stream = self._streams.get(number)
        if stream is not None:
            self._drop(stream, ClientGone(f"the client broke HTTP/2: {fault.message}"))
        self._floods.fault()

    # --- requests ---

    def _open(self, number: int, block: bytes, ended: bool) -> None:
        """A request begins."""
        refusal: BadRequest | None = None
        head = NO_HEAD
        try:
            head = self._read_head(block)
        except Malformed as malformed:
            self._highest = number
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, str(malformed)) from None
        except FieldsTooLarge as large:
            refusal = BadRequest(431, str(large))
        except BadRequest as bad:
            refusal = bad
        self._highest = number
        if self._state is State.LAST:  # it was told that this one is not looked at
            return self._forget(number)
        listener = self._listener
        if len(self._streams) >= listener.settings.max_streams:
            raise StreamFault(ErrorCode.REFUSED_STREAM, f"{listener.settings.max_streams} requests are open")
        self._floods.worked()
        credit = listener.settings.stream_window
        stream = H2Exchange(self, number, head, self._loopback, self._initial_window, credit)
        self._streams[number] = stream
        self.deadline = 0.0
        stream.ended = ended
        if refusal is not None:
            self._floods.fault()
            return self._refuse(stream, refusal.status, refusal.message)
        if ended and head.length > 0:
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the body is shorter than its content-length")
        if listener.server.streams(stream):
            stream.incoming = stream.source = Incoming(stream.taken)
            if ended:
                stream.incoming.finish()
            self._hand_over(stream)
        elif ended:
            return self._hand_over(stream)
        elif head.length > listener.settings.max_body:
            return self._refuse(stream, 413, f"the body is over {listener.settings.max_body} bytes")
        else:
            stream.body_due = listener.after(listener.settings.body_time)
        if head.expects and not ended and not stream.replied:
            self._out.put_headers(number, _CONTINUE, 0)
        return None

    def _read_head(self, block: bytes) -> Head:
        """The head in a block. One that came before is known, unless the decoder's table has changed since."""
        head = self._known.get(block)
        if head is None:
            changes = self._decoder.changes
            head = read_head(self._decode(block))
            if changes == self._decoder.changes and len(self._known) < _KNOWN:
                self._known[block] = head
        return head

    def _decode(self, block: bytes) -> list[Field]:
        changes = self._decoder.changes
        try:
            return self._decoder.decode(block)
        except HpackError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        finally:
            if changes != self._decoder.changes:
                self._known.clear()

    def _gather(self, stream: H2Exchange, data: bytes, size: int, ended: bool) -> None:
        """A part of a body that is wanted whole: its window opens again at once."""
        if ended and not stream.gathered:
            stream.gathered = data  # nearly always
            return
        if not isinstance(stream.gathered, bytearray):
            stream.gathered = bytearray(stream.gathered)
        stream.gathered += data
        self._held += len(data)
        stream.spent += size
        if not ended:
            self._give_stream_credit(stream)

    def _end_body(self, stream: H2Exchange) -> None:
        stream.ended = True
        if stream.head.length not in (CHUNKED, stream.received):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR, "the body is shorter than its content-length")
        if stream.incoming is not None:
            return stream.incoming.finish()
        stream.body_due = _NEVER
        body = stream.gathered
        self._release(stream)
        stream.body = bytes(body)
        return self._hand_over(stream)

    def _hand_over(self, stream: H2Exchange) -> None:
        """The request is whole, or its body a stream: the server replies, now or later."""
        listener = self._listener
        listener.requests += 1
        try:
            listener.server.handle(stream)
        except Exception:
            logger.exception("a request could not be handled path=%s", stream.path[:256])
            if not stream.replied:
                listener.server.refuse(stream, 500, "internal error")

    def _refuse(self, stream: H2Exchange, status: int, message: str) -> None:
        """Answer what is no good request, or over a limit."""
        self._listener.refused += 1
        stream.body_due = _NEVER
        self._release(stream)
        self._listener.server.refuse(stream, status, message)

    def _on_late_data(self, number: int, stream: H2Exchange | None, ended: bool) -> None:
        if number > self._highest:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that was not opened")
        if number in self._left_over:
            if ended:
                del self._left_over[number]
            return self._floods.control("late DATA")
        if stream is None and number in self._forgotten:
            return self._floods.control("late DATA")
        raise StreamFault(ErrorCode.STREAM_CLOSED, "DATA behind the end of the stream")

    # --- credit for the client ---

    def taken(self, stream: H2Exchange, size: int) -> None:
        """A handler has read (or dropped) some of a body."""
        self._held -= size
        stream.spent += size
        if not stream.over and not stream.ended:
            self._give_stream_credit(stream)
        self._give_credit()

    def _give_stream_credit(self, stream: H2Exchange) -> None:
        if stream.spent >= self._listener.settings.stream_window // 2:
            self._out.put(window_update(stream.number, stream.spent))
            stream.credit += stream.spent
            stream.spent = 0

    def _give_credit(self) -> None:
        if self._credit <= CREDIT // 2 and self._held <= HELD:
            self._out.put(window_update(0, CREDIT - self._credit))
            self._credit = CREDIT

    def _release(self, stream: H2Exchange) -> None:
        """What was gathered of a body is not ours any more."""
        if isinstance(stream.gathered, bytearray):
            self._held -= len(stream.gathered)
            self._give_credit()
        stream.gathered = b""

    # --- windows for us ---

    def _resize_windows(self, size: int) -> None:
        change, self._initial_window = size - self._initial_window, size
        for stream in list(self._streams.values()):
            if stream.window + change > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
            self._widen(stream, change)

    def _widen(self, stream: H2Exchange, size: int) -> None:
        closed = stream.window <= 0
        stream.window += size
        if closed and stream.window > 0:
            self._out.opened(stream)

    # --- replies ---

    def reply(self, stream: H2Exchange, status: int, headers: Headers, body: bytes, trailers: Headers) -> None:
        """Send a whole reply, at once where the windows have room for it."""
        if stream.over:
            return
        bare = stream.head.method == "HEAD" or status in _NO_BODY
        block = self._listener.reply_block(status, headers)
        if not trailers and status not in _NO_BODY:
            block += content_length(len(body))
        last = encode_fields(trailers) if trailers and not bare else b""
        stream.on_gone = None
        if bare or not (body or last):
            self._out.put_headers(stream.number, block, END_STREAM)
            return self._replied(stream)
        self._out.put_headers(stream.number, block, 0)
        if not self._out.fits(stream, len(body)):
            rest = self._send_rest(stream, body, last)
            stream.task = self._listener.server.tasks.start(rest, name="tailrace-reply")
            return None
        if body:
            self._out.put_data(stream, body, 0 if last else END_STREAM)
        if last:
            self._out.put_headers(stream.number, last, END_STREAM)
        return self._replied(stream)

    async def _send_rest(self, stream: H2Exchange, body: bytes, last: bytes) -> None:
        """The body of a whole reply that has to wait."""
        try:
            await self._out.transmit(stream, body)
            self._end_stream(stream, last)
        except TransportError:
            pass
        finally:
            self.break_off(stream)

    def open_stream(self, stream: H2Exchange, status: int, headers: Headers, writer: StreamWriter) -> None:
        """Send a reply's head, and start its writer."""
        if not stream.over:
            self._out.put_headers(stream.number, self._listener.reply_block(status, headers), 0)
            sink = H2Sink(self, stream, stream.head.method == "HEAD" or status in _NO_BODY)
            stream.task = self._listener.server.tasks.start(sink.run(writer), name="tailrace-stream")

    async def transmit(self, stream: H2Exchange, data: bytes) -> None:
        """Send a part of a stream, once there is room for it.

        Raises:
            TransportError: There is no peer any more.
        """
        self._floods.worked()
        await self._out.transmit(stream, data)

    def end(self, stream: H2Exchange, trailers: Headers) -> None:
        """A streamed reply is complete."""
        if not stream.over:
            self._end_stream(stream, encode_fields(trailers))

    def _end_stream(self, stream: H2Exchange, last: bytes) -> None:
        if last:
            self._out.put_headers(stream.number, last, END_STREAM)
        else:
            self._out.put(frame(DATA, END_STREAM, stream.number))
        self._replied(stream)

    def break_off(self, stream: H2Exchange) -> None:
        """Nobody writes to a stream any more. If its end was not said, the client has to see that."""
        if not stream.over:
            self._reset(stream.number, ErrorCode.INTERNAL_ERROR)
            self._drop(stream, None)

    def _replied(self, stream: H2Exchange) -> None:
        """The reply is complete. A client that still sends its request has some time to see that; then it is told
        not to go on (RFC 9113, 8.1). Told at once, some throw the reply away."""
        self._floods.worked()
        stream.over = True
        if not stream.ended:
            self._release(stream)
            stream.body_due = self._listener.after(_LINGER)
            self._left_over[stream.number] = stream
            if len(self._left_over) > self._listener.settings.max_streams:
                self._give_up(next(iter(self._left_over.values())))
        if stream.incoming is not None:
            stream.incoming.stop()
        self._close_stream(stream)

    def _give_up(self, stream: H2Exchange) -> None:
        """What is left of a request whose reply is complete is not waited for."""
        del self._left_over[stream.number]
        self._reset(stream.number, ErrorCode.NO_ERROR)

    # --- ends ---

    def _reset(self, number: int, code: int) -> None:
        self._forget(number)
        self._out.put(frame(RST_STREAM, 0, number, NUMBER.pack(code)))

    def _forget(self, number: int) -> None:
        """What still comes on this stream was on its way."""
        self._forgotten[number] = None
        if len(self._forgotten) > _FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]

    def _drop(self, stream: H2Exchange, by: ClientGone | None) -> None:
        """A stream is over before its reply was complete: whoever works for it learns why."""
        stream.over = True
        self._close_stream(stream)
        self._tell(stream, by)

    def _tell(self, stream: H2Exchange, by: ClientGone | None) -> None:
        self._release(stream)
        if stream.incoming is not None:
            stream.incoming.fail(TransportError("the client is gone" if by is None else by.reason))
            stream.incoming.stop()
        stream.wake()
        if stream.task is not None and by is not None:
            stream.task.cancel()
        stream.leave(by)

    def _close_stream(self, stream: H2Exchange) -> None:
        self._streams.pop(stream.number, None)
        if not self._streams:
            if self._state in (State.DRAINING, State.LAST) or self._leaving:
                self._finish()
            else:
                self._rest()

    def _leave_all(self) -> None:
        """Nobody is there any more."""
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            stream.over = True
        for stream in streams:
            self._release(stream)
            if stream.incoming is not None:
                stream.incoming.fail(TransportError("the client is gone"))
                stream.incoming.stop()
            stream.wake()
            if stream.task is not None:
                stream.task.cancel()
            stream.leave()

    def _name_last(self) -> None:
        """The client has heard that the connection ends: what it begins now is not looked at."""
        self._state = State.LAST
        self._out.put(goaway(self._highest, ErrorCode.NO_ERROR))
        if not self._streams:
            self._finish()

    def _finish(self) -> None:
        """Close in order: there is nothing more to say."""
        if self._transport.can_write_eof():
            return self._end(ErrorCode.NO_ERROR, "")
        if self._state not in (State.LINGER, State.CLOSED):
            self._out.put(goaway(self._highest, ErrorCode.NO_ERROR))
            self._close()
        return None

    def _expire(self, code: ErrorCode, message: str) -> None:
        self._listener.expired += 1
        self._end(code, message)

    def _end(self, code: ErrorCode, message: str) -> None:
        """The client is let go, and told why. It is listened to for a while: closing with unread bytes makes the
        kernel send a RST, which can overtake the answer."""
        if self._state in (State.LINGER, State.CLOSED):
            return
        self._state = State.LINGER
        self._reader.stopped = True
        self._out.put(goaway(self._highest, code, message))
        self._leave_all()
        self._out.flush()
        self._out.close()
        self.deadline = self._listener.after(_LINGER)
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def _close(self) -> None:
        if self._state is State.CLOSED:
            return
        self._state = State.CLOSED
        self._reader.stopped = True
        self._out.flush()
        self._out.close()
        self.deadline = self._listener.after(self._listener.settings.stall)  # for what is not yet sent
        self._transport.close()

"""Requests on an HTTP/2 connection: what its client's frames mean for the stream that they are about (RFC 9113, 5).

Each request is handed to the server once it is whole, or as soon as its head is there if the server reads
the body as it comes. What breaks the protocol ends a stream, or the connection; both are bounded (`h2_floods`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from tailrace.errors import ClientGone, StreamReset
from tailrace.transports.http.h2_heads import HeadReader, check_trailers
from tailrace.transports.http.h2_streams import H2Exchange
from tailrace.transports.http.head import CHUNKED, NO_HEAD, BadRequest
from tailrace.transports.incoming import Incoming
from tailrace.wire.h2_fields import Malformed
from tailrace.wire.h2_frames import MAX_WINDOW, WINDOW, ConnectionFault, ErrorCode, StreamFault
from tailrace.wire.hpack import encode

if TYPE_CHECKING:
    from tailrace.transports.http.h2_table import Streams
    from tailrace.wire.h2_reader import Block

__all__ = ["Requests"]

logger = logging.getLogger("tailrace.http")

_NEVER = float("inf")
_CONTINUE = encode([(b":status", b"100")])


class Requests:
    """Opens streams, and fills them (fulfils `h2_reader.StreamFrames`).

    Args:
        streams: The table.
        loopback: Only this machine reaches the socket.
        busy: Called when there is something whose time may run out.

    Attributes:
        highest: The last stream that was opened.
        closed: No more are.
        head_due: When header fields that are not complete have to be.
    """

    __slots__ = (
        "_busy",
        "_heads",
        "_initial_window",
        "_listener",
        "_loopback",
        "_streams",
        "closed",
        "head_due",
        "highest",
    )

    def __init__(self, streams: Streams, loopback: bool, busy: Callable[[], None]) -> None:
        self.highest = 0
        self.closed = False
        self.head_due = _NEVER
        self._streams = streams
        self._listener = streams.listener
        self._loopback = loopback
        self._busy = busy
        self._heads = HeadReader(streams.listener.settings.max_headers)
        self._initial_window = WINDOW  # of the streams, as the client has it

    # --- frames ---

    def on_fields(self, number: int, block: bytes, ended: bool) -> None:
        """A request's head, or its trailers."""
        self.head_due = _NEVER
        stream = self._streams.open.get(number)
        if stream is None and number > self.highest:
            return self._open(number, block, ended)
        fields = self._heads.decode(block)
        if stream is None:
            if self._streams.left_over.pop(number, None) is not None or number in self._streams.forgotten:
                return self._streams.floods.control("late HEADERS")
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a stream that is closed")
        if stream.ended:
            raise StreamFault(ErrorCode.STREAM_CLOSED, "HEADERS behind the end of the stream")
        if not ended:
            raise Malformed("trailers have to end the stream")
        check_trailers(fields)
        return self._end_body(stream)

    def on_block(self, block: Block) -> None:
        """A head that is not complete yet."""
        self._streams.floods.block(len(block.data), block.frames)
        if self.head_due == _NEVER:
            self.head_due = self._listener.after(self._listener.settings.header_time)
            self._busy()

    def on_data(self, number: int, data: bytes, size: int, ended: bool) -> None:
        """A part of a request's body."""
        self._streams.spend(size)
        stream = self._streams.open.get(number)
        if stream is None or stream.ended:
            self._streams.give_credit()
            return self._on_late_data(number, stream, ended)
        if data:
            self._streams.floods.worked(size)
        elif not ended:
            self._streams.floods.control("empty DATA")
        stream.credit -= size
        if stream.credit < 0:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window")
        stream.received += len(data)
        if stream.head.length != CHUNKED and stream.received > stream.head.length:
            raise Malformed("the body is longer than its content-length")
        if stream.incoming is not None:
            stream.spent += size - len(data)  # padding: nobody reads it
            if data:
                self._streams.hold(len(data))
                stream.incoming.put(data)
        elif stream.received > self._listener.settings.max_body:
            self._streams.give_credit()
            return self.refuse(stream, 413, f"the body is over {self._listener.settings.max_body} bytes")
        elif not ended and self._streams.crowded:
            self._streams.give_credit()
            return self.refuse(stream, 503, "too many large bodies are on their way; try again later")
        else:
            self._gather(stream, data, size, ended)
        self._streams.give_credit()
        return self._end_body(stream) if ended else None

    def on_reset(self, number: int, code: int) -> None:
        """The client gives a request up."""
        if number > self.highest:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on a stream that was not opened")
        stream = self._streams.open.get(number)
        if stream is None:
            self._streams.left_over.pop(number, None)
            return self._streams.floods.control("RST_STREAM")
        self._streams.drop(stream, StreamReset())
        return self._streams.floods.reset()

    def on_window(self, number: int, size: int) -> None:
        """It takes more of a reply, or of all."""
        self._streams.floods.control("WINDOW_UPDATE")
        out = self._streams.out
        if not number:
            if out.window + size > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
            out.window += size
            return out.progressed()
        stream = self._streams.open.get(number)
        if stream is None:
            if number > self.highest:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on a stream that was not opened")
            return None
        if stream.window + size > MAX_WINDOW:
            raise StreamFault(ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large")
        self._widen(stream, size)
        return None

    def on_fault(self, number: int, fault: StreamFault) -> None:
        """The client broke the protocol on one stream: that is reset, and the others go on."""
        self._listener.refused += 1
        self._streams.reset(number, fault.code)
        stream = self._streams.open.get(number)
        if stream is not None:
            self._streams.drop(stream, ClientGone(f"the client broke HTTP/2: {fault.message}"))
        self._streams.floods.fault()

    # --- requests ---

    def _open(self, number: int, block: bytes, ended: bool) -> None:
        """A request begins."""
        refusal: BadRequest | None = None
        head = NO_HEAD
        try:
            head = self._heads.read(block)
        except Malformed:
            self.highest = number
            raise
        except BadRequest as bad:
            refusal = bad
        self.highest = number
        if self.closed:  # the client was told that this one is not looked at
            return self._streams.forget(number)
        listener = self._listener
        if len(self._streams.open) >= listener.settings.max_streams:
            raise StreamFault(ErrorCode.REFUSED_STREAM, f"{listener.settings.max_streams} requests are open")
        self._streams.floods.worked()
        credit = listener.settings.stream_window
        stream = H2Exchange(self._streams, number, head, self._loopback, self._initial_window, credit)
        self._streams.open[number] = stream
        self._busy()
        stream.ended = ended
        if refusal is not None:
            self._streams.floods.fault()
            return self.refuse(stream, refusal.status, refusal.message)
        if ended and head.length > 0:
            raise Malformed("the body is shorter than its content-length")
        if listener.server.streams(stream):
            stream.incoming = stream.source = Incoming(stream.taken)
            if ended:
                stream.incoming.finish()
            elif head.expects:  # first: it cannot stand behind the reply's head
                self._streams.out.put_headers(number, _CONTINUE, 0)
            self._hand_over(stream)
        elif ended:
            return self._hand_over(stream)
        elif head.length > listener.settings.max_body:
            return self.refuse(stream, 413, f"the body is over {listener.settings.max_body} bytes")
        else:
            stream.body_due = listener.after(listener.settings.body_time)
            if head.expects:
                self._streams.out.put_headers(number, _CONTINUE, 0)
        return None

    def _gather(self, stream: H2Exchange, data: bytes, size: int, ended: bool) -> None:
        """A part of a body that is wanted whole: its window opens again at once."""
        if ended and not stream.gathered:
            stream.gathered = data  # nearly always
            return
        if not isinstance(stream.gathered, bytearray):
            stream.gathered = bytearray(stream.gathered)
        stream.gathered += data
        self._streams.gather(len(data))
        stream.spent += size
        if not ended:
            self._streams.give_stream_credit(stream)

    def _end_body(self, stream: H2Exchange) -> None:
        stream.ended = True
        if stream.head.length not in (CHUNKED, stream.received):
            raise Malformed("the body is shorter than its content-length")
        if stream.incoming is not None:
            return stream.incoming.finish()
        stream.body_due = _NEVER
        body = stream.gathered
        self._streams.release(stream)
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

    def refuse(self, stream: H2Exchange, status: int, message: str) -> None:
        """Answer what is no good request, or over a limit."""
        self._listener.refused += 1
        stream.body_due = _NEVER
        self._streams.release(stream)
        self._listener.server.refuse(stream, status, message)

    def _on_late_data(self, number: int, stream: H2Exchange | None, ended: bool) -> None:
        if number > self.highest:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on a stream that was not opened")
        if number in self._streams.left_over:
            if ended:
                del self._streams.left_over[number]
            return self._streams.floods.control("late DATA")
        if stream is None and number in self._streams.forgotten:
            return self._streams.floods.control("late DATA")
        raise StreamFault(ErrorCode.STREAM_CLOSED, "DATA behind the end of the stream")

    # --- windows for us ---

    def resize_windows(self, size: int) -> None:
        """What the client takes of a stream at first has changed: of those that are open as well (RFC 9113, 6.9.2)."""
        change, self._initial_window = size - self._initial_window, size
        for stream in list(self._streams.open.values()):
            if stream.window + change > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
            self._widen(stream, change)

    def _widen(self, stream: H2Exchange, size: int) -> None:
        closed = stream.window <= 0
        stream.window += size
        if closed and stream.window > 0:
            self._streams.out.opened(stream)

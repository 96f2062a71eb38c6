"""HTTP/2 on one connection (RFC 9113): requests in, side by side, each a stream; replies out, as each is ready.

Framing is our own (`h2_frames`, `hpack`), because it costs an eighth of what the libraries' does and keeps no
state that we keep as well; a test compares it with theirs, and h2spec is run against it. What a client may hold
is bounded: streams by number, what has come of their bodies by `h2_table`, what is not sent by `h2_out`, and
what it may do for nothing by `h2_floods`.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from typing import TYPE_CHECKING, cast

from tailrace.errors import ClientGone
from tailrace.transports.http.h2_floods import Floods
from tailrace.transports.http.h2_out import PART, Outgoing
from tailrace.transports.http.h2_requests import Requests
from tailrace.transports.http.h2_table import CREDIT, LINGER, Streams
from tailrace.transports.http.sockets import is_loopback
from tailrace.transports.http.unread import Unread
from tailrace.wire.h2_frames import (
    ACK,
    HEADER_TABLE_SIZE,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_STREAM,
    NO_RFC7540_PRIORITIES,
    PING,
    SETTINGS,
    WINDOW,
    ConnectionFault,
    ErrorCode,
    frame,
    goaway,
    settings,
    window_update,
)
from tailrace.wire.h2_reader import Reader
from tailrace.wire.hpack import NO_TABLE, TABLE_SIZE

if TYPE_CHECKING:
    from tailrace.transports.http.h2_streams import H2Exchange
    from tailrace.transports.http.listener import Listener

__all__ = ["H2Connection"]

BACKLOG = 256 * 1024  # bytes of ours that the client does not take, from which on nothing it says is looked at
_NEVER = float("inf")
_LAST_CALL = 1.0  # seconds for a client to hear that the connection ends, until it does
_DRAINING = b"draining"  # what our pings say
_ALIVE = b"alive?\r\n"


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
        "_drain_due",
        "_heard_at",
        "_leaving",
        "_listener",
        "_out",
        "_reader",
        "_reading",
        "_requests",
        "_settle_due",
        "_state",
        "_streams",
        "_transport",
        "_unread",
        "deadline",
    )

    def __init__(self, listener: Listener) -> None:
        self.deadline = listener.after(listener.settings.header_time)
        self._listener = listener
        self._state = State.PREFACE
        self._settle_due = self.deadline  # for the preface and the client's settings
        self._heard_at = listener.clock
        self._asked_at = -1.0
        self._leaving = False  # the client opens no more streams
        self._drain_due = 0.0
        self._reading = True
        self._transport: asyncio.Transport
        self._unread: Unread
        self._out: Outgoing
        self._streams: Streams
        self._requests: Requests
        self._reader: Reader

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
        self._unread = Unread(self._listener, transport)
        floods = Floods(self._listener)
        self._out = Outgoing(self._listener, transport, floods, self._go_on)
        self._streams = Streams(self._listener, self._out, floods, self._emptied)
        self._requests = Requests(self._streams, is_loopback(transport.get_extra_info("sockname")), self._busy)
        self._reader = Reader(self._requests, self, lambda: self._out.gathered <= BACKLOG, preface=True)
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
        self._read(data)

    def _read(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except ConnectionFault as fault:
            self._listener.refused += 1
            return self._end(fault.code, fault.message)
        return self._bound_output()

    def _go_on(self) -> None:
        """What was said is with the transport. If that takes more, what has come meanwhile is looked at."""
        if self._reader.behind and not self._out.paused and not self._reader.stopped:
            self._listener.loop.call_soon(self._read, b"")

    def eof_received(self) -> None:
        self._streams.leave_all()  # see `listener`: a peer that ends its half is gone
        self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = State.CLOSED
        self._out.close()
        self._unread.forget()
        self._listener.discard(self)
        self._streams.leave_all()

    def pause_writing(self) -> None:
        self._out.paused = True
        if not self._unread.count():
            return self.abort()
        if self._state in (State.LINGER, State.CLOSED):
            return None
        self._unread.watch()
        self.deadline = 0.0  # each sweep looks whether the peer takes anything
        return None

    def resume_writing(self) -> None:
        self._out.paused = False
        self._unread.forget()
        self._rest()
        self._bound_output()
        self._out.grant()
        self._go_on()

    def _bound_output(self) -> None:
        """A client that does not take what we say is not listened to. (Replies' heads and acknowledgements have no
        window.)"""
        wanted = not self._reader.behind
        if self._out.paused and self._transport.get_write_buffer_size() > BACKLOG:
            wanted = False
        if wanted is not self._reading and not self._transport.is_closing():
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # --- from the listener ---

    def expired(self) -> None:
        """Twice a second, as long as something is open: is a limit of time over?"""
        listener, clock, was_busy = self._listener, self._listener.clock, self.deadline == 0.0
        if self._state is State.LINGER and self._transport.get_write_buffer_size():
            return self._close()
        if self._state in (State.LINGER, State.CLOSED):
            return self.abort()
        if self._out.paused and self._unread.is_stalled():
            return self.abort()
        if clock >= self._settle_due or clock >= self._requests.head_due:
            limit = listener.settings.header_time
            return self._expire(ErrorCode.PROTOCOL_ERROR, f"settings or header fields did not come within {limit:g} s")
        if self._out.stalled:
            return self._expire(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window stayed closed for too long")
        if self._state is State.DRAINING and clock >= self._drain_due:
            self._name_last()
        for stream in [stream for stream in self._streams.left_over.values() if clock >= stream.body_due]:
            self._streams.give_up(stream)
        if not self._is_busy:
            return self._rest() if was_busy else self._finish()
        for stream in list(self._streams.open.values()):
            self._check_stream(stream, clock)
        if self._streams.open:
            self._check_alive(clock)
        return None

    def retire(self) -> None:
        """As `drain`: a client of HTTP/2 is told which of its requests was the last, and sends the others again."""
        self.drain()

    def drain(self) -> None:
        """Take no new requests, and close behind the last reply. Those on their way are still served: the client is
        told first that the connection will end, and a moment later which request is the last (RFC 9113, 6.8)."""
        if not self._streams.open:
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

    def _check_stream(self, stream: H2Exchange, clock: float) -> None:
        """Has its body not come, or its reply not been taken, in time?"""
        if stream.over:
            return
        if clock >= stream.body_due:
            self._listener.expired += 1
            self._requests.refuse(
                stream, 408, f"the body did not arrive within {self._listener.settings.body_time:g} s"
            )
        elif stream.waiter is not None and stream.window <= 0 and clock >= stream.stalls_at:
            self._listener.expired += 1
            self._streams.reset(stream.number, ErrorCode.CANCEL)
            self._streams.drop(stream, ClientGone("the client took nothing of the reply for too long"))

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
        if self._state in (State.OPEN, State.DRAINING, State.LAST):
            self.deadline = 0.0 if self._is_busy else self._listener.idles_until

    def _busy(self) -> None:
        self.deadline = 0.0

    @property
    def _is_busy(self) -> bool:
        """Something is open whose time may run out."""
        return self._streams.busy or self._out.paused or min(self._settle_due, self._requests.head_due) != _NEVER

    # --- what the client says of the connection (fulfils `h2_reader.ConnectionFrames`) ---

    def on_settings(self, values: dict[int, int]) -> None:
        """What the client wants us to keep to."""
        self._streams.floods.control("SETTINGS")
        if self._state is State.PREFACE:
            self._state = State.OPEN
            self._settle_due = _NEVER
            self._rest()
        if INITIAL_WINDOW_SIZE in values:
            self._requests.resize_windows(values[INITIAL_WINDOW_SIZE])
        self._out.frame_size = min(values.get(MAX_FRAME_SIZE, self._out.frame_size), PART)
        if values.get(HEADER_TABLE_SIZE, TABLE_SIZE) < TABLE_SIZE:
            self._out.prefix = NO_TABLE
        self._out.put(frame(SETTINGS, ACK, 0))

    def on_ping(self, payload: bytes, answer: bool) -> None:
        """It wants to know whether we are there, or answers that it is."""
        self._streams.floods.control("PING")
        if not answer:
            self._out.put(frame(PING, ACK, 0, payload))
        elif payload == _DRAINING and self._state is State.DRAINING:
            self._name_last()

    def on_goaway(self, last: int, code: int) -> None:
        """It opens no more streams; those that are open go on."""
        self._streams.floods.control("GOAWAY")
        self._leaving = True
        if not self._streams.open:
            self._finish()

    def on_nothing(self, what: str) -> None:
        """Counted, and passed over."""
        self._streams.floods.control(what)

    # --- ends ---

    def _emptied(self) -> None:
        """The last stream has ended."""
        if self._state in (State.DRAINING, State.LAST) or self._leaving:
            self._finish()
        else:
            self._rest()

    def _name_last(self) -> None:
        """The client has heard that the connection ends: what it begins now is not looked at."""
        self._state = State.LAST
        self._requests.closed = True
        self._out.put(goaway(self._requests.highest, ErrorCode.NO_ERROR))
        if not self._streams.open:
            self._finish()

    def _finish(self) -> None:
        """Close in order: there is nothing more to say."""
        if self._transport.can_write_eof():
            return self._end(ErrorCode.NO_ERROR, "")
        if self._state not in (State.LINGER, State.CLOSED):
            self._out.put(goaway(self._requests.highest, ErrorCode.NO_ERROR))
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
        self._out.put(goaway(self._requests.highest, code, message))
        self._streams.leave_all()
        self._out.flush()
        self._out.close()
        self.deadline = self._listener.after(LINGER)
        if self._transport.can_write_eof() and not self._transport.is_closing():
            with contextlib.suppress(OSError):  # it is gone already
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

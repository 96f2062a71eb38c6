"""The client's side of a relayed request: the member that received it sends it on, and gives the reply back.

It holds the exchange of whatever transport brought the request, and is the only one that replies to it. How it is
told of pieces, and of the other member's end, is left to `relay`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from tailrace.core.headers import CREDENTIALS
from tailrace.errors import StreamReset, TransportError
from tailrace.transports.relay_pieces import (
    PART,
    Body,
    BodyFailed,
    BodyTaken,
    Broken,
    Data,
    Declined,
    End,
    FromAsker,
    FromOwner,
    Head,
    Left,
    Open,
    Reply,
    ReplyTaken,
    Stop,
    Took,
    pack_access,
)
from tailrace.transports.relay_window import Window

if TYPE_CHECKING:
    from typing import Any

    from tailrace.core.exchange import Exchange, Headers, Sink
    from tailrace.core.tasks import Tasks

__all__ = ["Asked", "AskerHome"]

_EVENTS = b"text/event-stream"


class AskerHome(Protocol):
    """What a relayed request needs of the relay."""

    tasks: Tasks
    window: int

    def open(self, to: str, piece: Open) -> None:
        """Send the first piece.

        Raises:
            StoreError: It cannot be sent; nothing was begun.
        """
        ...

    def say(self, to: str, piece: FromAsker) -> None:
        """Send a piece; if that cannot be done, everything between the two members is about to end."""
        ...

    def forget_asked(self, asked: Asked) -> None:
        """It has ended: its pieces mean nothing any more."""
        ...

    def ask_again(self, exchange: Exchange, to: str) -> None:
        """Nobody has handled this request, or it may be handled twice: have somebody else take it."""
        ...

    def may_repeat(self, exchange: Exchange) -> bool:
        """Whether a request does no more than once if it is handled twice."""
        ...

    def refuse(self, exchange: Exchange, status: int, message: str) -> None:
        """Reply with an error."""
        ...


class Asked:
    """A request that another member handles. It ends once: with the reply, the client's end, or the other member's.

    Args:
        home: Where it is listed.
        exchange: The request.
        to: The member that handles it.
        number: Names it between the two.

    Attributes:
        settled: The other member has said something of it, or it is over.
    """

    __slots__ = (
        "_aloud",
        "_boundary",
        "_broken",
        "_end",
        "_events",
        "_gathered",
        "_head",
        "_heard",
        "_home",
        "_over",
        "_parts",
        "_resumable",
        "_said",
        "_size",
        "_upload",
        "_waiter",
        "_window",
        "exchange",
        "number",
        "settled",
        "to",
    )

    def __init__(self, home: AskerHome, exchange: Exchange, to: str, number: int) -> None:
        self.exchange = exchange
        self.to = to
        self.number = number
        self.settled = False
        self._home = home
        self._said = self._heard = 0  # pieces
        self._over = False  # between the members; the tail of a reply may still be with us
        self._window = Window(home.window)
        self._upload: asyncio.Task[Any] | None = None
        self._aloud = False  # its reply is streamed
        self._gathered: Head | None = None  # its reply waits to be whole
        self._head: Head | None = None  # its reply waits for the first of its body
        self._parts: list[bytes] = []  # of the reply, not yet with the client's transport: a window of it at most
        self._size = 0  # bytes taken of which the owner does not know
        self._boundary = True  # what was written together is here together
        self._end: Headers | None = None
        self._broken = False
        self._events = False  # it is one of events
        self._resumable = False  # whose client has an id from the beginning
        self._waiter: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Send it.

        Raises:
            StoreError: It cannot be sent; nothing was begun.
        """
        exchange = self.exchange
        body, streams = exchange.body, exchange.source is not None
        more = len(body) > PART
        headers = [field for field in exchange.fields() if field[0] not in CREDENTIALS]
        self._home.open(
            self.to,
            Open(
                self.number,
                exchange.method,
                exchange.path,
                exchange.query,
                exchange.prefix,
                exchange.version,
                headers,
                b"" if more else body,
                more,
                streams,
                exchange.trailers,
                exchange.loopback,
                exchange.principal,
                None if exchange.access is None else pack_access(exchange.access),
                exchange.challenge is not None,
            ),
        )
        exchange.on_gone = self.leave
        if more or streams:
            work = self._send_stream() if streams else self._send_whole(body)
            self._upload = self._home.tasks.start(work, name="tailrace-relay-body")

    # --- ends ---

    def leave(self) -> None:
        """The client is gone, or has all that it gets: nobody waits for the owner any more. Idempotent."""
        if not self._over:
            self._say_left()
            self._finish()
        self._broken = True
        self._wake()

    def due(self) -> None:
        """The owner should have said something by now (see `core.timers.Delayed`)."""
        self._say_left()
        self._fail(504, "the worker that has this session did not answer in time; whether it did something is unknown")

    def lost(self, *, tell: bool) -> None:
        """The other member is gone, or pieces were lost: then `tell` it. A request that may be handled twice is asked
        again. Idempotent."""
        if self._over:
            return
        if tell:
            self._say_left()
        self._again_or_fail("the worker that has this session was lost; whether it did something is unknown")

    def close(self) -> None:
        """This member ends: a stream of events ends between two of them, so that its client asks another member for
        the rest; what else has not ended is broken off. Idempotent."""
        if not self._over:
            self._resumable = self._events
            self._say_left()
            self._fail(503, "the server is shutting down; try again in a moment")

    # --- what the owner says ---

    def hear(self, piece: FromOwner) -> None:
        """Its next piece."""
        if self._over:
            return
        if piece.seq != self._heard:
            return self.lost(tell=True)
        self._heard += 1
        self.settled = True
        if isinstance(piece, Data):
            self._on_data(piece)
        elif isinstance(piece, Reply):
            self._finish()
            self._respond(piece.status, piece.headers, piece.body, piece.trailers)
        elif isinstance(piece, Head):
            self._on_head(piece)
        elif isinstance(piece, End):
            self._on_end(piece)
        elif isinstance(piece, BodyTaken):
            self._window.taken(piece.size)
        elif isinstance(piece, Stop):
            self._stop_upload()
        elif isinstance(piece, Broken):
            self._again_or_fail("the worker that has this session broke off; whether it did something is unknown")
        elif isinstance(piece, Declined):
            self._on_declined()
        else:
            assert isinstance(piece, Took)
        return None

    def _on_head(self, piece: Head) -> None:
        if piece.whole:
            self._gathered = piece
        elif piece.joined:
            self._head = piece
        else:
            self._begin_stream(piece)

    def _begin_stream(self, head: Head, first: bytes = b"") -> None:
        self._aloud = True
        self._events = any(name == b"content-type" and value.startswith(_EVENTS) for name, value in head.headers)
        self._resumable = self._events and head.joined
        try:
            self.exchange.stream(head.status, head.headers, self._copy, first)
        except ValueError:  # this transport cannot say it
            self._say_left()
            self._aloud = False
            self._fail(500, "internal error")

    def _on_data(self, piece: Data) -> None:
        self._parts.append(piece.data)
        self._boundary = not piece.more
        if self._gathered is not None:
            self._tell_taken(len(piece.data))
        elif self._head is None:
            self._wake()
        elif self._boundary:
            head, first = self._head, b"".join(self._parts)
            self._head = None
            self._parts.clear()
            self._begin_stream(head, first)
            self._tell_taken(len(first))

    def _on_end(self, piece: End) -> None:
        self._finish()
        self._end = piece.trailers
        if self._gathered is not None:
            head, parts, self._parts = self._gathered, self._parts, []
            self._respond(head.status, head.headers, b"".join(parts), piece.trailers)
        else:
            self._wake()

    def _on_declined(self) -> None:
        began = self._upload is not None and self.exchange.source is not None
        self._finish(keep=not began)
        if began:  # some of it is read, and cannot be read again
            self._home.refuse(self.exchange, 503, "the session moves to another worker; try again in a moment")
        else:
            self._home.ask_again(self.exchange, self.to)

    def _respond(self, status: int, headers: Headers, body: bytes, trailers: Headers) -> None:
        try:
            self.exchange.respond(status, headers, body, trailers)
        except ValueError:  # this transport cannot say it
            self._home.refuse(self.exchange, 500, "internal error")

    # --- the reply's stream ---

    async def _copy(self, sink: Sink) -> None:
        """Write what the owner says, as it comes (fulfils `core.exchange.StreamWriter`)."""
        try:
            while True:
                if self._parts:
                    parts, self._parts = self._parts, []
                    data = parts[0] if len(parts) == 1 else b"".join(parts)
                    await sink.write(data)
                    self._tell_taken(len(data))
                elif self._end is not None:
                    return await sink.end(self._end)
                elif self._broken:
                    raise TransportError("the worker that has this session broke off")
                elif self._over and self._resumable and self._boundary:
                    return await sink.end()
                elif self._over:
                    raise TransportError("the worker that has this session, or this one, broke off within an event")
                else:
                    await self._changed()
        finally:
            self.leave()

    async def _changed(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _tell_taken(self, size: int) -> None:
        """Of a few bytes the owner need not know."""
        self._size += size
        if self._size >= self._home.window // 4 and not self._over:
            size, self._size = self._size, 0
            self._say(ReplyTaken(self.number, self._said, size))

    # --- the request's body ---

    async def _send_whole(self, body: bytes) -> None:
        try:
            for start in range(0, len(body), PART):
                await self._send_part(body[start : start + PART], start + PART >= len(body))
        except TransportError:
            pass  # the relay has ended

    async def _send_stream(self) -> None:
        source = self.exchange.source
        assert source is not None
        try:
            while data := await source.read():
                for start in range(0, len(data), PART):
                    await self._send_part(data[start : start + PART], last=False)
            await self._send_part(b"", last=True)
        except TransportError as error:
            if not self._over:
                self._say(BodyFailed(self.number, self._said, str(error)))

    async def _send_part(self, data: bytes, last: bool) -> None:
        await self._window.room()
        self._window.sent(len(data))
        self._say(Body(self.number, self._said, data, last))

    def _stop_upload(self) -> None:
        if self._upload is not None:
            self._upload.cancel()
        if self.exchange.source is not None:
            self.exchange.source.stop()

    # --- within ---

    def _again_or_fail(self, message: str) -> None:
        """Nobody knows whether it was handled."""
        if not self._aloud and self._home.may_repeat(self.exchange):
            self._finish(keep=True)
            self._home.ask_again(self.exchange, self.to)
        else:
            self._fail(502, message)

    def _fail(self, status: int, message: str) -> None:
        """It ends without its reply, or within: between two events, where its client has an id to ask for the rest
        with (some ask only where a stream ended in order, or count how often it did not), else it is broken off."""
        self._finish()
        if self._aloud:
            self._broken = not self._resumable
            self._wake()
        else:
            self._home.refuse(self.exchange, status, message)

    def _say(self, piece: FromAsker) -> None:
        self._said += 1
        self._home.say(self.to, piece)

    def _say_left(self) -> None:
        self._say(Left(self.number, self._said, isinstance(self.exchange.gone_by, StreamReset)))

    def _finish(self, *, keep: bool = False) -> None:
        """Between the members it is over; `keep` the body, for it will be asked again."""
        self._over = self.settled = True
        if not self._aloud:  # else its writer may still be at work, and learns of the client's end in any case
            self.exchange.on_gone = None
        self._window.close()
        if self._upload is not None and not keep:
            self._stop_upload()
        elif self._upload is not None:
            self._upload.cancel()
        self._home.forget_asked(self)

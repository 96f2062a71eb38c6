"""The session's side of a relayed request: an exchange whose client is connected to another member.

To the protocols it is a request like any other. How it is told of pieces, and of the other member's end, is left to
`relay`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.core.exchange import Exchange, Headers, Sink, StreamWriter
from tailrace.errors import StreamReset, TransportError
from tailrace.transports.incoming import Incoming
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
    unpack_access,
)
from tailrace.transports.relay_window import Window

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tailrace.core.tasks import Tasks
    from tailrace.errors import ClientGone

__all__ = ["OwnerHome", "RelayedExchange"]


class OwnerHome(Protocol):
    """What a relayed request needs of the relay."""

    tasks: Tasks
    window: int

    def say(self, to: str, piece: FromOwner) -> None:
        """Send a piece; if that cannot be done, everything between the two members is about to end."""
        ...

    def forget_served(self, exchange: RelayedExchange) -> None:
        """It has ended: its pieces mean nothing any more."""
        ...

    def hand_over(self, exchange: RelayedExchange) -> None:
        """Its body is whole: have it handled."""
        ...


class RelayedExchange(Exchange):
    """A request that another member received, judged and sent on.

    Args:
        home: Where it is listed.
        sender: The member that received it.
        opened: What that says of it.

    Attributes:
        sender: The member that received it.
        number: Names it between the two.
        settled: The other member has heard something of it, or it is over.
    """

    __slots__ = (
        "_consumed",
        "_gathered",
        "_headers",
        "_heard",
        "_home",
        "_incoming",
        "_over",
        "_said",
        "_window",
        "_writer",
        "number",
        "sender",
        "settled",
    )

    def __init__(self, home: OwnerHome, sender: str, opened: Open) -> None:
        super().__init__(opened.method, opened.path, opened.query, opened.prefix)
        self.sender = sender
        self.number = opened.relay
        self.settled = False
        self.version = opened.version
        self.body = opened.body
        self.trailers = opened.trailers
        self.loopback = opened.loopback
        self.principal = opened.principal
        self.access = None if opened.access is None else unpack_access(opened.access)
        self._headers = opened.headers
        self._home = home
        self._said = self._heard = 0  # pieces
        self._over = False
        self._window = Window(home.window)
        self._consumed = 0  # bytes of the body of which the other member does not know yet that they were taken
        self._gathered: list[bytes] | None = [] if opened.more else None
        self._writer: asyncio.Task[Any] | None = None
        self._incoming: _Upstream | None = None
        if opened.streams:
            self._incoming = self.source = _Upstream(self)

    @property
    def is_whole(self) -> bool:
        """It can be handled: its body is here, or is read as it comes."""
        return self._gathered is None

    # --- what the protocols see ---

    def header(self, name: bytes) -> str | None:
        """The first value of a header."""
        for key, value in self._headers:
            if key == name:
                return value
        return None

    def header_values(self, name: bytes) -> list[str]:
        """All values of a header."""
        return [value for key, value in self._headers if key == name]

    def fields(self) -> Iterable[tuple[bytes, str]]:
        """All header fields, but for credentials: they stayed behind."""
        return self._headers

    def respond(self, status: int, headers: Headers, body: bytes = b"", trailers: Headers = ()) -> None:
        """Reply whole."""
        if self.gone:
            return
        self._claim([*headers, *trailers])
        self.on_gone = None
        if not self.trailers:
            trailers = ()
        if len(body) <= PART:
            self._say(Reply(self.number, self._said, status, list(headers), body, list(trailers)))
            self._finish()
        else:
            self._say(Head(self.number, self._said, status, list(headers), True))
            self._home.tasks.start(self._send_whole(body, trailers), name="tailrace-relay-reply")

    def stream(self, status: int, headers: Headers, writer: StreamWriter, first: bytes = b"") -> None:
        """Reply with a stream."""
        if self.gone:
            return
        self._claim(headers)
        self._say(Head(self.number, self._said, status, list(headers), False, bool(first)))
        for start in range(0, len(first), PART):
            self._put_part(first, start)
        self._writer = self._home.tasks.start(_RelayedSink(self).run(writer), name="tailrace-relay-stream")

    def decline(self) -> None:
        """This member does not have what it is about, and has done nothing: whoever sent it looks again."""
        if not (self.gone or self._over):
            self._claim(())
            self.on_gone = None
            self._say(Declined(self.number, self._said))
            self._finish()

    def leave(self, by: ClientGone | None = None) -> None:
        """The client is gone, or the member to which it is connected: its writer need not wait for anything more."""
        self._finish()
        writer, self._writer = self._writer, None
        if writer is not None and writer is not asyncio.current_task():
            writer.cancel()
        super().leave(by)

    def due(self) -> None:
        """It takes its time (see `core.timers.Delayed`): the other member hears that it is being handled."""
        self._say(Took(self.number, self._said))

    # --- what the other member says ---

    def hear(self, piece: FromAsker) -> None:
        """Its next piece."""
        if self._over:
            return
        if piece.seq != self._heard:
            self.break_off()
            return self.leave()
        self._heard += 1
        if isinstance(piece, ReplyTaken):
            self._window.taken(piece.size)
        elif isinstance(piece, Body):
            self._on_body(piece)
        elif isinstance(piece, Left):
            self.leave(StreamReset() if piece.reset else None)
        else:
            assert isinstance(piece, BodyFailed)
            if self._incoming is not None:
                self._incoming.fail(TransportError(piece.reason))
        return None

    def _on_body(self, piece: Body) -> None:
        if self._incoming is not None:
            if piece.data:
                self._incoming.put(piece.data)
            if piece.last:
                self._incoming.finish()
        elif self._gathered is not None:
            self._gathered.append(piece.data)
            self.taken(len(piece.data))
            if piece.last:
                self.body, self._gathered = b"".join(self._gathered), None
                self._home.hand_over(self)

    # --- for its sink and its source ---

    async def put(self, data: bytes) -> None:
        """Send some of the reply's body, and wait until more of it may be on its way."""
        for start in range(0, len(data), PART):
            await self._window.room()
            self._put_part(data, start)
        await self._window.room()

    def finish(self, trailers: Headers = ()) -> None:
        """The reply is complete.

        Raises:
            TransportError: The client is gone.
        """
        if self._over:
            raise TransportError("the peer is gone")
        self._say(End(self.number, self._said, list(trailers) if self.trailers else []))
        self._finish()

    def break_off(self) -> None:
        """No more of the reply comes. Idempotent."""
        if not self._over:
            self._say(Broken(self.number, self._said))
            self._finish()

    def taken(self, size: int) -> None:
        """So much of the body was read, or dropped; of a few bytes the other member need not know."""
        self._consumed += size
        if self._consumed >= self._home.window // 4 and not self._over:
            size, self._consumed = self._consumed, 0
            self._say(BodyTaken(self.number, self._said, size))

    def stop_source(self) -> None:
        """Nothing more of the body is wanted."""
        if not self._over:
            self._say(Stop(self.number, self._said))

    # --- within ---

    async def _send_whole(self, body: bytes, trailers: Headers) -> None:
        try:
            await self.put(body)
            self.finish(trailers)
        except TransportError:
            pass  # the client's end of it
        finally:
            self.break_off()

    def _put_part(self, data: bytes, start: int) -> None:
        part = data[start : start + PART]
        self._window.sent(len(part))
        self._say(Data(self.number, self._said, part, start + PART < len(data)))

    def _claim(self, headers: Headers) -> None:
        """Its one reply is given now."""
        if self.replied:
            raise RuntimeError("this exchange has its reply already")
        for name, value in headers:
            if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
                raise ValueError("a header of a reply contains a line break")
        self.replied = True

    def _say(self, piece: FromOwner) -> None:
        self._said += 1
        self.settled = True
        self._home.say(self.sender, piece)

    def _finish(self) -> None:
        if self._over:
            return
        self._over = self.settled = True
        self._window.close()
        if self._incoming is not None:
            self._incoming.fail(TransportError("the peer is gone"))
        self._home.forget_served(self)


class _Upstream(Incoming):
    """The body of a relayed request, as it comes."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: RelayedExchange) -> None:
        super().__init__(exchange.taken)
        self._exchange = exchange

    def stop(self) -> None:
        """Drop what is here and what still comes, and say so."""
        if not (self.ended or self._stopped):
            self._exchange.stop_source()
        super().stop()


class _RelayedSink(Sink):
    """The way out of one streamed reply."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: RelayedExchange) -> None:
        self._exchange = exchange

    async def run(self, writer: StreamWriter) -> None:
        """Run the writer; if it returns without having ended the stream, that breaks off."""
        try:
            await writer(self)
        except TransportError:
            pass  # the client's end of it
        finally:
            self._exchange.break_off()
            self._exchange.leave()  # whatever it was, this reply carries nothing any more

    async def write(self, data: bytes) -> None:
        """Send a part of the reply. How long it waits is bounded by the other member: its client's transport has a
        stall limit, and a member that says nothing is lost."""
        await self._exchange.put(data)

    async def end(self, trailers: Headers = ()) -> None:
        """Complete the reply."""
        self._exchange.finish(trailers)

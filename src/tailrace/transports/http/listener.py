"""Accepts connections, chooses who speaks on each, and keeps the one clock and the one table they share.

What a protocol says on its connection is left to it: `h1`, or `h2` where ALPN or the first bytes say so.
No connection has a timer: each has a `deadline`, and one sweep, twice a second, calls those whose time has
come.

**A peer that ends its half is gone.** On the wire a client that closes and one that only stops sending
look the same, and a disconnect must be seen at once: modern MCP says that it cancels the call. So EOF while a
reply is pending is `Exchange.leave()` (as nginx has it): what is written is still flushed, nothing else follows.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.core.timers import Sweeper
from tailrace.transports.http.exchange import field_lines
from tailrace.transports.http.h1 import H1Connection
from tailrace.transports.http.h2 import H2Connection
from tailrace.transports.http.h2_heads import encode_fields
from tailrace.transports.http.head import Heads
from tailrace.transports.http.sockets import watch_for_vanished
from tailrace.transports.http.tls import TlsPort
from tailrace.wire.hpack import encode

if TYPE_CHECKING:
    from tailrace.core.exchange import Headers
    from tailrace.transports.asgi import Served

__all__ = ["Connection", "Listener"]

_BACKLOG = 2048
_REFUSED = 256  # connections over the limit that are told so; more are cut
_ABORT_TIME = 0.5  # seconds for what was aborted to be gone
_CONSTANTS = 256  # heads of replies that are kept for a moment


class Connection(Protocol):
    """What the listener's table holds."""

    deadline: float

    def expired(self) -> None:
        """`deadline` has passed, on the listener's clock."""
        ...

    def retire(self) -> None:
        """Close behind the reply that is being given, or behind the next one."""
        ...

    def drain(self) -> None:
        """Close now if idle, else behind the reply that is being given."""
        ...

    def abort(self) -> None:
        """Cut it."""
        ...


class Listener:
    """Serves HTTP on listening sockets, within the limits of the server's settings.

    Args:
        server: Whom requests are handed to. It has started.
        listening: Bound sockets, TCP or Unix; they are the listener's from `start` on.
        tls: Speak TLS on all of them.
        sweep: Seconds between two looks at the clock, which is how late a limit may be noticed.

    Attributes:
        clock: Seconds in which the loop was alive. A client is not blamed for the time in which it was blocked.
        retiring: `retire` was called.
        draining: `close` was called.
        idles_until: The deadline of a connection that becomes idle now.
    """

    def __init__(
        self,
        server: Served,
        listening: Sequence[socket.socket],
        *,
        tls: ssl.SSLContext | None = None,
        sweep: float = 0.5,
    ) -> None:
        self.server = server
        self.settings = server.settings
        self.heads = Heads()
        self.loop = asyncio.get_running_loop()
        self.clock = 0.0
        self.retiring = False
        self.draining = False
        self.accepted = 0
        self.requests = 0
        self.refused = 0  # requests that were no good HTTP, or over a limit
        self.floods = 0  # HTTP/2 connections closed because of what their clients sent for nothing
        self.expired = 0  # connections closed because a limit of time was over, idle ones apart
        self.arriving = 0  # bytes of bodies that are not complete
        self.unread = 0  # bytes of whole replies that transports hold, because their peers do not read
        self._turned_away = 0
        self._listening = listening
        self._tls = tls
        self._sweeper = Sweeper(sweep)
        self._swept = self.loop.time()
        self.idles_until = self.after(server.settings.idle_time)
        self._ports: list[asyncio.AbstractServer | TlsPort] = []
        self._connections: dict[Connection, None] = {}
        self._prefixes: dict[int, bytes] = {}  # by status
        self._reply_lines: dict[tuple[int, Headers], bytes] = {}
        self._reply_blocks: dict[tuple[int, Headers], bytes] = {}  # the same for HTTP/2
        self._empty: asyncio.Future[None] | None = None

    # --- its life ---

    async def start(self) -> None:
        """Accept connections."""
        if self._tls is not None:
            self._tls.set_alpn_protocols(["h2", "http/1.1"])
        for listening in self._listening:
            watch_for_vanished(listening, self.settings.stall)
            listening.setblocking(False)
            listening.listen(_BACKLOG)
            if self._tls is not None:
                self._ports.append(TlsPort(self, listening, self._tls))
                continue
            unix = listening.family not in (socket.AF_INET, socket.AF_INET6)
            create: Any = self.loop.create_unix_server if unix else self.loop.create_server
            self._ports.append(await create(self._accepted, sock=listening, backlog=_BACKLOG))
        self._sweeper.add(self)

    def retire(self) -> None:
        """Accept nothing more, as another process listens on the same sockets. Connections go on, each for one reply
        more at most: the client's next connection is the other's."""
        self.retiring = True
        while self._ports:
            self._ports.pop().close()
        for connection in list(self._connections):
            connection.retire()

    async def vacated(self, seconds: float) -> bool:
        """Wait until nobody is connected any more, at most so many seconds; tells whether that came true."""
        await self._wait_empty(seconds)
        return not self._connections

    async def close(self, seconds: float) -> None:
        """Accept nothing more, let replies be finished, then cut what is left. Idempotent.

        Idle connections are closed at once; the others after the reply that they wait for.

        Args:
            seconds: For replies; what is cut then takes half a second at most.
        """
        self.draining = True
        while self._ports:
            self._ports.pop().close()
        for connection in list(self._connections):
            connection.drain()
        await self._wait_empty(seconds)
        for connection in list(self._connections):
            connection.abort()
        await self._wait_empty(_ABORT_TIME)
        self._sweeper.close()

    async def _wait_empty(self, seconds: float) -> None:
        if self._connections:
            if self._empty is None:
                self._empty = self.loop.create_future()
            await asyncio.wait([self._empty], timeout=max(0.0, seconds))

    def statistics(self) -> Mapping[str, int]:
        """Numbers for people."""
        return {
            "connections": len(self._connections),
            "accepted": self.accepted,
            "turned_away": self._turned_away,
            "requests": self.requests,
            "refused": self.refused,
            "expired": self.expired,
            "floods": self.floods,
        }

    # --- for connections ---

    def add(self, connection: Connection) -> bool:
        """Enter a connection into the table; False if that is one too many."""
        self._connections[connection] = None
        if len(self._connections) <= self.settings.max_connections:
            return True
        self._turned_away += 1
        return False

    def replace(self, connection: Connection, other: Connection) -> None:
        """Another protocol is spoken on a connection from now on."""
        self._connections[other] = None
        self._connections.pop(connection, None)

    def discard(self, connection: Connection) -> None:
        """It is closed. Idempotent."""
        self._connections.pop(connection, None)
        if self._empty is not None and not self._connections:
            if not self._empty.done():
                self._empty.set_result(None)
            self._empty = None

    @property
    def crowded(self) -> bool:
        """There are so many connections over the limit that the next one is cut without a word."""
        return len(self._connections) > self.settings.max_connections + _REFUSED

    def after(self, seconds: float) -> float:
        """A deadline in `seconds`: never early, late by two sweeps at most."""
        return self.clock + seconds + self._sweeper.interval

    def reply_lines(self, status: int, headers: Headers) -> bytes:
        """Status line, Date and header fields of a reply.

        Fields that are a tuple are taken for constants, and made with their Date once a sweep (1.7 us a reply, else).

        Raises:
            ValueError: A field contains a line break.
        """
        key, constant = (status, headers), isinstance(headers, tuple)
        lines = self._reply_lines.get(key) if constant else None
        if lines is None:
            lines = self._prefix(status) + field_lines(headers)
            if constant and len(self._reply_lines) < _CONSTANTS:
                self._reply_lines[key] = lines
        return lines

    def reply_block(self, status: int, headers: Headers) -> bytes:
        """The same for HTTP/2: a block of fields (RFC 7541), the status and the Date among them.

        Raises:
            ValueError: A field contains a line break.
        """
        key, constant = (status, headers), isinstance(headers, tuple)
        block = self._reply_blocks.get(key) if constant else None
        if block is None:
            own = ((b":status", b"%d" % status), (b"date", formatdate(usegmt=True).encode()))
            block = encode(own) + encode_fields(headers)
            if constant and len(self._reply_blocks) < _CONSTANTS:
                self._reply_blocks[key] = block
        return block

    def _prefix(self, status: int) -> bytes:
        prefix = self._prefixes.get(status)
        if prefix is None:
            try:
                reason = HTTPStatus(status).phrase
            except ValueError:
                reason = ""
            date = formatdate(usegmt=True)
            self._prefixes[status] = prefix = f"HTTP/1.1 {status} {reason}\r\ndate: {date}\r\n".encode("ascii")
        return prefix

    def sweep(self, now: float) -> None:
        """Twice a second: the clock goes on, and connections whose time is over hear of it."""
        self.clock += min(now - self._swept, 2 * self._sweeper.interval)
        self._swept = now
        self._prefixes.clear()
        self._reply_lines.clear()
        self._reply_blocks.clear()
        self.idles_until = self.after(self.settings.idle_time)
        clock = self.clock
        for connection in [connection for connection in self._connections if connection.deadline <= clock]:
            connection.expired()

    # --- accepting ---

    def protocol(self, agreed: str | None = None) -> asyncio.Protocol:
        """Who speaks on a new connection, where `agreed` is what TLS has found out (ALPN)."""
        return H2Connection(self) if agreed == "h2" else H1Connection(self)

    def _accepted(self) -> asyncio.Protocol:
        self.accepted += 1
        return self.protocol()

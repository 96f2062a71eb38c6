"""The one writer of a connection: the coroutine that owns it takes frames from a log and sends them.

It takes all that is behind its cursor, joins it into one write, and waits for the transport. When
nothing happens it sends keep-alives itself, so that nobody else ever writes to the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tailrace.core.log import MANY_EVENTS
from tailrace.errors import TransportError

if TYPE_CHECKING:
    from tailrace.core.cursor import Cursor
    from tailrace.core.exchange import Sink

__all__ = ["Framing", "Sweeps", "Writer"]

JOIN_LIMIT = 256 * 1024  # bytes joined into one write


class Framing(Protocol):
    """How a protocol puts events on the wire."""

    def frames(self, events: list[tuple[int, bytes]]) -> bytes:
        """Numbered payloads, framed and joined."""
        ...

    def gap(self, lost: int) -> bytes:
        """Says that `lost` events are missing here; ``b""`` on a wire that cannot say it."""
        ...


class Sweeps(Protocol):
    """Where a writer is entered for the periodic look at the clock."""

    def add(self, member: Writer) -> None:
        """Begin to call `member.sweep(now)`."""
        ...

    def discard(self, member: Writer) -> None:
        """Stop calling it."""
        ...


class Writer:
    """Sends one log over one connection until the log ends, the cursor is stopped, or the peer is gone.

    Args:
        cursor: The place in the log; this writer is its only reader.
        framing: Turns payloads into bytes.
        sweeps: Calls `sweep` about twice a second.
        keep_alive: Seconds without a write after which `ping` is sent; 0 for never.
        ping: What a keep-alive is on this wire.
        farewell: Asked for the last bytes when the cursor was stopped before the log's end.
    """

    __slots__ = ("_idle_since", "_ping_due", "cursor", "farewell", "framing", "keep_alive", "ping", "sweeps")

    def __init__(
        self,
        cursor: Cursor,
        framing: Framing,
        sweeps: Sweeps,
        *,
        keep_alive: float = 15.0,
        ping: bytes = b": keep-alive\n\n",
        farewell: Callable[[], bytes] | None = None,
    ) -> None:
        self.cursor = cursor
        self.framing = framing
        self.sweeps = sweeps
        self.keep_alive = keep_alive
        self.ping = ping
        self.farewell = farewell
        self._idle_since: float | None = None  # None while it writes
        self._ping_due = False

    async def run(self, sink: Sink) -> None:
        """Own `sink` until the end. Returns quietly when the peer is gone; cancelling it stops the cursor."""
        self.sweeps.add(self)
        try:
            await self._send(sink)
        except TransportError:
            pass  # the peer's end of it; the log keeps what was not taken
        finally:
            self.sweeps.discard(self)
            self.cursor.stop()

    def sweep(self, now: float) -> None:
        """Twice a second: is a keep-alive due?"""
        if self._idle_since is None:
            return
        if self._idle_since == 0.0:
            self._idle_since = now
        elif self.keep_alive and now - self._idle_since >= self.keep_alive:
            self._ping_due = True
            self.cursor.wake()

    async def _send(self, sink: Sink) -> None:
        cursor = self.cursor
        lost = 0
        while True:
            events = cursor.take(JOIN_LIMIT)
            if cursor.lost > lost:
                gap, lost = self.framing.gap(cursor.lost - lost), cursor.lost
                await sink.write(gap + self.framing.frames(events))
                cursor.taken()
            elif events:
                await sink.write(self.framing.frames(events))
                cursor.taken()
                if len(events) >= MANY_EVENTS:  # who reads up a long stream lets the others have their turn
                    await asyncio.sleep(0)
            elif cursor.stopped:
                if self.farewell is not None:
                    await sink.write(self.farewell())
                break
            elif cursor.log.finished:
                break
            elif self._ping_due:
                self._ping_due = False
                await sink.write(self.ping)
            else:
                self._idle_since = 0.0
                await cursor.wait()
                self._idle_since = None
        await sink.end()

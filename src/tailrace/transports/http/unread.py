"""What lies with a transport because its peer does not take it: bounded over all connections, and for a time only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.transports.http.sockets import unsent

if TYPE_CHECKING:
    import asyncio

    from tailrace.transports.http.listener import Listener

__all__ = ["Unread"]


class Unread:
    """That of one connection.

    Args:
        listener: Has the limits, the clock, and the count over all connections.
        transport: Whose peer it is.
    """

    __slots__ = ("_counted", "_left", "_listener", "_stalls_at", "_transport")

    def __init__(self, listener: Listener, transport: asyncio.Transport) -> None:
        self._listener = listener
        self._transport = transport
        self._counted = 0
        self._left = 0  # bytes, when the peer was last seen to take some
        self._stalls_at = 0.0

    def count(self) -> bool:
        """Count what the transport holds; False if that is too much, with what others hold."""
        listener, size = self._listener, self._transport.get_write_buffer_size()
        listener.unread += size - self._counted
        self._counted = size
        if listener.unread <= listener.settings.unread:
            return True
        listener.refused += 1
        return False

    def forget(self) -> None:
        """The peer took it, or is gone. Idempotent."""
        self._listener.unread -= self._counted
        self._counted = 0

    def watch(self) -> None:
        """The transport takes no more: from now on the peer has the stall limit to take anything."""
        self._left = unsent(self._transport)
        self._stalls_at = self._listener.after(self._listener.settings.stall)

    def is_stalled(self) -> bool:
        """Whether it took nothing for so long; each sweep asks."""
        left = unsent(self._transport)
        if left < self._left:
            self.watch()
            return False
        stalled = self._listener.clock >= self._stalls_at
        self._listener.expired += stalled
        return stalled

"""How much of a body may be on its way between two members: what was sent and is not known to be taken is bounded."""

from __future__ import annotations

import asyncio

from tailrace.errors import TransportError

__all__ = ["Window"]


class Window:
    """One direction of one relay, for its one sender.

    Args:
        size: Bytes that may be on their way; one piece more at most.
    """

    __slots__ = ("_closed", "_size", "_unacknowledged", "_waiter")

    def __init__(self, size: int) -> None:
        self._size = size
        self._unacknowledged = 0
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    async def room(self) -> None:
        """Wait until another piece may be sent. How long is the relay's to bound: it closes this when it ends.

        Raises:
            TransportError: The relay has ended.
        """
        while self._unacknowledged >= self._size and not self._closed:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._closed:
            raise TransportError("the peer is gone")

    def sent(self, size: int) -> None:
        """So much is on its way."""
        self._unacknowledged += size

    def taken(self, size: int) -> None:
        """The other side has taken so much."""
        self._unacknowledged -= size
        self._wake()

    def close(self) -> None:
        """Nothing more can be sent. Idempotent."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

"""The body of a request that is still coming, between the connection that gets it and the handler that reads it.

It holds what has arrived and is not read yet. How much that may be is the transport's to bound: it is told
of every byte that is taken, and holds its peer up (stops reading a socket, gives no credit) while too many
are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tailrace.core.exchange import Source
from tailrace.errors import TransportError

__all__ = ["Incoming"]


class Incoming(Source):
    """What has arrived of one body.

    Args:
        taken: Called with the number of bytes whenever some were read, or dropped.

    Attributes:
        held: Bytes that have arrived and are not taken yet.
        ended: The body is complete.
    """

    __slots__ = ("_data", "_error", "_stopped", "_taken", "_waiter", "ended", "held")

    def __init__(self, taken: Callable[[int], None]) -> None:
        self.held = 0
        self.ended = False
        self._taken = taken
        self._data: bytes | bytearray = b""  # joined at once: a list of single bytes would be a hundred times as large
        self._error: TransportError | None = None
        self._stopped = False
        self._waiter: asyncio.Future[None] | None = None

    # --- for the reader ---

    async def read(self) -> bytes:
        """All that has arrived and was not read yet; waits for the first byte of it."""
        while not self.held:
            if self._error is not None:
                raise self._error
            if self.ended:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._take()

    def stop(self) -> None:
        """Drop what is here and what still comes; a `read` from now on raises."""
        if not self._stopped:
            self._stopped = True
            self._take()
            self.fail(TransportError("nothing more of this body is read"))

    # --- for the connection ---

    def put(self, data: bytes) -> None:
        """Some of it has arrived; not nothing."""
        if self._stopped:
            return self._taken(len(data))
        if not self.held:
            self._data = data
        elif isinstance(self._data, bytearray):
            self._data += data
        else:
            self._data = bytearray(self._data) + data
        self.held += len(data)
        return self._wake()

    def finish(self) -> None:
        """All of it has arrived."""
        self.ended = True
        self._wake()

    def fail(self, error: TransportError) -> None:
        """Nothing more of it will come, though it is not complete; what is here is not handed out any more.
        Quietly does nothing where it is complete, or has failed before."""
        if not self.ended and self._error is None:
            self._error = error
            self._take()
            self._wake()

    def _take(self) -> bytes:
        data, self._data, held, self.held = self._data, b"", self.held, 0
        if held:
            self._taken(held)
        return bytes(data)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

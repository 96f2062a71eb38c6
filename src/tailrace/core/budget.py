"""How many bytes the logs of one session, or of a whole server, hold: counted as they come and go.

A cap that is looked at now and then is none: what fits in between may be a hundred answers. So a log adds what it
keeps and takes off what it drops, an integer each time. What happens when a budget is short is its owner's to say.
"""

from __future__ import annotations

from tailrace.core.waiters import Waiters

__all__ = ["EVENT_BYTES", "Budget"]

EVENT_BYTES = 256  # what an event takes besides its payload: of a small one, nearly all


class Budget:
    """Bytes that are held, of at most `limit`; what is held here is held in the `whole` as well.

    Belongs to one event loop.

    Args:
        limit: Bytes.
        whole: The budget that this one is a part of: the server's.

    Attributes:
        held: Bytes, now.
        waiting: Bytes of those who wait for room; they are in memory, too, so they have a cap as well.
    """

    __slots__ = ("_rooms", "held", "limit", "waiting", "whole")

    def __init__(self, limit: int, whole: Budget | None = None) -> None:
        self.limit = limit
        self.whole = whole
        self.held = 0
        self.waiting = 0
        self._rooms = Waiters()

    def add(self, size: int) -> None:
        """`size` more bytes are held; negative: fewer, and whoever waits for room looks again."""
        self.held += size
        if self.whole is not None:
            self.whole.held += size
        if size < 0 and self.waiting:
            self._rooms.wake()

    def fits(self, size: int) -> bool:
        """Whether so many bytes more are within the limit; the whole is not asked."""
        return self.held + size <= self.limit

    @property
    def full(self) -> bool:
        """More is held than may be, here or in the whole."""
        return self.held > self.limit or (self.whole is not None and self.whole.held > self.whole.limit)

    def wake(self) -> None:
        """Whoever waits for room looks again: something else has changed that it depends on."""
        self._rooms.wake()

    async def wait(self, size: int) -> None:
        """Return when something may have changed; meanwhile `size` bytes count as waiting, and as held in the whole."""
        self.waiting += size
        if self.whole is not None:
            self.whole.held += size
        try:
            await self._rooms.wait()
        finally:
            self.waiting -= size
            if self.whole is not None:
                self.whole.held -= size

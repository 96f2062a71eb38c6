"""One connection's place in a log (`core/log.py`): what it takes next, and what it came too late for.

How what was taken reaches the peer is the writer's.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tailrace.core.log import Log

__all__ = ["Cursor"]


class Cursor:
    """One connection's place in a log. Only the writer that attached it reads; anybody may stop it.

    Attributes:
        seq: The number of the last event that was taken.
        lost: How many events it came too late for: the ring had turned.
        unread: Bytes behind `seq`, which `Log.room` measures.
        stopped: The stream was taken by a newer reader, or the connection is over.
    """

    __slots__ = ("_waiter", "log", "lost", "seq", "stopped", "unread")

    def __init__(self, log: Log, after: int) -> None:
        self.log = log
        self.seq = after
        self.lost = 0
        self.stopped = False
        self.unread = log.bytes_after(after)
        self._waiter: asyncio.Future[None] | None = None

    def take(self, limit: int = 256 * 1024) -> list[tuple[int, bytes]]:
        """The next events that may be read, in order, about `limit` bytes of them; `lost` counts what the ring lost."""
        if self.stopped or self.seq >= self.log.ready:
            return []
        taken, seq, size = self.log.read(self.seq, limit)
        self.lost += seq - self.seq - len(taken) - self.log.resolved(self.seq, seq)
        self.seq = seq
        self.unread -= size
        return taken

    def taken(self) -> None:
        """The transport took all that `take` gave so far: what was delivered may be dropped, producers may go on."""
        self.log.mark_delivered(self.seq)
        if self.unread <= self.log.high_water:
            self.log.free_rooms()

    async def wait(self) -> None:
        """Return when there may be something to do: new events, the end, `stop` or `wake`."""
        if self.seq < self.log.ready or self.stopped or self.log.finished:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """Let `wait` return. Harmless when nobody waits."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def stop(self) -> None:
        """Give the stream back: no event is taken any more, and nobody waits for this reader. Idempotent."""
        if not self.stopped:
            self.stopped = True
            log = self.log
            log.reader = None  # which is this one: its successor would have stopped it
            if log.discarded:
                log.free()
            log.free_rooms()
            if log.budget is not None and log.budget.waiting:  # for this reader, perhaps
                log.budget.wake()
            self.wake()

"""Those who wait for one thing to happen: a context's end, a session's end, room in a log.

A plain list of futures would keep those whose waiters were cancelled; here a waiter that goes away
leaves nothing behind, however often it comes back.
"""

from __future__ import annotations

import asyncio

__all__ = ["Waiters"]


class Waiters:
    """Belongs to one event loop; whoever wakes them decides what it means."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: dict[asyncio.Future[None], None] = {}  # a dict keeps the order in which they came

    def __len__(self) -> int:
        return len(self._futures)

    async def wait(self) -> None:
        """Return at the next `wake`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures[future] = None
        try:
            await future
        finally:
            del self._futures[future]

    def wake(self) -> None:
        """Let everybody go who waits now. Harmless when nobody does."""
        for future in self._futures:
            if not future.done():
                future.set_result(None)

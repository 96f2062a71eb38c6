"""The request of somebody else's application, read a little ahead of it: so a client that leaves is seen while the
application is at work, also where it does not read.

ASGI tells of a disconnect behind the body only. What is read ahead is bounded, and given to the application in order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from tailrace.core.waiters import Waiters

if TYPE_CHECKING:
    from tailrace.core.tasks import Tasks

__all__ = ["Message", "ReadAhead", "Receive"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]


class ReadAhead:
    """Stands between a server's `receive` and the application's.

    Args:
        tasks: Where it reads.
        receive: The server's.
        gone: Called once, when the client has left.
        limit: Bytes of the body that may be read before the application asks for them. Of a longer body that the
            application leaves unread the end, and so the client's leaving, is not seen.
    """

    def __init__(self, tasks: Tasks, receive: Receive, gone: Callable[[], None], *, limit: int = 65_536) -> None:
        self._tasks = tasks
        self._receive = receive
        self._gone = gone
        self._limit = limit
        self._held: deque[Message] = deque()
        self._bytes = 0
        self._reader: asyncio.Task[Any] | None = None
        self._over = False
        self._failure: Exception | None = None
        self._more = Waiters()
        self._room = Waiters()

    def start(self) -> None:
        """Begin to read. Idempotent; the application's first `read` does it as well."""
        if self._reader is None and not self._over:
            self._reader = self._tasks.start(self._run(), name="tailrace-read-ahead")

    def end(self) -> None:
        """The answer is complete: what a server tells from here on is no disconnect, only the end."""
        self._over = True
        self._more.wake()
        if self._reader is not None:
            self._reader.cancel()

    async def read(self) -> Message:
        """The application's next message."""
        self.start()
        while not self._held:
            if self._failure is not None:
                raise self._failure
            if self._over:
                return {"type": "http.disconnect"}
            await self._more.wait()
        message = self._held.popleft()
        self._bytes -= len(message.get("body", b""))
        self._room.wake()
        return message

    async def _run(self) -> None:
        try:
            while (message := await self._receive())["type"] != "http.disconnect":
                self._held.append(message)
                self._bytes += len(message.get("body", b""))
                self._more.wake()
                while self._bytes >= self._limit:
                    await self._room.wait()
            self._gone()
        except Exception as error:  # the application's to handle, when it comes to it
            self._failure = error
        self._over = True
        self._more.wake()

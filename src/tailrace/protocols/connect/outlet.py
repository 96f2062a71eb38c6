"""Frames of one streamed answer on their way from the call's task to the connection's one writer.

A bounded hand-over: what the connection does not take, the handler waits for. The writer joins what has come together
since its last write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tailrace.core.waiters import Waiters
from tailrace.errors import ClientGone

if TYPE_CHECKING:
    from tailrace.core.exchange import Headers, Sink

__all__ = ["Outlet"]


class Outlet:
    """The way out of one streamed answer. `put`, `room` and `finish` are its call's, `write` its connection's.

    Args:
        limit: Bytes that wait for the connection; above that there is no room until it has taken them.
    """

    __slots__ = ("_changed", "_closed", "_end", "_frames", "_limit", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: list[bytes] = []
        self._size = 0
        self._end: Headers | None = None  # the trailers, once all is said
        self._closed = False  # nobody writes any more
        self._changed = Waiters()

    def put(self, frame: bytes) -> bool:
        """Hand over one frame; False: wait for `room` before the next.

        Raises:
            ClientGone: Nobody takes it.
        """
        if self._end is not None or self._closed:
            raise ClientGone
        self._frames.append(frame)
        self._size += len(frame)
        if self._changed:
            self._changed.wake()
        return self._size <= self._limit

    async def room(self) -> None:
        """Wait until the connection has taken what was handed over.

        Raises:
            ClientGone: Nobody takes it.
        """
        while self._size > self._limit:
            await self._changed.wait()
            if self._closed:
                raise ClientGone

    def finish(self, frame: bytes, trailers: Headers) -> None:
        """All is said with this last frame. Idempotent; never waits."""
        if self._end is None:
            self._frames.append(frame)
            self._end = trailers
            self._changed.wake()

    async def write(self, sink: Sink) -> None:
        """Write what is handed over until all is said (fulfils `core.exchange.StreamWriter`)."""
        try:
            while True:
                if self._frames:
                    frames, self._frames = self._frames, []
                    self._size = 0
                    self._changed.wake()
                    data = frames[0] if len(frames) == 1 else b"".join(frames)
                    if data:
                        await sink.write(data)
                elif self._end is not None:
                    return await sink.end(self._end)
                else:
                    await self._changed.wait()
        finally:
            self._closed = True
            self._changed.wake()

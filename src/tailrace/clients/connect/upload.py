"""The messages that a streaming call sends, one at a time: `send` waits until the connection took the one before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from tailrace.core.waiters import Waiters
from tailrace.errors import StreamEnded

if TYPE_CHECKING:
    from tailrace.core.stream import Stream

__all__ = ["Upload"]


class Upload(AsyncIterator[bytes]):
    """The body of a request, as pyqwest asks for it. It holds one message at most, beside what pyqwest has taken.

    Attributes:
        stream: The answer to the request; set before anything is sent.
    """

    __slots__ = ("_closed", "_given", "_gone", "_next", "stream")

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self._next: bytes | None = None
        self._closed = False
        self._gone = False  # pyqwest takes nothing more
        self._given = Waiters()

    async def send(self, data: bytes) -> None:
        """Give it on, once there is room; no longer than the stream lives. Being cancelled, it was not sent.

        Raises:
            StreamEnded: The server has ended the call, or takes nothing more of its request.
            RuntimeError: After `close`.
            Exception: Why the stream ended.
        """
        stream = self.stream
        assert stream is not None, "set before anything is sent"
        await stream.until(lambda: self._next is None or self._closed or self._gone)
        if self._gone or stream.complete:
            raise StreamEnded("the server ended the call: receive() tells how")
        if self._closed:
            raise RuntimeError("send() after close_send()")
        self._next = data
        self._given.wake()

    def close(self) -> None:
        """There are no more. Idempotent."""
        self._closed = True
        self._given.wake()

    # --- pyqwest's side ---

    def __aiter__(self) -> Upload:
        return self

    async def __anext__(self) -> bytes:
        while self._next is None:
            if self._closed:
                raise StopAsyncIteration
            await self._given.wait()
        data, self._next = self._next, None
        self._wake()
        return data

    async def aclose(self) -> None:
        """pyqwest is done with it, at its end or before."""
        self._gone = True
        self._next = None
        self._wake()

    def _wake(self) -> None:
        if self.stream is not None:
            self.stream.wake()

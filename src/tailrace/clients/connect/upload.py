"""The messages that a streaming call sends, one at a time: `send` waits until the connection took the one before."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
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
        listener: Called when there is more to `take`, or it has finished.
    """

    __slots__ = ("_closed", "_given", "_gone", "_next", "listener", "stream")

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.listener: Callable[[], None] | None = None
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
        self._tell()

    def close(self) -> None:
        """There are no more. Idempotent."""
        if not self._closed:
            self._closed = True
            self._tell()

    # --- our own HTTP/2's side ---

    @property
    def finished(self) -> bool:
        """There is nothing to `take`, and there will not be."""
        return self._closed and self._next is None

    def take(self) -> bytes | None:
        """The next message, if there is one; there is room for another then."""
        data, self._next = self._next, None
        if data is not None:
            self._wake()
        return data

    def abandon(self) -> None:
        """Nothing more of it is taken. Idempotent."""
        self._gone = True
        self._next = None
        self._wake()

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
        self.abandon()

    def _tell(self) -> None:
        self._given.wake()
        if self.listener is not None:
            self.listener()

    def _wake(self) -> None:
        if self.stream is not None:
            self.stream.wake()

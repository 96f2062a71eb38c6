"""A server in the same process: two plain functions, no bytes moved, for tests and embedding.

Time limits, cancellation and the end are as over any other pipe, so that what works here works there.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tailrace.errors import TransportError

if TYPE_CHECKING:
    from tailrace.clients.mcp.links.link import Outgoing, Receiver
    from tailrace.core.tasks import Tasks
    from tailrace.wire.jsonrpc import RequestId

__all__ = ["MemoryLink"]


class MemoryLink:
    """The client's end; the server calls `receive` with each message for the client, and `lose` if it ends first.

    Args:
        send: Takes each of the client's messages, at once; what it raises fails the call.
        close: Called once, when the client closes; may be a coroutine function.
    """

    legacy_only = False
    session_id: str | None = None

    def __init__(self, send: Callable[[bytes], object], close: Callable[[], Any] | None = None) -> None:
        self._send = send
        self._close = close
        self._receiver: Receiver | None = None
        self._closed = False

    def receive(self, data: bytes) -> None:
        """Give one encoded message to the client; after its end nobody hears it."""
        if self._receiver is not None and not self._closed:
            self._receiver.receive(data)

    def lose(self, reason: str) -> None:
        """Tell the client that the server has ended."""
        if self._receiver is not None and not self._closed:
            self._receiver.lose(TransportError(reason))

    async def open(self, receiver: Receiver, tasks: Tasks) -> None:
        """Nothing to connect."""
        self._receiver = receiver

    def establish(self, version: str) -> None:
        """Nothing depends on it here."""

    async def send(self, message: Outgoing) -> None:
        """Hand it to the server."""
        if self._closed:
            raise TransportError("the client is closed")
        self._send(message.data)

    async def cancel(self, id: RequestId, notice: Outgoing) -> None:
        """By the notice, as on any pipe."""
        await self.send(notice)

    async def close(self, limit: float) -> None:
        """Tell the server; waits at most `limit` seconds for it."""
        if self._closed:
            return
        self._closed = True
        if self._close is not None:
            ended = self._close()
            if inspect.isawaitable(ended):
                async with asyncio.timeout(limit):
                    await ended

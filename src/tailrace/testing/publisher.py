"""A broker in memory: what a service published, and a broker that is away for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tailrace.publish.publishers import MemoryPublisher

if TYPE_CHECKING:
    from tailrace.publish import Message

__all__ = ["RecordingPublisher"]


class RecordingPublisher(MemoryPublisher):
    """Keeps what is published in `messages`, the last 10,000, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self._failing: Exception | None = None
        self._told = asyncio.Event()

    def fail(self, error: Exception | None) -> None:
        """Take nothing from now on, until it is called with None: each attempt fails with `error`.

        Args:
            error: `tailrace.publish.Rejected`: these messages are refused; any other: the broker cannot be reached.
        """
        self._failing = error

    async def publish(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        """As `Publisher.publish`."""
        if self._failing is not None:
            return [self._failing] * len(messages)
        self._told.set()
        return await super().publish(messages)

    async def received(self, count: int = 1, *, timeout: float = 5.0) -> list[Message]:
        """Wait until `count` messages have been published, then give all, the oldest first.

        Args:
            count: How many, over all lives of the service.
            timeout: Seconds.

        Raises:
            TimeoutError: There were fewer.
        """
        async with asyncio.timeout(timeout):
            while len(self.messages) < count:
                self._told.clear()
                await self._told.wait()
        return list(self.messages)

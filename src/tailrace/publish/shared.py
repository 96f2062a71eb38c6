"""One publisher for the outboxes of several partitions: it is open as long as one of them needs it.

Each relay opens and closes what it was given for itself. Were that the publisher, a partition that is handed over would
cut off those that stay; and two that begin at once would connect it twice.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from tailrace.core.outgoing import Message
    from tailrace.publish.publishers import Publisher

__all__ = ["SharedPublisher"]


class SharedPublisher:
    """Gives shares of a publisher.

    Args:
        publisher: Is opened for the first of them, and closed with the last.
    """

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self._users: set[_Share] = set()
        self._changing: asyncio.Future[None] | None = None  # while it is opened or closed; nobody uses it then
        self._touched = False  # there may be something to close

    def share(self) -> Publisher:
        """For one relay more."""
        return _Share(self)

    async def enter(self, share: _Share) -> None:
        """Open it, unless it is. Whoever comes while another opens it waits for that, and tries itself if it failed."""
        while self._changing is not None:
            await asyncio.wait([self._changing])
        if not self._users:
            self._touched = True
            with self._alone():
                await self.publisher.open()
        self._users.add(share)

    async def leave(self, share: _Share) -> None:
        """Close it, if nobody else has it or is about to. Idempotent."""
        self._users.discard(share)
        if self._users or self._changing is not None or not self._touched:
            return
        self._touched = False
        with self._alone():
            await self.publisher.close()

    @contextmanager
    def _alone(self) -> Generator[None, None, None]:
        """Whoever wants to change it meanwhile waits for the end of this."""
        changing = self._changing = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            self._changing = None
            changing.set_result(None)


class _Share:
    def __init__(self, shared: SharedPublisher) -> None:
        self.name = shared.publisher.name
        self._shared = shared

    async def open(self) -> None:
        await self._shared.enter(self)

    async def publish(self, messages: Sequence[Message]) -> Sequence[Exception | None]:
        return await self._shared.publisher.publish(messages)

    async def close(self) -> None:
        await self._shared.leave(self)

"""Inboxes in memory: members of one service in one process, as tests and schedules have them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tailrace.core.ports import Inbox
from tailrace.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MemoryInbox", "MemoryPost"]


class MemoryPost:
    """Where the inboxes of one service find each other.

    Attributes:
        inboxes: Those that are open, by member.
    """

    def __init__(self) -> None:
        self.inboxes: dict[str, MemoryInbox] = {}


class MemoryInbox(Inbox):
    """One member's inbox.

    Args:
        post: Where the others are.
        member: Whose it is.
        max_queued: Bytes that wait to be received; a sender that would exceed it is refused.
    """

    def __init__(self, post: MemoryPost, member: str, *, max_queued: int = 67_108_864) -> None:
        self.member = member
        self.on_lost: Callable[[], None] | None = None
        self._post = post
        self._max_queued = max_queued
        self._pieces: list[tuple[str, bytes]] = []
        self._queued = 0
        self._waiter: asyncio.Future[None] | None = None
        self._is_open = False

    async def open(self) -> None:
        """As `Inbox.open`."""
        self._is_open = True
        self._post.inboxes[self.member] = self

    async def close(self) -> None:
        """As `Inbox.close`."""
        self._is_open = False
        if self._post.inboxes.get(self.member) is self:
            del self._post.inboxes[self.member]
        self._wake()

    def send(self, to: str, piece: bytes) -> None:
        """As `Inbox.send`."""
        if not self._is_open:
            raise StoreError(f"the inbox of {self.member} is not open")
        other = self._post.inboxes.get(to)
        if other is not None:
            other._take(self.member, piece)

    async def receive(self) -> list[tuple[str, bytes]]:
        """As `Inbox.receive`."""
        while not self._pieces:
            if not self._is_open:
                raise StoreError(f"the inbox of {self.member} is closed")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        pieces, self._pieces, self._queued = self._pieces, [], 0
        return pieces

    def lose(self) -> None:
        """What was not yet received is gone, as after a cut."""
        self._pieces, self._queued = [], 0
        if self.on_lost is not None:
            self.on_lost()

    def _take(self, sender: str, piece: bytes) -> None:
        if self._queued + len(piece) > self._max_queued:
            raise StoreError(f"more than {self._max_queued} bytes are waiting to be received by {self.member}")
        self._queued += len(piece)
        self._pieces.append((sender, piece))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

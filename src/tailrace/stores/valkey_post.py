"""What one member sends to the inboxes of the others: gathered, numbered, and sent again until it has arrived once.

All pieces for one member that come together are one entry of its stream. Entries for it are numbered, so that it
knows one that it has again, and misses one that is not there. The way in is `valkey_inbox`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.errors import StoreError
from tailrace.stores.valkey_link import Link, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Entry", "Post", "encode_entry"]

logger = logging.getLogger("tailrace.stores.valkey")

_ENTRY_BYTES = 262_144  # of the pieces of one entry, but for a single piece that is larger
_BATCH_BYTES = 1_048_576  # of the entries of one write
_MOST_ENTRIES = 10_000  # of one inbox; the oldest of more go, which its member notices
_MEMBERS = 4_096  # whose numbers are known; over it those to whom nothing was sent for the longest are forgotten
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds between two tries


class Entry(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What stands in an inbox."""

    sender: str
    number: int  # counts the entries of this sender for this inbox, from 1 on
    pieces: list[bytes]


encode_entry = msgspec.msgpack.Encoder().encode


class Post:
    """The queue of one member, and the task that empties it.

    Args:
        link: The connection.
        sender: The member.
        prefix: Of the keys of inboxes.
        lost: Called when pieces may not have arrived.
        max_queued: Bytes that may wait.
        retry_for: Seconds for which a write is tried again while Valkey cannot be reached; then it is lost, and
            nothing is taken until it can be reached.
        probe_interval: Seconds between two tries whether it can be.

    Attributes:
        sent: Pieces, ever.
        queued: Bytes that wait.
        failure: Why nothing is taken at the moment, else None.
    """

    def __init__(
        self,
        link: Link,
        sender: str,
        prefix: str,
        lost: Callable[[], None],
        *,
        max_queued: int,
        retry_for: float,
        probe_interval: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._sender = sender
        self._prefix = prefix
        self._lost = lost
        self._max_queued = max_queued
        self._retry_for = retry_for
        self._probe_interval = probe_interval
        self._waiting: dict[str, list[bytes]] = {}
        self._numbers: dict[str, int] = {}  # of the last entry for each member, in the order of their use
        self._wake: asyncio.Future[None] | None = None
        self._ending = False
        self.sent = 0
        self.queued = 0
        self.failure: StoreError | None = None

    def put(self, to: str, piece: bytes) -> None:
        """Hand a piece over; never waits.

        Raises:
            StoreError: Too much waits, or Valkey cannot be reached.
        """
        if self.failure is not None:
            raise self.failure.with_traceback(None)  # else it keeps every frame that it was ever raised in
        if self.queued + len(piece) > self._max_queued:
            raise StoreError(f"{self._link.name}: more than {self._max_queued} bytes are waiting to be sent")
        pieces = self._waiting.get(to)
        if pieces is None:
            self._waiting[to] = [piece]
        else:
            pieces.append(piece)
        self.queued += len(piece)
        self._look()

    def end(self) -> None:
        """Send what is queued, then return from `run`."""
        self._ending = True
        self._look()

    async def run(self) -> None:
        """Work until `end`."""
        try:
            while True:
                if self._waiting:
                    await self._empty()
                elif self._ending:
                    return
                else:
                    await self._change()
        finally:
            await self._link.drop()

    async def _change(self) -> None:
        self._wake = self._loop.create_future()
        try:
            if self.failure is None:
                await self._wake
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._probe_interval):
                        await self._wake
        finally:
            self._wake = None
        if self.failure is not None and not self._ending:
            with contextlib.suppress(StoreError):
                await self._link.ask("PING")
                self.failure = None

    async def _empty(self) -> None:
        """One write of what waits."""
        commands, size = self._gather()
        try:
            await self._transmit(commands)
        except StoreError as error:
            logger.error("%s: pieces for other members are lost: %s", self._link.name, error)
            self._waiting.clear()
            self.queued = size
            self.failure = error
            self._lost()
        self.queued -= size

    def _gather(self) -> tuple[list[tuple[Any, ...]], int]:
        commands: list[tuple[Any, ...]] = []
        size = 0
        for to in list(self._waiting):
            if size >= _BATCH_BYTES:
                break
            pieces, rest, weight = self._waiting.pop(to), [], 0
            for index, piece in enumerate(pieces):
                if weight and weight + len(piece) > _ENTRY_BYTES:
                    pieces, rest = pieces[:index], pieces[index:]
                    break
                weight += len(piece)
            if rest:
                self._waiting[to] = rest  # behind the others
            number = self._numbers.pop(to, 0) + 1
            self._numbers[to] = number
            entry = encode_entry(Entry(self._sender, number, pieces))
            commands.append(("XADD", self._prefix + to, "NOMKSTREAM", "MAXLEN", "~", _MOST_ENTRIES, "*", "e", entry))
            size += weight
            self.sent += len(pieces)
        while len(self._numbers) > _MEMBERS:
            del self._numbers[next(iter(self._numbers))]
        return commands, size

    async def _transmit(self, commands: list[tuple[Any, ...]]) -> None:
        """Write, and write again while there is no answer and time is left. What arrives twice is known by its
        number."""
        until = self._loop.time() + self._retry_for
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._link.ask_all(commands)
            except Unreachable:
                if self._loop.time() + pause > until and pause > _FIRST_PAUSE:  # a process that slept tries once more
                    raise
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    def _look(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

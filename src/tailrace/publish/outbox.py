"""The outbox in the server's own store: messages are entries there, committed with the calls that they tell of.

A message's place is given when its record is handed to the store, so places grow in the order of commits, and the
relay, which reads on from the last place it saw, misses none.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.core.outgoing import Message
from tailrace.core.ports import DropEntry, PutEntry, Record, Store
from tailrace.core.trace import trace_of
from tailrace.errors import LimitError, StoreError
from tailrace.publish.encoding import make_message
from tailrace.publish.relay import Relay, Waiting

if TYPE_CHECKING:
    from tailrace.core.context import Context
    from tailrace.core.tasks import Tasks
    from tailrace.publish.publishers import Publisher

__all__ = ["DEAD", "NEVER", "WAITING", "DeadLetter", "StoreOutbox", "encode", "place_of"]

logger = logging.getLogger("tailrace.publish")

WAITING = "outbox"  # kinds of entries
DEAD = "outbox-dead"
NEVER = float(2**53)  # wall clock, seconds: a message does not expire

encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


class DeadLetter(msgspec.Struct, frozen=True, array_like=True):
    """A message that the broker refused for good."""

    message: Message
    attempts: int
    error: str


def place_of(epoch: int, number: int) -> str:
    """The key of an entry: keys grow with the opening of the store, and within it."""
    return f"{epoch:08x}-{number:012x}"


class StoreOutbox:
    """Keeps messages in a store until they are delivered (fulfils `core.outgoing.Outbox` and `relay.Source`).

    Args:
        store: Where they are kept, opened already.
        epoch: Of this opening of the store: places of a later one are greater.
        publisher: Where they go.
        tasks: Where the relay runs.
        limit: Messages that may wait; one more is refused (`LimitError` "outbox").
    """

    def __init__(self, store: Store, epoch: int, publisher: Publisher, tasks: Tasks, *, limit: int = 100_000) -> None:
        self.store = store
        self.relay = Relay(self, publisher, tasks)
        self.waiting = 0
        self._limit = limit
        self._epoch = epoch
        self._numbers = itertools.count(1)
        self._tasks = tasks

    async def open(self) -> None:
        """Count what an earlier process life left, and begin to deliver.

        Raises:
            StoreError: The store cannot be read.
        """
        self.waiting = await self.store.count(WAITING)
        self.relay.start()

    async def drain(self, seconds: float) -> None:
        """Deliver what waits, within `seconds`; say what stays."""
        if await self.relay.drain(seconds):
            return
        if self.store.durable:
            logger.info("messages wait in the outbox for the next start count=%d", self.waiting)
        else:
            logger.error("messages are lost: the store is not durable count=%d", self.waiting)

    async def close(self) -> None:
        """Stop delivering."""
        await self.relay.close()

    def statistics(self) -> dict[str, int | str]:
        """Numbers for people."""
        relay = self.relay
        return {
            "waiting": self.waiting,
            "published": relay.published,
            "dead": relay.dead,
            "failures": relay.failures,
            "publisher": relay.publisher.name,
            "trouble": relay.trouble,
        }

    # --- core.outgoing.Outbox ---

    def message(
        self, context: Context, topic: str, value: Any, key: str | bytes | None, headers: Mapping[str, str | bytes]
    ) -> Message:
        """Encode a message (see `encoding.make_message`)."""
        if self.waiting >= self._limit:
            raise LimitError("outbox", f"{self._limit} messages wait for the broker; try again later")
        tracer = self._tasks.tracer
        if tracer is None:
            return make_message(context, topic, value, key, headers)
        about = {"messaging.operation.type": "create", "messaging.operation.name": "create",
                 "messaging.destination.name": topic}  # fmt: skip
        span = tracer.begin("producer", f"create {topic}", trace_of(context), about)
        try:
            return make_message(context, topic, value, key, headers, trace=span.values)
        finally:
            span.end()

    async def write(self, messages: Sequence[Message], along: Sequence[Record] = ()) -> None:
        """Commit them in one write with `along`, then let the relay have them."""
        committed: asyncio.Future[StoreError | None] = self._tasks.loop.create_future()

        def resolve(error: StoreError | None) -> None:
            if error is None:  # also if nobody waits any more
                self.waiting += len(messages)
                self.relay.nudge()
            if not committed.done():
                committed.set_result(error)

        self.store.when(self.store.write([*self._entries(messages), *along]), resolve)
        if (error := await committed) is not None:
            raise error

    def _entries(self, messages: Sequence[Message]) -> list[Record]:
        return [
            PutEntry(WAITING, place_of(self._epoch, next(self._numbers)), encode(message), NEVER)
            for message in messages
        ]

    # --- relay.Source ---

    async def read(self, after: str, limit: int) -> Sequence[Waiting]:
        """The next entries."""
        page = await self.store.entries(WAITING, after=after, limit=limit)
        return [Waiting(entry.key, _decode(entry.data)) for entry in page]

    async def done(self, places: Sequence[str]) -> None:
        """Drop them; where the store fails, they stay and are delivered again after a restart."""
        self._write([DropEntry(WAITING, place) for place in places], len(places))

    async def bury(self, waiting: Waiting, attempts: int, error: str) -> None:
        """Move it among the dead letters."""
        letter = encode(DeadLetter(waiting.message, attempts, error))
        self._write([DropEntry(WAITING, waiting.place), PutEntry(DEAD, waiting.place, letter, NEVER)], 1)

    def _write(self, records: Sequence[Record], count: int) -> None:
        self.waiting -= count
        try:
            self.store.write(records)
        except StoreError as error:
            logger.error("delivered messages could not be taken out of the outbox count=%d error=%s", count, error)

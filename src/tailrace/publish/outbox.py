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

_FORGET = 0.1  # seconds for which delivered messages wait for a commit that takes them along

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
        self.dead = 0  # letters in the store, those of earlier process lives, too
        self._limit = limit
        self._epoch = epoch
        self._numbers = itertools.count(1)
        self._tasks = tasks
        self._delivered: list[DropEntry] = []  # at most what is delivered in `_FORGET` seconds
        self._forgetting: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Count what an earlier process life left, and begin to deliver.

        Raises:
            StoreError: The store cannot be read.
        """
        self.waiting = await self.store.count(WAITING)
        self.dead = await self.store.count(DEAD)
        self.relay.start()

    async def drain(self, seconds: float) -> None:
        """Deliver what waits, within `seconds`; say what stays."""
        if await self.relay.drain(seconds) or not self.waiting:  # an idle relay may still look for its broker
            return
        if self.store.durable:
            logger.info("messages wait in the outbox for the next start count=%d", self.waiting)
        else:
            logger.error("messages are lost: the store is not durable count=%d", self.waiting)

    async def close(self) -> None:
        """Stop delivering."""
        await self.relay.close()
        self._forget()

    def statistics(self) -> dict[str, int | str]:
        """Numbers for people."""
        relay = self.relay
        return {
            "waiting": self.waiting,
            "published": relay.published,
            "dead": self.dead,
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
                self.committed(messages, entries)
            if not committed.done():
                committed.set_result(error)

        entries = self.entries(messages)
        self.store.when(self.store.write([*entries, *self.delivered(), *along]), resolve)
        if (error := await committed) is not None:
            raise error

    def committed(self, messages: Sequence[Message], entries: Sequence[PutEntry]) -> None:
        """They are in the store: the relay gets them without reading them back."""
        self.waiting += len(messages)
        self.relay.offer([Waiting(entry.key, message) for entry, message in zip(entries, messages, strict=True)])

    def entries(self, messages: Sequence[Message]) -> Sequence[PutEntry]:
        """Their records: they get their places here."""
        return [
            PutEntry(WAITING, place_of(self._epoch, next(self._numbers)), encode(message), NEVER)
            for message in messages
        ]

    def delivered(self) -> Sequence[DropEntry]:
        """Those that the broker has: whoever writes next takes them out of the store."""
        delivered, self._delivered = self._delivered, []
        return delivered

    # --- relay.Source ---

    async def read(self, after: str, limit: int) -> Sequence[Waiting]:
        """The next entries."""
        page = await self.store.entries(WAITING, after=after, limit=limit)
        return [Waiting(entry.key, _decode(entry.data)) for entry in page]

    async def done(self, places: Sequence[str]) -> None:
        """Drop them with the next messages, or soon; where the store fails, they stay and are delivered again after a
        restart."""
        self.waiting -= len(places)
        self._delivered += [DropEntry(WAITING, place) for place in places]
        if self._forgetting is None:
            self._forgetting = self._tasks.loop.call_later(_FORGET, self._forget)

    async def bury(self, waiting: Waiting, attempts: int, error: str) -> None:
        """Move it among the dead letters."""
        letter = encode(DeadLetter(waiting.message, attempts, error))
        self.waiting -= 1
        self.dead += 1
        self._write([DropEntry(WAITING, waiting.place), PutEntry(DEAD, waiting.place, letter, NEVER)])

    def let_go(self, places: Sequence[str]) -> None:
        """The store is ours alone: nobody else delivers from it."""

    def _forget(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
        if self._delivered:
            self._write(self.delivered())

    def _write(self, records: Sequence[Record]) -> None:
        try:
            self.store.write(records)
        except StoreError as error:
            logger.error("messages could not be taken out of the outbox count=%d error=%s", len(records), error)

"""What `tailrace outbox` asks of a member that runs: to put refused messages of a partition back, or to drop them.

Only who owns a partition may write to it, so whoever has the command asks the owner, over its inbox, as members speak
with each other. The answer says how many it were. What a request asks for twice is done once: a message that was put
back is not among the refused any more.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace.errors import StoreError
from tailrace.publish.letters import discard_letters, drop_letters, retry_letters, revive_letters

if TYPE_CHECKING:
    from tailrace.server.cluster import House
    from tailrace.transports.relay import Relay

__all__ = ["ASKED", "DONE", "Asked", "Done", "Letters"]

logger = logging.getLogger("tailrace.publish")

ASKED, DONE = "outbox", "outbox-done"  # kinds of what is told
_MOST = 16  # requests at a time


class Asked(msgspec.Struct, frozen=True):
    """Put messages back (`act` is ``retry``), or drop them (``drop``)."""

    number: int
    act: str
    partition: str
    ids: list[str]


class Done(msgspec.Struct, frozen=True):
    """How many it were; or why it could not be."""

    number: int
    count: int = 0
    error: str = ""


class Letters:
    """The owner's side.

    Args:
        house: The server, with what it owns.
        relay: The way to those who ask.
    """

    def __init__(self, house: House, relay: Relay) -> None:
        self._house = house
        self._relay = relay
        self._turn = asyncio.Lock()  # two that ask for the same would do it twice
        self._waiting = 0
        relay.on(ASKED, self._asked)

    def _asked(self, member: str, payload: bytes) -> None:
        asked = msgspec.json.decode(payload, type=Asked)
        if self._waiting >= _MOST:
            return self._tell(member, Done(asked.number, error="too many ask for messages at this server"))
        self._waiting += 1
        self._house.tasks.start(self._answer(member, asked), name="tailrace-letters")
        return None

    async def _answer(self, member: str, asked: Asked) -> None:
        try:
            async with self._turn:
                count = await self._act(asked)
        except StoreError as error:
            self._tell(member, Done(asked.number, error=str(error)[:500]))
        else:
            logger.info("messages: %s by hand partition=%s count=%d", asked.act, asked.partition, count)
            self._tell(member, Done(asked.number, count))
        finally:
            self._waiting -= 1

    async def _act(self, asked: Asked) -> int:
        partition = next((one for one in self._house.partitions if one.tag == asked.partition), None)
        if partition is None:
            raise StoreError(f"this server does not own the partition {asked.partition} any more")
        ids = set(asked.ids)
        dropping, store, outbox = asked.act == "drop", partition.store, partition.outbox
        if outbox is None:  # nothing is published here: what is put back waits for a server that does
            return await (drop_letters(store, ids, dead=True) if dropping else retry_letters(store, ids))
        return await (discard_letters if dropping else revive_letters)(outbox, ids)

    def _tell(self, member: str, done: Any) -> None:
        try:
            self._relay.tell(member, DONE, msgspec.json.encode(done))
        except StoreError as error:
            logger.warning("who asked for messages could not be told member=%s error=%s", member, error)

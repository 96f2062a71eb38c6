"""Where a request of a service that runs as several processes is handled: the one that received it has to know.

Ids that clients carry begin with the tag of their partition. A request that names a partition of this process is
handled here, one that names another's is relayed to its owner, and one whose owner is dead right now waits until
somebody has taken it over, for two leases at most. What names none is handled by the home partition.

Who owns what is left to `members` and `ownership`, how a request travels to the relay.
"""

from __future__ import annotations

import asyncio
import random
import re
from typing import TYPE_CHECKING

from tailrace.core.settings import takeover_time
from tailrace.protocols.mcp.framing import tag_of
from tailrace.protocols.mcp.http import answer_later
from tailrace.server.members import LOOK
from tailrace.transports.relay_served import RelayedExchange

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange
    from tailrace.server.cluster import House
    from tailrace.server.members import Members
    from tailrace.server.ownership import Ownership
    from tailrace.server.partition import Partition
    from tailrace.transports.relay import Relay

__all__ = ["Router"]

_SESSION = re.compile(rb"(?:^|&)session_id=([0-9a-z]{1,8})(?:~|%7[Ee])")
_WAITING = 1000  # requests that wait for an owner


class Router:
    """The way of each request to its partition.

    Args:
        house: The server.
        members: What is known of the others.
        relay: The way to them.

    Attributes:
        ownership: What is owned here.
        waiting: Requests that wait for an owner.
    """

    ownership: Ownership

    def __init__(self, house: House, members: Members, relay: Relay) -> None:
        self.house = house
        self.members = members
        self.relay = relay
        self.waiting = 0
        self._own: Exchange | None = None  # is handled at home, whatever it names

    def route(self, exchange: Exchange) -> None:
        """A request for MCP: to the partition that it names."""
        tag = _tag_of(exchange)
        if not tag:
            if self.ownership.homeless:
                return self._wait(exchange, tag)
            return None if self.take_in(exchange) else self.house.home.handle(exchange)
        partition = self.ownership.by_tag.get(tag)
        if partition is None:
            return self._pass_on(exchange, tag)
        if not partition.store.is_held:  # this process slept, or does not reach the store: is it still the owner?
            return self._wait(exchange, tag)
        if self.members.leaving:
            exchange.put_off = self._put_off
        return partition.handle(exchange)

    def elsewhere(self, exchange: Exchange, id: str) -> bool:
        """Whether what a request is about, by an id in its body, is in another partition; which has it then."""
        tag = tag_of(id)
        if not tag or exchange is self._own:
            return False
        exchange.partition = tag
        partition = self.ownership.by_tag.get(tag)
        if partition is None:
            self._pass_on(exchange, tag)
        elif partition.store.is_held:
            self._at(partition, exchange)
        else:
            self._wait(exchange, tag)
        return True

    def take_in(self, exchange: Exchange) -> bool:
        """Whether another member takes a new request that this one, which leaves, does not."""
        other = self._refuge(exchange)
        if other is not None:
            self.relay.forward(exchange, other)
        return other is not None

    def again(self, exchange: Exchange, member: str) -> None:
        """That member did not have it (any more): look who has. It gets it once more only if a look from now on still
        says that it is the owner."""
        self._wait(exchange, _tag_of(exchange), member)

    def _put_off(self, exchange: Exchange) -> bool:
        """A request of a session, which is not begun here any more: it waits for the session's next owner."""
        if not self.members.staying():
            return False
        exchange.put_off = None
        self._wait(exchange, _tag_of(exchange))
        return True

    def _refuge(self, exchange: Exchange) -> str | None:
        """Who takes what is new while this member leaves."""
        if not self.members.leaving or isinstance(exchange, RelayedExchange):
            return None
        others = self.members.staying()
        return random.choice(sorted(others)) if others else None

    def _pass_on(self, exchange: Exchange, tag: str) -> None:
        if isinstance(exchange, RelayedExchange) and tag not in self.ownership.entering:
            return exchange.decline()
        owner = self.members.owner(tag)
        if owner is not None:
            return self.relay.forward(exchange, owner)
        return self._wait(exchange, tag)

    def _wait(self, exchange: Exchange, tag: str, declined: str | None = None) -> None:
        if self.waiting >= _WAITING:
            return self.house.refuse(exchange, 503, "too many requests wait for a worker that takes over; try again")
        self.waiting += 1
        answer_later(self.house.tasks, exchange, self._find(exchange, tag, declined), "tailrace-find-owner")
        return None

    async def _find(self, exchange: Exchange, tag: str, declined: str | None) -> None:
        """Wait until somebody has the partition, for two leases at most, and give the request to them."""
        loop = asyncio.get_running_loop()
        settings, members, ownership = self.house.settings, self.members, self.ownership
        began = loop.time()
        limit = takeover_time(members.membership.lease, settings.hook_time)
        until = began + limit + (settings.drain if members.leaving else 0)
        absent = float("inf")  # the first look that did not find it
        try:
            while not exchange.gone:
                partition = ownership.by_tag.get(tag)
                if partition is not None and partition.store.is_held and not members.leaving:
                    return self._at(partition, exchange)
                if not tag:
                    if not ownership.homeless:
                        return self.house.home.handle(exchange)  # which may find that its body names another's
                elif partition is None and tag not in ownership.entering:
                    await members.look()
                    owner = members.owner(tag)
                    if owner is not None and (owner != declined or members.seen > began):
                        if isinstance(exchange, RelayedExchange):
                            return exchange.decline()
                        return self.relay.forward(exchange, owner)
                    if ownership.is_stuck(tag):
                        return self.house.refuse(exchange, 503, "this session cannot be restored now; try again later")
                    if tag in members.owners or tag in members.orphans or tag in ownership.entering:
                        absent = float("inf")
                    elif members.seen >= began:  # one look alone can miss what changes hands during it
                        if members.seen > absent:
                            return self._at(self.house.home, exchange)  # which knows no such thing, and says so
                        absent = members.seen
                if loop.time() >= until:
                    return self.house.refuse(exchange, 503, "no worker has this session at the moment; try again")
                await members.changes(LOOK)
        finally:
            self.waiting -= 1

    def _at(self, partition: Partition, exchange: Exchange) -> None:
        self._own = exchange
        try:
            partition.handle(exchange)
        finally:
            self._own = None


def _tag_of(exchange: Exchange) -> str:
    """Which partition a request names; empty where it names none."""
    if exchange.partition:
        return exchange.partition
    path = exchange.path
    if path.startswith("/mcp"):
        return tag_of(exchange.header(b"mcp-session-id") or "")
    if path.startswith("/messages"):
        found = _SESSION.search(exchange.query)
        return found[1].decode() if found else ""
    return tag_of(exchange.header(b"last-event-id") or "") if path.startswith("/sse") else ""

"""One member of a service that runs as several processes: what puts it together, and the course of its life.

What it knows of the others is in `members`, what it owns in `ownership`, where requests go is `router`'s to say, what
all are told `news`'. Every third of a lease a member looks around: what nobody owns it adopts, so a dead owner is
replaced within two leases. A member that ends gives everything to others, who are told of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.core.settings import takeover_time
from tailrace.errors import StoreError
from tailrace.protocols.mcp.repeatable import is_repeatable
from tailrace.server.members import LOOK, Members
from tailrace.server.news import News
from tailrace.server.ownership import Ownership
from tailrace.server.router import Router
from tailrace.transports.relay import Relay

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange
    from tailrace.core.ports import Membership, Store
    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Tasks
    from tailrace.core.timers import Sweeper
    from tailrace.server.partition import Partition
    from tailrace.transports.bearer import Bearer

__all__ = ["Cluster", "House"]

logger = logging.getLogger("tailrace.cluster")

_GLANCE = 0.05  # seconds between two looks at what is still awaited at the end
_ANNOUNCE = 1.0  # seconds to see who is there, before all are told that this member comes or leaves


class House(Protocol):
    """The server that a member is (`tailrace.server.Server`)."""

    settings: Settings
    bearer: Bearer | None
    partitions: list[Partition]
    home: Partition

    @property
    def tasks(self) -> Tasks:
        """Where its tasks run."""
        ...

    async def partition(self, store: Store) -> Partition:
        """What an opened store holds; nothing of it runs yet. The store is closed if it cannot be read.

        Raises:
            StoreError: It cannot.
        """
        ...

    async def let_go(self, partition: Partition) -> None:
        """Close a partition, which is none of its own any more. What it has counted stays. Idempotent."""
        ...

    def settle_in(self, home: Partition) -> None:
        """New sessions, modern calls and RPC belong here from now on."""
        ...

    def handle_admitted(self, exchange: Exchange) -> None:
        """Route a request whose sender is known."""
        ...

    def refuse(self, exchange: Exchange, status: int, message: str) -> None:
        """Reply with an error that concerns no protocol."""
        ...


class Cluster:
    """A member.

    Args:
        house: The server.
        membership: Who owns what.
        sweeper: The house's clock.

    Attributes:
        members: What it knows of the others.
        ownership: What it owns.
        relay: The way to the others.
        router: Where requests go.
        news: What all members are told.
    """

    def __init__(self, house: House, membership: Membership, sweeper: Sweeper) -> None:
        self.house = house
        self.membership = membership
        self.relay = relay = Relay(
            membership.inbox,
            house.tasks,
            sweeper,
            house.handle_admitted,
            refuse=house.refuse,
            again=self._again,
            repeatable=lambda exchange: is_repeatable(house.home.endpoint.service, exchange),
            challenge=None if house.bearer is None else house.bearer.narrower,
        )
        self.members = members = Members(membership, relay.lost)
        self.router = Router(house, members, relay)
        self.ownership = Ownership(house, membership, members, self.router.elsewhere, self._released)
        self.router.ownership = self.ownership
        self.news = News(house, relay, members.others, sweeper)
        relay.on("released", self._on_released)
        relay.on("joined", self._on_joined)
        relay.on("leaving", lambda member, _: members.departed.add(member))
        self._wanted = asyncio.Event()  # look around now
        self._running: list[asyncio.Task[Any]] = []
        self._give_by: float | None = None  # when the time of handing over ends, which is granted once

    @property
    def leaving(self) -> bool:
        """The server shuts down: nothing is taken over any more, and what can be goes to others."""
        return self.members.leaving

    async def start(self) -> None:
        """The home is recovered: serve it, hear the others, tell them, and look around from now on."""
        self.ownership.start()
        self.relay.start()
        await self._announce("joined")
        for work, name in ((self._watch(), "tailrace-membership"), (self._mind_leases(), "tailrace-leases")):
            self._running.append(self.house.tasks.start(work, name=name))

    async def leave(self) -> None:
        """Take nothing over any more, and let the others know; what comes new goes to one of them. Idempotent."""
        if not self.leaving:
            self.members.leaving = True
            await self._announce("leaving")

    async def hand_over(self) -> None:
        """Close what this member owns, and tell the others, who adopt it at once; then see to what was put off, or is
        at others: all of it for as long as a takeover may last (`takeover_time`). Whoever ends this process grants
        that."""
        await self.leave()
        if self._give_by is None:
            limit = takeover_time(self.membership.lease, self.house.settings.hook_time)
            self._give_by = asyncio.get_running_loop().time() + limit
        await self.ownership.hand_over(self._give_by)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._give_by):
                while self.router.waiting or self.relay.is_awaited:
                    await self.members.changes(_GLANCE)

    def close(self) -> None:
        """End what is relayed. Idempotent."""
        self.ownership.close()
        for task in self._running:
            task.cancel()
        self.news.close()
        self.relay.close()

    def statistics(self) -> dict[str, int | float | str]:
        """Numbers for people: of the membership, the relay and what is owned; `waiting`: requests that wait for an
        owner."""
        return {
            **self.membership.statistics(),
            **self.relay.statistics(),
            **self.ownership.statistics(),
            "waiting": self.router.waiting,
        }

    async def _watch(self) -> None:
        """Look around every third of a lease: adopt, retire, see that there is a home."""
        while True:
            self._wanted.clear()  # what is said from here on, the look may miss
            try:
                if await self.members.look(at_once=True) and not self.leaving:
                    self.ownership.adopt()
                    await self.ownership.retire_empty()
            except Exception:  # a bug; whoever does not look any more takes nothing over for ever
                logger.exception("a look at the other members failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.membership.lease / 3 * random.uniform(0.8, 1.0)):
                    await self._wanted.wait()
            if self._wanted.is_set():  # others have heard it, too
                await asyncio.sleep(LOOK * random.uniform(0.0, 1.0))

    async def _mind_leases(self) -> None:
        """Several times a lease; it asks nobody, since Valkey may be what does not answer."""
        while True:
            await asyncio.sleep(self.membership.lease / 6)
            self.ownership.mind_leases()

    def _again(self, exchange: Exchange, member: str) -> None:
        self.router.again(exchange, member)

    # --- what members tell each other ---

    async def _announce(self, kind: str) -> None:
        """Tell all who are there by now: somebody may have come a moment ago."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANNOUNCE):
                await self.members.look(at_once=True)
        self._tell_all(kind)

    def _tell_all(self, kind: str, payload: bytes = b"") -> None:
        for member in self.members.staying():
            with contextlib.suppress(StoreError):
                self.relay.tell(member, kind, payload)

    def _released(self, tag: str) -> None:
        self._tell_all("released", tag.encode())

    def _on_joined(self, member: str, payload: bytes) -> None:
        """There is one more, who has clients before the next look sees it."""
        self.members.arrives(member)
        self._wanted.set()

    def _on_released(self, member: str, payload: bytes) -> None:
        """A member that leaves has closed a partition: whoever is first adopts it."""
        tag = payload.decode("ascii", "replace")
        if self.members.owners.get(tag) == member:
            self.members.forget(tag)
        self._wanted.set()

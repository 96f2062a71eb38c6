"""One member of a service that runs as several processes: which partitions it owns, and where other requests go.

Ids that clients carry begin with the tag of their partition. A request that names a partition of this process is
handled here, one that names another's is relayed to its owner, and one whose owner is dead right now waits until
somebody has taken it over. What names none is handled by the home partition. Every third of a lease a member looks
around: what nobody owns it adopts whole, as a restart would, so a dead owner is replaced within two leases; what was
taken from it while it slept it drops at once, and says nothing more about it.

How ownership is kept is the store's, how a request travels the relay's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.core.waiters import Waiters
from tailrace.errors import StoreError
from tailrace.protocols.mcp.framing import tag_of
from tailrace.protocols.mcp.http import answer_later
from tailrace.server.news import News
from tailrace.transports.relay import Relay
from tailrace.transports.relay_served import RelayedExchange

if TYPE_CHECKING:
    from tailrace.core.exchange import Exchange
    from tailrace.core.ports import Membership, Store
    from tailrace.core.settings import Settings
    from tailrace.core.tasks import Sweeper, Tasks
    from tailrace.server.partition import Partition
    from tailrace.transports.bearer import Bearer

__all__ = ["Cluster", "House"]

logger = logging.getLogger("tailrace.cluster")

_SESSION = re.compile(rb"(?:^|&)session_id=([0-9a-z]{1,8})(?:~|%7[Ee])")
_AGAIN = 0.05  # seconds until a request is sent on once more that its owner did not have
_LOOK = 0.2  # seconds between two looks of those that wait for an owner; they share it
_LEAVE = 1.0  # seconds to see who is there, before this member leaves
_WAITING = 1000  # requests that wait for an owner


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
    """The partitions of one member, and the way to those of the others.

    Args:
        house: The server.
        membership: Who owns what.
        sweeper: The house's clock.

    Attributes:
        news: What all members are told.
        leaving: The server shuts down: nothing is taken over any more, and what can be goes to others.
    """

    def __init__(self, house: House, membership: Membership, sweeper: Sweeper) -> None:
        self.house = house
        self.membership = membership
        self.leaving = False
        self.relay = Relay(
            membership.inbox,
            house.tasks,
            sweeper,
            house.handle_admitted,
            refuse=house.refuse,
            again=self._again,
            challenge=None if house.bearer is None else house.bearer.narrower,
        )
        self.relay.on("released", self._on_released)
        self.relay.on("leaving", lambda member, _: self._departed.add(member))
        self.news = News(house, self.relay, self._others, sweeper)
        self._by_tag: dict[str, Partition] = {}
        self._entering: set[str] = set()  # being opened here
        self._owners: dict[str, str] = {}  # as they were seen last
        self._orphans: set[str] = set()
        self._departed: set[str] = set()  # members that leave in order
        self._homeless = False  # the home was lost, and there is no new one yet
        self._waiting = 0
        self._changed = Waiters()  # something was adopted, or is somebody else's
        self._looking = False
        self._looked = float("-inf")  # when somebody looked last
        self._seen = float("-inf")  # when the look began of which the owners are
        self._wanted = asyncio.Event()  # look around now
        self._own: Exchange | None = None  # is handled at home, whatever it names
        self._task: asyncio.Task[Any] | None = None

    # --- its life ---

    def start(self) -> None:
        """The home is recovered: serve it, hear the others, and look around from now on."""
        self._by_tag[self.house.home.tag] = self.house.home
        self._wire(self.house.home)
        self.membership.on_lost = self._on_lost
        self.relay.start()
        self._task = self.house.tasks.start(self._watch(), name="tailrace-membership")

    async def leave(self) -> None:
        """Take nothing over any more, and let the others know; what comes new goes to one of them. Idempotent."""
        if not self.leaving:
            self.leaving = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE):
                    await self._look(at_once=True)  # somebody may have come a moment ago
            for member in self._others():
                with contextlib.suppress(StoreError):
                    self.relay.tell(member, "leaving")

    async def hand_over(self) -> None:
        """Close what this member owns, and tell the others, who adopt it at once; then see to what was put off, or is
        at others, for as long as an adoption may take."""
        await self.leave()
        others = self._others() - self._departed
        for partition in list(self.house.partitions):
            await partition.close()
            self.house.partitions.remove(partition)
            self._by_tag.pop(partition.tag, None)
            self._owners.pop(partition.tag, None)
            for member in others:
                with contextlib.suppress(StoreError):
                    self.relay.tell(member, "released", partition.tag.encode())
        self._changed.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * self.membership.lease + self.house.settings.hook_time):
                while self._waiting or self.relay.is_awaited:
                    await self._changes(_AGAIN)

    def close(self) -> None:
        """End what is relayed. Idempotent."""
        self.membership.on_lost = None
        if self._task is not None:
            self._task.cancel()
        self.news.close()
        self.relay.close()

    def statistics(self) -> dict[str, int | float | str]:
        """Numbers for people: of the membership and of the relay; `waiting`: requests that wait for an owner."""
        return {**self.membership.statistics(), **self.relay.statistics(), "waiting": self._waiting}

    # --- requests ---

    def route(self, exchange: Exchange) -> None:
        """A request for MCP: to the partition that it names."""
        tag = _tag_of(exchange)
        if not tag:
            if self._homeless:
                return self._wait(exchange, tag)
            return None if self.take_in(exchange) else self.house.home.handle(exchange)
        partition = self._by_tag.get(tag)
        if partition is None:
            return self._pass_on(exchange, tag)
        if not partition.store.is_held:  # this process slept, or does not reach the store: is it still the owner?
            return self._wait(exchange, tag)
        if self.leaving:
            exchange.put_off = self._put_off
        return partition.handle(exchange)

    def elsewhere(self, exchange: Exchange, id: str) -> bool:
        """Whether what a request is about, by an id in its body, is in another partition; which has it then."""
        tag = tag_of(id)
        if not tag or exchange is self._own:
            return False
        partition = self._by_tag.get(tag)
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

    def _put_off(self, exchange: Exchange) -> bool:
        """A request of a session, which is not begun here any more: it waits for the session's next owner."""
        if not self._others() - self._departed:
            return False
        exchange.put_off = None
        self._wait(exchange, _tag_of(exchange))
        return True

    def _refuge(self, exchange: Exchange) -> str | None:
        """Who takes what is new while this member leaves."""
        if not self.leaving or isinstance(exchange, RelayedExchange):
            return None
        others = self._others() - self._departed
        return random.choice(sorted(others)) if others else None

    def _pass_on(self, exchange: Exchange, tag: str) -> None:
        if isinstance(exchange, RelayedExchange) and tag not in self._entering:
            return exchange.decline()
        owner = self._owners.get(tag)
        if owner is not None and owner != self.membership.member:
            return self.relay.forward(exchange, owner)
        return self._wait(exchange, tag)

    def _again(self, exchange: Exchange, member: str) -> None:
        """That member did not have it (any more): look who has."""
        tag = _tag_of(exchange) or next((tag for tag, owner in self._owners.items() if owner == member), "")
        self._wait(exchange, tag, _AGAIN)

    def _wait(self, exchange: Exchange, tag: str, pause: float = 0.0) -> None:
        if self._waiting >= _WAITING:
            return self.house.refuse(exchange, 503, "too many requests wait for a worker that takes over; try again")
        self._waiting += 1
        answer_later(self.house.tasks, exchange, self._find(exchange, tag, pause), "tailrace-find-owner")
        return None

    async def _find(self, exchange: Exchange, tag: str, pause: float) -> None:
        """Wait until somebody has the partition, for two leases at most, and give the request to them."""
        loop = asyncio.get_running_loop()
        settings = self.house.settings
        began = loop.time()
        until = began + 2 * self.membership.lease + settings.hook_time + (settings.drain if self.leaving else 0)
        absent = float("inf")  # the first look that did not find it
        try:
            if pause:
                await asyncio.sleep(pause)
            while not exchange.gone:
                partition = self._by_tag.get(tag)
                if partition is not None and partition.store.is_held and not self.leaving:
                    return self._at(partition, exchange)
                if not tag:
                    if not self._homeless:
                        return self._at_home(exchange)
                elif partition is None and tag not in self._entering:
                    await self._look()
                    owner = self._owners.get(tag)
                    if owner is not None and owner != self.membership.member:
                        if isinstance(exchange, RelayedExchange):
                            return exchange.decline()
                        return self.relay.forward(exchange, owner)
                    held = owner is not None or tag in self._orphans or tag in self._entering
                    if held:
                        absent = float("inf")
                    elif self._seen >= began:  # one look alone can miss what changes hands during it
                        if self._seen > absent:
                            return self._at_home(exchange)  # which knows no such thing, and says so
                        absent = self._seen
                if loop.time() >= until:
                    return self.house.refuse(exchange, 503, "no worker has this session at the moment; try again")
                await self._changes(_LOOK)
        finally:
            self._waiting -= 1

    async def _changes(self, seconds: float) -> None:
        """Return when something was adopted or seen, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _at_home(self, exchange: Exchange) -> None:
        self._at(self.house.home, exchange)

    def _at(self, partition: Partition, exchange: Exchange) -> None:
        self._own = exchange
        try:
            partition.handle(exchange)
        finally:
            self._own = None

    # --- looking around ---

    def _others(self) -> set[str]:
        return set(self._owners.values()) - {self.membership.member}

    async def _look(self, *, at_once: bool = False) -> bool:
        """See who owns what, at most every `_LOOK` seconds for all who ask; False where nothing was seen."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if not at_once and (self._looking or began - self._looked < _LOOK):
            return False
        self._looking = True
        try:
            owners = await self.membership.owners(refresh=True)
            orphans = await self.membership.orphans()
        except StoreError as error:
            logger.debug("the other members cannot be seen: %s", error)
            return False
        finally:
            self._looking = False
            self._looked = loop.time()
        for member in set(self._owners.values()) - set(owners.values()) - self._departed:
            if member != self.membership.member:
                logger.warning("a member is gone member=%s", member)
                self.relay.lost(member)
        self._departed &= set(owners.values())
        self._owners, self._orphans, self._seen = owners, set(orphans), began
        self._changed.wake()
        return True

    async def _watch(self) -> None:
        """Look around every third of a lease: adopt, retire, see that there is a home."""
        while True:
            if await self._look(at_once=True) and not self.leaving:
                for tag in self._orphans - self._entering - self._by_tag.keys():
                    self._entering.add(tag)
                    self.house.tasks.start(self._adopt(tag), name="tailrace-adopt")
                await self._retire_empty()
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.membership.lease / 3 * random.uniform(0.8, 1.0)):
                    await self._wanted.wait()
            await asyncio.sleep(_LOOK * random.uniform(0.0, 1.0) if self._wanted.is_set() else 0)

    async def _adopt(self, tag: str) -> None:
        try:
            store = await self.membership.adopt(tag)
            if store is not None:
                await self._enter(store)
                logger.info("a partition was taken over partition=%s", tag)
        except StoreError as error:
            logger.warning("a partition could not be taken over partition=%s error=%s", tag, error)
        finally:
            self._entering.discard(tag)
            self._changed.wake()

    async def _enter(self, store: Store) -> Partition:
        """Bring a partition to life, as a restart does."""
        partition = await self.house.partition(store)
        self.house.partitions.append(partition)
        try:
            self._wire(partition)
            await partition.open()
            await partition.recover()
        except BaseException:
            await self._drop(partition, "the session cannot be restored")
            raise
        self._by_tag[partition.tag] = partition
        self._owners[partition.tag] = self.membership.member
        return partition

    def _wire(self, partition: Partition) -> None:
        partition.endpoint.elsewhere = self.elsewhere
        partition.endpoint.draining = self.leaving

    async def _retire_empty(self) -> None:
        """Of several partitions, those that hold nothing any more go."""
        for partition in [one for one in self.house.partitions if one is not self.house.home and one.is_idle]:
            if not await partition.is_empty() or not partition.is_idle or partition not in self.house.partitions:
                continue
            self._by_tag.pop(partition.tag, None)
            self._owners.pop(partition.tag, None)
            self.house.partitions.remove(partition)
            await partition.close()
            with contextlib.suppress(StoreError):
                if await self.membership.retire(partition.store):
                    logger.info("a partition was empty, and is gone partition=%s", partition.tag)

    # --- losing one ---

    def _on_lost(self, store: Store) -> None:
        """Another member has taken it over while this one slept, or Valkey forgot it."""
        lost = next((one for one in self.house.partitions if one.store is store), None)
        if lost is not None:
            logger.error("a partition was lost: another member has taken it over partition=%s", lost.tag)
            self.house.tasks.start(self._replace(lost), name="tailrace-partition-lost")

    async def _replace(self, lost: Partition) -> None:
        self._by_tag.pop(lost.tag, None)
        self._forget_owner(lost.tag)
        lost.cut()
        self.house.tasks.start(self._drop(lost, "another worker has taken over"), name="tailrace-partition-dropped")
        if lost is self.house.home and not self.leaving:
            self._homeless = True
            await self._settle_in()
            self._homeless = False
            self._changed.wake()

    async def _settle_in(self) -> None:
        """Find a new home: nothing new is accepted until there is one."""
        while True:
            try:
                home = await self._enter(await self.membership.take())
            except StoreError as error:
                logger.warning("there is no new home yet: %s", error)
                await asyncio.sleep(self.membership.lease / 3)
            else:
                return self.house.settle_in(home)

    async def _drop(self, partition: Partition, reason: str) -> None:
        partition.cut()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * self.house.settings.hook_time):
                for end in partition.end(reason, 0.0):
                    await end
        if partition in self.house.partitions:
            self.house.partitions.remove(partition)
        await partition.close()

    def _on_released(self, member: str, payload: bytes) -> None:
        """A member that leaves has closed a partition: whoever is first adopts it."""
        if self._owners.get(tag := payload.decode("ascii", "replace")) == member:
            self._forget_owner(tag)
        self._wanted.set()

    def _forget_owner(self, tag: str) -> None:
        """It changes hands: who has it next, only a look can tell that begins from here on."""
        self._owners.pop(tag, None)
        self._seen = float("-inf")


def _tag_of(exchange: Exchange) -> str:
    """Which partition a request names; empty where it names none."""
    path = exchange.path
    if path.startswith("/mcp"):
        return tag_of(exchange.header(b"mcp-session-id") or "")
    if path.startswith("/messages"):
        found = _SESSION.search(exchange.query)
        return found[1].decode() if found else ""
    return tag_of(exchange.header(b"last-event-id") or "") if path.startswith("/sse") else ""

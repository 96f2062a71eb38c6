"""What one member of a service owns: partitions that it adopts, settles in, loses, hands over and retires.

What nobody owns it adopts whole, as a restart would; what was taken from it while it slept it drops at once, and says
nothing more about it. One that cannot be brought to life is tried again later and later, and disturbs no other.

How ownership is kept is the store's, where requests go the router's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailrace.errors import StoreError, StoreLost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tailrace.core.exchange import Exchange
    from tailrace.core.ports import Membership, Store
    from tailrace.server.cluster import House
    from tailrace.server.members import Members
    from tailrace.server.partition import Partition

__all__ = ["Ownership"]

logger = logging.getLogger("tailrace.cluster")

_LONGEST = 60.0  # seconds between two attempts to bring a partition to life
_STUCK = 2  # attempts that have failed, until those who ask for it need not wait for the next one


class _LetGo(StoreError):
    """A partition was opened while this member ends: it is closed again."""


@dataclass(slots=True)
class _Failing:
    """A partition that could not be brought to life.

    Attributes:
        attempts: That have failed, one after the other.
        due: When the next one may be made (loop time).
    """

    attempts: int = 0
    due: float = 0.0


class Ownership:
    """The partitions of one member.

    Args:
        house: The server.
        membership: Who owns what.
        members: What is known of the others.
        elsewhere: As `Endpoint.elsewhere`, of every partition.
        released: Tells the others of a partition that is free now.

    Attributes:
        by_tag: Those that answer requests.
        entering: The tags of those that are being brought to life here.
        homeless: The home was lost, and there is no new one yet.
        adopted, fenced, handed_over, retired, failures: How many were taken over, were taken from it, were given to
            others at its end, were empty; and how often one could not be brought to life. Ever.
    """

    def __init__(
        self,
        house: House,
        membership: Membership,
        members: Members,
        elsewhere: Callable[[Exchange, str], bool],
        released: Callable[[str], None],
    ) -> None:
        self.house = house
        self.membership = membership
        self.members = members
        self.by_tag: dict[str, Partition] = {}
        self.entering: set[str] = set()
        self.homeless = False
        self.adopted = self.fenced = self.handed_over = self.retired = self.failures = 0
        self._elsewhere = elsewhere
        self._released = released
        self._busy: set[asyncio.Task[Any]] = set()  # what goes on with partitions that come and go
        self._failing: dict[str, _Failing] = {}

    def start(self) -> None:
        """The home is recovered: serve it. Should it have been lost meanwhile, find another."""
        home = self.house.home
        self.by_tag[home.tag] = home
        self._wire(home)
        self.membership.on_lost = self._on_lost
        if isinstance(home.store.failure, StoreLost):  # its recovery took longer than a lease lasts
            self._on_lost(home.store)

    def close(self) -> None:
        """Hear of losses no more."""
        self.membership.on_lost = None

    async def revived(self, home: Partition, step: Callable[[], Awaitable[None]]) -> Partition:
        """The home of a start after a `step` of its recovery; another, where that fails for what was left in it.

        Raises:
            StoreError: There is no other.
        """
        try:
            await step()
        except Exception as error:
            if not isinstance(error, StoreLost):
                self._failed(home.tag, error)
            await self._drop(home, "the session cannot be restored")
            home = await self._enter(await self.membership.take(new=True))
        return home

    def is_stuck(self, tag: str) -> bool:
        """Nobody owns it, because it cannot be brought to life."""
        failing = self._failing.get(tag)
        return failing is not None and failing.attempts >= _STUCK and tag not in self.members.owners

    @property
    def stuck(self) -> int:
        """How many of them there are."""
        return sum(map(self.is_stuck, self._failing))

    def statistics(self) -> dict[str, int | float | str]:
        """Numbers for people: the `partitions` that are owned now; `lease_age`, the seconds since the oldest of their
        leases was confirmed; those that are `stuck`, as nobody can bring them to life; and what became of others."""
        stores = [partition.store for partition in self.house.partitions]
        return {
            "partitions": len(stores),
            "lease_age": max((float(store.statistics().get("lease_age", 0.0)) for store in stores), default=0.0),
            "stuck": self.stuck,
            "adopted": self.adopted,
            "handed_over": self.handed_over,
            "fenced": self.fenced,
            "retired": self.retired,
            "failed_recoveries": self.failures,
        }

    # --- adopting ---

    def adopt(self) -> None:
        """Take over what nobody owns."""
        now = asyncio.get_running_loop().time()
        orphans = self.members.orphans
        for tag in self._failing.keys() - orphans - self.entering:  # somebody has it, or it is gone
            del self._failing[tag]
        here = {partition.tag for partition in self.house.partitions}  # what was lost is, until its hooks are through
        for tag in orphans - self.entering - here:
            if tag not in self._failing or now >= self._failing[tag].due:
                self.entering.add(tag)
                self._start(self._adopt(tag), "tailrace-adopt")

    async def _adopt(self, tag: str) -> None:
        try:
            store = await self.membership.adopt(tag)
            if store is not None:
                await self._enter(store)
                self.adopted += 1
                failing = self._failing.pop(tag, _Failing())
                logger.info("a partition was taken over partition=%s failed_attempts=%d", tag, failing.attempts)
        except _LetGo:
            self._released(tag)
            logger.debug("a partition is for others partition=%s", tag)
        except StoreLost as error:  # somebody else has it by now
            logger.debug("a partition was lost again partition=%s error=%s", tag, error)
        except Exception as error:
            self._failed(tag, error)
        finally:
            self.entering.discard(tag)
            self.members.wake()

    def _failed(self, tag: str, error: Exception) -> None:
        """It stays an orphan until somebody can read it; that is said once, with the traceback of a bug."""
        self.failures += 1
        failing = self._failing.setdefault(tag, _Failing())
        pause = min(self.membership.lease / 3 * 2**failing.attempts, _LONGEST) * random.uniform(0.8, 1.0)
        failing.attempts += 1
        failing.due = asyncio.get_running_loop().time() + pause
        bug = None if isinstance(error, StoreError) else error
        if failing.attempts == _STUCK:
            logger.error(
                "a partition cannot be restored: its sessions are refused, all others go on; it is tried again every "
                "%.0fs at most, until that works partition=%s error=%s",
                _LONGEST,
                tag,
                error,
                exc_info=bug,
            )
        elif failing.attempts < _STUCK:
            logger.warning("a partition could not be taken over partition=%s error=%s", tag, error, exc_info=bug)

    async def _enter(self, store: Store) -> Partition:
        """Bring a partition to life, as a restart does.

        Raises:
            StoreError: It cannot be read, or is not this member's any more.
        """
        if self.members.leaving:
            await store.close()
            raise _LetGo("this member ends")
        partition = await self.house.partition(store)
        self.house.partitions.append(partition)
        try:
            self._wire(partition)
            await partition.open()
            await partition.recover()
            self._check(partition)
        except BaseException:
            await self._drop(partition, "the session cannot be restored")
            raise
        self.by_tag[partition.tag] = partition
        self.members.own(partition.tag)
        return partition

    def _check(self, partition: Partition) -> None:
        """While it was recovered, another may have taken it over, or this member have handed over what it has."""
        if isinstance(partition.store.failure, StoreLost):
            raise partition.store.failure
        if self.members.leaving or partition not in self.house.partitions:
            raise _LetGo("this member ends")

    def _wire(self, partition: Partition) -> None:
        partition.endpoint.elsewhere = self._elsewhere
        partition.endpoint.draining = self.members.leaving

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = self.house.tasks.start(work, name=name)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    # --- letting go ---

    async def hand_over(self, until: float) -> None:
        """Close all of them, and tell the others of each that is free now; what comes and goes has its time `until`
        then (loop time)."""
        for partition in list(self.house.partitions):
            await self._let_go(partition)
            if not isinstance(partition.store.failure, StoreLost):
                self.handed_over += 1
                self._released(partition.tag)
        left = max(0.0, until - asyncio.get_running_loop().time())
        await self.house.tasks.settle(list(self._busy), min(left, 2 * self.house.settings.hook_time))
        self.members.wake()

    async def retire_empty(self) -> None:
        """Of several partitions, those that hold nothing any more go."""
        for partition in [one for one in self.house.partitions if one is not self.house.home and one.is_idle]:
            try:
                if not await partition.is_empty() or not partition.is_idle or partition not in self.house.partitions:
                    continue
                self.by_tag.pop(partition.tag, None)
                self.members.owners.pop(partition.tag, None)
                await self._let_go(partition)
                if await self.membership.retire(partition.store):
                    self.retired += 1
                    logger.info("a partition was empty, and is gone partition=%s", partition.tag)
            except StoreError as error:
                logger.debug("a partition cannot be retired partition=%s error=%s", partition.tag, error)

    async def _let_go(self, partition: Partition) -> None:
        """Close it; until that has been done, requests are answered as by a server that ends."""
        await self.house.let_go(partition)
        if self.by_tag.get(partition.tag) is partition:
            del self.by_tag[partition.tag]
            self.members.owners.pop(partition.tag, None)

    # --- losing one ---

    def mind_leases(self) -> None:
        """Where a lease could not be confirmed in time, nothing is told but what is stored. A lease later another has
        the partition, if anybody can: who reads here has to look for it, and so has who waits for a key whose answer
        cannot be stored. Where nobody has, all is told once that is sure.
        """
        for partition in self.house.partitions:
            store = partition.store
            if store.is_held:
                partition.endpoint.journals.tell_withheld()
                partition.endpoint.once.ledger.tell_withheld()
            elif float(store.statistics().get("lease_age", 0.0)) >= 2 * self.membership.lease:
                partition.stop_reading()
                partition.endpoint.once.ledger.turn_away()

    def _on_lost(self, store: Store) -> None:
        """It is not this member's any more: another has taken it over while this one slept, Valkey forgot it, or what
        writes to it here has failed. Its store knows which."""
        lost = next((one for one in self.house.partitions if one.store is store), None)
        if lost is not None:
            self.fenced += 1
            logger.error("a partition was lost partition=%s error=%s", lost.tag, store.failure)
            self._start(self._replace(lost), "tailrace-partition-lost")

    async def _replace(self, lost: Partition) -> None:
        self.by_tag.pop(lost.tag, None)
        self.members.forget(lost.tag)
        lost.cut()
        self._start(self._drop(lost, "this worker has lost the session"), "tailrace-partition-dropped")
        if lost is self.house.home and not self.members.leaving:
            self.homeless = True
            await self._settle_in()
            self.homeless = False
            self.members.wake()

    async def _settle_in(self) -> None:
        """Find a new home: nothing new is accepted until there is one."""
        while not self.members.leaving:
            try:
                home = await self._enter(await self.membership.take(new=True))
            except _LetGo:
                return
            except Exception as error:
                bug = None if isinstance(error, StoreError) else error
                logger.warning("there is no new home yet: %s", error, exc_info=bug)
                await asyncio.sleep(self.membership.lease / 3)
            else:
                return self.house.settle_in(home)

    async def _drop(self, partition: Partition, reason: str) -> None:
        partition.cut()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * self.house.settings.hook_time):
                for end in partition.end(reason, 0.0):
                    await end
        await self.house.let_go(partition)

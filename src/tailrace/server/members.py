"""What one member of a service knows of the others: who owns which partition, what nobody owns, who is about to leave.

It is the knowledge of one look, a third of a lease old at most, and what was heard since. Nothing is decided by it but
where to ask: who really owns a partition, its store knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import TYPE_CHECKING

from tailrace.core.waiters import Waiters
from tailrace.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.core.ports import Membership

__all__ = ["LOOK", "Members"]

logger = logging.getLogger("tailrace.cluster")

LOOK = 0.2  # seconds between two looks of those that wait for an owner; they share it


class Members:
    """The members, as one of them sees the others.

    Args:
        membership: Who owns what.
        gone: Called with each member that owns nothing any more, and has not said that it leaves.

    Attributes:
        owners: Who owns which partition, as it was seen last.
        orphans: The partitions that nobody owned then.
        arrived: Members that said so, and since which moment; the next look sees what they own.
        departed: Members that leave in order.
        leaving: This one does: it takes nothing over any more, and what can be goes to others.
        seen: When the look began of which the owners are (loop time); -inf: something has changed since.
    """

    def __init__(self, membership: Membership, gone: Callable[[str], None]) -> None:
        self.membership = membership
        self.owners: dict[str, str] = {}
        self.orphans: set[str] = set()
        self.arrived: dict[str, int] = {}
        self.departed: set[str] = set()
        self.leaving = False
        self.seen = float("-inf")
        self._gone = gone
        self._looking = False
        self._looked = float("-inf")  # when somebody looked last
        self._moments = itertools.count(1)
        self._forgotten: dict[str, int] = {}  # partitions that change hands, and since which moment
        self._changed = Waiters()

    def others(self) -> set[str]:
        """All but this one, as far as they own something, or have just come."""
        return {*self.owners.values(), *self.arrived} - {self.membership.member}

    def staying(self) -> set[str]:
        """The others, without those that leave."""
        return self.others() - self.departed

    def owner(self, tag: str) -> str | None:
        """Which other member has a partition; None: nobody, or this one."""
        owner = self.owners.get(tag)
        return None if owner == self.membership.member else owner

    def arrives(self, member: str) -> None:
        """It has just come."""
        self.arrived[member] = next(self._moments)

    def own(self, tag: str) -> None:
        """This one has it now."""
        self.owners[tag] = self.membership.member
        self._forgotten.pop(tag, None)

    def forget(self, tag: str) -> None:
        """It changes hands: who has it next, only a look can tell that begins from here on."""
        self.owners.pop(tag, None)
        self._forgotten[tag] = next(self._moments)
        self.seen = float("-inf")

    async def look(self, *, at_once: bool = False) -> bool:
        """See who owns what; False where nothing was seen.

        Args:
            at_once: Whoever else looks; without it every `LOOK` seconds at most, for all who ask.
        """
        loop = asyncio.get_running_loop()
        began, moment = loop.time(), next(self._moments)
        if not at_once and (self._looking or began - self._looked < LOOK):
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
        if began < self.seen:  # somebody has looked later, and was faster
            return False
        self._forgotten = {tag: when for tag, when in self._forgotten.items() if when > moment}
        for tag in self._forgotten:  # it was seen before it changed hands
            owners.pop(tag, None)
        self.arrived = {member: when for member, when in self.arrived.items() if when > moment}
        for member in self.others() - set(owners.values()) - self.departed - set(self.arrived):
            logger.warning("a member is gone member=%s", member)
            self._gone(member)
        self.departed &= set(owners.values())
        self.owners, self.orphans = owners, set(orphans)
        self.seen = float("-inf") if self._forgotten else began
        self.wake()
        return True

    async def changes(self, seconds: float) -> None:
        """Return when something was adopted or seen, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def wake(self) -> None:
        """Something was adopted, or is somebody else's: whoever waits for an owner looks again."""
        self._changed.wake()

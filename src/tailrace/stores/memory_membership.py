"""Several members of one service in one process, as tests and schedules have them: partitions in memory.

What the members share is a `MemoryCluster`; nothing of it outlives the process. A member can be killed or put to
sleep there, as a process can.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from tailrace.core.ports import SHARED_KINDS, Membership
from tailrace.errors import StoreError, StoreLost
from tailrace.stores.memory import MemoryStore
from tailrace.stores.memory_entries import Entries
from tailrace.stores.memory_inbox import MemoryInbox, MemoryPost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace.core.ports import PutEntry, Record, Store, StoredEntry

__all__ = ["MemoryCluster", "MemoryMembership"]

_MAX_BYTES = 67_108_864  # of the entries of each partition, and of those that all have in common


class MemoryCluster:
    """What the members of one service have in common.

    Args:
        lease: Seconds for which an ownership lasts: here only how often members look around. Nothing expires by
            itself: `MemoryMembership.crash` and `lose` play that.
        clock: Tells the wall-clock time in seconds, by which entries expire.
    """

    def __init__(self, *, lease: float = 0.3, clock: Callable[[], float] = time.time) -> None:
        self.lease = lease
        self.clock = clock
        self.post = MemoryPost()
        self.partitions: dict[str, _Partition] = {}
        self.owners: dict[str, str] = {}
        self.entries = Entries(_MAX_BYTES)
        self.secret = secrets.token_bytes(32)
        self.numbers = 0

    def member(self) -> MemoryMembership:
        """One more."""
        self.numbers += 1
        return MemoryMembership(self, f"m{self.numbers}")


class MemoryMembership(Membership):
    """One member.

    Args:
        cluster: What it shares with the others.
        member: Its name.
    """

    def __init__(self, cluster: MemoryCluster, member: str) -> None:
        self.member = member
        self.lease = cluster.lease
        self.clock = cluster.clock
        self.inbox = MemoryInbox(cluster.post, member)
        self.on_lost: Callable[[Store], None] | None = None
        self._cluster = cluster
        self._stores: dict[str, _Partition] = {}

    @property
    def name(self) -> str:
        """``memory``."""
        return "memory"

    @property
    def failure(self) -> StoreError | None:
        """None: the others are always seen."""
        return None

    async def join(self) -> None:
        """As `Membership.join`."""
        await self.inbox.open()

    async def leave(self) -> None:
        """As `Membership.leave`."""
        await self.inbox.close()

    async def owners(self, *, refresh: bool = False) -> dict[str, str]:
        """As `Membership.owners`."""
        return dict(self._cluster.owners)

    async def orphans(self) -> list[str]:
        """As `Membership.orphans`."""
        cluster, found = self._cluster, list[str]()
        for tag, partition in list(cluster.partitions.items()):
            if tag not in cluster.owners:
                if partition.is_empty:
                    del cluster.partitions[tag]
                else:
                    found.append(tag)
        return found

    async def take(self, *, new: bool = False) -> Store:
        """As `Membership.take`."""
        for tag in [] if new else await self.orphans():
            store = await self.adopt(tag)
            if store is not None:
                return store
        self._cluster.numbers += 1
        tag = f"p{self._cluster.numbers}"
        self._cluster.partitions[tag] = _Partition(self, tag)
        return await self._own(tag)

    async def adopt(self, partition: str) -> Store | None:
        """As `Membership.adopt`."""
        cluster = self._cluster
        if partition in cluster.owners or partition not in cluster.partitions:
            return None
        return await self._own(partition)

    async def _own(self, partition: str) -> Store:
        cluster = self._cluster
        cluster.owners[partition] = self.member
        store = cluster.partitions[partition] = cluster.partitions[partition].handed_to(self)
        self._stores[partition] = store
        await store.open()
        return store

    async def retire(self, store: Store) -> bool:
        """As `Membership.retire`."""
        await store.close()
        return store.partition not in await self.orphans() and store.partition not in self._cluster.owners

    async def secrets(self) -> list[bytes]:
        """As `Membership.secrets`."""
        return [self._cluster.secret]

    def statistics(self) -> dict[str, int | float | str]:
        """As `Membership.statistics`."""
        return {
            "member": self.member,
            "partitions": sum(owner == self.member for owner in self._cluster.owners.values()),
        }

    # --- for tests ---

    async def crash(self) -> None:
        """The process is killed: what it had not committed is lost, and its leases end."""
        await self.inbox.close()
        for store in list(self._stores.values()):
            self.released(store)
            store.lose("killed")

    def lose(self, partition: str, why: str = "another member has taken over", *, tell: bool = True) -> None:
        """The lease of a partition ends while its owner sleeps; `tell` it, as the first answer does when it wakes."""
        store = self._stores[partition]
        self.released(store)
        store.lose(why, told=tell)
        if tell and self.on_lost is not None:
            self.on_lost(store)

    # --- for its stores ---

    @property
    def shared(self) -> Entries:
        """The entries that all partitions have in common."""
        return self._cluster.entries

    def holds(self, store: _Partition) -> bool:
        """Nobody can have taken it over."""
        return self._stores.get(store.partition) is store

    def released(self, store: _Partition) -> None:
        """A store was closed, or is lost."""
        tag = store.partition
        if self._stores.get(tag) is store:
            del self._stores[tag]
            if self._cluster.owners.get(tag) == self.member:
                del self._cluster.owners[tag]


class _Partition(MemoryStore):
    """One partition, in the hands of one member; the next one gets another object with the same data."""

    def __init__(self, membership: MemoryMembership, tag: str) -> None:
        super().__init__(durable=True, clock=membership.clock)
        self.partition = tag
        self._membership = membership
        self._own = Entries(_MAX_BYTES)
        self._entries = _Split(self._own, membership.shared)

    def handed_to(self, membership: MemoryMembership) -> _Partition:
        other = _Partition(membership, self.partition)
        other._kept, other._epoch, other._own = self._kept, self._epoch, self._own
        other._entries = _Split(self._own, membership.shared)
        return other

    @property
    def is_empty(self) -> bool:
        return not self._kept and not len(self._own)

    @property
    def is_held(self) -> bool:
        return self._membership.holds(self)

    def lose(self, reason: str, *, told: bool = True) -> None:
        self.fail_commits(StoreLost(reason))
        if told:
            self._failure = self._failing

    async def close(self) -> None:
        await super().close()
        self._membership.released(self)


class _Split(Entries):
    """The entries of one partition, and those that it shares, each by its kind."""

    def __init__(self, own: Entries, shared: Entries) -> None:
        super().__init__(_MAX_BYTES)
        self._own, self._shared = own, shared

    def __len__(self) -> int:
        return len(self._own)

    def reserve(self, records: Sequence[Record], now: float) -> None:
        pass  # tests do not fill it

    def is_held(self, kind: str, key: str, now: float) -> bool:
        return self._of(kind).is_held(kind, key, now)

    def put(self, entry: PutEntry) -> None:
        self._of(entry.kind).put(entry)

    def drop(self, kind: str, key: str) -> None:
        self._of(kind).drop(kind, key)

    def get(self, kind: str, key: str, now: float) -> StoredEntry | None:
        return self._of(kind).get(kind, key, now)

    def count(self, kind: str, now: float) -> int:
        return self._of(kind).count(kind, now)

    def page(self, kind: str, after: str, limit: int, now: float) -> list[StoredEntry]:
        return self._of(kind).page(kind, after, limit, now)

    def _of(self, kind: str) -> Entries:
        return self._shared if kind in SHARED_KINDS else self._own

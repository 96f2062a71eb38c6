"""Who of several server processes owns which partition of a service that is kept in Valkey.

An owner is whoever holds the lease of a partition (`ValkeyStore` takes and renews it): there is no other list that
could say something else. Here is what a process does beside: look who owns what, take what nobody owns, make new
partitions and delete empty ones. When it looks, and what becomes of what it takes, is the server's to decide; how the
members speak, the inbox's.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tailrace.core.ports import Membership
from tailrace.core.waiters import Waiters
from tailrace.errors import StoreBusy, StoreError, StoreLost, StoreTooNew
from tailrace.stores import valkey_scripts as scripts
from tailrace.stores.valkey import ValkeyStore
from tailrace.stores.valkey_inbox import ValkeyInbox
from tailrace.stores.valkey_link import Link, Unreachable, judged
from tailrace.stores.valkey_records import owners

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.core.ports import Inbox, Store
    from tailrace.stores.valkey_scripts import Script

__all__ = ["ValkeyMembership"]

_TAG, _LETTERS = 6, "0123456789abcdefghijklmnopqrstuvwxyz"  # 2e9 of them; one that is in use is not given again
_NEW_TRIES = 5
_IDLE_LINKS = 2


class ValkeyMembership(Membership):
    """One process among those that share a service's partitions in Valkey (7 or newer) or Redis (6.2 or newer).

    Args:
        url: As of `ValkeyStore`.
        inbox: Makes what the other members reach this one by, from the member's name; default: a `ValkeyInbox`.
        service: Whose partitions these are.
        lease: Seconds for which the ownership of a partition lasts unless it is renewed.
        timeout: Seconds for one answer of Valkey's.
        clock: Tells the wall-clock time in seconds, by which entries expire.
        options: More of `ValkeyStore`'s, for each partition.

    Raises:
        DefinitionError: No such URL, or redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        inbox: Callable[[str], Inbox] | None = None,
        *,
        service: str = "tailrace",
        lease: float = 5.0,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
        **options: Any,
    ) -> None:
        self.member = secrets.token_hex(6)
        self.lease = lease
        if inbox is None:
            self.inbox: Inbox = ValkeyInbox(url, self.member, service=service, lease=lease, timeout=timeout)
        else:
            self.inbox = inbox(self.member)
        self.on_lost: Callable[[Store], None] | None = None
        self._url, self._service, self._timeout, self._clock = url, service, timeout, clock
        self._options: dict[str, Any] = {
            "service": service,
            "lease": lease,
            "timeout": timeout,
            "clock": clock,
            **options,
        }
        self._idle = [Link(url, service, timeout=timeout)]
        self._name = self._idle[0].name
        self._joined = False
        self._failure: StoreError | None = None
        self._persistence = "unknown"
        self._owners: dict[str, str] = {}
        self._seen = self._tried = float("-inf")  # loop time: when the last look began that worked; when the last did
        self._looking: Waiters | None = None  # while somebody looks

    @property
    def name(self) -> str:
        """``valkey://HOST:PORT/DB``, without the password."""
        return self._name

    @property
    def failure(self) -> StoreError | None:
        """Why Valkey did not answer the last time, else None."""
        return self._failure

    async def join(self) -> None:
        """As `Membership.join`; warns of what this Valkey cannot keep."""
        link = self._idle[0]
        try:
            self._persistence = judged(self.name, await link.facts())
            if (await link.call(_JOIN, scripts.FORMAT))[0] != b"ok":
                raise StoreTooNew(f"{self.name} was written by a newer Tailrace")
            await self.inbox.open()
        except BaseException:
            await link.drop()
            raise
        self._joined = True

    async def leave(self) -> None:
        """As `Membership.leave`."""
        self._joined = False
        idle, self._idle = self._idle, [Link(self._url, self._service, timeout=self._timeout)]
        for link in idle:
            await link.drop()
        await self.inbox.close()

    async def owners(self, *, refresh: bool = False) -> dict[str, str]:
        """As `Membership.owners`. Those who ask at the same time share one look."""
        loop = asyncio.get_running_loop()
        asked = loop.time()
        oldest = asked if refresh else asked - self.lease / 3
        while self._seen < oldest:
            if self._tried >= asked and self._looking is None:  # somebody else has looked since, in vain
                raise self._failure or Unreachable(f"{self.name} cannot be reached")
            if self._looking is None:
                await self._look(loop.time())
            else:
                await self._looking.wait()
        return dict(self._owners)

    async def orphans(self) -> list[str]:
        """As `Membership.orphans`."""
        found, _ = await self._ask(_ORPHANS, repr(self._clock()), "")
        return sorted(tag.decode() for tag in found)

    async def take(self, *, new: bool = False) -> Store:
        """As `Membership.take`."""
        orphans = [] if new else await self.orphans()
        random.shuffle(orphans)  # others may be taking, too
        for tag in orphans:
            if (store := await self.adopt(tag)) is not None:
                return store
        for _ in range(_NEW_TRIES):
            with suppress(StoreLost):  # there is one of that name
                return await self._opened("".join(secrets.choice(_LETTERS) for _ in range(_TAG)), new=True)
        raise StoreError(f"{self.name}: no name for a new partition was free")

    async def adopt(self, partition: str) -> Store | None:
        """As `Membership.adopt`."""
        try:
            return await self._opened(partition, new=False)
        except (StoreBusy, StoreLost):
            return None

    async def retire(self, store: Store) -> bool:
        """As `Membership.retire`."""
        await store.close()
        self._owners.pop(store.partition, None)
        return (await self._ask(_ORPHANS, repr(self._clock()), store.partition))[1] == 1

    async def secrets(self) -> list[bytes]:
        """As `Membership.secrets`."""
        return await self._ask(_SECRETS, secrets.token_bytes(32))

    def statistics(self) -> dict[str, int | float | str]:
        """As `Membership.statistics`; also `members` (that own something) and `persistence` (what Valkey says of its
        disk)."""
        return {
            "member": self.member,
            "members": len(set(self._owners.values())),
            "partitions": sum(owner == self.member for owner in self._owners.values()),
            "persistence": self._persistence,
        }

    # --- within ------------------------------------------------------------------------------------

    async def _opened(self, partition: str, *, new: bool) -> Store:
        if not self._joined:
            raise StoreError(f"no member of {self.name}: join first")
        store = ValkeyStore(
            self._url, partition=partition, owner=self.member, new=new, on_lost=self._lost, **self._options
        )
        await store.open(wait=0)
        self._owners[partition] = self.member
        return store

    def _lost(self, store: Store) -> None:
        if self._owners.get(store.partition) == self.member:
            del self._owners[store.partition]
        if self.on_lost is not None:
            self.on_lost(store)

    async def _look(self, began: float) -> None:
        self._looking = Waiters()
        try:
            (found,) = await self._ask(scripts.PARTITIONS)
            self._owners = {tag: owner for tag, owner in owners(found).items() if owner}
            self._seen = began
        except StoreError:
            self._tried = began
            raise
        finally:
            looking, self._looking = self._looking, None
            looking.wake()

    async def _ask(self, script: Script, *arguments: Any) -> list[Any]:
        """One answer. What is asked here can be done twice: a connection that ended while it was idle is no failure."""
        if not self._joined:
            raise StoreError(f"no member of {self.name}: join first")
        link = self._idle.pop() if self._idle else Link(self._url, self._service, timeout=self._timeout)
        try:
            try:
                answer = await link.call(script, *arguments)
            except Unreachable:
                answer = await link.call(script, *arguments)
        except StoreError as error:
            self._failure = error
            raise
        finally:
            if self._joined and len(self._idle) < _IDLE_LINKS:
                self._idle.append(link)
            else:
                await link.drop()
        self._failure = None
        return answer[1:]


_JOIN = scripts.Script(
    """
local format = call('HGET', S .. 'meta', 'format')
if format and tonumber(format) > tonumber(ARGV[1]) then return {'newer'} end
call('HSET', S .. 'meta', 'format', ARGV[1])
return {'ok'}
""",
    fenced=False,
)
_SECRETS = scripts.Script(
    "call('HSETNX', S .. 'meta', 'secret', ARGV[1]) return {'ok', call('HGET', S .. 'meta', 'secret')}", fenced=False
)
# Of those that nobody owns (or of that one of ARGV[2]): the tags of those that hold something; how many others are
# deleted. Their fence goes as well: whoever owned one, and sleeps, finds it gone.
_ORPHANS = scripts.Script(
    scripts.DROP
    + """
local function is_empty()
  if call('EXISTS', P .. 'sessions') == 1 then return false end
  for _, kind in ipairs(call('SMEMBERS', P .. 'kinds')) do
    if call('ZCOUNT', P .. 'x:' .. kind, '(' .. ARGV[1], '+inf') > 0 then return false end
  end
  return true
end
local function delete(tag)
  for _, s in ipairs(call('SMEMBERS', P .. 'orphans')) do drop(s) end
  for _, kind in ipairs(call('SMEMBERS', P .. 'kinds')) do
    for _, part in ipairs({'d:', 'x:', 'n:', 'f:'}) do call('DEL', P .. part .. kind) end
  end
  for _, name in ipairs({'fence', 'batch', 'meta', 'sessions', 'handles', 'unfinished', 'orphans', 'kinds'}) do
    call('DEL', P .. name)
  end
  call('SREM', S .. 'partitions', tag)
end
local found, deleted = {}, 0
for _, tag in ipairs(ARGV[2] == '' and call('SMEMBERS', S .. 'partitions') or {ARGV[2]}) do
  P = S .. 'p:' .. tag .. ':'
  if call('EXISTS', P .. 'owner') == 0 then
    if is_empty() then
      delete(tag)
      deleted = deleted + 1
    else
      found[#found + 1] = tag
    end
  end
end
return {'ok', found, deleted}
""",
    fenced=False,
)

"""The store on another machine: Valkey or Redis, for one server process of a service, or of a partition, at a time.

Who holds it has a lease, renewed while it lives, and a fencing token that every script checks: a server that was
paused for so long that another took over can write nothing when it wakes. This is the loop's side: limits, tickets,
opening and closing. The task that talks is `valkey_writer`, the connection `valkey_link`, the keys `valkey_scripts`.

A write is never half there. One whose commit *failed* may still be found: Valkey may have done it and not been able
to say so. (Where it claimed a key, its entries are taken back then, before anything else is committed: whoever was told
that it failed does not know that it holds that key.) How much a commit survives is Valkey's to decide: with
``appendfsync always`` its crash, with ``everysec`` all but the last second or two, with neither only the end of this
process.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

from tailrace.core.ports import StoredEntry, StoredSession
from tailrace.core.tasks import Tasks
from tailrace.core.threads import Threads
from tailrace.errors import StoreBusy, StoreError, StoreLost, StoreTooNew
from tailrace.stores import valkey_scripts as scripts
from tailrace.stores.queued import QueuedStore
from tailrace.stores.valkey_link import Link, Unreachable, judged
from tailrace.stores.valkey_records import stored_entries, stored_session
from tailrace.stores.valkey_writer import Job, Listener, Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.stores.queued import Write
    from tailrace.stores.valkey_scripts import Script

__all__ = ["ValkeyStore"]

_LONGEST_LOOK = 0.5  # seconds between two looks whether another's lease has ended


class ValkeyStore(QueuedStore):
    """Keeps sessions, streams, calls and entries in Valkey (7 or newer) or Redis (6.2 or newer).

    Args:
        url: ``valkey://[USER:PASSWORD@]HOST[:PORT][/DB]``; ``valkeys://`` with TLS.
        service: Whose keys these are: servers of the same name at the same URL exclude each other.
        partition: Which part of the service's keys, in 1 to 8 of ``0-9a-z``: then only who opens the same one is
            excluded. Partitions are made and found by `ValkeyMembership`; empty: the service has none.
        owner: Who holds it, for others to see; default: a name of its own.
        new: Make the partition, which must not be there; else it must be there.
        on_lost: Called on the loop, once, when another has taken it over, or its writer has failed (`failure` says so).
        lease: Seconds for which the ownership lasts unless it is renewed, which happens three times as often.
        max_queued: Bytes that may wait for their commit, payloads and overhead; over it `write` raises.
        batch_writes: Most writes in one commit.
        batch_bytes: Most bytes in one commit, but for a single write that is larger.
        timeout: Seconds for one answer of Valkey's.
        retry_for: Seconds for which a commit is tried again while Valkey cannot be reached; then it fails, and later
            ones fail at once, until it can be reached.
        close_timeout: Seconds for committing what is queued when it is closed; what is left then fails.
        probe_interval: Seconds between two tries whether writing works again, after a failed commit.
        expiry_interval: Seconds between two looks for entries that have expired.
        clock: Tells the wall-clock time in seconds, by which entries expire.

    Raises:
        DefinitionError: No such URL, or redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        service: str = "tailrace",
        partition: str = "",
        owner: str = "",
        new: bool = False,
        on_lost: Callable[[ValkeyStore], None] | None = None,
        lease: float = 5.0,
        max_queued: int = 67_108_864,
        batch_writes: int = 1_000,
        batch_bytes: int = 4_194_304,
        timeout: float = 5.0,
        retry_for: float = 5.0,
        close_timeout: float = 10.0,
        probe_interval: float = 1.0,
        expiry_interval: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._link = Link(url, service, timeout=timeout, partition=partition)
        super().__init__(self._link.name, max_queued)
        self.partition = partition
        self._id = owner or secrets.token_hex(8)
        self._new = new
        self._on_lost = on_lost
        self._lease = lease
        self._close_timeout = close_timeout
        self._options: dict[str, Any] = {
            "lease": lease,
            "batch_writes": batch_writes,
            "batch_bytes": batch_bytes,
            "retry_for": retry_for,
            "probe_interval": probe_interval,
            "expiry_interval": expiry_interval,
            "clock": clock,
        }
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None  # from the start of `open` to the end of `close`
        self._writer: Writer | None = None
        self._task: asyncio.Task[Any] | None = None
        self._persistence = "unknown"

    @property
    def name(self) -> str:
        """``valkey://HOST:PORT/DB``, and ``#PARTITION`` of one; without the password."""
        return self._link.name

    @property
    def is_held(self) -> bool:
        """Its lease was confirmed, and cannot have ended since."""
        writer = self._writer
        return writer is not None and asyncio.get_running_loop().time() < writer.confirmed + self._lease

    async def open(self, *, wait: float = 30.0) -> None:
        """Take the lease, and look whether this Valkey can keep what it is given. Cancelling lets go again.

        Args:
            wait: Seconds to wait for another server that holds it; a dead one's lease ends by itself.

        Raises:
            StoreBusy: It was still held after `wait`; or this store is open.
            StoreLost: There is no such partition (any more); or there is one already that should be new.
            StoreTooNew: A newer version wrote it; nothing was changed.
            StoreError: It cannot be reached, is too old, or refuses the password.
        """
        if self._loop is not None and not self._loop.is_closed():
            raise StoreBusy(f"{self.name} is open already in this store: close it first")
        loop = self._loop = asyncio.get_running_loop()
        self._tickets.bind(loop)
        self._forget()
        self._failure = None
        try:
            if not self.partition:  # else the membership did
                self._persistence = judged(self._link.name, await self._link.facts())
            token, began = await self._acquire(loop.time() + wait)
            if (await self._link.call(scripts.CLEAR, token, int(self._lease * 1000)))[0] != b"ok":
                raise StoreLost(f"{self.name} was taken over while it was being opened")
        except BaseException:
            self._loop = None
            await self._link.drop()
            raise
        listener = Listener(self._settled, self._health, self._answered)
        self._writer = Writer(self._link, token, listener, confirmed=began, **self._options)
        self._task = Tasks(Threads(size=1)).start(self._writer.run(), name="tailrace-valkey", lasting=True)
        self._task.add_done_callback(self._ended)
        self._is_open = True

    async def close(self) -> None:
        """Commit all that was written, call back, and let go of the lease. Idempotent.

        It waits at most `close_timeout`; what could not be committed until then fails. All closers wait for the same
        end, and cancelling one of them does not stop it.
        """
        if self._writer is None or self._task is None or self._loop is None:
            return
        if self._loop.is_closed():  # what was queued went with it
            self._tickets.bind(asyncio.get_running_loop())
            self._forget()
            self._loop = None
            return
        if self._closing is None:
            self._is_open = False
            self._closing = self._loop.create_future()
            limit = self._loop.call_later(self._close_timeout, self._task.cancel)
            self._closing.add_done_callback(lambda _: limit.cancel())
            self._writer.end()
        await asyncio.shield(self._closing)

    async def load(self, session: str | None = None, *, handle: bytes | None = None) -> StoredSession | None:
        """As `Store.load`."""
        by = ("handle", handle or b"") if session is None else ("id", session)
        return stored_session(await self._ask(scripts.LOAD, *by))

    async def sessions(self) -> list[tuple[str, float]]:
        """As `Store.sessions`."""
        (found,) = await self._ask(scripts.SESSIONS)
        return [(name.decode(), float(touched)) for name, touched in zip(found[::2], found[1::2], strict=True)]

    async def unfinished(self) -> list[str]:
        """As `Store.unfinished`."""
        (found,) = await self._ask(scripts.UNFINISHED)
        return sorted(name.decode() for name in found)

    async def entry(self, kind: str, key: str) -> StoredEntry | None:
        """As `Store.entry`."""
        data, expires = await self._ask(scripts.ENTRY, kind, key)
        if data is None or float(expires) <= self._clock():
            return None
        return StoredEntry(key, data, float(expires))

    async def count(self, kind: str) -> int:
        """As `Store.count`."""
        return (await self._ask(scripts.COUNT, kind, repr(self._clock())))[0]

    async def entries(self, kind: str, *, after: str = "", limit: int = 1000) -> list[StoredEntry]:
        """As `Store.entries`."""
        (found,) = await self._ask(scripts.ENTRIES, kind, after, limit, repr(self._clock()))
        return stored_entries(found)

    async def secrets(self) -> list[bytes]:
        """As `Store.secrets`; of a Valkey store there is one."""
        return await self._ask(scripts.SECRETS, secrets.token_bytes(32))

    async def next_epoch(self) -> int:
        """As `Store.next_epoch`."""
        return (await self._ask(scripts.EPOCH))[0]

    def statistics(self) -> dict[str, int | float | str]:
        """As `Store.statistics`; also `largest_batch` (writes), `lost` (commits that Valkey confirmed and forgot),
        `lease_age` (seconds since the lease was confirmed) and `persistence` (what Valkey says of its disk)."""
        writer, task, lost, age = self._writer, self._task, 0, 0.0  # whoever asks may be in another thread
        if writer is not None and task is not None:
            lost = writer.lost
            if self._is_open:
                age = task.get_loop().time() - writer.confirmed
        return {**super().statistics(), "lost": lost, "lease_age": age, "persistence": self._persistence}

    # --- what the task tells (see `Listener`) -----------------------------------------------------

    def _health(self, error: StoreError | None) -> None:
        if isinstance(self._failure, StoreLost):
            return
        self._failure = error
        if isinstance(error, StoreLost) and self._on_lost is not None:
            self._on_lost(self)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task is not self._task:  # of an opening before this one
            return
        error = StoreError(f"{self.name} was closed")
        if task.cancelled():
            self._health(error := StoreError(f"closing {self.name} took longer than {self._close_timeout:g} s"))
        elif (bug := task.exception()) is not None:  # its lease ends: who adopts the partition does as after a crash
            kind = StoreLost if self.partition else StoreError
            self._health(error := kind(f"{self.name}: the store failed ({type(bug).__name__}: {bug})"))
        self._loop = None
        self._give_up(error)

    # --- within ------------------------------------------------------------------------------------

    async def _acquire(self, until: float) -> tuple[bytes, float]:
        """The token, and when it was asked for: the lease lasts from then on, at least."""
        loop = asyncio.get_running_loop()
        asked = (self._id, int(self._lease * 1000), scripts.FORMAT, self.partition, int(self._new))
        while True:
            began = loop.time()
            try:
                status, *rest = await self._link.call(scripts.ACQUIRE, *asked)
            except Unreachable as error:
                if "LOADING" not in str(error) or loop.time() >= until:
                    raise
                status, rest = b"held", [1000]  # it reads its file
            if status == b"ok":
                self._new = False
                return bytes(rest[0]), began
            if status == b"missing":
                raise StoreLost(f"{self.name} is {'there already' if self._new else 'no partition any more'}")
            if status == b"newer":
                raise StoreTooNew(f"{self.name} was written by a newer Tailrace")
            if loop.time() >= until:
                raise StoreBusy(f"{self.name} is held by another server of this service: stop that first")
            lasts = max(rest[0], 0) / 1000 + 0.01
            await asyncio.sleep(max(0.0, min(lasts, _LONGEST_LOOK, until - loop.time())))

    def _put_write(self, write: Write) -> None:
        assert self._writer is not None  # while it is open
        self._writer.put(write)

    def _put_question(self, question: Job) -> None:
        assert self._writer is not None
        self._writer.put(question)

    async def _ask(self, script: Script, *arguments: Any) -> list[Any]:
        return await self._ask_writer(Job(script, arguments, asyncio.get_running_loop().create_future()))

    def _forget(self) -> None:
        super()._forget()
        self._writer = self._task = None

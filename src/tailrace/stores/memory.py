"""The store that keeps everything in this process: for stdio, for small servers, and for tests.

A commit is one turn of the event loop, so that nothing can rely on a write being safe at once. With
``durable=True`` the server journals into it and a second server can restore from it, as from a disk;
`crash` then plays the kill, and `fail_commits` the disk that is full.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tailrace.core.ports import (
    AppendEvent,
    DropEntry,
    DropSession,
    DropStream,
    EndCall,
    PutCall,
    PutEntry,
    PutSession,
    Record,
    Store,
    StoredCall,
    StoredEntry,
    StoredEvent,
    StoredSession,
    TrimStream,
)
from tailrace.errors import StoreBusy, StoreError
from tailrace.stores.claims import sift
from tailrace.stores.memory_entries import Entries
from tailrace.stores.tickets import Tickets
from tailrace.stores.weight import write_weight

if TYPE_CHECKING:
    from tailrace.core.ports import Committed
    from tailrace.stores.tickets import Failed

__all__ = ["MemoryStore"]


class MemoryStore(Store):
    """Keeps sessions, streams, calls and entries in memory, for as long as this object lives.

    What it holds of sessions is limited by what is written and dropped, as their own limits say.

    Args:
        durable: Say that writes outlive the process, so that the server journals. They outlive the
            *server*, as long as this object lives: meant for tests.
        max_queued: Bytes that may be uncommitted; over it `write` raises.
        max_entries: Bytes of the entries that have not expired, with some overhead each; over it `write` raises.
        clock: Tells the wall-clock time in seconds, by which entries expire.
    """

    def __init__(
        self,
        *,
        durable: bool = False,
        max_queued: int = 67_108_864,
        max_entries: int = 67_108_864,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.durable = durable
        self._max_queued = max_queued
        self._loop: asyncio.AbstractEventLoop | None = None  # set while open
        self._tickets = Tickets()
        self._pending: list[tuple[int, Sequence[Record], int]] = []  # ticket, records, weight
        self._queued = 0
        self._kept: dict[str, _Kept] = {}
        self._entries = Entries(max_entries)
        self._clock = clock
        self._secrets: list[bytes] = []
        self._epoch = 0
        self._failing: StoreError | None = None
        self._failure: StoreError | None = None
        self._commits = self._records = self._failed = 0

    @property
    def name(self) -> str:
        """``memory``."""
        return "memory"

    @property
    def failure(self) -> StoreError | None:
        """The error of the newest commit if that failed, else None."""
        return self._failure

    async def open(self, *, wait: float = 30.0) -> None:
        """Take hold of the store.

        Args:
            wait: Without effect: nobody else can hold it.

        Raises:
            StoreBusy: It is open already. (A loop that was closed without closing the store holds it no longer.)
        """
        if self._loop is not None:
            if not self._loop.is_closed():
                raise StoreBusy("this memory store is open already: close it first")
            self.crash()
        self._loop = asyncio.get_running_loop()
        self._tickets.bind(self._loop)
        self._kept = {session: kept for session, kept in self._kept.items() if kept.record is not None}

    async def close(self) -> None:
        """Commit all that was written, then let go. Idempotent; never waits."""
        if self._loop is not None:
            self._commit()
            self._loop = None

    def write(self, records: Sequence[Record]) -> int:
        """As `Store.write`."""
        if self._loop is None:
            raise StoreError("the memory store is not open")
        weight = write_weight(records)
        if self._queued + weight > self._max_queued:
            raise StoreError(f"more than {self._max_queued} bytes are waiting to be committed")
        self._entries.reserve(records, self._clock())
        if not self._pending:
            self._loop.call_soon(self._commit)
        self._queued += weight
        ticket = self._tickets.issue()
        self._pending.append((ticket, tuple(records), weight))
        return ticket

    def when(self, ticket: int, committed: Committed) -> None:
        """As `Store.when`."""
        self._tickets.when(ticket, committed)

    async def flush(self) -> None:
        """As `Store.flush`."""
        await self._tickets.flush()

    async def load(self, session: str | None = None, *, handle: bytes | None = None) -> StoredSession | None:
        """As `Store.load`."""
        await self._reading()
        if session is None:
            session = next((name for name, kept in self._kept.items() if kept.has_handle(handle)), "")
        kept = self._kept.get(session)
        return None if kept is None else kept.stored()

    async def sessions(self) -> list[tuple[str, float]]:
        """As `Store.sessions`."""
        await self._reading()
        touched = ((kept.record.touched, name) for name, kept in self._kept.items() if kept.record is not None)
        return [(name, when) for when, name in sorted(touched)]

    async def unfinished(self) -> list[str]:
        """As `Store.unfinished`."""
        await self._reading()
        return sorted(name for name, kept in self._kept.items() if kept.calls and kept.record is not None)

    async def entry(self, kind: str, key: str) -> StoredEntry | None:
        """As `Store.entry`."""
        await self._reading()
        return self._entries.get(kind, key, self._clock())

    async def count(self, kind: str) -> int:
        """As `Store.count`."""
        await self._reading()
        return self._entries.count(kind, self._clock())

    async def entries(self, kind: str, *, after: str = "", limit: int = 1000) -> list[StoredEntry]:
        """As `Store.entries`."""
        await self._reading()
        return self._entries.page(kind, after, limit, self._clock())

    async def secrets(self) -> list[bytes]:
        """As `Store.secrets`."""
        await self._reading()
        if not self._secrets:
            self._secrets.append(secrets.token_bytes(32))
        return list(self._secrets)

    async def next_epoch(self) -> int:
        """As `Store.next_epoch`."""
        await self._reading()
        self._epoch += 1
        return self._epoch

    def statistics(self) -> dict[str, int | float | str]:
        """As `Store.statistics`; also `sessions`, `entries` and `entry_bytes`."""
        return {
            "queued_bytes": self._queued,
            "commits": self._commits,
            "records": self._records,
            "failed": self._failed,
            "commit_seconds": self._tickets.waited,
            "lag": self._tickets.lag,
            "sessions": len(self._kept),
            "entries": len(self._entries),
            "entry_bytes": self._entries.bytes,
        }

    # --- for tests -----------------------------------------------------------------------------

    def crash(self) -> None:
        """Let go as a killed process does: the uncommitted is lost, nobody is told, it can be opened again."""
        self._pending.clear()
        self._queued = 0
        self._entries.settle()
        self._failing = self._failure = None
        self._loop = None

    def fail_commits(self, error: StoreError | None) -> None:
        """Let every commit fail with `error` from now on, as on a full disk, until it is called with None."""
        self._failing = error
        if error is None:
            self._failure = None

    # --- within --------------------------------------------------------------------------------

    def _commit(self) -> None:
        if not self._pending:
            return
        writes, self._pending, self._queued = self._pending, [], 0
        self._entries.settle()
        first, upto = self._tickets.settled + 1, self._tickets.settled + len(writes)
        self._failure = self._failing
        if self._failing is not None:
            self._failed += len(writes)
            self._tickets.settle(upto, [(first, upto, self._failing)])
            return
        sound, failed = self._sifted(writes)
        for _, records, _ in sound:
            for record in records:
                self._apply(record)
            self._records += len(records)
        self._commits += 1
        self._tickets.settle(upto, failed)

    def _sifted(
        self, writes: list[tuple[int, Sequence[Record], int]]
    ) -> tuple[list[tuple[int, Sequence[Record], int]], list[Failed]]:
        now = self._clock()
        return sift(writes, lambda claim: self._entries.is_held(claim.kind, claim.key, now), now, self.name)

    async def _reading(self) -> None:
        if self._loop is None:
            raise StoreError("the memory store is not open")
        await self._tickets.wait_settled(self._tickets.newest)

    def _apply(self, record: Record) -> None:
        match record:
            case DropSession():
                self._kept.pop(record.session, None)
            case PutSession():
                self._of(record.session).record = record
            case AppendEvent():
                self._of(record.session).append(record)
            case PutCall():
                stored = StoredCall(record.call, record.stream, record.data)
                self._of(record.session).calls[record.call] = stored
            case EndCall() | TrimStream() | DropStream():
                kept = self._kept.get(record.session)
                if kept is not None:
                    kept.forget(record)
            case PutEntry():
                self._entries.put(record)
            case DropEntry():
                self._entries.drop(record.kind, record.key)

    def _of(self, session: str) -> _Kept:
        return self._kept.setdefault(session, _Kept())


class _Kept:
    """What is kept under one session's id. Like a table's rows, streams and calls may be there without the session."""

    __slots__ = ("calls", "events", "last", "record")

    def __init__(self) -> None:
        self.record: PutSession | None = None
        self.events: dict[int, dict[tuple[int, int], StoredEvent]] = {}  # by stream, then by (kind, seq)
        self.last: dict[int, int] = {}
        self.calls: dict[int, StoredCall] = {}

    def has_handle(self, handle: bytes | None) -> bool:
        return self.record is not None and self.record.handle == handle

    def append(self, record: AppendEvent) -> None:
        event = StoredEvent(record.stream, record.seq, record.kind, record.payload)
        self.events.setdefault(record.stream, {}).setdefault((record.kind, record.seq), event)
        self.last[record.stream] = max(record.seq, self.last.get(record.stream, record.seq))

    def forget(self, record: EndCall | TrimStream | DropStream) -> None:
        if isinstance(record, EndCall):
            self.calls.pop(record.call, None)
        elif isinstance(record, DropStream):
            self.events.pop(record.stream, None)
            self.last.pop(record.stream, None)
        else:
            events = self.events.get(record.stream, {})
            for key in [(kind, seq) for kind, seq in events if kind == record.kind and seq <= record.upto]:
                del events[key]

    def stored(self) -> StoredSession | None:
        if self.record is None:
            return None
        kept = self.record
        events = [event for stream in self.events.values() for event in stream.values()]
        return StoredSession(
            kept.session,
            kept.handle,
            kept.principal,
            kept.data,
            kept.touched,
            sorted(events, key=lambda event: (event.stream, event.seq)),
            dict(sorted(self.last.items())),
            [call for _, call in sorted(self.calls.items())],
        )

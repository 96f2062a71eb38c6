"""The store that outlives the process: one SQLite file on a local disk, made for one server at a time.

This is its opening, its closing and its questions; the rest of the loop's side is `queued`. The thread that commits is
`sqlite_writer`, what it writes `sqlite_tables`, the file and who holds it `sqlite_file`.

A write is never half there: writes that are committed together come or go together, also in a power cut.
A write whose commit *failed* may still be found after a crash (the kernel had the bytes, and could not say
so); as everything is kept by key, having it twice is the same as having it once.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tailrace.errors import StoreBusy, StoreError
from tailrace.stores import sqlite_tables as tables
from tailrace.stores.queued import QueuedStore, resolve
from tailrace.stores.sqlite_recent import Recent
from tailrace.stores.sqlite_writer import Job, Listener, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace.core.ports import StoredEntry, StoredSession
    from tailrace.stores.queued import Write
    from tailrace.stores.tickets import Failed

__all__ = ["SqliteStore"]


class SqliteStore(QueuedStore):
    """Keeps sessions, streams, calls and entries in one SQLite file (WAL, ``synchronous=FULL``), private to the user.

    Args:
        path: The file; it and its folder are made where they are missing (0600 and 0700). Beside it stand
            ``PATH-wal`` while it is open, and ``PATH.lock``.
        max_queued: Bytes that may wait for their commit, payloads and overhead; over it `write` raises.
        batch_writes: Most writes in one commit.
        merge_bytes: Bytes of committed records, payloads and overhead, that are merged into the tables at once; until
            then they are also held in memory.
        open_timeout: Seconds for opening, beside the wait for another holder (migration, recovery of the log).
        close_timeout: Seconds for committing what is queued when it is closed; what is left then fails.
        probe_interval: Seconds between two tries whether writing works again, after a failed commit.
        expiry_interval: Seconds between two looks for entries that have expired; they are deleted a few hundred
            at a time, in commits of their own.
        clock: Tells the wall-clock time in seconds, by which entries expire; called in the thread as well.
        factory: The class of the connection; tests make one that fails.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_queued: int = 67_108_864,
        batch_writes: int = 1_000,
        merge_bytes: int = 4_194_304,
        open_timeout: float = 60.0,
        close_timeout: float = 10.0,
        probe_interval: float = 1.0,
        expiry_interval: float = 30.0,
        clock: Callable[[], float] = time.time,
        factory: type[sqlite3.Connection] = sqlite3.Connection,
    ) -> None:
        self._path = Path(path).absolute()
        super().__init__(f"{self._path}", max_queued)
        self._open_timeout = open_timeout
        self._close_timeout = close_timeout
        self._writer_options: dict[str, Any] = {
            "batch_writes": batch_writes,
            "probe_interval": probe_interval,
            "expiry_interval": expiry_interval,
            "clock": clock,
            "factory": factory,
        }
        self._clock = clock
        self._merge_bytes = merge_bytes
        self._recent = Recent(merge_bytes)
        self._writer: Writer | None = None  # from the start of `open` to the end of `close`
        self._opening: asyncio.Future[None] | None = None
        self._close_limit: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        """``sqlite:PATH``."""
        return f"sqlite:{self._path}"

    async def open(self, *, wait: float = 30.0) -> None:
        """Take hold of the file; the work and the waiting are the thread's. Cancelling lets go again.

        Args:
            wait: Seconds to wait for another process that holds it.

        Raises:
            StoreBusy: Another process, or another store of this one, held it all the time; or this one is open.
            StoreTooNew: A newer version wrote it; nothing was changed.
            StoreError: A network file system, no permission, damaged, not a Tailrace store.
        """
        if self._writer is not None and not self._writer.loop.is_closed():
            raise StoreBusy(f"{self._path} is open already in this store: close it first")
        if self._writer is not None:  # its loop was closed and the store was not; the new thread waits for the old
            self._writer.put(None)
        loop = asyncio.get_running_loop()
        self._tickets.bind(loop)
        self._forget()
        self._failure = None
        listener = Listener(self._opened, self._settled, self._recovered, self._answered, self._ended)
        recent = self._recent = Recent(self._merge_bytes)
        writer = self._writer = Writer(self._path, listener, loop, wait=wait, recent=recent, **self._writer_options)
        self._opening = loop.create_future()
        writer.start()
        try:
            async with asyncio.timeout(wait + self._open_timeout):
                await self._opening
        except BaseException as error:
            writer.stop()
            self._let_go(StoreError(f"{self._path} was not opened"))
            if isinstance(error, TimeoutError):
                raise StoreError(f"opening {self._path} took longer than {self._open_timeout:g} s") from None
            raise
        if not self._is_open:
            raise StoreError(f"{self._path} was closed while it was being opened")

    async def close(self) -> None:
        """Commit all that was written, call back, checkpoint, and let go of the file. Idempotent.

        It waits at most `close_timeout`; what could not be committed until then fails with an error that is
        also `failure`. All closers wait for the same end, and cancelling one of them does not stop it.
        """
        if self._writer is None:
            return
        loop = asyncio.get_running_loop()
        if self._writer.loop.is_closed():  # the loop it was opened on is gone
            self._writer.loop = loop
            self._closing = None
            self._tickets.bind(loop, keep=True)
            loop.call_soon(self._writer.collect)
        if self._closing is None:
            self._is_open = False
            self._closing = loop.create_future()
            self._close_limit = loop.call_later(self._close_timeout, self._close_late)
            self._writer.put(None)
        await asyncio.shield(self._closing)

    async def load(self, session: str | None = None, *, handle: bytes | None = None) -> StoredSession | None:
        """As `Store.load`."""
        return await self._ask(partial(tables.load, session=session, handle=handle))

    async def sessions(self) -> list[tuple[str, float]]:
        """As `Store.sessions`."""
        return await self._ask(tables.sessions)

    async def unfinished(self) -> list[str]:
        """As `Store.unfinished`."""
        return await self._ask(tables.unfinished)

    async def entry(self, kind: str, key: str) -> StoredEntry | None:
        """As `Store.entry`."""
        return await self._ask(partial(self._recent.entry, kind=kind, key=key, now=self._clock()), reads=False)

    async def count(self, kind: str) -> int:
        """As `Store.count`."""
        return await self._ask(partial(tables.count, kind=kind, now=self._clock()))

    async def entries(self, kind: str, *, after: str = "", limit: int = 1000) -> list[StoredEntry]:
        """As `Store.entries`."""
        return await self._ask(
            partial(self._recent.entries, kind=kind, after=after, limit=limit, now=self._clock()), reads=False
        )

    async def secrets(self) -> list[bytes]:
        """As `Store.secrets`."""
        return await self._ask(tables.sealing_secrets, reads=False)

    async def next_epoch(self) -> int:
        """As `Store.next_epoch`."""
        return await self._ask(tables.next_epoch, reads=False)

    # --- what the thread tells, on the loop (see `Listener`) -------------------------------------

    def _opened(self, error: StoreError | None) -> None:
        if self._opening is not None and not self._opening.done():
            self._is_open = error is None and self._closing is None
            resolve(self._opening, None, error)

    def _settled(self, writes: Sequence[Write], failed: Sequence[Failed], error: StoreError | None) -> None:
        self._failure = error
        super()._settled(writes, failed, error)

    def _recovered(self) -> None:
        self._failure = None

    def _ended(self, error: StoreError | None) -> None:
        self._let_go(error or StoreError(f"{self._path} was closed"))
        if error is not None:
            self._failure = error

    # --- within --------------------------------------------------------------------------------

    def _put_write(self, write: Write) -> None:
        self._thread.write(write)

    def _put_question(self, question: Job) -> None:
        self._thread.put(question)

    @property
    def _thread(self) -> Writer:
        assert self._writer is not None  # while it is open
        return self._writer

    async def _ask(self, work: Callable[[sqlite3.Connection], Any], *, reads: bool = True) -> Any:
        return await self._ask_writer(Job(work, reads, asyncio.get_running_loop().create_future()))

    def _close_late(self) -> None:
        """The disk is too slow, or hangs: leave it to the thread, which ends with the process at the latest."""
        if self._writer is not None:
            self._failure = StoreError(f"closing {self._path} took longer than {self._close_timeout:g} s")
            self._writer.stop()
            self._let_go(self._failure)

    def _let_go(self, error: StoreError) -> None:
        """The thread is done with, in order or not."""
        self._writer = None
        self._give_up(error)

    def _forget(self) -> None:
        super()._forget()
        if self._close_limit is not None:
            self._close_limit.cancel()
            self._close_limit = None

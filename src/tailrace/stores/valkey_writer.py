"""The one task that talks to Valkey: it gathers writes into commits, answers reads, and keeps the lease.

One commit is on its way at a time, and takes all that was written while the one before it was; it bears a number, so
that asking again after a cut cannot do it twice. Tickets and limits are `valkey`'s, the keys `valkey_scripts`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tailrace.core.ports import DropEntry, PutEntry
from tailrace.errors import StoreError, StoreLost
from tailrace.stores import valkey_scripts as scripts
from tailrace.stores.claims import claims, taken
from tailrace.stores.valkey_link import Link, Unreachable
from tailrace.stores.valkey_records import encode

if TYPE_CHECKING:
    from tailrace.stores.queued import Write
    from tailrace.stores.tickets import Failed
    from tailrace.stores.valkey_scripts import Script

__all__ = ["Job", "Listener", "Writer"]

logger = logging.getLogger("tailrace.stores.valkey")

_EXPIRED_AT_ONCE = 500
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds between two tries


@dataclass(eq=False, slots=True)
class Job:
    """A question; asked after the writes before it."""

    script: Script
    arguments: tuple[Any, ...]
    answer: asyncio.Future[list[Any]]


@dataclass(frozen=True, slots=True)
class Listener:
    """Whom the task tells, each in a turn of the loop of its own, in the order in which things happened.

    Attributes:
        settled: These writes are committed, but for those that failed; the error is that of the commit as a whole.
        health: Why writing does not work at the moment, or None: it works again. After a `StoreLost` it never does.
        answered: The job is done.
    """

    settled: Callable[[Sequence[Write], Sequence[Failed], StoreError | None], None]
    health: Callable[[StoreError | None], None]
    answered: Callable[[Job, Any, StoreError | None], None]


class Writer:
    """The queue and its end at Valkey; the queue's bound is the caller's to keep.

    Args:
        link: The connection.
        token: The fencing token and the owner's id, as `ACQUIRE` gave it.
        listener: Hears what happens.
        confirmed: When `ACQUIRE` was asked, by the loop's clock.
        lease: Seconds for which the ownership lasts unless it is renewed.
        batch_writes: Most writes in one commit.
        batch_bytes: Most bytes in one commit, but for a single write that is larger.
        retry_for: Seconds for which one commit is tried again while Valkey cannot be reached, unless it could not be
            reached before already.
        probe_interval: Seconds between two tries whether writing works again.
        expiry_interval: Seconds between two looks for entries that have expired.
        clock: Tells the wall-clock time in seconds.
    """

    def __init__(
        self,
        link: Link,
        token: bytes,
        listener: Listener,
        *,
        confirmed: float,
        lease: float,
        batch_writes: int,
        batch_bytes: int,
        retry_for: float,
        probe_interval: float,
        expiry_interval: float,
        clock: Callable[[], float],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._head = (token, int(lease * 1000))
        self._listener = listener
        self._renew_every = lease / 3
        self._renew_at = self._loop.time() + self._renew_every
        self._batch_writes = batch_writes
        self._batch_bytes = batch_bytes
        self._retry_for = retry_for
        self._probe_interval = probe_interval
        self._probe_at = 0.0
        self._expiry_interval = expiry_interval
        self._expire_at = self._loop.time() + expiry_interval
        self._clock = clock
        self._queue: deque[Write | Job] = deque()
        self._wake = asyncio.Event()
        self._ending = False
        self._number = 0  # of the newest commit
        self._acknowledged = 0  # the newest that Valkey has confirmed
        self._doubtful: list[Write] = []  # claims of the newest commit, of which nobody knows whether it was done
        self._undoing: list[Any] = []  # the commit that takes them back
        self._failing = False
        self._gone: StoreLost | None = None  # another owner took over: for good
        self.confirmed = confirmed  # when the newest renewal of the lease began
        self.lost = 0  # commits that were confirmed, and that Valkey no longer knows

    def put(self, item: Write | Job) -> None:
        """Hand over, from the loop."""
        self._queue.append(item)
        self._wake.set()

    def end(self) -> None:
        """Do what is queued, then let go of the lease and return from `run`."""
        self._ending = True
        self._wake.set()

    async def run(self) -> None:
        """Work until `end`."""
        try:
            while True:
                await self._look_after()
                if not self._queue:
                    if self._ending:
                        break
                    await self._wait()
                elif isinstance(item := self._queue[0], Job):
                    self._queue.popleft()
                    await self._answer(item)
                else:
                    await self._commit(self._take())
            if self._gone is None:
                with contextlib.suppress(StoreError):  # else it ends with its lease
                    await self._link.call(scripts.RELEASE, *self._head)
        finally:
            await self._link.drop()

    async def _wait(self) -> None:
        self._wake.clear()
        due = [self._expire_at] if self._gone else [self._renew_at, self._expire_at]
        if self._failing and not self._gone:
            due = [self._probe_at]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(due)):
                await self._wake.wait()

    async def _look_after(self) -> None:
        """Renew the lease, see whether writing works again, delete what has expired: whatever is due."""
        now = self._loop.time()
        if self._gone:
            self._expire_at = now + self._expiry_interval
            return
        try:
            if self._failing:
                if now >= self._probe_at:
                    await self._call(scripts.RENEW)
                    await self._send([])
                    self._fine()
                return
            if now >= self._renew_at:
                await self._call(scripts.RENEW)
                self._renew_at = self._loop.time() + self._renew_every
            if now >= self._expire_at:
                gone = (await self._call(scripts.EXPIRE, repr(self._clock()), _EXPIRED_AT_ONCE))[0]
                self._expire_at = now if gone >= _EXPIRED_AT_ONCE else self._loop.time() + self._expiry_interval
        except StoreError as error:
            self._expire_at = self._loop.time() + self._expiry_interval
            self._fail(error)

    def _take(self) -> list[Write]:
        writes: list[Write] = []
        weight = 0
        while self._queue and len(writes) < self._batch_writes:
            item = self._queue[0]
            if isinstance(item, Job) or (writes and weight + item[2] > self._batch_bytes):
                break
            self._queue.popleft()
            writes.append(item)
            weight += item[2]
        return writes

    async def _commit(self, writes: list[Write]) -> None:
        arguments: list[Any] = []
        failed: list[Failed] = []
        now = self._clock()
        for ticket, records, _ in writes:
            try:
                arguments += encode(records, ticket, now)
            except (ValueError, TypeError, OverflowError, AttributeError) as error:
                reason = StoreError(f"{self._link.name}: a record cannot be stored: {error}")
                failed.append((ticket, ticket, reason))
        failure: StoreError | None = None
        try:
            refused = await self._send(arguments, writes)
            if refused:
                failed = sorted(failed + [(ticket, ticket, taken(self._link.name)) for ticket in refused], key=_ticket)
            self._fine()
        except StoreError as error:
            failure = error
            failed = [(writes[0][0], writes[-1][0], error)]
            self._fail(error)
        self._loop.call_soon(self._listener.settled, writes, failed, failure)

    async def _send(self, arguments: list[Any], writes: Sequence[Write] = ()) -> list[int]:
        """Commit; gives the tickets of the writes whose claims were refused."""
        await self._take_back()
        self._number += 1
        try:
            return (await self._ask_commit(arguments))[1]
        except Unreachable:
            self._doubtful = [write for write in writes if claims(write[1])]
            raise

    async def _take_back(self) -> None:
        """Before anything else is committed: were the claims of the last commit done, though they were said to have
        failed? Then nobody knows that it holds those keys; they are let go, with the other entries of their writes."""
        if self._doubtful:
            done, refused = await self._ask_commit([])  # under its number: either it was done, or never will be
            held = [records for ticket, records, _ in self._doubtful if done and ticket not in refused]
            entries = [record for records in held for record in records if isinstance(record, PutEntry)]
            self._doubtful = []
            if entries:
                self._undoing = encode([DropEntry(entry.kind, entry.key) for entry in entries], 0, 0.0)
                self._number += 1
        if self._undoing:
            await self._ask_commit(self._undoing)  # under one number, however often it is asked: once
            self._undoing = []

    async def _ask_commit(self, arguments: list[Any]) -> tuple[bool, list[int]]:
        """Whether the commit of the present number was there already, and which claims of it were refused."""
        last, refused = await self._call(scripts.COMMIT, self._number, *arguments)
        if last < self._acknowledged:
            lost = self._acknowledged - last
            self.lost += lost
            logger.error("%s has lost the last %d commits that it had confirmed: what is not fsynced at every write "
                         "does not survive its crash or failover", self._link.name, lost)  # fmt: skip
        self._acknowledged = self._number
        return last >= self._number, [int(ticket) for ticket in refused.split(b",")] if refused else []

    async def _answer(self, job: Job) -> None:
        if job.answer.done():  # whoever asked was cancelled
            self._loop.call_soon(self._listener.answered, job, None, None)
            return
        answer, error = None, None
        try:
            answer = await self._call(job.script, *job.arguments)
        except StoreError as exception:
            error = exception
        self._loop.call_soon(self._listener.answered, job, answer, error)

    async def _call(self, script: Script, *arguments: Any) -> list[Any]:
        """Ask, and ask again while there is no answer and time is left."""
        until = self._loop.time() + (0.0 if self._failing else self._retry_for)
        pause = _FIRST_PAUSE
        while True:
            if self._gone is not None:
                raise self._gone.with_traceback(None)  # else it keeps every frame that it was ever raised in
            began = self._loop.time()
            try:
                status, *answer = await self._link.call(script, *self._head, *arguments)
            except Unreachable:
                if self._loop.time() + pause > until:
                    raise
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if status != b"ok":
                self._gone = StoreLost(f"{self._link.name}: another server has taken over this service's store")
                logger.error("%s: another server has taken over (this one was away for longer than its lease, or "
                             "Valkey forgot it); nothing more is written", self._link.name)  # fmt: skip
                self._fail(self._gone)
                raise self._gone
            if script is scripts.RENEW:
                self.confirmed = began
            return answer

    def _fail(self, error: StoreError) -> None:
        self._failing = True
        self._probe_at = self._loop.time() + self._probe_interval
        self._loop.call_soon(self._listener.health, error)

    def _fine(self) -> None:
        if self._failing:
            self._failing = False
            self._renew_at = self._loop.time()
            self._loop.call_soon(self._listener.health, None)


def _ticket(failed: Failed) -> int:
    return failed[0]

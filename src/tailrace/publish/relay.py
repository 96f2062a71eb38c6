"""Delivers what an outbox holds: in order for each key, again and again, never more than a bounded part in memory.

At least once: a message leaves its source when the broker has it, so a crash in between delivers it again, under the
same id. While the broker is away nothing is given up; a message that the broker itself refuses becomes a dead
letter after some attempts, and those behind it go on.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.errors import StoreError
from tailrace.publish.publishers import Publisher, Rejected

if TYPE_CHECKING:
    from tailrace.core.outgoing import Message
    from tailrace.core.tasks import Tasks
    from tailrace.core.trace import Tracer

__all__ = ["Relay", "Source", "Waiting"]

logger = logging.getLogger("tailrace.publish")

_HELD = 1000  # messages in memory, and those of one call more
_HELD_BYTES = 16 * 1024 * 1024
_PAGE = 200  # messages read at once,
_LARGE_PAGE = 8  # or so many, where those before them were large
_LARGE = 1024 * 1024  # bytes of a page
_BATCH = 500  # messages told to the publisher at once
_BATCHES = 4  # told at the same time
_BASE = 0.1  # seconds before the second attempt; doubled each time
_LONGEST = 10.0  # seconds between two attempts
_LINGER = 0.025  # seconds between two batches, unless somebody waits in line: a batch costs more than a message
_SLOW = 5.0  # seconds without a word about a batch, after which the broker is said to be away
_PUBLISH_LIMIT = 300.0  # seconds for the publisher to say what became of a batch
_ATTEMPTS = 10  # of a message that the broker refuses


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message as its source holds it: `place` is where, and grows in the order of commits."""

    place: str
    message: Message


class Source(Protocol):
    """Where committed messages wait."""

    async def read(self, after: str, limit: int) -> Sequence[Waiting]:
        """The next ones behind `after` ("" for the first), oldest first."""
        ...

    async def done(self, places: Sequence[str]) -> None:
        """The broker has them: forget them; nothing is lost if that comes too late."""
        ...

    async def bury(self, waiting: Waiting, attempts: int, error: str) -> None:
        """Keep it as a dead letter."""
        ...

    def let_go(self, places: Sequence[str]) -> None:
        """They are not held any more: `read` gives them again."""
        ...


@dataclass(eq=False, slots=True)
class _Item:
    waiting: Waiting
    attempts: int = 0
    due: float = 0.0  # loop time
    flying: bool = False


class Relay:
    """Takes messages from a source to a publisher.

    Args:
        source: Where they wait.
        publisher: Where they go.
        tasks: Where its tasks run.
        look: Seconds after which the source is looked at again, though nobody said that there is more.
    """

    def __init__(self, source: Source, publisher: Publisher, tasks: Tasks, *, look: float = 2.0) -> None:
        self.publisher = publisher
        self.published = 0
        self.failures = 0  # attempts that failed, of any message
        self.trouble = ""  # why nothing can be delivered at present
        self._source = source
        self._tasks = tasks
        self._look = look
        self._held: dict[str, _Item] = {}  # by place, in order
        self._bytes = 0
        self._lines: dict[tuple[str, bytes], deque[_Item]] = {}  # what shares topic and key, in order
        self._read_to = ""
        self._page = _LARGE_PAGE
        self._behind = True  # the source may hold more than was read
        self._reading = False
        self._offered: list[Waiting] = []  # while the source was being read
        self._told_at = -_LINGER  # loop time of the last batch, or of the last look for one
        self._lingering: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._open = False
        self._outages = 0  # in a row
        self._resume_at = 0.0  # loop time; nothing is told before it
        self._batches: dict[asyncio.Task[Any], float] = {}  # and since when
        self._main: asyncio.Task[Any] | None = None
        self._idle = asyncio.Event()  # nothing is left, or nothing can be done

    # --- its life ---

    def start(self) -> None:
        """Begin to deliver."""
        self._main = self._tasks.start(self._run(), name="tailrace-relay")

    def nudge(self) -> None:
        """There is more in the source."""
        self._behind = True
        self._changed.set()

    def offer(self, fresh: Sequence[Waiting]) -> None:
        """These are in the source now, behind all that was there: they need not be read, if nothing else does and
        there is room."""
        if self._behind or len(self._held) + len(self._offered) >= _HELD or self._bytes >= _HELD_BYTES:
            self._behind = True  # they are read when there is room: nobody need be woken for that
            self._offered.clear()
        elif self._reading:
            self._offered += fresh
        else:
            self._take(fresh)
            self._linger()

    def let_go(self) -> None:
        """Somebody else delivers from here on: what is not under way yet is his."""
        idle = [item for item in self._held.values() if not item.flying]
        for item in idle:
            self._release(item)
        self._source.let_go([item.waiting.place for item in idle])

    async def drain(self, seconds: float) -> bool:
        """Wait until everything is delivered, at most `seconds`, and not for a broker that is away; tells whether
        that came true."""
        if self._main is None:
            return True
        self.nudge()
        try:
            async with asyncio.timeout(seconds):
                while (self._held or self._behind) and not self.trouble:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            pass
        return not (self._held or self._behind)

    async def close(self) -> None:
        """Stop; what is under way may arrive, and is delivered again. Bounded by the publisher's own limits."""
        if self._lingering is not None:
            self._lingering.cancel()
        main, self._main = self._main, None
        running = [task for task in (main, *self._batches) if task is not None]
        for task in running:
            task.cancel()
        await self._tasks.settle(running, 2.0)
        await self.publisher.close()

    # --- delivering ---

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            if await self._opened():
                await self._fill()
                self._tell()
                self._watch()
            if not self._held and not self._behind:
                self._idle.set()
            try:
                async with asyncio.timeout(self._pause()):
                    await self._changed.wait()
            except TimeoutError:
                self._behind = True

    async def _opened(self) -> bool:
        if self._open:
            return True
        if self._now() < self._resume_at:
            return False
        try:
            await self.publisher.open()
        except Exception as error:
            self._outage(error)
            return False
        self._open = True
        return True

    async def _fill(self) -> None:
        """Read on, if there is room for more than a few."""
        if len(self._held) > _HELD // 2:
            return
        while self._behind and len(self._held) < _HELD and self._bytes < _HELD_BYTES:
            asked = min(self._page, _HELD - len(self._held))
            self._behind, self._reading = False, True  # it may be said again while this is under way
            try:
                page = await self._source.read(self._read_to, asked)
            except StoreError as error:
                self._behind = True
                self._offered.clear()
                self._outage(error)
                return
            finally:
                self._reading = False
            self._take(page)
            size = sum(len(waiting.message.value) for waiting in page)
            self._page = _PAGE if size < _LARGE else _LARGE_PAGE
            if len(page) == asked:  # there may be more, and what was offered meanwhile is behind that
                self._behind = True
                self._offered.clear()
            else:
                offered, self._offered = self._offered, []
                self._take([waiting for waiting in offered if waiting.place > self._read_to])

    def _take(self, waiting: Sequence[Waiting]) -> None:
        """Hold the next ones of the source."""
        for one in waiting:
            self._hold(_Item(one))
        if waiting:
            self._read_to = waiting[-1].place

    def _hold(self, item: _Item) -> None:
        message = item.waiting.message
        self._held[item.waiting.place] = item
        self._bytes += len(message.value)
        if message.key is not None:
            self._lines.setdefault((message.topic, message.key), deque()).append(item)

    def _tell(self) -> None:
        """Tell the publisher what is due: of those that share topic and key, the first only."""
        while len(self._batches) < _BATCHES and self._now() >= self._resume_at:
            batch = [item for item in self._held.values() if self._is_due(item)][:_BATCH]
            if not batch:
                return
            for item in batch:
                item.flying = True
            task = self._tasks.start(self._deliver(batch), name="tailrace-publish")
            self._batches[task] = self._told_at = self._now()

    def _is_due(self, item: _Item) -> bool:
        if item.flying or item.due > self._now():
            return False
        message = item.waiting.message
        return message.key is None or self._lines[message.topic, message.key][0] is item

    def _trace(self, tracer: Tracer, batch: list[_Item], outcomes: Sequence[Exception | None], seconds: float) -> None:
        for item, outcome in zip(batch, outcomes, strict=True):
            message = item.waiting.message
            headers = {name: value.decode("ascii", "replace") for name, value in message.headers}
            tracer.delivered(headers, message.topic, seconds, outcome)

    async def _deliver(self, batch: list[_Item]) -> None:
        began = self._now()
        try:
            async with asyncio.timeout(_PUBLISH_LIMIT):
                outcomes = await self.publisher.publish([item.waiting.message for item in batch])
        except Exception as error:
            outcomes = [error] * len(batch)
        if self._tasks.tracer is not None:
            self._trace(self._tasks.tracer, batch, outcomes, self._now() - began)
        if self._tasks.meter is not None:
            system, seconds = self.publisher.name.partition(":")[0], self._now() - began
            for item, outcome in zip(batch, outcomes, strict=True):
                self._tasks.meter.delivered(system, item.waiting.message.topic, seconds, outcome)
        try:
            await self._settle(batch, outcomes)
        finally:
            for item in batch:
                item.flying = False
            task = asyncio.current_task()
            if task is not None:
                self._batches.pop(task, None)
            if self._held and not self._behind:
                self._linger()
            else:
                self._changed.set()

    def _linger(self) -> None:
        """Something is due, as soon as the next batch may go."""
        if self._lingering is None:
            self._lingering = self._tasks.loop.call_at(self._told_at + _LINGER, self._lingered)

    def _lingered(self) -> None:
        self._lingering = None
        self._told_at = self._now()
        self._changed.set()

    async def _settle(self, batch: list[_Item], outcomes: Sequence[Exception | None]) -> None:
        delivered: list[_Item] = []
        outage: Exception | None = None
        for item, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                delivered.append(item)
            elif isinstance(outcome, Rejected):
                await self._refused(item, outcome)
            else:
                self.failures += 1
                outage = outcome
        if delivered:
            self.published += len(delivered)
            await self._forget([item.waiting.place for item in delivered])
            self._recovered()
            for item in delivered:
                self._release(item)
        if outage is not None:
            self._outage(outage)

    async def _forget(self, places: Sequence[str]) -> None:
        """Out of the source. Until that works they are kept here: told anew, they would arrive twice."""
        failed = 0
        while True:
            try:
                return await self._source.done(places)
            except StoreError as error:
                failed += 1
                self._outage(error)
                await asyncio.sleep(_delay(failed))

    async def _refused(self, item: _Item, error: Rejected) -> None:
        self.failures += 1
        item.attempts += 1
        message = item.waiting.message
        if item.attempts < _ATTEMPTS:
            item.due = self._now() + _delay(item.attempts)
            return
        logger.error(
            "message not published: it is a dead letter now topic=%s message_id=%s attempts=%d error=%s",
            message.topic,
            message.id,
            item.attempts,
            error,
        )
        await self._source.bury(item.waiting, item.attempts, str(error))
        self._release(item)

    def _release(self, item: _Item) -> None:
        message = item.waiting.message
        del self._held[item.waiting.place]
        self._bytes -= len(message.value)
        if message.key is not None:
            line = self._lines[message.topic, message.key]
            line.remove(item)  # the first
            if line:
                self._changed.set()  # the next one has waited for long enough
            else:
                del self._lines[message.topic, message.key]

    # --- outages and the clock ---

    def _watch(self) -> None:
        """A publisher may try for long by itself; people want to know before it gives up."""
        if not self.trouble and any(self._now() - since >= _SLOW for since in self._batches.values()):
            self._in_trouble("the broker does not answer")

    def _in_trouble(self, why: str) -> None:
        if not self.trouble:
            logger.warning("messages cannot be delivered; they wait publisher=%s error=%s", self.publisher.name, why)
        self.trouble = why[:500]
        self._idle.set()

    def _outage(self, error: Exception) -> None:
        self._outages += 1
        self._resume_at = self._now() + _delay(self._outages)
        self._in_trouble(f"{type(error).__name__}: {error}")

    def _recovered(self) -> None:
        self._outages = 0
        self._resume_at = 0.0
        if self.trouble:
            self.trouble = ""
            logger.info("messages are delivered again publisher=%s", self.publisher.name)

    def _pause(self) -> float:
        """Seconds until something is due by itself."""
        now = self._now()
        due = [item.due for item in self._held.values() if item.due > now]
        if self._resume_at > now:
            due.append(self._resume_at)
        return max(0.001, min(min(due) - now, self._look)) if due else self._look

    def _now(self) -> float:
        return self._tasks.loop.time()


def _delay(attempts: int) -> float:
    """Doubled with each attempt, and never the same for two relays."""
    return min(_LONGEST, _BASE * 2 ** min(attempts - 1, 20)) * random.uniform(0.5, 1.0)

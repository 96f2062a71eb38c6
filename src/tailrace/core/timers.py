"""What is due: one timer for all who look at the clock now and then, and one for all who wait the same time.

A timer for each call, connection and session would cost more than the calls that they guard.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Protocol

__all__ = ["DelayLine", "Delayed", "Sweeper", "Swept"]

logger = logging.getLogger("tailrace.tasks")

_FEW = 16  # entries of a delay line that it does not look through


class Swept(Protocol):
    """Something that wants to look at the clock twice a second."""

    def sweep(self, now: float) -> None:
        """`now` is loop time."""
        ...


class Sweeper:
    """One timer for everything that is due "about now": keep-alives, idle sessions, stalls."""

    def __init__(self, interval: float = 0.5) -> None:
        self.interval = interval
        self.loop = asyncio.get_running_loop()
        self._members: dict[Swept, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, member: Swept) -> None:
        """Call `member.sweep` from now on; the timer runs while there is a member."""
        self._members[member] = None
        self._arm()

    def discard(self, member: Swept) -> None:
        """Do not call it any more. Idempotent."""
        self._members.pop(member, None)

    def close(self) -> None:
        """Stop the timer."""
        self._members.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        now = self.loop.time()
        for member in list(self._members):
            try:
                if member in self._members:  # not discarded by one before it
                    member.sweep(now)
            except Exception:
                logger.exception("sweep failed member=%r", member)
        if self._members:
            self._arm()

    def _arm(self) -> None:
        if self._timer is None:  # in nobody's contextvars: they would live on from tick to tick
            self._timer = self.loop.call_later(self.interval, self._tick, context=contextvars.Context())


class Delayed(Protocol):
    """What a `DelayLine` holds."""

    settled: bool

    def due(self) -> None:
        """The delay has passed and it is not settled."""
        ...


class DelayLine:
    """Calls back a fixed time after `add`, unless `skip` says that there is no need any more.

    Because the delay is the same for all, a queue and one timer are enough; most entries are skipped. Those that
    are settled are let go early: the queue never holds more than twice as many as are not, and a few.

    Args:
        delay: Seconds.
    """

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.loop = asyncio.get_running_loop()
        self._due: list[tuple[float, Delayed]] = []
        self._full = _FEW
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Delayed) -> None:
        """Call `item.due()` after the delay, unless `item.settled` is true by then."""
        if len(self._due) >= self._full:
            self._forget_settled()
        self._due.append((self.loop.time() + self.delay, item))
        if self._timer is None:
            self._arm()

    def close(self) -> None:
        """Forget all entries."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        now = self.loop.time() + 0.001
        due = [item for when, item in self._due if when <= now]
        del self._due[: len(due)]
        self._forget_settled()
        for item in due:
            try:
                if not item.settled:
                    item.due()
            except Exception:
                logger.exception("what was due failed item=%r", item)
        if self._due:
            self._arm()

    def _forget_settled(self) -> None:
        self._due = [entry for entry in self._due if not entry[1].settled]
        self._full = max(_FEW, 2 * len(self._due))

    def _arm(self) -> None:
        if self._timer is None:  # in nobody's contextvars, as the sweeper's
            self._timer = self.loop.call_at(self._due[0][0], self._tick, context=contextvars.Context())

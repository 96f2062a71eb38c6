"""One peer's conversation. It owns calls and streams, and ends exactly once, whoever ends it.

`OPEN -> CLOSING -> CLOSED` is a test-and-set without an `await` in between; every closer gets the
same completion; hooks come in pairs. Connections come and go without a session noticing.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable, Generator, Hashable
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tailrace.core.budget import EVENT_BYTES, Budget
from tailrace.core.ports import Kind
from tailrace.core.waiters import Waiters
from tailrace.errors import CallCancelled, LimitError

if TYPE_CHECKING:
    from tailrace.core.call import Call
    from tailrace.core.log import Log
    from tailrace.core.tasks import Tasks

__all__ = [
    "ANSWER_ROOM",
    "STREAM_BYTES",
    "Completion",
    "Finished",
    "Home",
    "Lifecycle",
    "Room",
    "Session",
    "Sessions",
]

logger = logging.getLogger("tailrace.session")

STREAM_BYTES = 3072  # what an ended stream takes besides its events: with small answers, nearly all of it
ANSWER_ROOM = 16 * 1024  # bytes that each call in flight has for its answer, whatever the others leave
_LOOK_EVERY = 0.5  # seconds between two looks through a full table in which nobody was idle


class Lifecycle(Enum):
    """Where a session stands; it only ever moves forward."""

    OPEN = 0
    CLOSING = 1
    CLOSED = 2


class Home(Protocol):
    """What a session needs of the house it lives in; one for all sessions."""

    async def opened(self, session: Session) -> None:
        """Run the register (or restore) hooks. Bounded in time; never raises."""
        ...

    async def ended(self, session: Session, reason: str) -> None:
        """Run the unregister hooks. Bounded in time; never raises."""
        ...

    def forget(self, session: Session, *, keep: bool) -> None:
        """It is over: out of the table and, unless `keep`, out of the store."""
        ...

    def suspend(self, session: Session) -> None:
        """Nothing of it is journalled any more: what is in the store now is what a restart will find."""
        ...

    def notification(self, method: str, params: Any) -> bytes:
        """Encode a server's notification."""
        ...


class Finished(NamedTuple):
    """A call's stream that has ended: when (loop time), and how many bytes it takes."""

    log: Log
    ended: float
    size: int


class Session:
    """One peer's conversation with the server.

    All methods belong to the event loop, and may be called at any time, by anyone, any number of times; `notify`,
    `close` and `abort` from any thread as well.

    Attributes:
        id: The secret that the peer shows; at least 128 random bits.
        handle: Names the session inside event ids; not a secret.
        principal: Whom it belongs to; ``""`` is nobody.
        state: The application's own JSON-able values; kept with the session.
        record: The protocol's own record: version, capabilities, log level.
        log: Its own stream, for all that belongs to no call.
        budget: What all its streams hold.
        streams: Its calls' streams, by number.
        finished: Those that have ended, oldest first; they are kept for a resume.
        finished_bytes: What they take, events and all.
        calls: What is in flight, by the protocol's key.
        touched: Loop time of its last use.
        saved: Loop time of its last record in the store.
    """

    __slots__ = (
        "_home",
        "_opening",
        "_waiters",
        "budget",
        "calls",
        "created",
        "finished",
        "finished_bytes",
        "greeted",
        "handle",
        "id",
        "lifecycle",
        "log",
        "max_calls",
        "principal",
        "reason",
        "record",
        "restored",
        "saved",
        "state",
        "streams",
        "tasks",
        "touched",
    )

    def __init__(
        self,
        id: str,
        handle: bytes,
        principal: str,
        *,
        tasks: Tasks,
        home: Home,
        log: Log,
        record: Any,
        budget: Budget | None = None,
        max_calls: int = 100,
        restored: bool = False,
    ) -> None:
        self.id = id
        self.handle = handle
        self.principal = principal
        self.tasks = tasks
        self.log = log
        self.budget = budget or Budget(sys.maxsize)
        self.record = record
        self.max_calls = max_calls
        self.restored = restored
        self.state: dict[str, Any] = {}
        self.streams: dict[int, Log] = {}
        self.finished: deque[Finished] = deque()
        self.finished_bytes = 0
        self.calls: dict[Hashable, Call] = {}
        self.lifecycle = Lifecycle.OPEN
        self.reason = ""
        self.created = self.touched = self.saved = tasks.loop.time()
        self._home = home
        self.greeted = False  # its hooks have begun
        self._opening: asyncio.Task[None] | None = None
        self._waiters = Waiters()

    # --- its calls ---

    def accept(self, call: Call) -> None:
        """Own a call, before any of its code runs: from here on no connection's end is its end.

        Raises:
            LimitError: The session is closing, has `max_calls` in flight, or the server is full.
            KeyError: A call with the same key is in flight.
        """
        if self.lifecycle is not Lifecycle.OPEN:
            raise LimitError("session", "the session is closing")
        if len(self.calls) >= self.max_calls:
            raise LimitError("session_calls", f"{self.max_calls} calls are running in this session; try again later")
        if call.key in self.calls:
            raise KeyError(call.key)
        self.tasks.admit(call)
        self.calls[call.key] = call
        self.touched = self.tasks.loop.time()

    def release(self, call: Call) -> None:
        """A call has ended."""
        if self.calls.get(call.key) is call:
            del self.calls[call.key]
            self.touched = self.tasks.loop.time()

    def notify(self, method: str, params: Any = None) -> Room:
        """Send a notification that belongs to no call, on the session's own stream. It is sent at once; await what
        this returns to wait, as `Context.progress` does, while a connected reader is more than 256 KiB behind. Never
        raises for a slow or absent reader: the oldest notifications go when 1 MiB of them is unread.

        Args:
            method: E.g. ``notifications/tools/list_changed``.
            params: JSON-able, or None.
        """
        payload = self._home.notification(method, params)
        self.tasks.on_loop(self.log.append, payload, Kind.NOTIFICATION, self.tasks.loop.time())
        return Room(self.log)

    @property
    def busy(self) -> bool:
        """It has calls in flight or a connected reader."""
        return bool(self.calls) or self.read

    @property
    def read(self) -> bool:
        """One of its streams has a connected reader."""
        return self.log.reader is not None or any(log.reader is not None for log in self.streams.values())

    def retire(self, log: Log) -> None:
        """A call's stream has ended; it stays for a resume until it expires or room is needed."""
        size = log.bytes + EVENT_BYTES * log.events + STREAM_BYTES
        self.finished.append(Finished(log, self.tasks.loop.time(), size))
        self.finished_bytes += size

    # --- its beginning and its end ---

    async def open(self) -> None:
        """Run the hooks that greet it, once; the matching farewell is then certain to come."""
        if not self.greeted and self.lifecycle is Lifecycle.OPEN:
            self.greeted = True
            self._opening = self.tasks.start(self._home.opened(self), name="tailrace-session-opened")
        if self._opening is not None:
            await asyncio.wait([self._opening])
            self._opening = None

    @property
    def opening(self) -> bool:
        """The hooks that greet it are running."""
        return self._opening is not None and not self._opening.done()

    def close(self, reason: str = "closed by the server", *, keep: bool = False, grace: float = 5.0) -> Completion:
        """End the session: its calls are cancelled and answered, its streams end, its hooks run.

        Returns at once; await what it returns to wait for the end. Every closer gets the same completion,
        and only the first one's reason counts.

        Args:
            reason: For people; calls in flight are answered with it.
            keep: Leave it in the store, for the next process life.
            grace: Seconds that cancelled calls get to end.
        """
        self.tasks.on_loop(self._begin_close, reason, keep, grace)
        return Completion(self)

    def abort(self, reason: str = "aborted by the server") -> Completion:
        """End it without grace: calls are cancelled, and not waited for."""
        return self.close(reason, grace=0.0)

    @property
    def closed(self) -> Completion:
        """Await it to wait for the session's end, whoever ends it."""
        return Completion(self)

    async def wait_closed(self) -> None:
        """Return once the session has ended, whoever ends it."""
        if self.lifecycle is not Lifecycle.CLOSED:
            await self._waiters.wait()

    def _begin_close(self, reason: str, keep: bool, grace: float) -> None:
        if self.lifecycle is Lifecycle.OPEN:
            self.lifecycle = Lifecycle.CLOSING
            self.reason = reason
            self.tasks.start(self._finish(reason, keep, grace), name="tailrace-session-close")

    async def _finish(self, reason: str, keep: bool, grace: float) -> None:
        """The one way to the end."""
        try:
            if keep:  # what did not end stays unfinished in the store: no answer of this life may be heard
                self._home.suspend(self)
                self._end_streams()
            error = CallCancelled(reason)
            calls = list(self.calls.values())
            for call in calls:
                call.cancel(error)
            left = await self.tasks.settle([call.task for call in calls], grace)
            if left and grace:
                logger.warning("calls did not end within %.1fs of their cancellation count=%d", grace, len(left))
            for call in list(self.calls.values()):
                call.abandon(error)
            self._end_streams()
            if self._opening is not None:
                await asyncio.wait([self._opening])
            if self.greeted:
                await self._home.ended(self, reason)
        finally:
            self._end_streams()
            self.lifecycle = Lifecycle.CLOSED
            self._waiters.wake()
            self._home.forget(self, keep=keep)

    def _end_streams(self) -> None:
        self.log.end()
        for log in self.streams.values():
            log.end()


class Completion:
    """The end of a session, to be awaited or not; a cancelled waiter disturbs no other."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    def __await__(self) -> Generator[Any, None, None]:
        return self._session.wait_closed().__await__()


class Room:
    """Room in a stream behind what was just sent, to be awaited (on the event loop) or not."""

    __slots__ = ("_log",)

    def __init__(self, log: Log) -> None:
        self._log = log

    def __await__(self) -> Generator[Any, None, None]:
        return self._log.room().__await__()


class Sessions:
    """The table of living sessions, by id and by handle.

    Args:
        limit: How many may live; the oldest idle one makes room for a new one, else the new one is refused.
        idle: Seconds without use after which a session ends.
        infancy: The same for one that never finished its `initialize`.
        unborn: Tells whether that is so.
    """

    def __init__(
        self,
        *,
        limit: int = 10_000,
        idle: float = 1800.0,
        infancy: float = 60.0,
        unborn: Callable[[Session], bool] = lambda session: False,
    ) -> None:
        self.limit = limit
        self.idle = idle
        self.infancy = infancy
        self.unborn = unborn
        self.by_id: dict[str, Session] = {}
        self.by_handle: dict[bytes, Session] = {}
        self.evicted: dict[str, Session] = {}  # out of the table already, and still ending
        self._crowded_until = 0.0  # nobody was idle a moment ago: no newcomer makes us look again before
        self.opened = 0  # ever
        self.restored = 0  # of these, from the store
        self.closed = 0

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, session: Session) -> None:
        """Enter a session.

        Raises:
            LimitError: `limit` sessions live and none of them is idle.
        """
        if len(self.by_id) >= self.limit and not self._make_room(session.created):
            raise LimitError("sessions", f"{self.limit} sessions are open; try again later")
        self.by_id[session.id] = session
        self.by_handle[session.handle] = session
        self.opened += 1
        self.restored += session.restored

    def remove(self, session: Session) -> None:
        """Take it out. Idempotent."""
        if self.by_id.get(session.id) is session:
            del self.by_id[session.id]
            self.by_handle.pop(session.handle, None)
            self.closed += 1
        elif self.evicted.get(session.id) is session:
            del self.evicted[session.id]

    def close_all(self, reason: str, *, keep: bool, grace: float = 5.0) -> list[Completion]:
        """Close every session of this moment, those that are ending already among them."""
        every = [*self.by_id.values(), *self.evicted.values()]
        return [session.close(reason, keep=keep, grace=grace) for session in every]

    def expire(self, now: float) -> None:
        """Close what was not used for too long."""
        for session in list(self.by_id.values()):
            age = now - session.touched
            if (age > self.idle or (age > self.infancy and self.unborn(session))) and not session.busy:
                session.close("the session expired")
            elif now - session.created > self.infancy and not session.greeted and self.unborn(session):
                session.close("the session was never initialized")  # a connected reader does not keep it

    def _make_room(self, now: float) -> bool:
        if now < self._crowded_until:
            return False
        self._crowded_until = now + _LOOK_EVERY
        idle = sorted(
            (session for session in self.by_id.values() if not session.busy), key=lambda session: session.touched
        )
        for session in idle[: max(1, self.limit // 100)]:  # a few at once: looking for them is the dear part
            session.close("evicted: too many sessions are open")
            self.remove(session)
            self.evicted[session.id] = session
            self._crowded_until = now
        return bool(idle)

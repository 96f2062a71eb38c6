"""What goes on, told to somebody who watches: the console's recorder, where there is one.

Nothing of it stands in the way of a call that nobody watches. A server that is watched is put together from the
subclasses here, which tell what they do and then do what their parents do; any other one from the parents alone.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from tailrace.core.log import Log
from tailrace.core.session import Sessions
from tailrace.core.tasks import Detached, Tasks

if TYPE_CHECKING:
    import asyncio

    from tailrace.core.call import Call
    from tailrace.core.cursor import Cursor
    from tailrace.core.ports import Kind
    from tailrace.core.session import Session
    from tailrace.core.threads import Threads

__all__ = ["WatchedLog", "WatchedSessions", "WatchedTasks", "Watcher", "make_log", "make_sessions", "make_tasks"]


class Watcher(Protocol):
    """Hears what happens, on the loop, as it happens. Its methods are quick, and must not raise."""

    def session_opened(self, session: Session) -> None:
        """It is in the table of the living: new, or `restored`."""
        ...

    def session_closed(self, session: Session) -> None:
        """It has left the table, for its `reason`."""
        ...

    def call_accepted(self, call: Call) -> None:
        """It is owned; none of its code has run."""
        ...

    def call_started(self, call: Call) -> None:
        """It gets a task of its own."""
        ...

    def call_ended(self, call: Call) -> None:
        """Its task has ended, or there will be none; its answer is about to be given."""
        ...

    def detached_began(self, work: Detached) -> None:
        """Detached work begins."""
        ...

    def detached_failed(self, work: Detached, error: BaseException) -> None:
        """It raised; `detached_ended` follows."""
        ...

    def detached_ended(self, work: Detached) -> None:
        """It is over."""
        ...

    def appended(self, log: WatchedLog, kind: Kind, size: int) -> None:
        """An event of `size` bytes is in a stream's log."""
        ...

    def attached(self, log: WatchedLog, after: int, missing: int, *, again: bool) -> None:
        """A connection reads a stream from behind event `after` on, `again` where one has read it before; `missing`
        events are not there any more."""
        ...

    def written(self, log: WatchedLog, count: int) -> None:
        """A connection has taken `count` more events of a stream."""
        ...

    def left(self, log: WatchedLog) -> None:
        """The connection that read a stream is gone, or another one has taken it."""
        ...


class WatchedTasks(Tasks):
    """Tells of calls and of detached work.

    Args:
        threads: As `Tasks` has it; so are the limits.
        watcher: Who is told.
    """

    def __init__(self, threads: Threads, watcher: Watcher, *, max_calls: int = 1000, max_detached: int = 1000) -> None:
        super().__init__(threads, max_calls=max_calls, max_detached=max_detached)
        self.watcher = self._told = watcher

    def admit(self, call: Call) -> None:
        """As `Tasks.admit`."""
        super().admit(call)
        self._told.call_accepted(call)

    def run_call(self, call: Call, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """As `Tasks.run_call`."""
        self._told.call_started(call)
        return super().run_call(call, work)

    def release(self, call: Call) -> None:
        """As `Tasks.release`."""
        if call in self.calls:
            self._told.call_ended(call)
        super().release(call)

    def _begin(self, work: Detached) -> None:
        if not self._closed:
            self._told.detached_began(work)
        super()._begin(work)

    async def _report(self, work: Detached, error: Exception) -> None:
        self._told.detached_failed(work, error)
        await super()._report(work, error)

    def _detached_ended(self, task: asyncio.Task[None]) -> None:
        work = self.detached[task]
        super()._detached_ended(task)
        self._told.detached_ended(work)


class WatchedSessions(Sessions):
    """Tells of sessions that come and go; `watcher` is who is told."""

    watcher: Watcher

    def add(self, session: Session) -> None:
        """As `Sessions.add`."""
        super().add(session)
        self.watcher.session_opened(session)

    def remove(self, session: Session) -> None:
        """As `Sessions.remove`."""
        is_living = self.by_id.get(session.id) is session
        super().remove(session)
        if is_living:
            self.watcher.session_closed(session)


class WatchedLog(Log):
    """Tells of events that are appended, of connections that come and go, and of what they take.

    Attributes:
        owner: The id of the session whose stream it is; ``""`` where there is none.
        watcher: Who is told.
    """

    __slots__ = ("_is_read", "_was_read", "owner", "watcher")

    def __init__(self, watcher: Watcher, owner: str, stream: int = 0, **options: Any) -> None:
        super().__init__(stream, **options)
        self.watcher = watcher
        self.owner = owner
        self._is_read = False
        self._was_read = self.last > 0  # by the clients of an earlier process life

    def append(self, payload: bytes, kind: Kind, now: float = 0.0) -> int:
        """As `Log.append`."""
        if not self.ended:
            self.watcher.appended(self, kind, len(payload))
        return super().append(payload, kind, now)

    def attach(self, after: int) -> Cursor:
        """As `Log.attach`."""
        cursor = super().attach(after)  # which lets an older reader go
        self.watcher.attached(self, cursor.seq, self.missing(cursor.seq), again=self._was_read)
        self._is_read = self._was_read = True
        return cursor

    def mark_delivered(self, seq: int) -> None:
        """As `Log.mark_delivered`."""
        if seq > self.delivered:
            self.watcher.written(self, seq - self.delivered)
        super().mark_delivered(seq)

    def free_rooms(self) -> None:
        """As `Log.free_rooms`, which is what a reader calls that goes."""
        if self._is_read and self.reader is None:
            self._is_read = False
            self.watcher.left(self)
        super().free_rooms()


# --- which of them ------------------------------------------------------------------------------


def make_tasks(threads: Threads, watcher: Watcher | None, *, max_calls: int, max_detached: int) -> Tasks:
    """Tasks that somebody watches, or the plain ones."""
    if watcher is None:
        return Tasks(threads, max_calls=max_calls, max_detached=max_detached)
    return WatchedTasks(threads, watcher, max_calls=max_calls, max_detached=max_detached)


def make_sessions(
    watcher: Watcher | None, *, limit: int, idle: float, infancy: float, unborn: Callable[[Session], bool]
) -> Sessions:
    """A table that somebody watches, or the plain one (see `Sessions`)."""
    if watcher is None:
        return Sessions(limit=limit, idle=idle, infancy=infancy, unborn=unborn)
    sessions = WatchedSessions(limit=limit, idle=idle, infancy=infancy, unborn=unborn)
    sessions.watcher = watcher
    return sessions


def make_log(watcher: Watcher | None, owner: str, stream: int = 0, **options: Any) -> Log:
    """A log that somebody watches, or the plain one.

    Args:
        watcher: Who, if anybody.
        owner: The id of its session, or ``""``.
        stream: The stream's number within its session.
        options: As `Log` has them.
    """
    return Log(stream, **options) if watcher is None else WatchedLog(watcher, owner, stream, **options)

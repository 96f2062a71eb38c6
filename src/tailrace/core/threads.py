"""A bounded pool of daemon threads for plain functions.

`asyncio.to_thread` has a queue without end, and its threads hold the process's exit until the last
of them returns. A tool may never return; so these threads are daemons, nothing ever joins one, and
what exceeds the pool is refused. Time limits and what an error means to a caller are left to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

from tailrace.core.interrupts import as_failure
from tailrace.errors import CallCancelled, LimitError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Threads"]

T = TypeVar("T")


class Threads:
    """Runs plain functions in threads that are started when needed, kept for a while, and never waited for.

    Any event loop, and several, may use it; `statistics` and `close` may be called from any thread.

    Args:
        size: Functions that run at the same time; a thread that never returns takes one place for ever.
        waiting: Functions that wait for a place; beyond that they are refused.
        name: Of the threads, with a number behind it.
        idle_seconds: After which a thread without work ends.
    """

    def __init__(
        self, *, size: int = 64, waiting: int = 256, name: str = "tailrace-tool", idle_seconds: float = 60.0
    ) -> None:
        self._size = size
        self._waiting = waiting
        self._name = name
        self._idle_seconds = idle_seconds
        # All below is shared by the loop and the threads, under the lock of the condition. No user code runs there.
        self._changed = threading.Condition()
        self._jobs: OrderedDict[_Job, None] = OrderedDict()  # those that wait, oldest first
        self._threads = 0
        self._idle = 0  # of the threads; one that is being started counts
        self._started = 0
        self._closed = False

    async def run(self, fn: Callable[[], T]) -> T:
        """Run `fn` in a thread, in a copy of the caller's context, and return what it returns.

        A cancellation returns at once: a function that waits never starts; one that runs goes on
        in the background, keeps its place until it returns, and its result is dropped.

        Raises:
            LimitError: ``threads``: all places are taken and as many wait as may.
            CallCancelled: The pool was closed before `fn` started.
            BaseException: Whatever `fn` raised.
        """
        job = _Job(fn, asyncio.get_running_loop())
        self._add(job)
        try:
            value, error = await job.future
        except asyncio.CancelledError:
            with self._changed:
                self._jobs.pop(job, None)
            raise
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        return value

    def statistics(self) -> dict[str, int]:
        """Numbers for people: `threads` alive, `busy` among them, and functions `waiting`."""
        with self._changed:
            return {"threads": self._threads, "busy": self._threads - self._idle, "waiting": len(self._jobs)}

    def close(self) -> None:
        """Take no new work, drop what waits, let idle threads end. Idempotent; waits for nothing.

        A function that runs goes on, and its result is delivered if its loop is still there.
        """
        with self._changed:
            self._closed = True
            dropped = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for job in dropped:
            job.deliver(None, CallCancelled("the threads were closed before the function started"))

    def _add(self, job: _Job) -> None:
        with self._changed:
            if self._closed:
                raise CallCancelled("the threads are closed")
            if self._threads - self._idle + len(self._jobs) >= self._size + self._waiting:
                text = f"{self._size} functions are running in threads and {self._waiting} more wait"
                raise LimitError("threads", text)
            self._jobs[job] = None
            if len(self._jobs) <= self._idle or self._threads == self._size:
                self._changed.notify()
                return
            self._threads += 1
            self._idle += 1
            self._started += 1
            thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system gives no more threads: those that are there will do
            with self._changed:
                self._threads -= 1
                self._idle -= 1
                if self._threads == 0:
                    self._jobs.pop(job, None)
                    raise LimitError("threads", f"no thread could be started: {error}") from error

    # --- in the threads

    def _work(self) -> None:
        while (job := self._take()) is not None:
            value, error = job.run()
            with self._changed:
                self._idle += 1  # before its caller is told: who asks next finds the place free
            job.deliver(value, error)
            del job, value, error  # may be large, and the next job may be far

    def _take(self) -> _Job | None:
        """The next job, or None when this thread shall end. Either way it is idle no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed, self._idle_seconds)
            self._idle -= 1
            if self._jobs:
                return self._jobs.popitem(last=False)[0]
            self._threads -= 1
            return None


class _Job:
    """One function on its way through the pool. The outcome is a value, so that `StopIteration` passes, too."""

    __slots__ = ("context", "fn", "future", "loop")

    def __init__(self, fn: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.fn = fn
        self.context = contextvars.copy_context()
        self.loop = loop
        self.future: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()

    def run(self) -> tuple[Any, BaseException | None]:
        try:
            return self.context.run(self.fn), None
        except KeyboardInterrupt as error:  # no keyboard sends it to this thread; on the loop it would end the program
            return None, as_failure(error)
        except BaseException as error:  # also SystemExit: it is the caller's, this thread serves others
            return None, error

    def deliver(self, value: Any, error: BaseException | None) -> None:
        """Tell the caller, from any thread; quietly nothing where its loop is closed."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._settle, value, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if not self.future.done():
            self.future.set_result((value, error))

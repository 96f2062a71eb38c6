"""Every task of the process is started, counted and ended here: calls, detached work, the house's own.

Nothing else in Tailrace calls `create_task`. What is running can be listed, waited for within a
limit, and cancelled; what did not end in time is reported by name and never waited for again.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Iterable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tailrace.core.interrupts import as_failure, is_foreign
from tailrace.core.trace import trace_of
from tailrace.core.waiters import Waiters
from tailrace.errors import CallCancelled, DeadlineExceeded, LimitError

if TYPE_CHECKING:
    from tailrace.core.call import Call
    from tailrace.core.context import Context
    from tailrace.core.meter import Meter
    from tailrace.core.threads import Threads
    from tailrace.core.trace import Tracer
    from tailrace.core.watching import Watcher

__all__ = ["Detached", "Tasks"]

logger = logging.getLogger("tailrace.tasks")


class Detached:
    """One piece of detached work.

    Attributes:
        name: For people.
        context: Its values.
        started: Loop time.
        fn, args: What it does.
        timeout: Seconds after which it is cancelled, or None.
        on_error: Told of its failure, if anybody is.
    """

    __slots__ = ("args", "context", "fn", "name", "on_error", "started", "timeout")

    def __init__(
        self,
        name: str,
        context: Context,
        started: float,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        timeout: float | None,
        on_error: Callable[[Exception], Any] | None,
    ) -> None:
        self.name = name
        self.context = context
        self.started = started
        self.fn = fn
        self.args = args
        self.timeout = timeout
        self.on_error = on_error


class Tasks:
    """The tasks of one server, on one event loop.

    Args:
        threads: Where plain functions run.
        max_calls: Calls in flight, over all sessions; one more is refused.
        max_detached: Detached work in flight; one more is refused.

    Attributes:
        tracer: Hears what begins and ends, if anybody wants to.
        watcher: Hears everything, where somebody watches (`watching`).
        meter: Is told how long it took, if anybody wants to know.
        refused: How often each limit has refused something, by its name.
    """

    def __init__(self, threads: Threads, *, max_calls: int = 1000, max_detached: int = 1000) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.threads = threads
        self.max_calls = max_calls
        self.max_detached = max_detached
        self.calls: dict[Call, None] = {}
        self.detached: dict[asyncio.Task[None], Detached] = {}
        self._own: set[asyncio.Task[Any]] = set()
        self._lasting: set[asyncio.Task[Any]] = set()
        self._idle = Waiters()
        self._closed = False
        self.tracer: Tracer | None = None
        self.watcher: Watcher | None = None
        self.meter: Meter | None = None
        self.started = 0  # calls, ever
        self.ended = 0
        self.spawned = 0  # detached work, ever
        self.failed = 0  # of it
        self.dropped = 0
        self.refused: dict[str, int] = {}

    # --- calls ---

    def admit(self, call: Call) -> None:
        """Count a call in, before any of its code runs.

        Raises:
            LimitError: `max_calls` are in flight, or `close` was called.
        """
        if self._closed or len(self.calls) >= self.max_calls:
            self._check_open()
            raise LimitError("calls", f"{self.max_calls} calls are running on this server; try again later")
        self.calls[call] = None
        self.started += 1
        if self.meter is not None:
            call.accepted_at = perf_counter()

    def release(self, call: Call) -> None:
        """Count it out. Idempotent."""
        if call in self.calls:
            del self.calls[call]
            self.ended += 1
            if not self.calls:
                self._check_idle()

    def run_call(self, call: Call, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a call's own task. The in-flight table holds the task."""
        return self.loop.create_task(work, name="tailrace-call")

    # --- other work ---

    def start(self, work: Coroutine[Any, Any, Any], *, name: str, lasting: bool = False) -> asyncio.Task[Any]:
        """Start work of the house itself; an exception of it is logged as ours.

        Args:
            work: What it does.
            name: For people.
            lasting: `close` leaves it alone: whoever started it ends it, later.
        """
        task = self._create(work, name, None)
        (self._lasting if lasting else self._own).add(task)
        task.add_done_callback(self._own_ended)
        return task

    def spawn(
        self,
        context: Context,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        *,
        name: str | None = None,
        timeout: float | None = None,
        on_error: Callable[[Exception], Any] | None = None,
    ) -> None:
        """Start detached work under `context`, from any thread (see `Context.spawn`).

        Raises:
            LimitError: `max_detached` pieces of work are in flight, or `close` was called.
        """
        self._check_open()
        if len(self.detached) >= self.max_detached:
            raise LimitError("detached", f"{self.max_detached} pieces of detached work are running; try again later")
        label: str = name or getattr(fn, "__name__", "detached")
        work = Detached(label, context, self.loop.time(), fn, args, timeout, on_error)
        if threading.get_ident() == self.thread:
            self._begin(work)
        else:  # the result of the function that runs in this thread takes the same way, behind it
            self.loop.call_soon_threadsafe(self._begin, work)

    def on_loop(self, fn: Callable[..., object], *args: Any) -> None:
        """Run `fn` on the loop, from whichever thread this is; at once, if this is the loop's own."""
        if threading.get_ident() == self.thread:
            fn(*args)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: there is nobody left to tell
                self.loop.call_soon_threadsafe(fn, *args)

    async def in_thread(self, fn: Callable[[], Any]) -> Any:
        """Run a plain function in one of the bounded threads."""
        return await self.threads.run(fn)

    def refuse(self, limit: str) -> None:
        """Count something that was refused because of a limit.

        Args:
            limit: Its name (`LimitError.limit`), of which there are few.
        """
        self.refused[limit] = self.refused.get(limit, 0) + 1

    # --- ending ---

    async def drain(self, seconds: float) -> bool:
        """Wait until no call and no detached work is left, at most `seconds`; tells whether that came true."""
        deadline = self.loop.time() + seconds
        while self.calls or self.detached:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._idle.wait()
            except TimeoutError:
                break
        return not (self.calls or self.detached)

    async def settle(self, tasks: Iterable[asyncio.Task[Any] | None], seconds: float) -> list[asyncio.Task[Any]]:
        """Wait for `tasks`, at most `seconds`, never for the one that asks; returns those that did not end."""
        own = asyncio.current_task()
        waiting = [task for task in tasks if task is not None and task is not own and not task.done()]
        if not waiting:
            return []
        _, pending = await asyncio.wait(waiting, timeout=seconds)
        return list(pending)

    async def close(self, seconds: float = 5.0) -> None:
        """Cancel what is left, wait for it at most `seconds`, and name what does not end. From here on no call and
        no detached work begins."""
        self._closed = True
        for call in list(self.calls):
            call.cancel(CallCancelled("the server is shutting down"))
        own = asyncio.current_task()
        work = [task for task in (*self.detached, *self._own) if task is not own and not task.done()]
        for task in work:
            if (dropped := self.detached.get(task)) is not None:
                self._report_dropped(dropped)
            task.cancel()
        try:
            for task in await self.settle([*work, *(call.task for call in self.calls)], seconds):
                logger.error("task did not end within %.1fs of its cancellation name=%s", seconds, task.get_name())
        finally:
            self.threads.close()

    # --- inside ---

    def _check_open(self) -> None:
        if self._closed:
            raise LimitError("draining", "the server is shutting down; try again in a moment")

    def _create(self, work: Coroutine[Any, Any, Any], name: str, context: Context | None) -> asyncio.Task[Any]:
        variables = context.enter() if context is not None else None
        return self.loop.create_task(work, name=name, context=variables)

    def _begin(self, work: Detached) -> None:
        if self._closed:  # between a thread's call and this one
            return self._report_dropped(work)
        task = self._create(self._run_detached(work), f"tailrace-{work.name}", work.context)
        self.detached[task] = work
        self.spawned += 1
        task.add_done_callback(self._detached_ended, context=contextvars.Context())  # the default keeps the call alive

    async def _run_detached(self, work: Detached) -> None:
        task, limit = asyncio.current_task(), asyncio.timeout(work.timeout)
        try:
            async with limit:
                if self.tracer is None:
                    await self._run_function(work)
                else:
                    await self._run_traced(self.tracer, work)
        except asyncio.CancelledError:
            if task is None or task.cancelling():
                raise
            await self._report(work, RuntimeError("it was cancelled from inside"))
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():  # a TimeoutError of its own stays what it is
                error = DeadlineExceeded(f"detached work {work.name} did not end within {work.timeout:g} s")
            await self._report(work, error)
        except BaseException as error:  # it may end itself, not the server
            if is_foreign(error, task):
                raise
            await self._report(work, as_failure(error))

    async def _run_function(self, work: Detached) -> None:
        fn, args = work.fn, work.args
        if inspect.iscoroutinefunction(fn):
            await fn(*args)
        else:
            result = await self.in_thread(lambda: fn(*args))
            if inspect.isawaitable(result):
                await result

    async def _run_traced(self, tracer: Tracer, work: Detached) -> None:
        span = tracer.begin("internal", f"detached {work.name}", trace_of(work.context), {})
        work.context.set_values({**work.context.own_values, **span.values})  # what it publishes is its span's child
        error: BaseException | None = None
        try:
            with tracer.current(span):
                await self._run_function(work)
        except BaseException as failure:
            error = failure
            raise
        finally:
            span.end(error)

    def _report_dropped(self, work: Detached) -> None:
        self.dropped += 1
        logger.error(
            "detached work dropped name=%s age=%.1fs correlation_id=%s",
            work.name,
            self.loop.time() - work.started,
            work.context.correlation_id,
        )

    async def _report(self, work: Detached, error: Exception) -> None:
        self.failed += 1
        try:
            if work.on_error is not None:
                result = work.on_error(error)
                if inspect.isawaitable(result):
                    await result
                return
        except Exception as second:
            error = second
        logger.error(
            "detached work failed name=%s correlation_id=%s", work.name, work.context.correlation_id, exc_info=error
        )

    def _detached_ended(self, task: asyncio.Task[None]) -> None:
        self.detached.pop(task, None)
        self._check_idle()

    def _own_ended(self, task: asyncio.Task[Any]) -> None:
        self._own.discard(task)
        self._lasting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("internal task failed name=%s", task.get_name(), exc_info=error)

    def _check_idle(self) -> None:
        if self._idle and not self.calls and not self.detached:
            self._idle.wake()

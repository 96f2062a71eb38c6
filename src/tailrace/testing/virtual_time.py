"""Time that does not pass: an event loop whose clock jumps to the next timer as soon as nothing else is left to do.

A time limit of an hour is over at once, and the order of things is the same on a busy machine. Nobody's clock but the
loop's jumps: `time.time` and `time.monotonic` go on as they do. Threads need real time, so while one is at work the
clock stands still, for a limited real time. Sockets, pipes and subprocesses need real time too: not for this loop.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from tailrace.core.threads import Threads

__all__ = ["VirtualTimeLoop", "hold_while_busy", "virtual_time"]

P = ParamSpec("P")
T = TypeVar("T")

_LOOK = 0.02  # seconds, real: how often it is asked whether a thread is still at work


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time: ``asyncio.Runner(loop_factory=VirtualTimeLoop)``; `virtual_time` for one test.

    Args:
        patience: Real seconds for which threads at work are waited for before the clock jumps all the same; and
            before a loop on which nothing can ever happen again is ended with a `TimeoutError`.
    """

    def __init__(self, *, patience: float = 5.0) -> None:
        self._now = 0.0
        self._patience = patience
        self._executing = 0  # functions that threads work on
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Seconds since the loop was made, as far as it has jumped."""
        return self._now

    def hold_while_busy(self, threads: Threads) -> None:
        """Let the clock stand still while somebody waits for a function that runs in `threads`."""
        work = threads.run

        async def run(fn: Callable[[], T]) -> T:
            self._executing += 1
            try:
                return await work(fn)
            finally:
                self._executing -= 1  # its result is here: a thread that is idle again may not have told it yet

        threads.run = run

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:
        """As every loop's; the clock stands still until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._executing += 1
        future.add_done_callback(self._executed)
        return future

    async def shutdown_default_executor(self, *limit: Any, **named: Any) -> None:
        """As every loop's; the clock stands still meanwhile, for from Python 3.12 on there is a time limit to it."""
        self._executing += 1
        try:
            await super().shutdown_default_executor(*limit, **named)
        finally:
            self._executing -= 1

    def _executed(self, _: Future[Any] | asyncio.Future[Any]) -> None:
        self._executing -= 1

    @property
    def held(self) -> bool:
        """Whether a thread is at work for this loop."""
        return self._executing > 0

    def wait(self, real: selectors.BaseSelector, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait as a selector does, or let the time pass at once; for the loop's own selector.

        Raises:
            TimeoutError: There is no timer, and nothing came from anywhere for `patience`.
        """
        if ready := real.select(0):
            return ready
        if timeout is not None and timeout <= 0:
            return []
        until = time.monotonic() + self._patience
        while (timeout is None or self.held) and time.monotonic() < until:
            if ready := real.select(_LOOK):
                return ready
        if timeout is None:
            raise TimeoutError(f"nothing is left that could happen: no timer, and nothing came in {self._patience:g} s")
        self._now += timeout
        return []


class _JumpingSelector(selectors.BaseSelector):
    """The loop's selector: registers with a real one, and has the loop decide how to wait."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = weakref.ref(loop)
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop()
        return self._real.select(timeout) if loop is None else loop.wait(self._real, timeout)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Any:
        return self._real.get_map()


def hold_while_busy(threads: Threads) -> None:
    """Let the running loop's clock stand still while `threads` are at work, if it is a virtual one."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, VirtualTimeLoop):
        loop.hold_while_busy(threads)


def virtual_time(test: Callable[P, Coroutine[Any, Any, T] | Awaitable[T]]) -> Callable[P, T]:
    """Run an async test on a `VirtualTimeLoop` of its own: a decorator that makes a plain function of it.

    The test runner then needs no plugin for it; async fixtures would live on another loop, so open all inside.
    """

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async def main() -> T:
            return await test(*args, **kwargs)

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(main())

    return run

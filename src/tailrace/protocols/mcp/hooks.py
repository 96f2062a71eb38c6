"""Runs a service's session hooks: one after the other, each within its time, their faults contained.

Each runs in a task of its own. One that swallows its cancellation is given up, and nobody waits for it any longer:
neither `initialize`, nor a session's end, nor the exit.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tailrace.core.interrupts import is_foreign

if TYPE_CHECKING:
    from tailrace.core.session import Session

__all__ = ["Hooks"]

logger = logging.getLogger("tailrace.hooks")

_THREADS = 32  # plain hooks that run at once: a shutdown ends all sessions together, and there are few threads
_PATIENCE = 10  # times the limit of one hook, for a place among those
_LAST = 0.3  # seconds to end after the cancellation


class Hooks:
    """The hooks of one service.

    Args:
        register: For a new session.
        unregister: For one that ends; runs exactly as often as `register` and `restore` together.
        restore: For one that comes back after a restart.
        seconds: What one hook may take; then it is cancelled, and soon after given up.
    """

    def __init__(
        self,
        register: Sequence[Callable[..., Any]],
        unregister: Sequence[Callable[..., Any]],
        restore: Sequence[Callable[..., Any]],
        seconds: float,
    ) -> None:
        self._register = register
        self._unregister = unregister
        self._restore = restore
        self._seconds = seconds
        self._threads = asyncio.Semaphore(_THREADS)

    async def opened(self, session: Session) -> None:
        """Greet a session."""
        await self._run(self._restore if session.restored else self._register, session)

    async def ended(self, session: Session) -> None:
        """Bid it farewell."""
        await self._run(self._unregister, session)

    async def notified(self, hook: Callable[..., Any], session: Session, params: dict[str, Any]) -> None:
        """Tell of a notification of the client's."""
        await self._run([hook], session, params)

    async def _run(self, hooks: Sequence[Callable[..., Any]], *args: Any) -> None:
        session: Session = args[0]
        for hook in hooks:
            try:
                if inspect.iscoroutinefunction(hook):
                    await self._limited(hook, hook(*args), session)
                else:
                    async with asyncio.timeout(self._seconds * _PATIENCE):
                        await self._threads.acquire()
                    try:
                        await self._limited(hook, self._in_thread(hook, session, *args), session)
                    finally:
                        self._threads.release()
            except TimeoutError:
                logger.error("session hook did not run: no thread was free hook=%s", hook.__qualname__)

    async def _in_thread(self, hook: Callable[..., Any], session: Session, *args: Any) -> None:
        result = await session.tasks.in_thread(lambda: hook(*args))
        if inspect.isawaitable(result):  # an async one in a plain wrapper
            await result

    async def _limited(self, hook: Callable[..., Any], work: Any, session: Session) -> None:
        task = session.tasks.start(_contained(hook, work), name="tailrace-hook")
        try:
            _, late = await asyncio.wait([task], timeout=self._seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if late:
            logger.error("session hook did not end within %.1fs hook=%s", self._seconds, hook.__qualname__)
            task.cancel()
            await asyncio.wait([task], timeout=_LAST)


async def _contained(hook: Callable[..., Any], work: Any) -> None:
    try:
        await work
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if is_foreign(error, asyncio.current_task()):
            raise
        logger.exception("session hook failed hook=%s", hook.__qualname__)

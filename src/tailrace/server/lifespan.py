"""The service's lifespan: entered before the service serves, left afterwards, within a limit.

Both happen in one task of its own, because task groups and time limits want to be left where they were entered; and
because a task can be given up where it does not end, while a plain `await` cannot.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from tailrace.core.interrupts import as_failure, is_foreign

if TYPE_CHECKING:
    from tailrace.core.tasks import Tasks

__all__ = ["NOTE", "Lifespan"]

NOTE = "raised by the service's lifespan"  # on what it raises: it is the user's, and nobody else's

logger = logging.getLogger("tailrace.server")


class Lifespan:
    """One run of a service's lifespan.

    Args:
        manager: What is entered and left.
        tasks: Where its task runs.
        seconds: What leaving it may take; then it is cancelled, and as long again waited for.
    """

    def __init__(self, manager: AbstractAsyncContextManager[Any], tasks: Tasks, seconds: float) -> None:
        self._manager = manager
        self._tasks = tasks
        self._seconds = seconds
        self._entered: asyncio.Future[None] = tasks.loop.create_future()
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None

    async def enter(self) -> None:
        """Return when it was entered; what it raises, it raises here. A cancellation reaches it."""
        self._task = task = self._tasks.start(self._live(), name="tailrace-lifespan", lasting=True)
        try:
            await asyncio.wait([self._entered, task], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            await self._wait(task, self._seconds)
            raise
        if self._entered.done():
            return self._entered.result()
        raise asyncio.CancelledError  # it cancelled itself

    async def leave(self) -> None:
        """Leave it, within the limit; what that raises, it raises here."""
        self._told.set()
        if self._task is None or await self._wait(self._task, self._seconds):
            if self._error is not None:
                raise self._error
            return
        logger.error("the service's lifespan did not end within %.1fs", self._seconds)
        self._task.cancel()
        if not await self._wait(self._task, _LAST):
            logger.error("the service's lifespan does not end although it was cancelled; it is given up")

    async def _live(self) -> None:
        try:
            await self._manager.__aenter__()
        except BaseException as error:
            self._entered.set_exception(_failure(error))
            self._entered.exception()  # nobody has to ask
            return
        self._entered.set_result(None)
        await self._told.wait()
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseException as error:
            self._error = _failure(error)

    async def _wait(self, task: asyncio.Task[None], seconds: float) -> bool:
        _, pending = await asyncio.wait([task], timeout=seconds)
        return not pending


def _failure(error: BaseException) -> Exception:
    """What is said of a lifespan that failed. It may leave itself (`sys.exit`), not the server in the middle."""
    if isinstance(error, asyncio.CancelledError) or is_foreign(error, asyncio.current_task()):
        raise error
    failure = as_failure(error)
    failure.add_note(NOTE)
    return failure


_LAST = 0.3  # seconds to end after the cancellation
